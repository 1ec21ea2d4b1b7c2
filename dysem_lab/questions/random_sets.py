"""Are the chosen dimensions special, or would any do? Notebook 02."""

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd
import plotly.graph_objects as go
import torch
from torch import Tensor

from dysem_lab.display import amount
from dysem_lab.encoders.dysem import semantic_vectors
from dysem_lab.evaluate import score
from dysem_lab.joint import joint_cosine, joint_set
from dysem_lab.questions.asked import asked
from dysem_lab.questions.finding import Facts, Finding, facts_of
from dysem_lab.questions.names import said
from dysem_lab.questions.needs import prepare
from dysem_lab.questions.scores import pair_cosine, pair_similarity
from dysem_lab.questions.study import Study
from dysem_lab.questions.style import (
    COLOURS,
    SCORE,
    band,
    bars,
    layout,
    noted,
    whiskers,
    with_average,
)

QUARTER = 0.25  # of d, as the paper's 1,024 of 4,096
KIND_COLOURS = {"semantic": "#D55E00", "random, shared": "#0072B2", "random, per pair": "#56B4E9"}


def random_sets(
    study: Study,
    languages: Sequence[str],
    *,
    component: str = "attn",
    vector: str = "mean",
    ks: Sequence[int | float] = (0.05, 0.1, 0.25, 0.5, 1.0),
    n_seeds: int = 5,
    seed: int = 0,
) -> Finding:
    """Score DySem's joint sets against random sets of the same size.

    Two kinds of control: for every pair, |U(x, y)| dimensions are drawn from all d without
    replacement, so that both cosines of that pair see equally many ("random, per pair"); and one
    set of the mean size is drawn for all pairs ("random, shared"), which keeps the pairs
    comparable with each other. The last row of a task has all d dimensions of the same vector.

    Args:
        study: Its tasks; its first template and first prompt setting are used. Of several tasks
            the figure has bars, as in the paper.
        languages: 𝓛; a task uses those that it has.
        component: Internal vector.
        vector: "mean" or "source".
        ks: Dimensions per text, or fractions of d.
        n_seeds: Random draws per k.
        seed: The first random draw, and the bootstrap.

    Returns:
        One row per task, k and ``kind`` ("semantic", the two random ones per ``random_seed``, "all
        dimensions").

    Source: DySem Figures 3 and 10.
    """
    of_sets = {"component": component, "vector": vector, "ks": ks, "n_seeds": n_seeds}
    given = asked(study, languages=languages, **of_sets, seed=seed)
    prepare(study.needs(component))
    prompt = {"template": study.templates[0], "setting": study.settings[0]}
    facts, scores = facts_of(study, **prompt, **given), table(study, **given)
    if len(study.data) > 1:  # the figure is of one k, which its title says
        settings = {name: of for name, of in facts.settings.items() if name != "ks"}
        facts = replace(facts, settings=settings, unsaid={"ks": given["ks"]})
    return Finding("random_vs_semantic", scores, figure(scores, facts), caption(scores), facts)


def table(
    study: Study,
    languages: Sequence[str],
    component: str,
    vector: str,
    ks: Sequence[int | float],
    n_seeds: int,
    seed: int,
) -> pd.DataFrame:
    """Return the table of `random_sets`."""
    rows = []
    for task, data in study.data.items():
        codes = [code for code in languages if len(study.data) == 1 or code in data.languages]
        vectors = study.vectors(task, component, languages=codes)
        source = study.vectors(task, component, languages=["en"])[:, 0]
        n_pairs, d_model = len(data), vectors.shape[-1]
        for k in ks:
            encoded = semantic_vectors(vectors, source, k, vector=vector)
            similarity, size = pair_similarity(encoded)
            labels = {"task": task, "k": k}
            result = score(similarity, data.gold, size, seed=seed)
            rows.append({**labels, "kind": "semantic", **result})
            first, second = encoded[:n_pairs], encoded[n_pairs:]
            sizes = joint_set(first.sets, second.sets).sum(-1)
            shared = torch.full_like(sizes, round(size))
            for draw in range(seed, seed + n_seeds):
                per_pair = draw_sets(sizes, d_model, draw)
                one_set = draw_sets(shared[:1], d_model, draw).expand_as(per_pair)
                for kind, drawn in (("random, per pair", per_pair), ("random, shared", one_set)):
                    similarity = joint_cosine(first.vectors, second.vectors, drawn)
                    mean_size = float(drawn.sum(-1).float().mean())
                    result = score(similarity, data.gold, mean_size, seed=seed)
                    rows.append({**labels, "kind": kind, "random_seed": draw, **result})
        everything = pair_cosine(semantic_vectors(vectors, source, 1.0, vector=vector).vectors)
        dense = score(everything, data.gold, d_model, seed=seed)
        rows.append({"task": task, "kind": "all dimensions", "k": d_model, **dense})
    return pd.DataFrame(rows)


def draw_sets(sizes: Tensor, d_model: int, seed: int) -> Tensor:
    """Return one random subset of the d dimensions per row, of the given sizes, as a mask."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(len(sizes), d_model, generator=generator).argsort(dim=-1).argsort(dim=-1)
    return order < sizes[:, None]


def figure(table: pd.DataFrame, facts: Facts | str) -> go.Figure:
    """Return the score of joint sets against random sets: over k, or with several tasks of each."""
    title = "Joint sets against random sets of equal size"
    if table["task"].nunique() == 1:
        return layout(_over_k(table), title, facts, 520)
    of_tasks, k = at_one_k(table)
    colours = {"joint sets (DySem)": KIND_COLOURS["semantic"], **KIND_COLOURS, **COLOURS}
    drawn = bars(of_tasks.assign(panel=""), "task", "kind", "panel", colours=colours)
    drawn.update_yaxes(title=SCORE)
    note = f"{whiskers(of_tasks)}; of random sets the span of the draws"
    return layout(drawn, f"{title}: {said('k', k)}", noted(facts, note), 480)


def at_one_k(table: pd.DataFrame) -> tuple[pd.DataFrame, float]:
    """Return the scores of several tasks at one k and their average, random draws as their mean.

    k is a quarter of d, as in the paper, where the table has it; else its largest. The interval of
    a random kind spans its draws.
    """
    ks = table.loc[table["kind"] == "semantic", "k"]
    k = QUARTER if QUARTER in set(ks) else ks.iloc[-1]
    at_k = table[(table["k"] == k) | (table["kind"] == "all dimensions")]
    columns = {"spearman": "mean", "low": "min", "high": "max", "n_dims": "mean"}
    drawn = at_k["kind"].str.startswith("random")
    spanned = at_k.assign(
        low=at_k["low"].mask(drawn, at_k["spearman"]),
        high=at_k["high"].mask(drawn, at_k["spearman"]),
        kind=at_k["kind"].replace("semantic", "joint sets (DySem)"),
    )
    of_tasks = spanned.groupby(["task", "kind"], sort=False, as_index=False).agg(columns)
    return with_average(of_tasks, ["kind"]), k


def _over_k(table: pd.DataFrame) -> go.Figure:
    """Return the score against the number of dimensions.

    The band of a random kind spans its seeds; the band of the joint sets is the 95 % bootstrap
    interval over pairs.
    """
    figure = go.Figure()
    for kind, colour in KIND_COLOURS.items():
        part = table[table["kind"] == kind]
        seeds = part.groupby("k", sort=False).agg(
            n_dims=("n_dims", "mean"),
            spearman=("spearman", "mean"),
            low=("low" if kind == "semantic" else "spearman", "min"),
            high=("high" if kind == "semantic" else "spearman", "max"),
        )
        band(figure, seeds["n_dims"], seeds["low"], seeds["high"], colour, 0.18)
        figure.add_scatter(
            x=seeds["n_dims"],
            y=seeds["spearman"],
            mode="lines+markers",
            line_color=colour,
            name="joint sets (DySem)" if kind == "semantic" else kind,
            customdata=seeds.index.to_numpy(),
            hovertemplate="k = %{customdata}<br>#Dim. %{x:.0f}<br>%{y:.2f}",
        )
    dense = table[table["kind"] == "all dimensions"].iloc[0]
    figure.add_hline(
        y=dense["spearman"],
        line={"dash": "dash", "color": COLOURS["all dimensions"]},
        name=f"all {dense['n_dims']:.0f} dimensions: {dense['spearman']:.1f}",
        showlegend=True,  # a text at the line would lie on a band
    )
    figure.update_xaxes(
        title="#Dim. (mean size; bands: 95 % interval, of random sets the span of draws)"
    )
    return figure.update_yaxes(title=SCORE)


def caption(table: pd.DataFrame) -> str:
    """Return one line with the numbers that matter of a random-against-semantic table."""
    if table["task"].nunique() > 1:
        return _caption_of_tasks(table)
    largest = table[table["kind"] == "semantic"].iloc[-1]
    random = table[table["k"] == largest["k"]].groupby("kind")["spearman"]
    dense = table[table["kind"] == "all dimensions"].iloc[0]
    shared = random.get_group("random, shared")
    beaten = int((largest["spearman"] > shared).sum())
    return (
        f"The chosen dimensions score more than {beaten} of {len(shared)} random sets of equal "
        f"size that all pairs share. Spearman × 100 on {amount(largest['n_dims'], 'dimension')}: "
        f"joint sets {largest['spearman']:.1f}, one random set for all pairs "
        f"{random.mean()['random, shared']:.1f}, a random set for each pair "
        f"{random.mean()['random, per pair']:.1f} (means of {random.size()['random, shared']} "
        f"seeds); all {dense['n_dims']:.0f} dimensions {dense['spearman']:.1f}."
    )


def _caption_of_tasks(table: pd.DataFrame) -> str:
    of_tasks, k = at_one_k(table)
    wide = of_tasks.pivot_table("spearman", "task", "kind", sort=False)
    means = wide.loc["average"]
    tasks = wide.drop("average")
    ahead = int((tasks["joint sets (DySem)"] > tasks["random, shared"]).sum())
    scores = ", ".join(f"{kind} {value:.1f}" for kind, value in means.items())
    return (
        f"In {ahead} of {len(tasks)} tasks the chosen dimensions score more than random sets of "
        "equal size that all pairs share do on average. Spearman × 100 with "
        f"{said('k', k)}, mean over {len(tasks)} tasks: {scores}."
    )
