"""How similar are two texts, and on which dimensions? The pair explorer."""

import html
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from torch import Tensor

from dysem_lab.consensus import resolve_k
from dysem_lab.data.languages import language as language_named
from dysem_lab.display import Progress, silent
from dysem_lab.encoders.base import require_model
from dysem_lab.encoders.dysem import semantic_vectors
from dysem_lab.encoders.settings import check_settings
from dysem_lab.encoders.vectors import SemanticVectors
from dysem_lab.errors import MissingTranslationError
from dysem_lab.inputs import by_language, has_words, names_of
from dysem_lab.joint import contributions, joint_set
from dysem_lab.models.capture import CUMULATIVE, capture, unique_prompts
from dysem_lab.models.facts import ModelFacts
from dysem_lab.models.lens import LensModel
from dysem_lab.models.store import VectorStore
from dysem_lab.prompts import TEMPLATE_NAMES, wrap
from dysem_lab.questions.finding import Facts, Finding
from dysem_lab.questions.scores import pair_cosine, pair_similarity
from dysem_lab.questions.style import DIVERGING, PALETTE, SYMBOLS, layout

CHUNK = 16  # prompts between two reports of progress
N_BARS = 16
# Where a dimension is a member, as code 0 to 3 of the map, with its colour.
MEMBERSHIP = ("in neither set", "in S(x) only", "in S(y) only", "in both sets")
MEMBER_COLOURS = ("rgba(128,128,128,0.12)", PALETTE[1], PALETTE[3], PALETTE[2])
UNDEFINED = (
    "no dimension is positive in every language for either sentence, so the similarity is "
    "undefined; use fewer languages or another component"
)


def pair(
    lens: LensModel,
    first: Mapping[str, str],
    second: Mapping[str, str],
    languages: Sequence[str] | None = None,
    *,
    k: int | float = 0.25,
    component: str = "attn",
    template: str = "prompteol",
    setting: str = "language-specific",
    vector: str = "mean",
    language: str = "en",
    store: VectorStore | None = None,
) -> Finding:
    """Compare two texts under DySem: its similarity, and what each dimension of U adds to it.

    Args, errors and source are those of `pair_view`; `store` is as for `dysem_lab.capture`. The
    table is that of `pair_table`.
    """
    view = pair_view(
        lens,
        first,
        second,
        languages,
        k=k,
        component=component,
        template=template,
        setting=setting,
        vector=vector,
        language=language,
        captures=Captures(lens, store),
    )
    return Finding("pair", pair_table(view), pair_figure(view), pair_caption(view), view.facts)


class Captures:
    """Cumulative vectors of prompts, kept in memory so that none goes through the model twice.

    One pass reads every cumulative component, so changing the component needs no pass either.

    Args:
        lens: The model.
        store: As for `dysem_lab.capture`.
    """

    def __init__(self, lens: LensModel, store: VectorStore | None = None) -> None:
        """Begin without any vector."""
        self.lens, self.store = lens, store
        self._known: dict[tuple[str, str, str], Float[Tensor, " d"]] = {}

    def read(
        self, prompts: Sequence[str], component: str, progress: Progress = silent
    ) -> Float[Tensor, "n d"]:
        """Return one component of each prompt, running the model for the new ones only.

        Args:
            prompts: n prompts, as `dysem_lab.wrap` makes them.
            component: One of `dysem_lab.models.places.VECTOR_COMPONENTS`.
            progress: Called before each chunk of prompts; what was read before it stops stays.
        """
        model = self.lens.fingerprint  # another one after its weights were edited
        new = [p for p in unique_prompts(prompts) if (model, p, component) not in self._known]
        together = tuple(dict.fromkeys([component, *(kind.component for kind in CUMULATIVE)]))
        for start in range(0, len(new), CHUNK):
            progress(start, len(new), "Reading")
            chunk = new[start : start + CHUNK]
            captured = capture(self.lens, chunk, together, store=self.store, progress=False)
            for name, rows in captured.items():
                self._known |= {(model, p, name): row for p, row in zip(chunk, rows, strict=True)}
        return torch.stack([self._known[model, prompt, component] for prompt in prompts])


@dataclass(frozen=True, eq=False)
class PairView:
    """Two texts x and y as DySem sees them.

    Attributes:
        encoded: v and S of x and y, two rows.
        first: Language → x in it.
        second: Language → y in it.
        languages: The m languages 𝓛 of the consensus.
        language: The texts' own, of the plain cosine.
        similarity: Of x and y on U (Eqs. 16–17); NaN where U is empty.
        n_dims: |U|.
        all_dimensions: Cosine of v(x) and v(y) on all d dimensions.
        plain: Cosine of s^(source)(x) and s^(source)(y) on all d: no consensus, no mean.
        per_language: Language → that cosine in each of 𝓛.
        settings: k, component, template, setting and vector, as for `dysem_lab.DySem`.
        model: Which model.
    """

    encoded: SemanticVectors
    first: Mapping[str, str]
    second: Mapping[str, str]
    languages: tuple[str, ...]
    language: str
    similarity: float
    n_dims: int
    all_dimensions: float
    plain: float
    per_language: dict[str, float]
    settings: dict[str, Any]
    model: ModelFacts

    @property
    def facts(self) -> Facts:
        """What it was measured on."""
        settings = self.settings
        shown = [
            TEMPLATE_NAMES.get(settings["template"], settings["template"]),
            settings["setting"],
            "/".join(self.languages),
            SYMBOLS.get(settings["component"], settings["component"]),
            f"{settings['vector']} vector",
            f"k {settings['k']}",
        ]
        texts = {"first": dict(self.first), "second": dict(self.second), "language": self.language}
        recorded = {**texts, "asked": {**settings, "languages": list(self.languages)}}
        label = f"{self.first[self.language]} / {self.second[self.language]}"
        return Facts(self.model, ", ".join(shown), label, 1, recorded=recorded)


def pair_view(
    lens: LensModel,
    first: Mapping[str, str],
    second: Mapping[str, str],
    languages: Sequence[str] | None = None,
    *,
    k: int | float = 0.25,
    component: str = "attn",
    template: str = "prompteol",
    setting: str = "language-specific",
    vector: str = "mean",
    language: str = "en",
    captures: Captures | None = None,
    progress: Progress = silent,
) -> PairView:
    """Return how similar two texts are under DySem, and on which dimensions.

    Args:
        lens: The model.
        first: Language → x in it, among them the text itself.
        second: Language → y in it.
        languages: 𝓛; None is all that `first` has.
        k: As for `dysem_lab.DySem`, like the next four.
        component: Cumulative vector.
        template: Prompt template.
        setting: "english" or "language-specific".
        vector: "mean" or "source".
        language: The texts' own.
        captures: Vectors that are known already; new ones are added to it.
        progress: Called between batches of prompts.

    Raises:
        InputError: As for `dysem_lab.DySem`.
        MissingTranslationError: A text is not given in one of the languages.

    Source: DySem Eqs. 9–17.
    """
    first, second = by_language(first), by_language(second)
    codes = tuple(first if languages is None else names_of(languages, "language"))
    require_model(lens)
    check_settings(codes, component, template, setting, vector)
    resolve_k(k, lens.d_model)
    wanted = list(dict.fromkeys([*codes, language]))
    for text, renderings in (("first", first), ("second", second)):
        for code in wanted:
            given = renderings.get(code, "")
            if isinstance(given, str) and not has_words(given):
                raise MissingTranslationError(
                    f"the {text} sentence is not given in {language_named(code).name} ({code}); "
                    f"type it in as a line '{code}: …', or leave {code!r} out of the languages"
                )
    captures = captures or Captures(lens)
    prompts = [wrap([first[code], second[code]], template, setting, code) for code in wanted]
    rows = captures.read([p for pair in prompts for p in pair], component, progress)
    vectors = rows.view(len(wanted), 2, -1).transpose(0, 1)  # [text, language, d]
    source = vectors[:, wanted.index(language)]
    encoded = semantic_vectors(vectors[:, : len(codes)], source, k, vector=vector)
    similarity = pair_similarity(encoded)[0].item() if encoded.sets.any() else math.nan
    return PairView(
        encoded,
        {code: first[code] for code in wanted},
        {code: second[code] for code in wanted},
        codes,
        language,
        similarity,
        int(joint_set(*encoded.sets).sum()),
        pair_cosine(encoded.vectors).item(),
        pair_cosine(source).item(),
        {code: pair_cosine(vectors[:, i]).item() for i, code in enumerate(codes)},
        dict(k=k, component=component, template=template, setting=setting, vector=vector),
        lens.facts,
    )


def pair_table(view: PairView) -> pd.DataFrame:
    """Return one row per dimension of U, the largest contribution first.

    Columns: ``dimension``, ``in_x``, ``in_y``, ``v_x``, ``v_y``, ``contribution`` to the
    similarity (they sum to it), ``membership`` (of `MEMBERSHIP`).
    """
    (vx, vy), (Sx, Sy) = view.encoded.vectors, view.encoded.sets
    U, codes = joint_set(Sx, Sy), Sx.int() + 2 * Sy.int()
    table = pd.DataFrame(
        {
            "dimension": U.nonzero()[:, 0].numpy(),
            "in_x": Sx[U].numpy(),
            "in_y": Sy[U].numpy(),
            "v_x": vx[U].numpy(),
            "v_y": vy[U].numpy(),
            "contribution": contributions(vx, vy, U)[U].numpy(),
            "membership": [MEMBERSHIP[code] for code in codes[U].tolist()],
        }
    )
    order = table["contribution"].abs().sort_values(ascending=False, kind="stable").index
    return table.loc[order].reset_index(drop=True)


def pair_figure(view: PairView) -> go.Figure:
    """Return the map of both texts over the d dimensions, and the largest contributions.

    Rows of the map are aligned: who is in S(x), S(y) and U, then the values v(x) and v(y), clipped
    at their 99th percentile. Bars are the dimensions of U that add most to the similarity.
    """
    table = pair_table(view)
    shown = table.head(N_BARS)
    largest = shown["dimension"].astype(str).tolist()
    width = view.encoded.vectors.shape[-1]
    whole = {"range": [-0.5, width - 0.5], "showgrid": False}
    axes = {
        "yaxis": {"domain": [0.84, 1], "autorange": "reversed"},
        "yaxis2": {"domain": [0.65, 0.77], "autorange": "reversed"},
        "yaxis3": {"domain": [0, 0.46], "title": "contribution"},
        "xaxis": {**whole, "anchor": "y", "matches": "x2", "showticklabels": False},
        "xaxis2": {**whole, "anchor": "y2", "title": f"dimension of {width}"},
        "xaxis3": {
            "anchor": "y3",
            "type": "category",
            "categoryorder": "array",
            "categoryarray": largest,
            "tickangle": -60,
            "title": f"the {len(shown)} dimensions of U that add most; the other "
            f"{len(table) - len(shown)} add {_number(table['contribution'].iloc[N_BARS:].sum())}",
        },
    }
    figure = go.Figure([*_map(view), *_bars(shown)], {**axes, "bargap": 0.25})
    title = (
        f"DySem {_number(view.similarity)} on {view.n_dims} dimensions, "
        f"plain cosine {_number(view.plain)}"
    )
    return layout(figure, title, view.facts, 620).update_layout(margin_b=110, legend_y=-0.25)


def _map(view: PairView) -> list[dict[str, Any]]:
    """Return the traces of who is in which set, and of the values."""
    Sx, Sy = view.encoded.sets
    codes = Sx.int() + 2 * Sy.int()  # of `MEMBERSHIP`
    steps = [
        [edge / 4, colour]
        for code, colour in enumerate(MEMBER_COLOURS)
        for edge in (code, code + 1)
    ]
    members = {
        "type": "heatmap",
        "z": torch.stack([Sx.int(), 2 * Sy.int(), codes]).numpy().astype("int8"),
        "y": ["S(x)", "S(y)", "U"],
        "xaxis": "x",
        "yaxis": "y",
        "zmin": -0.5,
        "zmax": 3.5,
        "colorscale": steps,
        "showscale": False,
        "customdata": np.tile(np.array(MEMBERSHIP, dtype=object)[codes.numpy()], (3, 1)),
        "hovertemplate": "dimension %{x}: %{customdata}<extra>%{y}</extra>",
    }
    bound = view.encoded.vectors.abs().flatten().quantile(0.99).item() or 1.0
    values = {
        "type": "heatmap",
        "z": view.encoded.vectors.numpy(),
        "y": ["v(x)", "v(y)"],
        "xaxis": "x2",
        "yaxis": "y2",
        "zmin": -bound,
        "zmax": bound,
        "colorscale": DIVERGING,
        "colorbar": {"thickness": 10, "len": 0.3, "y": 0.7, "tickformat": ".2g", "nticks": 3},
        "hovertemplate": "dimension %{x}: %{z:.3g}<extra>%{y}</extra>",
    }
    return [members, values]


def _bars(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return bars of contributions, one trace per membership."""
    parts = {name: table[table["membership"] == name] for name in MEMBERSHIP[1:]}
    return [
        {
            "type": "bar",
            "x": part["dimension"].astype(str).tolist(),
            "y": part["contribution"].to_numpy(),
            "xaxis": "x3",
            "yaxis": "y3",
            "name": name,
            "marker": {"color": colour},
            "text": [f"{value:.2g}" for value in part["contribution"]],
            "textposition": "outside",
            "textfont": {"size": 10},
            "cliponaxis": False,
            "customdata": part[["v_x", "v_y"]].to_numpy(),
            "hovertemplate": "dimension %{x}: %{y:.4f}<br>v(x) = %{customdata[0]:.3g}, "
            "v(y) = %{customdata[1]:.3g}",
            "showlegend": True,
        }
        for (name, part), colour in zip(parts.items(), MEMBER_COLOURS[1:], strict=True)
    ]


def _numbers(view: PairView) -> list[str]:
    """Return what is said of a pair: its similarity, its plain cosine, and what lies between."""
    Sx, Sy = view.encoded.sets
    d = Sx.numel()
    mean = f"mean over the languages on all {d} dimensions {_number(view.all_dimensions)}"
    return [
        f"<b>DySem similarity {_number(view.similarity)}</b> on |U| = {view.n_dims} of {d} "
        f"dimensions (|S(x)| = {int(Sx.sum())}, |S(y)| = {int(Sy.sum())}, "
        f"{int((Sx & Sy).sum())} in both)",
        *([mean] if view.settings["vector"] == "mean" else []),
        f"<b>plain cosine {_number(view.plain)}</b> ({view.language}, all {d} dimensions)",
        *([] if view.n_dims else [UNDEFINED]),
    ]


def pair_caption(view: PairView) -> str:
    """Return the numbers of a pair as one line."""
    return re.sub("</?b>", "", f"{'; '.join(_numbers(view))}.")


def pair_text(view: PairView) -> str:
    """Return the numbers of a pair as HTML, with what each language contributes."""
    rows = "".join(
        f"<tr><td>{html.escape(language_named(code).name)}</td>"
        f'<td lang="{code}" dir="auto">{html.escape(view.first[code])}</td>'
        f'<td lang="{code}" dir="auto">{html.escape(view.second[code])}</td>'
        f"<td>{_number(cosine)}</td></tr>"
        for code, cosine in view.per_language.items()
    )
    return (
        f"<p>{'; '.join(_numbers(view))}.</p><table><thead><tr><th>Language</th><th>x</th>"
        f"<th>y</th><th>cosine in it alone</th></tr></thead><tbody>{rows}</tbody></table>"
    )


def _number(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.4f}"
