"""What does Contrastive Prompting cost? Notebook 20.

Blocks and tokens that run are counted, and the time that they take is measured.
"""

import os
import random
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import pandas as pd
import plotly.graph_objects as go
import torch

from dysem_lab.display import amount
from dysem_lab.encoders.base import PromptEncoder, templates_of
from dysem_lab.encoders.contrastive import ContrastivePrompting, check_output
from dysem_lab.errors import InputError
from dysem_lab.inputs import at_least, names_of
from dysem_lab.models.lens import LensModel
from dysem_lab.models.passes import MAX_TOKENS, tokenize
from dysem_lab.models.record import counted
from dysem_lab.models.steering import Contrast, auxiliary_prompts
from dysem_lab.prompts import TEMPLATE_NAMES, parts_of, wrap
from dysem_lab.questions.asked import asked
from dysem_lab.questions.contrast_rows import PLAIN, Method
from dysem_lab.questions.finding import Facts, Finding, facts_of
from dysem_lab.questions.needs import prepare
from dysem_lab.questions.published import published_cp
from dysem_lab.questions.study import Study
from dysem_lab.questions.style import (
    METHOD_COLOURS,
    OTHER_COLOUR,
    error_bar,
    interval,
    layout,
    lines_down,
    side_by_side,
    texts,
)

Name = TypeVar("Name")
BASE, TIME = "PromptEOL", "time, measured: median and range of rounds"
MEASURED, TOKENS, BLOCKS, PAPER = "#009E73", "#0072B2", "#333333", "#CC79A7"


def cost(
    study: Study,
    templates: Sequence[str],
    layer: int,
    output_layer: int | str = "penultimate",
    *,
    n_texts: int = 64,
    rounds: int = 3,
    seed: int = 0,
) -> Finding:
    """Measure what prompts cost with and without CP, beside plain PromptEOL at the same output.

    The methods take turns, each round in another order, so that a change of the machine's load
    meets all of them; ratios are taken within a round. Nothing is read from a store. The first
    pass of each method, over one text, is not timed: it counts the blocks.

    Args:
        study: Whose English texts.
        templates: "prompteol" among them; "ck" is the mean of two prompts.
        layer: Block of the contrast, 0-based.
        output_layer: Where embeddings are read, as for `dysem_lab.ContrastivePrompting`.
        n_texts: A random sample of so many different texts; all where there are fewer.
        rounds: Times that each method encodes them.
        seed: Of the sample.

    Returns:
        One row per prompt, with and without CP: the columns of
        `dysem_lab.questions.contrast.Method.labels`;

        - ``blocks`` per text, computed from the settings, and ``counted`` by hooks;
          ``paper_blocks``, as the paper counts them, with l in place of l + 1;
        - ``token_blocks`` per text: tokens times the blocks that they went through, counted by
          hooks: longer prompts and padding count, and a beginning that all prompts have in common
          is counted once, as it is run;
        - ``tokens`` per text, all its prompts together;
        - ``seconds`` per 1,000 texts and ``tokens_per_second``, medians over rounds;
        - ``blocks_ratio``, ``token_blocks_ratio`` and ``time_ratio`` to plain PromptEOL at the same
          output layer, the last as the median over rounds, with the least and the greatest in
          ``time_low`` and ``time_high``;
        - ``n_texts``, ``rounds``, ``device``, ``cores`` of the machine, ``threads`` in use.

    Raises:
        InputError: Numbers below 1, a method twice, no plain PromptEOL to compare one with, or
            settings that the model does not have.

    Source: CP (arXiv 2505.12831), Table 3, which counts blocks and has no times.
    """
    named = names_of(templates, "template")
    for name in named:
        templates_of(name)
    given = asked(study, output_layer=output_layer, layer=layer, seed=seed)
    how_often = asked(study, n_texts=n_texts, rounds=rounds)
    check_output(output_layer, Contrast(layer), study.n_layers)
    methods = [
        Method(name, output_layer, contrast)
        for name in named
        for contrast in (None, Contrast(layer))
    ]
    _check(methods, _plain(methods), **how_often)
    prepare(study.needs(()), runs_the_model=True)
    facts = facts_of(study, templates=named, **given)
    # The figure says how many texts and rounds there were, with what they ran on.
    facts = replace(facts, unsaid=how_often)
    measured = table(study, methods, n_texts, rounds, seed)
    n_timed = int(measured["n_texts"].iloc[0])
    facts = replace(facts, data=f"{amount(n_timed, 'text')} of {facts.data}", size=n_timed)
    paper = published_cp("3")
    drawn, said = figure(measured, paper, facts), caption(measured, paper)
    return Finding("cp_cost", measured, drawn, said, facts)


def encoder(lens: LensModel, method: Method) -> PromptEncoder:
    """Return the encoder of a method.

    Raises:
        InputError: As for `dysem_lab.ContrastivePrompting`.
    """
    template, output_layer, contrast = method
    if contrast is None:
        return PromptEncoder(lens, template, output_layer)
    return ContrastivePrompting(
        lens,
        contrast.layer,
        contrast.norm,
        contrast.alpha,
        contrast.position,
        output_layer,
        template,
        contrast.auxiliary,
        contrast.heads,
    )


def tokens_per_text(lens: LensModel, method: Method, texts: Sequence[str]) -> float:
    """Return the mean number of tokens of a text's prompts together, the auxiliary one included."""
    prompts: list[Sequence[str]] = [wrap(texts, name) for name in parts_of(method.template)]
    if method.contrast and not method.contrast.every_token:
        prompts.append(auxiliary_prompts(prompts[0], method.contrast.auxiliary))
    ids = [row for part in prompts for row in tokenize(lens, part, MAX_TOKENS)]
    return sum(map(len, ids)) / len(texts)


def table(
    study: Study, methods: Sequence[Method], n_texts: int = 64, rounds: int = 3, seed: int = 0
) -> pd.DataFrame:
    """Return the table of `cost` for methods of one's own."""
    base = _plain(methods)
    _check(methods, base, n_texts, rounds)
    texts = _sample(study, n_texts, seed)
    lens = study.lens
    encoders = {method: encoder(lens, method) for method in methods}
    n_counted = {}
    for method, of_method in encoders.items():
        with counted(lens) as work:
            of_method.encode(texts[:1], progress=False)
        n_counted[method] = work.rows
    seconds, token_blocks = _rounds(lens, encoders, texts, rounds)
    rows = []
    for method, plain in zip(methods, base, strict=True):
        ratios = [a / b for a, b in zip(seconds[method], seconds[plain], strict=True)]
        median = statistics.median(seconds[method])
        n_tokens = tokens_per_text(lens, method, texts)
        blocks = encoders[method].blocks
        shared = method.contrast is not None and not method.contrast.every_token
        rows.append(
            {
                **method.labels(),
                "blocks": blocks,
                "counted": n_counted[method],
                "paper_blocks": blocks - shared,
                "token_blocks": token_blocks[method] / len(texts),
                "tokens": n_tokens,
                "seconds": 1000 * median / len(texts),
                "tokens_per_second": n_tokens * len(texts) / median,
                "blocks_ratio": n_counted[method] / n_counted[plain],
                "token_blocks_ratio": token_blocks[method] / token_blocks[plain],
                "time_ratio": statistics.median(ratios),
                "time_low": min(ratios),
                "time_high": max(ratios),
                "n_texts": len(texts),
                "rounds": rounds,
                "device": lens.device.type,
                "cores": os.cpu_count(),
                "threads": torch.get_num_threads(),
            }
        )
    return pd.DataFrame(rows)


def _rounds(
    lens: LensModel, encoders: Mapping[Method, PromptEncoder], texts: Sequence[str], rounds: int
) -> tuple[dict[Method, list[float]], dict[Method, int]]:
    """Return the seconds of each method in each round, and its tokens times blocks."""
    seconds: dict[Method, list[float]] = {method: [] for method in encoders}
    token_blocks: dict[Method, int] = {}
    for method in in_turns(list(encoders), rounds):
        with counted(lens) as work:
            began = time.perf_counter()
            encoders[method].encode(texts, progress=False)
            seconds[method].append(time.perf_counter() - began)
        token_blocks[method] = work.tokens
    return seconds, token_blocks


def in_turns(names: Sequence[Name], rounds: int) -> Iterator[Name]:
    """Yield every name once per round, each round in another order.

    A change of the machine's load meets all that is measured in turns.
    """
    for start in range(rounds):
        for i in range(len(names)):
            yield names[(start + i) % len(names)]


def _plain(methods: Sequence[Method]) -> list[Method]:
    """Return what each method is compared with: plain PromptEOL, read at the same output layer."""
    return [Method("prompteol", method.output_layer, None) for method in methods]


def _check(methods: Sequence[Method], base: Sequence[Method], n_texts: int, rounds: int) -> None:
    """Raise an error unless there is something to measure and something to compare it with."""
    for name, number in (("n_texts", n_texts), ("rounds", rounds)):
        at_least(number, 1, name)
    if not methods or len(set(methods)) < len(methods):
        raise InputError("methods must be one or more different ones")
    for method, plain in zip(methods, base, strict=True):
        if plain not in methods:
            raise InputError(
                f"{method.template} at output layer {method.output_layer!r} has nothing to be "
                f"compared with; add {plain} to the methods"
            )


def _sample(study: Study, n_texts: int, seed: int) -> list[str]:
    """Return different English texts of a study, from all its tasks."""
    texts = list(dict.fromkeys(text for task in study.data for text in study.texts(task, "en")))
    return random.Random(seed).sample(texts, min(n_texts, len(texts)))


# --- figure and caption


def figure(table: pd.DataFrame, published: pd.DataFrame, facts: Facts | str) -> go.Figure:
    """Return blocks per text on the left, ratios to plain PromptEOL on the right.

    The table is of one output layer and one contrast; Table 3 of the paper stands beside it.
    """
    names, paper = _names(table), _published_ratios(published)
    rows = table.assign(name=names, place=range(len(table)), paper_ratio=names.map(paper))
    titles = ["blocks per text", f"ratio to plain {BASE} at the same output layer"]
    figure = side_by_side(titles, [0.42, 0.58], 0.04)
    _blocks(figure, rows)
    _ratios(figure, rows)
    lines_down(figure, rows["name"].tolist())
    figure.update_xaxes(title="blocks", rangemode="tozero", col=1)
    ratios = rows[["time_high", "token_blocks_ratio", "blocks_ratio", "paper_ratio"]]
    figure.update_xaxes(range=[0, 1.2 * ratios.max(axis=None)], title="ratio", col=2)
    figure.add_vline(x=1, line={"color": "#999999", "width": 1, "dash": "dot"}, row=1, col=2)
    said = f"{facts}, {_machine(table)}; times differ from machine to machine"
    title = "What does Contrastive Prompting cost?"
    return layout(figure, title, said, 74 * len(rows) + 260).update_layout(margin_l=20)


def _names(table: pd.DataFrame) -> pd.Series:
    """Return each method as the paper's Table 3 names it."""
    with_cp = table["method"].ne(PLAIN).map({True: "+CP", False: ""})
    return table["template"].map(lambda name: TEMPLATE_NAMES.get(name, name)) + with_cp


def _published_ratios(published: pd.DataFrame) -> pd.Series:
    """Return the paper's blocks per text over those of its PromptEOL, by the method's name."""
    blocks = published.set_index("method")["value"].astype(float)
    return blocks / blocks[BASE]


def _machine(table: pd.DataFrame) -> str:
    """Return what the times were measured on."""
    row = table.iloc[0]
    return (
        f"{row['device']} ({row['cores']} cores, torch threads: {row['threads']}), "
        f"{amount(row['n_texts'], 'text')}, {amount(row['rounds'], 'round')}"
    )


def _blocks(figure: go.Figure, rows: pd.DataFrame) -> None:
    """Add what was counted, and the paper's way of counting the same pass."""
    figure.add_bar(
        orientation="h",
        x=rows["counted"],
        y=rows["place"],
        width=0.5,
        marker_color=rows["method"].map(lambda name: METHOD_COLOURS.get(name, OTHER_COLOUR)),
        text=rows["counted"],
        textposition="inside",
        insidetextanchor="start",
        hovertemplate="%{x} blocks",
        showlegend=False,
        row=1,
        col=1,
    )
    figure.add_scatter(
        x=rows["paper_blocks"],
        y=rows["place"],
        mode="markers",
        marker={"symbol": "line-ns", "size": 26, "line": {"width": 3, "color": BLOCKS}},
        name="as the paper counts them",
        hovertemplate="%{x} as the paper counts them",
        row=1,
        col=1,
    )


def _ratios(figure: go.Figure, rows: pd.DataFrame) -> None:
    """Add the measured times, what the counts would predict, and the paper's counts."""
    for ratio, shift, name, symbol, colour, size in (
        (rows["blocks_ratio"], -0.3, "blocks, counted", "line-ns", BLOCKS, 12),
        (rows["token_blocks_ratio"], -0.1, "tokens × blocks, counted", "square", TOKENS, 9),
        (rows["time_ratio"], 0.1, TIME, "circle", MEASURED, 10),
        (rows["paper_ratio"], 0.3, "blocks in the paper (LLaMA2-7B)", "diamond-open", PAPER, 11),
    ):
        reach = rows["time_high"] if name == TIME else ratio
        figure.add_scatter(
            x=ratio,
            y=rows["place"] + shift,
            mode="markers",
            marker={
                "symbol": symbol,
                "size": size,
                "color": colour,
                "line": {"width": 3 if symbol == "line-ns" else 2, "color": colour},
            },
            error_x={**error_bar(ratio, rows["time_low"], reach), "visible": name == TIME},
            name=name,
            hovertemplate="%{x:.3f}",
            row=1,
            col=2,
        )
        said = "\u2002\u2009" + ratio.map("{:.2f}".format).where(ratio.notna(), "")
        y = rows["place"] + shift
        texts(figure, reach, y, said, size=11, colour=colour, row=1, col=2)


def caption(table: pd.DataFrame, published: pd.DataFrame) -> str:
    """Return one line: what CP adds to each prompt, in blocks and in time, beside the paper's."""
    rows = table.assign(name=_names(table)).set_index("name")
    paper = _published_ratios(published)
    parts = []
    with_cp = rows[rows["method"] != PLAIN]
    without = rows.loc[with_cp.index.str.removesuffix("+CP")]
    more = with_cp[["time_ratio", "blocks_ratio"]] / without[["time_ratio", "blocks_ratio"]].values
    time, blocks = (f"{more[name].min() - 1:.0%} to {more[name].max() - 1:.0%}" for name in more)
    for name, row in rows.drop(index=BASE).iterrows():
        known = f", in the paper {paper[name]:.2f}" if name in paper else ""
        parts.append(
            f"{name} {interval(row, 'time_ratio', ('time_low', 'time_high'), '.2f')}, "
            f"blocks {row['blocks_ratio']:.2f}{known}"
        )
    return (
        f"Contrastive Prompting takes {time} more time than the prompt that it starts from, and "
        f"runs {blocks} more blocks. Time as a multiple of plain {BASE}'s at the same output "
        "layer, median and range of "
        f"{table['rounds'].iloc[0]} rounds: {'; '.join(parts)}. On {_machine(table)}, where plain "
        f"{BASE} took {rows.loc[BASE, 'seconds']:.1f} s for 1,000 texts; another machine takes "
        "another time."
    )
