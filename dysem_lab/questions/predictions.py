"""What would the model say next, and what does a contrast change of it? Notebook 22."""

import html
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots
from torch import Tensor

from dysem_lab.errors import InputError
from dysem_lab.inputs import checked, several
from dysem_lab.models.capture import unique_prompts
from dysem_lab.models.lens import LensModel
from dysem_lab.models.readout import next_token_probabilities, token_texts, visible
from dysem_lab.models.steering import Contrast, as_edit, warn_if_alpha_is_undone
from dysem_lab.prompts import Prompt, wrap
from dysem_lab.questions.asked import asked
from dysem_lab.questions.contrast_rows import both_norms
from dysem_lab.questions.finding import Facts, Finding, facts_of
from dysem_lab.questions.needs import prepare
from dysem_lab.questions.study import Study
from dysem_lab.questions.style import annotate, layout

# English words that hold a sentence together and could stand in nearly any: a list of our own.
_WORDS = """
a an the this that these those some any each every no not all both either neither such
i you he she it we they me him her us them my your his its our their mine yours hers ours theirs
who whom whose which what where when why how there here
of in on at by for with from to into onto over under about as after before between through during
without within against upon among up down out off
and or but nor so if because while although though than then whether until since
am is are was were be been being do does did have has had having will would shall should can could
may might must too very just also only
"""
FUNCTION_WORDS = frozenset(_WORDS.split())
FUNCTION_WORD, OTHER_TOKEN = "#D55E00", "#0072B2"
ROW, TITLE, TOP, BOTTOM = 19, 64, 70, 70  # heights in px: a token, a sentence, the margins
LINE = 105  # characters of a sentence in a line
SAME = 0.005  # difference of probabilities that a figure does not show


def predictions(
    study: Study,
    sentences: Sequence[str],
    layer: int,
    alpha: float,
    *,
    position: str = "heads",
    auxiliary: str = "irrelevant",
    top: int = 10,
) -> Finding:
    """Compare the next tokens of sentences under the plain prompt and both norms of CP.

    Args:
        study: Its model and its template; it needs no data.
        sentences: In English.
        layer: Block of the contrast, 0-based.
        alpha: Of norm scaling.
        position: Where in the block, as for `dysem_lab.Contrast`.
        auxiliary: The auxiliary prompt, likewise.
        top: Tokens per sentence and variant.

    Returns:
        One row per prompt, variant and token that is among the `top` of **any** variant of that
        prompt: the columns of `next_tokens`; ``variant``; ``function_word`` (whether the token is
        one of `FUNCTION_WORDS`, in any case, with or without a space before it). Then, over all
        tokens and so the same for all rows of a prompt and variant: ``total_variation``, half the
        summed absolute difference of the variant's distribution to that of the plain prompt (0 for
        equal ones, 1 for disjoint ones); ``function_word_share``, the probability that the variant
        gives to all function words together.

    Raises:
        InputError: As for `next_tokens`, or a study of several templates.
        ModelError: The prediction is not finite.

    Warns:
        UserWarning: α has no effect in this model, because a norm follows.

    Source: CP (arXiv 2505.12831), Table 7 shows next tokens; the two measures are ours.
    """
    given = asked(study, position=position, layer=layer, alpha=alpha, top=top)
    template, sentences = only_template(study), checked(sentences, "sentence")
    prompts = several(wrap(sentences, template), "sentences")
    variants = named_variants(layer, alpha, position, auxiliary)
    prepare(runs_the_model=True)
    facts = facts_of(study, sentences=len(sentences), template=template, **given)
    facts = replace(facts, unsaid={"sentences": sentences, "auxiliary": auxiliary})
    found = table(study.lens, prompts, variants, top)
    drawn = figure(found, f"{facts}{_respelt(sentences, prompts)}")
    return Finding("cp_predictions", found, drawn, caption(found), facts)


def named_variants(
    layer: int, alpha: float, position: str, auxiliary: str
) -> dict[str, Contrast | None]:
    """Return the plain prompt and both norms of CP, by the names that tables give them."""
    names = ("plain", "CP-NS", "CP-NR")
    return dict(zip(names, both_norms(layer, alpha, position, auxiliary), strict=True))


def only_template(study: Study) -> str:
    """Return the one template of a study; several are an `InputError`."""
    if len(study.templates) != 1:
        raise InputError(
            "a next token is that of one prompt, but the study has the templates "
            f"{', '.join(study.templates)}; give it one"
        )
    return study.templates[0]


def next_tokens(
    lens: LensModel, prompts: Sequence[str], contrast: Contrast | None = None, top: int = 10
) -> pd.DataFrame:
    """Return the most probable next tokens of each prompt.

    Args:
        lens: The model.
        prompts: Prompts, made by `dysem_lab.wrap` where there is a contrast; repeated ones count
            once.
        contrast: The intervention; None is the plain prompt.
        top: Tokens per prompt.

    Returns:
        One row per prompt and rank: ``prompt`` (its position among the different prompts),
        ``text``, ``rank`` from 1, ``token`` (what it adds to the prompt), ``id``, ``probability``.

    Raises:
        InputError: As for `next_token_probabilities`, or `top` below 1 or above the number of
            tokens.
        ModelError: The prediction is not finite.

    Warns:
        UserWarning: α has no effect in this model, because a norm follows.
    """
    if contrast is not None:
        warn_if_alpha_is_undone(contrast, lens)
    found = _compared(lens, prompts, {"": contrast}, top)
    found = found.sort_values(["prompt", "rank"], kind="stable", ignore_index=True)
    return found[["prompt", "text", "rank", "token", "id", "probability"]]


def table(
    lens: LensModel, prompts: Sequence[str], variants: Mapping[str, Contrast | None], top: int = 10
) -> pd.DataFrame:
    """Return the table of `predictions` under variants of one's own, by name.

    None stands for the plain prompt; the first variant is what the others are compared with.
    """
    if not variants:
        raise InputError("variants must name at least one contrast, or None for the plain prompt")
    for contrast in filter(None, variants.values()):
        warn_if_alpha_is_undone(contrast, lens)
    return _compared(lens, prompts, variants, top)


def _compared(
    lens: LensModel, prompts: Sequence[str], variants: Mapping[str, Contrast | None], top: int
) -> pd.DataFrame:
    unique = unique_prompts(prompts)
    found = {
        name: next_token_probabilities(lens, unique, as_edit(lens, contrast))
        for name, contrast in variants.items()
    }
    first, n_tokens = next(iter(found.values())), next(iter(found.values())).shape[1]
    check_top(top, n_tokens)
    words = _function_word_ids(lens)
    rows = []
    for i, prompt in enumerate(unique):
        best = [probabilities[i].topk(top).indices.tolist() for probabilities in found.values()]
        ids = list(dict.fromkeys(token for of_variant in best for token in of_variant))
        texts = token_texts(lens, ids)
        for name, probabilities in found.items():
            p = probabilities[i]
            of_variant = {
                "prompt": i,
                "text": text_of(prompt),
                "variant": name,
                "total_variation": total_variation(p, first[i]),
                "function_word_share": float(p[sorted(words)].double().sum()),
            }
            rows += [
                {
                    **of_variant,
                    "rank": 1 + int((p > p[token]).sum()),
                    "token": text,
                    "id": token,
                    "probability": float(p[token]),
                    "function_word": token in words,
                }
                for token, text in zip(ids, texts, strict=True)
            ]
    columns = ["prompt", "text", "variant", "rank", "token", "id", "probability", "function_word"]
    return pd.DataFrame(rows)[[*columns, "total_variation", "function_word_share"]]


def check_top(top: int, n_tokens: int) -> None:
    """Raise `InputError` unless `top` is a whole number from 1 to the number of tokens."""
    if isinstance(top, bool) or not isinstance(top, int) or not 1 <= top <= n_tokens:
        raise InputError(f"top must be between 1 and {n_tokens}, got {top!r}")


def total_variation(p: Float[Tensor, " n_tokens"], q: Float[Tensor, " n_tokens"]) -> float:
    """Return half the summed absolute difference of two distributions, from 0 (equal) to 1."""
    return float((p.double() - q.double()).abs().sum() / 2)


def text_of(prompt: str) -> str:
    """Return the text inside a prompt; all of it where `dysem_lab.wrap` did not make it."""
    return prompt[prompt.start : prompt.stop] if isinstance(prompt, Prompt) else prompt


def _respelt(sentences: Sequence[str], prompts: Sequence[str]) -> str:
    """Return what a reader must know who misses the question mark of a sentence."""
    read = [text_of(prompt) for prompt in prompts]
    lost = [a.strip().endswith("?") > b.endswith("?") for a, b in zip(sentences, read, strict=True)]
    return ", sentences as the prompt has them: it ends “?” as “.”" if any(lost) else ""


def _function_word_ids(lens: LensModel) -> set[int]:
    """Return the tokens that are function words; the vocabulary writes a space as Ġ or ▁."""
    vocabulary = lens.tokenizer.get_vocab()
    return {id for token, id in vocabulary.items() if token.lstrip("Ġ▁ ").lower() in FUNCTION_WORDS}


# --- figure and caption


def figure(table: pd.DataFrame, facts: Facts | str) -> go.Figure:
    """Return each sentence's most probable next tokens, one column of bars per variant."""
    variants = table["variant"].unique().tolist()
    sentences = list(table.groupby("prompt", sort=False))
    top = int(table.groupby(["prompt", "id"])["rank"].min().max())
    height = TOP + len(sentences) * (ROW * top + TITLE) + BOTTOM
    figure = make_subplots(
        rows=len(sentences),
        cols=len(variants),
        horizontal_spacing=0.02,
        # The room between two rows, of which a single sentence has none.
        vertical_spacing=min(1.0, TITLE / (height - TOP - TITLE - BOTTOM)),
        shared_xaxes="all",
    )
    longest = 1.45 * table["probability"].max()
    for row, (_, of_sentence) in enumerate(sentences, 1):
        first = _shown(of_sentence, variants[0], top)["id"]
        for column, variant in enumerate(variants, 1):
            part = _shown(of_sentence, variant, top)
            named = part.assign(y=part["place"], known=part["id"].isin(first))
            font = {"size": 12, "color": "#2a3f5f"}
            token_bars(figure, named, visible, row, column, textfont=font, hovertemplate="%{text}")
            whole = part.iloc[0]
            moved = "" if column == 1 else f"{whole['total_variation']:.0%} moved, "
            share = f"function words {whole['function_word_share']:.0%}"
            _above(figure, row, column, f"{variant}: {moved}{share}", 4, 12)
        text = textwrap.shorten(of_sentence["text"].iloc[0], LINE, placeholder=" …")
        _above(figure, row, 1, f"<b>{html.escape(text, quote=False)}</b>", 24, 14)
    colour_legend(figure, f"hollow: not in the top {top} of {variants[0]}")
    figure.update_yaxes(range=[top + 0.5, 0.5], showticklabels=False, showgrid=False)
    figure.update_xaxes(range=[0, longest], showticklabels=False, showgrid=False, zeroline=True)
    figure.update_layout(bargap=0.25)
    title = "What would the model say next? Most probable tokens, with their probabilities"
    one_line = layout(figure, title, "", height).layout.margin.t
    more = layout(figure, title, facts, height).layout.margin.t - one_line
    return layout(figure, title, facts, height + more).update_layout(
        margin={"l": 20, "t": TOP + TITLE + more, "b": BOTTOM}, legend_y=-20 / height
    )


def token_bars(
    figure: go.Figure,
    tokens: pd.DataFrame,
    shown: Callable[[str], str],
    row: int,
    column: int,
    **options: Any,
) -> None:
    """Add bars of next tokens to a panel, each at its ``y``; hollow where it is not ``known``."""
    colours = tokens["function_word"].map({True: FUNCTION_WORD, False: OTHER_TOKEN})
    fills = colours.where(tokens["known"], "#FFFFFF")
    figure.add_bar(
        orientation="h",
        x=tokens["probability"],
        y=tokens["y"],
        marker={"color": fills, "line": {"color": colours, "width": 1.5}},
        text=tokens["token"].map(shown) + tokens["probability"].map("  {:.3f}".format),
        textposition="outside",
        cliponaxis=False,
        showlegend=False,
        row=row,
        col=column,
        **options,
    )


def colour_legend(figure: go.Figure, hollow: str) -> None:
    """Say what the colours of the bars of next tokens mean, and what a hollow one is."""
    for name, fill, line in (
        ("function word", FUNCTION_WORD, FUNCTION_WORD),
        ("other token", OTHER_TOKEN, OTHER_TOKEN),
        (hollow, "#FFFFFF", "#555555"),
    ):
        marker = {"color": fill, "line": {"color": line, "width": 1.5}}
        figure.add_bar(x=[None], y=[None], marker=marker, name=name, showlegend=True)


def _shown(of_sentence: pd.DataFrame, variant: str, top: int) -> pd.DataFrame:
    """Return a variant's rows of its own top, in order, with their places from 1."""
    part = of_sentence[of_sentence["variant"] == variant]
    part = part.sort_values("rank", kind="stable").head(top)
    return part.assign(place=range(1, len(part) + 1))


def _above(figure: go.Figure, row: int, column: int, text: str, shift: int, size: int) -> None:
    """Write a line above the left end of a panel."""
    anchors = {"xref": "x domain", "yref": "y domain", "xanchor": "left", "yanchor": "bottom"}
    annotate(figure, text, 0, 1, **anchors, yshift=shift, font_size=size, row=row, col=column)


def caption(table: pd.DataFrame) -> str:
    """Return one line: how much of each prediction moved, and to function words or away."""
    variants = table["variant"].unique().tolist()
    of_prompt = table.drop_duplicates(["prompt", "variant"]).set_index(["variant", "prompt"])
    best = table[table["rank"] == 1].drop_duplicates(["prompt", "variant"])
    best = best.set_index(["variant", "prompt"])["id"]
    plain, n = of_prompt.loc[variants[0]], len(of_prompt.loc[variants[0]])
    share = plain["function_word_share"].mean()
    parts = []
    for name in variants[1:]:
        rows = of_prompt.loc[name]
        difference = rows["function_word_share"] - plain["function_word_share"]
        parts.append(
            f"{name}: {rows['total_variation'].mean():.0%} of the probability moves, another first "
            f"token in {(best[name] != best[variants[0]]).sum()} of {n}, function words "
            f"{rows['function_word_share'].mean():.1%} (more in {(difference > 0).sum()} of {n})"
        )
    start = f"Next token of {n} sentences, means. {variants[0]}: function words {share:.1%}"
    if not parts:
        return f"{start}."
    shares = [of_prompt.loc[name, "function_word_share"].mean() for name in variants[1:]]
    if all(value < share for value in shares):
        verdict = "CP moves probability away from function words, as it is meant to"
    elif all(value > share for value in shares):
        verdict = "CP moves probability towards function words here, not away from them"
    else:
        verdict = "CP does not move probability in one direction"
    return f"{verdict}. {start}. {'; '.join(parts)}{_agreement(table, variants)}."


def _agreement(table: pd.DataFrame, variants: list[str]) -> str:
    """Return which variants are one and the same here, if any are."""
    wide = table.pivot(index=["prompt", "id"], columns="variant", values="probability")
    same = [
        f"{a} and {b} predict the same"
        for a, b in combinations(variants, 2)
        if (wide[a] - wide[b]).abs().max() < SAME
    ]
    return f"; {', '.join(same)}" if same else ""
