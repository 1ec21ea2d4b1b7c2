"""How similar are two texts at every layer, in several languages and prompt settings?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from dysem_lab.errors import InputError
from dysem_lab.inputs import by_language, checked, different, one_of
from dysem_lab.models.capture import capture
from dysem_lab.models.facts import ModelFacts
from dysem_lab.models.lens import LensModel
from dysem_lab.models.store import VectorStore
from dysem_lab.prompts import SETTINGS, TEMPLATES, wrap
from dysem_lab.questions.finding import Facts, Finding
from dysem_lab.questions.grid import check_ms
from dysem_lab.questions.layer_curves import (
    COMPONENTS,
    UNRELATED,
    at_layers,
    kinds_of,
    layer_caption,
    layer_figure,
)
from dysem_lab.translation.renderings import rendered
from dysem_lab.translation.translate import Translator

CLOSE = 0.95  # cosine of unrelated texts above which their nearness is explained


@dataclass(frozen=True, eq=False)
class LayeredPair:
    """Two texts at every layer, in several languages and prompt settings, from one capture.

    Attributes:
        model: Of which model.
        languages: Codes of the m languages of the consensus.
        template: Of the prompts.
        texts: Language → the two texts in it.
        vectors: (setting, component) → s^(ℓ) of the first and of the second text at every layer,
            float32 ``[2, n, L, d]``, in the m languages and in the texts' own.
        source: Which of the n is the texts' own.
    """

    model: ModelFacts
    languages: tuple[str, ...]
    template: str
    texts: Mapping[str, Sequence[str]]
    vectors: Mapping[tuple[str, str], Float[Tensor, "2 n L d"]]
    source: int = 0

    @property
    def settings(self) -> tuple[str, ...]:
        """The prompt settings that were captured."""
        return tuple(dict.fromkeys(setting for setting, _ in self.vectors))


def capture_pair(
    lens: LensModel,
    first: str,
    second: str,
    languages: Sequence[str] = ("en",),
    renderings: Mapping[str, Sequence[str]] | None = None,
    translator: Translator | None = None,
    template: str = "prompteol",
    *,
    language: str | None = None,
    store: VectorStore | None = None,
) -> LayeredPair:
    """Capture two texts at every layer.

    Args:
        lens: The model.
        first: One text.
        second: The other.
        languages: Different codes, in the order in which they join the consensus.
        renderings: Language → the two texts in it.
        translator: Makes the renderings that are not given.
        template: As for `dysem_lab.wrap`; a free template has the English setting only.
        language: The texts' own; None is the first of the languages.
        store: As for `dysem_lab.capture`.

    Raises:
        InputError: No language or one twice, an empty text, renderings that are not two.
        MissingTranslationError: A rendering is neither given nor to be had.
    """
    codes = different(languages, "language")
    given = by_language(renderings)
    own = codes[0] if language is None else language
    texts = {own: checked([first, second])}
    for code in codes:
        if code == own:
            continue
        if code in given and len(checked(given[code], f"{code} rendering")) != 2:
            raise InputError(f"renderings in {code!r} must be two texts: {given[code]!r:.200}")
        missing = (
            f"no rendering of {first!r} in {code!r}: give renderings or a translator, or use "
            f"languages=({own!r},)"
        )
        texts[code] = rendered(texts[own], own, code, given, translator, missing)
    every = list(dict.fromkeys([*codes, own]))
    settings = SETTINGS if template in TEMPLATES else SETTINGS[:1]
    prompts = {
        (setting, code): wrap(texts[code], template, setting, code)
        for setting in settings
        for code in every
    }
    everything = [prompt for pair in prompts.values() for prompt in pair]
    read = capture(lens, everything, COMPONENTS, "each", store=store, progress=False)
    vectors = {
        (setting, component): rows.unflatten(0, (len(settings), len(every), 2))[i].transpose(0, 1)
        for component, rows in read.items()
        for i, setting in enumerate(settings)
    }
    return LayeredPair(lens.facts, tuple(codes), template, texts, vectors, every.index(own))


def pair_layer_curves(
    pair: LayeredPair,
    setting: str | None = None,
    vector: str = "mean",
    m: int | None = None,
    k: int | float = 0.25,
    beside: LayeredPair | None = None,
) -> Finding:
    """Compare two texts at every layer: by what a block adds, and by the sum up to it.

    Args:
        pair: From `capture_pair`.
        setting: Prompt setting; None is "language-specific" where the pair has it.
        vector: "mean" over the first m languages, or "source".
        m: The first so many languages; None is all.
        k: Dimensions per text, or fraction of d.
        beside: Another pair, such as an unrelated one, that is drawn beside it.

    Returns:
        One row per ``component`` ("attn", "ffn", "resid"), ``kind`` ("layer-wise": a^l, f^l;
        "cumulative": A^l, F^l, h^l), ``measure`` ("DySem": on the joint set; "all dimensions": the
        plain cosine of the same vectors) and ``layer`` (0-based): ``value`` (a cosine; NaN where it
        is undefined), ``n_dims`` (dimensions that it is over). Rows of the other pair have the
        ``measure`` "unrelated pair", which is on its joint set.

    Raises:
        InputError: A setting that the pair does not have, m, k or a vector out of range.

    Source: DySem Eqs. 3-6 and 11-17.
    """
    for one in (pair, beside or pair):
        if not isinstance(one, LayeredPair):
            raise InputError(f"a pair is what dl.capture_pair returns, got {one!r:.80}")
    setting = pair.settings[-1] if setting is None else setting
    one_of(setting, pair.settings, "prompt setting")
    m = len(pair.languages) if m is None else m
    check_ms([m], len(pair.languages))
    table = pair_layers(pair, setting, vector, m, k)
    codes = pair.languages[:m]
    said = f"{'/'.join(codes)}, {setting}, {vector}, k = {k:g}"
    asked = {"languages": codes, "setting": setting, "vector": vector, "m": m, "k": k}
    unsaid = {**asked, "template": pair.template, "pair": {c: pair.texts[c] for c in codes}}
    caption = layer_caption(table)
    unsaid["beside"] = beside.texts if beside else None
    if beside is not None:
        other = pair_layers(beside, setting, vector, min(m, len(beside.languages)), k)
        other = other[other["measure"] == "DySem"].assign(measure=UNRELATED)
        table = pd.concat([table, other], ignore_index=True)
        caption += f" {early(table)}"
    label = " / ".join(next(iter(pair.texts.values())))
    facts = Facts(pair.model, said, label, 1, unsaid=unsaid)
    return Finding("pair_layers", table, layer_figure(table, facts), caption, facts)


def early(table: pd.DataFrame) -> str:
    """Return how similar the unrelated pair is at the first and the last layer, and why."""
    stream = table[(table["component"] == "resid") & (table["measure"] == UNRELATED)]
    first, last = stream["value"].iloc[0], stream["value"].iloc[-1]
    said = (
        f"An unrelated pair (grey) has {first:.3f} in the residual stream at layer 1 and "
        f"{last:.3f} at the last."
    )
    if not first > CLOSE:
        return said
    return (
        f"{said} Everything is read at the last token of the prompt, which is the same for every "
        "sentence: before a layer has brought much of the sentence there, the vectors are nearly "
        "the same whatever was said. Look at how far the pair lies above the grey line, and not at "
        "how near to 1 it is."
    )


def pair_layers(
    pair: LayeredPair, setting: str, vector: str, m: int, k: int | float
) -> pd.DataFrame:
    """Return the table of `pair_layer_curves`."""
    rows = []
    for component in COMPONENTS:
        each = pair.vectors[setting, component]
        for kind, x in kinds_of(component, each):
            similarity, sizes, plain = at_layers(x[:, :m], x[:, pair.source], k, vector)
            for layer in range(each.shape[2]):
                labels = {"component": component, "kind": kind, "layer": layer}
                for measure, values, dims in (
                    ("DySem", similarity, float(sizes[0, layer])),
                    ("all dimensions", plain, float(each.shape[3])),
                ):
                    value = float(values[0, layer])
                    rows.append({**labels, "measure": measure, "value": value, "n_dims": dims})
    return pd.DataFrame(rows)[["component", "kind", "measure", "layer", "value", "n_dims"]]
