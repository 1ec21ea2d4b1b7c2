"""Does a similarity need these heads? Those that an explanation names, taken out of x's pass.

An explanation says what heads wrote. Here later blocks read the pass without them, beside passes
without random other heads that wrote as much: notebook 26.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch

from dysem_lab.display import Progress, amount
from dysem_lab.encoders.base import LensEncoder
from dysem_lab.errors import InputError
from dysem_lab.inputs import array_of, at_least, seed_of
from dysem_lab.joint import joint_cosine
from dysem_lab.models.lens import LensModel
from dysem_lab.questions.explain import Texts, columns_of, require_parts
from dysem_lab.questions.finding import Facts, Finding
from dysem_lab.questions.heads_passes import (
    Head,
    edited_vectors,
    heads_of_equal_length,
    mean_z,
    together,
    without_heads,
)
from dysem_lab.questions.heads_picture import AS_LONG, CHOSEN, LEVEL, PLAIN, RANDOM
from dysem_lab.questions.pair_parts import PartMeans
from dysem_lab.questions.reference import corpus_of
from dysem_lab.questions.style import PALETTE, layout

NAMES = {CHOSEN: "these heads", RANDOM: RANDOM}
ENOUGH = 19  # different random sets: with fewer no p can be at most LEVEL


@dataclass(frozen=True, repr=False)
class HeadAblation(Finding):
    """A finding about some heads and one pair.

    Attributes:
        similarity: Centred, of the plain pass: that of `dysem_lab.explain`.
        predicted: What the exact sum says that is left without what the heads wrote.
    """

    similarity: float
    predicted: float


def head_ablation(
    encoder: LensEncoder,
    x: str | Mapping[str, str],
    y: str | Mapping[str, str],
    heads: pd.DataFrame | Sequence[Head],
    centre: object = "demo",
    renderings: Mapping[str, Sequence[str]] | None = None,
    *,
    n_draws: int = 60,
    language: str = "en",
    seed: int = 0,
    progress: bool | Progress = True,
) -> HeadAblation:
    """Take heads out of the passes of x, and see what is left of its similarity with y.

    At the last token their z is replaced by its mean over the corpus, in every language that is
    read, and later blocks read that. U is that of the two texts as they are. The control: random
    other heads whose centred parts of x are together about as long.

    Args:
        encoder: As for `dysem_lab.explain` by "head", without a contrast.
        x: The first text, or language → it in that language.
        y: The second text, likewise; its passes are not changed.
        heads: Rows of such an explanation, as ``why.top(3, "surprise")``, of which those that are
            no heads are passed over; or pairs of block and head, 0-based.
        centre: As for `dysem_lab.explain`; the mean z is over these texts too.
        renderings: As there.
        n_draws: Draws of random heads. Equal ones count once, and beside fewer than 19 different
            ones nothing can be sure.
        language: Of x and y themselves.
        seed: Of the draws.
        progress: As for `dysem_lab.explain`.

    Returns:
        A row for the "plain pass", one for the "largest parts" (the heads that were given) and one
        for each draw of "random heads, equal length": ``which``, ``heads`` ("block.head", 0-based),
        ``n_heads``, ``length`` of their parts of x together, ``similarity`` (centred), ``change``.

    Raises:
        InputError: No heads, heads that the model does not have, more than half of them, no corpus,
            a contrast, or as for `dysem_lab.explain`, as are the other errors.

    Source: mean ablation, Wang et al. (arXiv 2211.00593), Section 2.
    """
    n_draws, seed = at_least(n_draws, 1, "n_draws"), seed_of(seed)
    if centre is None:
        raise InputError("a head is replaced by its mean over a corpus; give centre a corpus")
    columns = columns_of(encoder, [x, y], renderings, language)
    require_parts(encoder, "head")
    lens = encoder.lens
    chosen = _heads(heads, lens)
    views = encoder.views(columns, language)
    if any(view.edit for view in views):
        raise InputError(
            f"{encoder.name} changes heads itself; ask it of the encoder without a contrast"
        )
    texts = Texts(encoder, columns, "head", centre, 0, language, progress)
    assert texts.split is not None  # as it is by head
    assert texts.reference is not None
    labels, parts = texts.split.texts[0].labels, texts.parts(0)
    of_x = PartMeans(labels, parts, parts.norm(dim=-1), 1)
    draws = heads_of_equal_length(of_x, chosen, n_draws, seed)
    tried = [(PLAIN, []), (CHOSEN, chosen), *((RANDOM, draw) for draw in draws)]
    corpus = corpus_of(centre, encoder.languages, language)
    read = []
    for view, of_corpus in zip(views, encoder.views(corpus.renderings, language), strict=True):
        by = mean_z(lens, of_corpus.prompts)
        edits = {i: without_heads(lens, of, by) for i, (_, of) in enumerate(tried)}
        found = edited_vectors(
            lens, view.prompts[:1], edits, encoder.place, progress=progress is True
        )
        read.append(torch.cat([*found.values()]))
    vectors = encoder.combined(views, torch.stack(read)).vectors.double()
    vectors = vectors - texts.reference.mean.double()
    of_y, U = texts.vector(1).expand(vectors.shape), texts.joint_set(0, 1).expand(vectors.shape)
    after = joint_cosine(vectors, of_y, U).numpy()
    table = pd.DataFrame(
        {
            "which": [which for which, _ in tried],
            "heads": [", ".join(f"{block}.{head}" for block, head in of) for _, of in tried],
            "n_heads": [len(of) for _, of in tried],
            "length": [together(of_x, of) for _, of in tried],
            "similarity": after,
            "change": after - after[0],
        }
    )
    added = dict(
        zip(((label.block, label.head) for label in labels), texts.added(0, 1), strict=True)
    )
    predicted = float(after[0] - sum(added[head] for head in chosen))
    facts = texts.facts(n_draws=n_draws, seed=seed)
    facts = replace(facts, unsaid={**facts.unsaid, "heads": chosen})
    drawn, said = figure(table, predicted, facts), caption(table, predicted)
    return HeadAblation("head_ablation", table, drawn, said, facts, float(after[0]), predicted)


def _heads(given: object, lens: LensModel) -> list[Head]:
    """Return different heads, once they are known to be some of the model's."""
    if isinstance(given, pd.DataFrame):
        if not {"block", "head"} <= {*given}:
            raise InputError(
                "the table has no columns block and head; take rows of dl.explain(…, by='head')"
            )
        given = given.loc[given["head"].notna(), ["block", "head"]].astype(int).to_numpy()
    pairs = array_of(given, "heads")
    sizes = np.array([lens.n_layers, lens.n_heads])
    if pairs.size and (pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.dtype.kind not in "iu"):
        raise InputError(f"heads must be pairs of block and head, got {given!r:.200}")
    if not pairs.size or (pairs < 0).any() or (pairs >= sizes).any():
        raise InputError(
            f"heads must be some of blocks 0 to {lens.n_layers - 1} and heads 0 to "
            f"{lens.n_heads - 1}, got {given!r:.200}"
        )
    found = list(dict.fromkeys((block, head) for block, head in pairs.tolist()))
    if len(found) > (most := lens.n_layers * lens.n_heads // 2):
        raise InputError(f"{len(found)} heads leave no {most} others to compare with; give fewer")
    return found


def figure(table: pd.DataFrame, predicted: float, facts: Facts | str) -> go.Figure:
    """Return the similarity without the heads beside that without each draw of random ones.

    Args:
        table: Of `head_ablation`.
        predicted: What the exact sum says.
        facts: What it was measured on.
    """
    drawn = go.Figure()
    for (which, name), colour, symbol in zip(
        NAMES.items(), (PALETTE[0], PALETTE[6]), ("diamond", "circle"), strict=True
    ):
        rows = table[table["which"] == which]
        drawn.add_scatter(
            x=rows["similarity"],
            y=[name] * len(rows),
            mode="markers",
            marker={"color": colour, "symbol": symbol, "size": 11, "opacity": 0.75},
            customdata=rows["heads"],
            hovertemplate="%{x:.3f} without %{customdata}<extra></extra>",
            showlegend=False,
        )
    drawn.add_scatter(
        x=[predicted],
        y=[NAMES[CHOSEN]],
        mode="markers",
        marker={"color": "#555555", "symbol": "line-ns-open", "size": 16},
        name="what the sum alone says",
    )
    plain = table["similarity"][0]
    drawn.add_vline(x=plain, line={"dash": "dot"}, annotation_text=PLAIN, annotation_position="top")
    drawn.update_xaxes(title="centred similarity of x and y")
    drawn.update_yaxes(type="category", autorange="reversed")
    return layout(drawn, "Does the similarity need these heads?", facts, 300)


def caption(table: pd.DataFrame, predicted: float) -> str:
    """Return what was found in a sentence of meaning, then the numbers.

    Args:
        table: Of `head_ablation`.
        predicted: What the exact sum says.
    """
    plain, chosen = table.iloc[0], table.iloc[1]
    draws = table[table["which"] == RANDOM].drop_duplicates("heads")  # there may be few such sets
    as_much = int((draws["change"].abs() >= abs(chosen["change"])).sum())
    long, of = draws["length"].mean() / chosen["length"], amount(len(draws), "different draw")
    these = "these heads" if chosen["n_heads"] > 1 else "this head"
    if len(draws) < ENOUGH:
        verdict = f"There are too few other sets of heads to tell ({of}) whether the similarity "
        verdict += f"depends on {these} more than on others"
    elif long < AS_LONG:
        verdict = f"The random heads write less than {these}, so this does not tell whether the "
        verdict += f"similarity depends on {these} more than on others"
    else:
        more = "more" if (as_much + 1) / (len(draws) + 1) <= LEVEL else "not clearly more"
        verdict = f"The similarity depends on {these} {more} than on random ones that wrote as much"
    low, high = draws["similarity"].quantile([0.025, 0.975])
    each = (map(int, one.split(".")) for one in chosen["heads"].split(", "))
    named = ", ".join(f"block {block + 1} head {head + 1}" for block, head in each)
    return (
        f"{verdict}: {plain['similarity']:.3f} in the plain pass, {chosen['similarity']:.3f} "
        f"without {named}, {draws['similarity'].mean():.3f} [{low:.3f}, {high:.3f}] without random "
        f"ones ({draws['n_heads'].mean():.0f} on average, {long:.0%} as long), of which {as_much} "
        f"of {of} change it as much. The exact sum without what {these} wrote is {predicted:.3f}; "
        "what later blocks make of it is the rest."
    )
