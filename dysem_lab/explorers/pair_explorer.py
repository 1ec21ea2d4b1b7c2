"""Two sentences under DySem: consensus sets, joint set and similarity, while settings move."""

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dysem_lab.consensus import resolve_k
from dysem_lab.data.languages import language as language_named
from dysem_lab.display import Progress, silent
from dysem_lab.encoders.dysem import DySem, semantic_vectors
from dysem_lab.encoders.settings import VECTORS
from dysem_lab.encoders.vectors import SemanticVectors
from dysem_lab.errors import InputError, MissingTranslationError
from dysem_lab.explorers.panel import Panel, State, View, menu, slider, text_box
from dysem_lab.inputs import by_language, checked, has_words, names_of
from dysem_lab.joint import contributions, joint_set
from dysem_lab.models.capture import CUMULATIVE, capture, unique_prompts
from dysem_lab.models.lens import LensModel
from dysem_lab.models.places import VECTOR_COMPONENTS
from dysem_lab.prompts import SETTINGS, TEMPLATE_NAMES, TEMPLATES, wrap
from dysem_lab.questions.scores import pair_cosine, pair_similarity
from dysem_lab.questions.style import DIVERGING, PALETTE, SYMBOLS, layout
from dysem_lab.translation.translate import Translator

CHUNK = 16  # prompts between two reports of progress
N_BARS = 16
EXAMPLE = "typed in by you, one a line, such as  fr: Il pleut."
# Where a dimension is a member, as code 0 to 3 of the map, with its colour.
MEMBERSHIP = ("in neither set", "in S(x) only", "in S(y) only", "in both sets")
MEMBER_COLOURS = ("rgba(128,128,128,0.12)", PALETTE[1], PALETTE[3], PALETTE[2])


class Captures:
    """Cumulative vectors of prompts, kept in memory so that none goes through the model twice.

    One pass reads every cumulative component, so changing the component needs no pass either.

    Args:
        lens: The model.
    """

    def __init__(self, lens: LensModel) -> None:
        """Begin without any vector."""
        self.lens = lens
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
            for name, rows in capture(self.lens, chunk, together, progress=False).items():
                read = {(model, p, name): row for p, row in zip(chunk, rows, strict=True)}
                self._known.update(read)
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
        measured_on: Model and data type.
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
    settings: dict[str, str | int | float]
    measured_on: str


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
    # The estimator checks the settings; nothing is run.
    DySem(lens, codes, None, k, component, template, setting, vector)
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
    similarity = math.nan
    if encoded.sets.any():
        similarity = pair_similarity(encoded)[0].item()
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
        {
            "k": k,
            "component": component,
            "template": template,
            "setting": setting,
            "vector": vector,
        },
        lens.label,
    )


def pair_table(view: PairView) -> pd.DataFrame:
    """Return one row per dimension of U, the largest contribution first.

    Columns: ``dimension``, ``in_x``, ``in_y``, ``v_x``, ``v_y``, ``contribution`` to the
    similarity (they sum to it), ``membership`` (of `MEMBERSHIP`).
    """
    (vx, vy), (Sx, Sy) = view.encoded.vectors, view.encoded.sets
    U = joint_set(Sx, Sy)
    table = pd.DataFrame(
        {
            "dimension": U.nonzero()[:, 0].numpy(),
            "in_x": Sx[U].numpy(),
            "in_y": Sy[U].numpy(),
            "v_x": vx[U].numpy(),
            "v_y": vy[U].numpy(),
            "contribution": contributions(vx, vy, U)[U].numpy(),
            "membership": [MEMBERSHIP[code] for code in member_codes(Sx, Sy)[U].tolist()],
        }
    )
    order = table["contribution"].abs().sort_values(ascending=False, kind="stable").index
    return table.loc[order].reset_index(drop=True)


def member_codes(Sx: Bool[Tensor, "*n d"], Sy: Bool[Tensor, "*n d"]) -> Tensor:
    """Return 0 (in neither set), 1 (S(x) only), 2 (S(y) only) or 3 (both) for each dimension."""
    return Sx.int() + 2 * Sy.int()


def pair_figure(view: PairView) -> go.Figure:
    """Return the map of both texts over the d dimensions, and the largest contributions.

    Rows of the map are aligned: who is in S(x), S(y) and U, then the values v(x) and v(y), clipped
    at their 99th percentile. Bars are the dimensions of U that add most to the similarity.

    Args:
        view: From `pair_view`.
    """
    table = pair_table(view)
    shown = table.head(N_BARS)
    rest = table["contribution"].iloc[N_BARS:].sum()
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
            f"{len(table) - len(shown)} add {_number(rest)}",
        },
    }
    figure = go.Figure([*_map(view), *_bars(shown)], {**axes, "bargap": 0.25})
    settings = view.settings
    facts = ", ".join(
        [
            view.measured_on,
            TEMPLATE_NAMES.get(str(settings["template"]), str(settings["template"])),
            str(settings["setting"]),
            "/".join(view.languages),
            _symbol(str(settings["component"])),
            f"{settings['vector']} vector",
            f"k {settings['k']}",
        ]
    )
    title = (
        f"DySem {_number(view.similarity)} on {view.n_dims} dimensions, "
        f"plain cosine {_number(view.plain)}"
    )
    return layout(figure, title, facts, 620).update_layout(margin_b=110, legend_y=-0.25)


def _map(view: PairView) -> list[dict[str, Any]]:
    """Return the traces of who is in which set, and of the values."""
    Sx, Sy = view.encoded.sets
    codes = member_codes(Sx, Sy)
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


def pair_text(view: PairView) -> str:
    """Return the numbers of a pair as HTML, with what each language contributes."""
    Sx, Sy = view.encoded.sets
    d = Sx.numel()
    numbers = [
        f"<b>DySem similarity {_number(view.similarity)}</b> on |U| = {view.n_dims} of {d} "
        f"dimensions (|S(x)| = {int(Sx.sum())}, |S(y)| = {int(Sy.sum())}, "
        f"{int((Sx & Sy).sum())} in both)",
        f"<b>plain cosine {_number(view.plain)}</b> ({view.language}, all {d} dimensions)",
    ]
    if view.settings["vector"] == "mean":
        numbers.insert(
            1, f"mean over the languages on all {d} dimensions {_number(view.all_dimensions)}"
        )
    if not view.n_dims:
        numbers.append(
            "no dimension is positive in every language for either sentence, so the similarity is "
            "undefined; use fewer languages or another component"
        )
    rows = "".join(
        f"<tr><td>{html.escape(language_named(code).name)}</td>"
        f'<td lang="{code}" dir="auto">{html.escape(view.first[code])}</td>'
        f'<td lang="{code}" dir="auto">{html.escape(view.second[code])}</td>'
        f"<td>{_number(cosine)}</td></tr>"
        for code, cosine in view.per_language.items()
    )
    return (
        f"<p>{'; '.join(numbers)}.</p><table><thead><tr><th>Language</th><th>x</th><th>y</th>"
        f"<th>cosine in it alone</th></tr></thead><tbody>{rows}</tbody></table>"
    )


def _symbol(component: str) -> str:
    return SYMBOLS.get(component, component)


def _number(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.4f}"


def parse_renderings(lines: str) -> dict[str, str]:
    """Return language → rendering from lines such as ``ja: 男性がギターを弾いている。``.

    Raises:
        InputError: A line without a language, an unknown or repeated language.
    """
    renderings: dict[str, str] = {}
    for line in filter(str.strip, lines.splitlines()):
        code, colon, text = (part.strip() for part in line.partition(":"))
        if not colon or not text:
            raise InputError(f"{line!r} is no rendering; write a code and a text, as in 'fr: Oui.'")
        if language_named(code).code in renderings:
            raise InputError(f"there are two renderings in {code!r}; keep one")
        renderings[code] = text
    return renderings


def parse_languages(codes: str) -> list[str]:
    """Return the language codes in a text such as ``en, ja, ru``, in their order.

    Raises:
        InputError: An unknown language, or none.
    """
    found = [language_named(code).code for code in codes.replace(",", " ").split()]
    if not found:
        raise InputError("no languages; write one or more codes, as in 'en, ja, ru'")
    return found


def explore_pair(
    lens: LensModel,
    a: str,
    b: str,
    languages: Sequence[str] | None = None,
    translator: Translator | None = None,
    renderings: Mapping[str, Sequence[str]] | None = None,
    *,
    k: int | float = 0.25,
    component: str = "attn",
    template: str = "prompteol",
    setting: str = "language-specific",
    vector: str = "mean",
    language: str = "en",
) -> Panel:
    """Return a panel on two sentences; vectors are kept, so that k and m run no forward pass.

    Renderings come from what is typed in, else from the translator. Controls: ``first``,
    ``second``, ``first_renderings``, ``second_renderings`` (lines such as ``fr: Oui.``; emptied
    when the sentence changes), ``languages`` (codes in order), ``m`` (the first so many of them),
    ``k`` (dimensions per text), ``component``, ``template``, ``setting``, ``vector``.

    Args:
        lens: The model, which the copied line of Python calls ``lens``.
        a: x.
        b: y.
        languages: 𝓛 at first; None is the texts' own language and those of the renderings.
        translator: Renders what is not typed in.
        renderings: Language → (x, y) in it, to begin with.
        k: As for `dysem_lab.DySem`, like the next four; where the controls begin.
        component: Cumulative vector.
        template: Prompt template.
        setting: "english" or "language-specific".
        vector: "mean" or "source".
        language: The texts' own.

    Raises:
        DysemLabError: ipywidgets is missing.
        InputError: Settings that do not exist.
    """
    a, b = checked([a, b])
    given = {
        code: checked(pair, f"{code} rendering") for code, pair in by_language(renderings).items()
    }
    for code, pair in given.items():
        if len(pair) != 2:
            raise InputError(f"renderings[{code!r}] must be x and y in it, got {pair!r}")
    codes = names_of(languages or dict.fromkeys([language, *given]), "language")
    DySem(lens, codes, None, k, component, template, setting, vector)  # checks the settings
    typed = [
        "\n".join(f"{code}: {pair[i]}" for code, pair in given.items() if code != language)
        for i in (0, 1)
    ]
    templates = dict.fromkeys([*TEMPLATES, template])
    controls = {
        "first": text_box("Sentence x", a),
        "second": text_box("Sentence y", b),
        "first_renderings": text_box("Translations of x", typed[0], rows=3, example=EXAMPLE),
        "second_renderings": text_box("Translations of y", typed[1], rows=3, example=EXAMPLE),
        "languages": text_box("Languages", ", ".join(codes)),
        "m": slider("m languages", len(codes), 1, len(codes)),
        "k": slider("k dimensions", resolve_k(k, lens.d_model), 1, lens.d_model),
        "component": menu(
            "Component", [(_symbol(name), name) for name in VECTOR_COMPONENTS], component
        ),
        "template": menu(
            "Template", [(TEMPLATE_NAMES.get(name, name), name) for name in templates], template
        ),
        "setting": menu("Setting", SETTINGS, setting),
        "vector": menu("Vector", VECTORS, vector),
    }
    for side in ("first", "second"):
        empty_when_it_changes(controls[side], controls[f"{side}_renderings"])
    controls["languages"].observe(lambda change: _use_all(change["new"], controls["m"]), "value")
    source = _Renderer(translator, language)
    captures = Captures(lens)

    def arguments(state: State) -> tuple[dict[str, str], dict[str, str], list[str]]:
        codes = parse_languages(state["languages"])[: state["m"]]
        first, second = (
            source.render(state[side], parse_renderings(state[f"{side}_renderings"]), codes)
            for side in ("first", "second")
        )
        return first, second, codes

    def settings(state: State) -> dict[str, Any]:
        names = ("k", "component", "template", "setting", "vector")
        return {name: state[name] for name in names} | {"language": language}

    def update(state: State, progress: Progress) -> View:
        view = pair_view(
            lens, *arguments(state), **settings(state), captures=captures, progress=progress
        )
        return View(pair_figure(view), pair_text(view))

    def python(state: State) -> str:
        positional = ", ".join(map(repr, arguments(state)))
        named = ", ".join(f"{name}={value!r}" for name, value in settings(state).items())
        return (
            "from dysem_lab.explorers.pair_explorer import pair_figure, pair_view; "
            f"view = pair_view(lens, {positional}, {named}); pair_figure(view)"
        )

    return Panel(controls, update, python, "pair").refresh()


class _Renderer:
    """Renderings of texts, typed in or translated; no text is translated twice."""

    def __init__(self, translator: Translator | None, language: str) -> None:
        self.translator, self.language = translator, language
        self._known: dict[tuple[str, str], str] = {}

    def render(self, text: str, typed: Mapping[str, str], codes: Sequence[str]) -> dict[str, str]:
        """Return language → the text in it, without the languages that nothing is known in."""
        rendered = {self.language: text}
        for code in codes:
            if code == self.language:
                continue
            if code in typed:
                rendered[code] = typed[code]
            elif self.translator is not None:
                rendered[code] = self._translated(text, code)
        return rendered

    def _translated(self, text: str, code: str) -> str:
        if (text, code) not in self._known:
            assert self.translator is not None
            try:
                self._known[text, code] = self.translator.translate([text], self.language, code)[0]
            except MissingTranslationError as error:
                raise MissingTranslationError(
                    f"{error}; here you can also type it in, as a line '{code}: …'"
                ) from error
        return self._known[text, code]


def empty_when_it_changes(sentence: Any, renderings: Any) -> None:
    """Empty a box of renderings when its sentence changes: they would be of another sentence."""

    def empty(change: object) -> None:
        renderings.value = ""

    sentence.observe(empty, "value")


def _use_all(codes: str, m: Any) -> None:
    """Let m reach as far as there are languages, and use them all."""
    n_languages = max(1, len(codes.replace(",", " ").split()))
    m.max = n_languages
    m.value = n_languages
