"""What does each head's ablation do to a similarity? A gradient's estimate, and the exact answer.

Notebook 28. At the last token a head's z is replaced by its mean over a corpus, and the pass goes
on. Two estimates need no ablation: the gradient's, z̄ − z times the gradient by z (attribution
patching, node by node), for every head from one backward pass; and that of the exact sum, which
says that the similarity loses what the head wrote, whatever later blocks make of it.

Edge-level tools of TransformerLens (`tools/analysis`, attribution patching by edge) refuse
grouped-query attention and post-norms, and so both embedded models: hence nodes alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from torch import Tensor

from dysem_lab.attribution import one_sided
from dysem_lab.data.fit_texts import FitTexts
from dysem_lab.display import amount, bar
from dysem_lab.encoders.base import View
from dysem_lab.encoders.dysem import DySem
from dysem_lab.encoders.vectors import SemanticVectors
from dysem_lab.errors import InputError
from dysem_lab.evaluate import mean_with_interval
from dysem_lab.joint import joint_cosine, joint_set
from dysem_lab.models.capture import capture
from dysem_lab.models.edits import ablate
from dysem_lab.models.gradients import head_gradients
from dysem_lab.models.last_token import prefixes, record_edits
from dysem_lab.models.parts import require_split, split
from dysem_lab.questions.asked import asked
from dysem_lab.questions.finding import Facts, Finding, facts_of
from dysem_lab.questions.ledger import Ledger
from dysem_lab.questions.needs import prepare
from dysem_lab.questions.reference import Reference, corpus_of, reference
from dysem_lab.questions.scores import only_task
from dysem_lab.questions.splits import keys_of
from dysem_lab.questions.study import Study
from dysem_lab.questions.style import interval, layout, side_by_side

ABLATION, GRADIENT, SUM = "ablation", "gradient patching", "exact sum"
ESTIMATES = (GRADIENT, SUM)
PASSES = {GRADIENT: 2, SUM: 0}  # over the last token
IN_WORDS = {GRADIENT: "the gradient's estimate", SUM: "the exact sum"}
TOGETHER = 64  # pairs between two reports of progress


@dataclass(frozen=True, repr=False)
class HeadPatching(Finding):
    """A finding about heads.

    Attributes:
        heads: A row per ``block`` and ``head`` (0-based): the mean over pairs of the exact
            ``ablation`` and of both estimates.
    """

    heads: pd.DataFrame


def head_patching(
    study: Study,
    k: int | float = 0.25,
    component: str = "attn",
    *,
    centre: object = "demo",
    seed: int = 0,
) -> HeadPatching:
    """Compare estimates of what each head's mean ablation does to a similarity with the ablation.

    The similarity is that of `dysem_lab.faithfulness` with U frozen; heads are ablated at the last
    token of the first text's pass.

    Args:
        study: Of one task. Its first template is used, in English.
        k: As for `dysem_lab.faithfulness`.
        component: As there.
        centre: As there.
        seed: Of the bootstrap.

    Returns:
        One row per ``estimate`` ("gradient patching", "exact sum"): ``r``, ``low``, ``high``:
        Pearson's correlation with the exact changes over the heads of a text, its mean over pairs
        with a 95 % bootstrap interval; ``r_pooled``, over all heads of all pairs; ``slope``, of the
        exact change by the estimate, through 0; ``same_sign``, the share of heads; ``top``, the
        share of pairs whose head with the largest exact change has the largest estimate;
        ``n_pairs``, ``n_heads``; ``passes``, forward and backward passes over the last token of a
        text, beside one over all its tokens.

    Raises:
        InputError: As for `dysem_lab.faithfulness`.

    Source: Syed et al., Attribution Patching Outperforms Automated Circuit Discovery
        (arXiv 2310.10348); mean ablation, Wang et al. (arXiv 2211.00593).
    """
    given = asked(study, k=k, component=component, seed=seed)
    require_split(component, "head")
    task = only_task(study)
    data = study.data[task]
    if centre is None:
        raise InputError("a head is replaced by a corpus mean; give centre a corpus")
    prepare(study.needs(()), runs_the_model=True)
    lens, template = study.lens, study.templates[0]
    lens.check_own_pass()
    encoder = DySem(lens, ["en"], None, k, component, template, setting="english")
    corpus = corpus_of(centre, encoder.languages, "en")
    exact, estimates = _measured(encoder, *data.sentences["en"], corpus)
    table = _table(exact, estimates, seed)
    heads = pd.DataFrame(
        {
            "block": np.repeat(np.arange(lens.n_layers), lens.n_heads),
            "head": np.tile(np.arange(lens.n_heads), lens.n_layers),
            ABLATION: exact.mean(0),
            **{name: values.mean(0) for name, values in estimates.items()},
        }
    )
    facts = facts_of(study, **given)
    recorded = {"corpus": corpus.name, "corpus_digest": corpus.digest}
    facts = replace(facts, unsaid={"centre": corpus.name}, recorded={**facts.recorded, **recorded})
    drawn = figure(table, heads, facts)
    return HeadPatching("head_patching", table, drawn, caption(table), facts, heads)


def _measured(
    encoder: DySem, first: Sequence[str], second: Sequence[str], corpus: FitTexts
) -> tuple[Float[np.ndarray, "pairs heads"], dict[str, Float[np.ndarray, "pairs heads"]]]:
    """Return what each ablation changes, and what each estimate says that it does."""
    lens = encoder.lens
    (code,) = encoder.languages
    known = Ledger(["heads", encoder.config, lens.fingerprint, str(lens.dtype), corpus.digest])
    x, y = (list(encoder.views({code: texts}, code)[0].prompts) for texts in (first, second))
    names = [f"{one}\x1e{other}" for one, other in zip(x, y, strict=True)]
    left = [i for i, name in enumerate(names) if name not in known]
    if left:
        of_corpus = reference(encoder, corpus, "head", code)
        prompts = encoder.views(corpus.renderings, code)[0].prompts
        z_mean = capture(lens, prompts, "z", "each", progress=False)["z"].mean(0)
    report = bar(True)
    for start in range(0, len(left), TOGETHER):
        some = left[start : start + TOGETHER]
        found = _of_pairs(encoder, [x[i] for i in some], [y[i] for i in some], of_corpus, z_mean)
        for row, i in enumerate(some):
            known.add(names[i], {name: values[row].tolist() for name, values in found.items()})
        report(start + len(some), len(left), "heads")
    rows = [known[name][0] for name in names]
    exact, *estimates = (np.array([row[name] for row in rows]) for name in (ABLATION, *ESTIMATES))
    return exact, dict(zip(ESTIMATES, estimates, strict=True))


def _of_pairs(
    encoder: DySem,
    x: list[str],
    y: list[str],
    of_corpus: Reference,
    z_mean: Float[Tensor, "L n_heads d_head"],
) -> dict[str, Float[Tensor, "pairs heads"]]:
    """Return what each ablation and each estimate says of some pairs."""
    lens, place, mean = encoder.lens, encoder.place, of_corpus.mean.double()
    of_x, of_y = _encoded(encoder, x), _encoded(encoder, y)
    U, others = joint_set(of_x.sets, of_y.sets), of_y.vectors.double() - mean
    before = joint_cosine(of_x.vectors.double() - mean, others, U)
    shape = len(x), lens.n_layers * lens.n_heads
    found = {name: torch.zeros(shape).double() for name in (ABLATION, *ESTIMATES)}
    edits = {
        (block, head): ablate(lens, f"z.{block}", z_mean[block], heads=[head])
        for block in range(lens.n_layers)
        for head in range(lens.n_heads)
    }
    for prefix in prefixes(lens, x):
        rows = prefix.rows
        for column, (_, read) in enumerate(record_edits(lens, prefix, edits, [place]).items()):
            after = joint_cosine(read.vectors[place].double() - mean, others[rows], U[rows])
            found[ABLATION][rows, column] = after - before[rows]

        def similarity(vectors: Float[Tensor, "rows d"], rows: list[int] = rows) -> Tensor:
            centred, y = (vectors - mean) * U[rows], others[rows] * U[rows]
            return torch.nn.functional.cosine_similarity(centred, y, dim=-1)

        z, gradients = head_gradients(lens, prefix, place, similarity)
        change = ((z_mean - z) * gradients).double().sum(-1)
        found[GRADIENT][rows] = change.flatten(1)
    for rows, parts in split(lens, x, place, "head"):
        keys = [(None, *key) for key in keys_of(parts.labels)]
        assert of_corpus.split is not None  # as it is by head
        expected = torch.stack([of_corpus.split.means[key] for key in keys])
        heads = [i for i, label in enumerate(parts.labels) if label.kind == "head"]
        for row, vectors in zip(rows, parts.vectors, strict=True):
            centred = of_x.vectors[row].double() - mean
            added = one_sided(vectors - expected, centred, others[row], U[row])
            found[SUM][row] = -added[heads]
    return found


def _encoded(encoder: DySem, prompts: Sequence[str]) -> SemanticVectors:
    name, blocks = encoder.place
    read = capture(encoder.lens, prompts, name, blocks, progress=False)[name]
    return encoder.combined([View("", prompts, None, 1.0)], read[None])


def _table(
    exact: Float[np.ndarray, "pairs heads"],
    estimates: Mapping[str, Float[np.ndarray, "pairs heads"]],
    seed: int,
) -> pd.DataFrame:
    """Return the table of `head_patching`."""
    n_pairs, n_heads = exact.shape
    rows = []
    for name, values in estimates.items():
        r = [np.corrcoef(one, other)[0, 1] for one, other in zip(exact, values, strict=True)]
        mean = mean_with_interval(np.array(r), seed=seed)
        same = np.abs(values).argmax(1) == np.abs(exact).argmax(1)
        row = {"estimate": name, "r": mean["mean"], "low": mean["low"], "high": mean["high"]}
        row["r_pooled"] = np.corrcoef(exact.ravel(), values.ravel())[0, 1]
        row["slope"] = (exact * values).sum() / (values**2).sum()
        row["same_sign"] = (np.sign(exact) == np.sign(values)).mean()
        row |= {"top": same.mean(), "n_pairs": n_pairs, "n_heads": n_heads}
        rows.append({**row, "passes": PASSES[name]})
    return pd.DataFrame(rows)


def figure(table: pd.DataFrame, heads: pd.DataFrame, facts: Facts | str) -> go.Figure:
    """Return the exact mean change of each head against each estimate of it.

    On the dotted line the estimate is right.

    Args:
        table: Of `head_patching`.
        heads: Its means by head.
        facts: What it was measured on.
    """
    drawn = side_by_side([f"{row.estimate}: r = {row.r:.2f}" for row in table.itertuples()])
    names = [f"block {row.block + 1} head {row.head + 1}" for row in heads.itertuples()]
    bounds = 1.08 * heads[[ABLATION, *ESTIMATES]].abs().max()
    bound = float(bounds.max())
    for col, estimate in enumerate(table["estimate"], 1):
        drawn.add_scatter(
            x=[-bound, bound],
            y=[-bound, bound],
            mode="lines",
            line={"color": "#999999", "dash": "dot", "width": 1},
            hoverinfo="skip",
            row=1,
            col=col,
        )
        drawn.add_scatter(
            x=heads[estimate],
            y=heads[ABLATION],
            mode="markers",
            marker={
                "color": heads["block"] + 1,
                "colorscale": "Cividis",
                "size": 7,
                "showscale": col == 1,
                "colorbar": {"title": "block", "thickness": 12},
            },
            text=names,
            hovertemplate="%{text}: estimate %{x:.4f}, exact %{y:.4f}<extra></extra>",
            row=1,
            col=col,
        )
        said = "estimated change of the similarity"
        drawn.update_xaxes(title=said, range=[-bounds[estimate], bounds[estimate]], row=1, col=col)
    ends = [-bounds[ABLATION], bounds[ABLATION]]
    drawn.update_yaxes(title="change under ablation", range=ends, row=1, col=1)
    title = "Does an estimate say what a head's ablation does? Means over pairs (dotted: it does)"
    return layout(drawn, title, facts, 560).update_layout(showlegend=False)


def caption(table: pd.DataFrame) -> str:
    """Return which estimate is nearer to the ablation, with r of both.

    Args:
        table: Of `head_patching`.
    """
    rows = table.set_index("estimate")
    gradient, own = rows.loc[GRADIENT], rows.loc[SUM]
    apart = gradient["low"] > own["high"] or own["low"] > gradient["high"]
    first = str(rows["r"].idxmax())
    name = IN_WORDS[first][0].upper() + IN_WORDS[first][1:]
    nearer = (
        f"{name} is nearer to what a head's ablation does"
        if apart
        else "Neither estimate is surely nearer to what a head's ablation does"
    )
    said = [
        f"{name} r {interval(row, 'r', of='.2f')}, slope {row['slope']:.2f}, the right sign for "
        f"{row['same_sign']:.0%} of the heads, the right largest head in {row['top']:.0%}"
        for name, row in rows.iterrows()
    ]
    return (
        f"{nearer}: {'; '.join(said)}. Over {own['n_heads']:.0f} heads, mean over "
        f"{amount(own['n_pairs'], 'pair')}; the ablations are {own['n_heads']:.0f} passes over a "
        "last token, the gradient one and its backward, the sum none."
    )
