"""The analyses behind the figures: a model and sentence pairs in, tidy tables out."""

from collections.abc import Sequence

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from dysem_lab.activations import capture
from dysem_lab.data import STSData
from dysem_lab.dysem import (
    VECTORS,
    SemanticVectors,
    language_vectors,
    n_dims,
    semantic_vectors,
)
from dysem_lab.evaluate import paired_difference, score
from dysem_lab.joint import joint_cosine, joint_set, pairwise_similarity
from dysem_lab.lens import LensModel
from dysem_lab.prompts import SETTINGS, wrap

SYMBOLS = {"attn": "A^L", "attn_raw": "A^L (raw)", "ffn": "F^L", "resid": "h^L", "final": "N(h^L)"}


def pair_cosine(vectors: Float[Tensor, "twice_n d"]) -> Float[Tensor, " n"]:
    """Return the plain cosine of row i with row n + i, in float32; NaN where a row is zero."""
    n_pairs = len(vectors) // 2
    everything = torch.ones(n_pairs, vectors.shape[1], dtype=torch.bool)
    return joint_cosine(vectors[:n_pairs], vectors[n_pairs:], everything)


def pair_similarity(encoded: SemanticVectors) -> tuple[Float[Tensor, " n"], float]:
    """Return the DySem similarity of text i with text n + i, and #Dim."""
    n_pairs = len(encoded) // 2
    first, second = encoded[:n_pairs], encoded[n_pairs:]
    similarity = pairwise_similarity(first.vectors, second.vectors, first.sets, second.sets)
    return similarity, n_dims(first, second)


def decomposition(
    lens: LensModel,
    data: STSData,
    languages: Sequence[str],
    *,
    template: str = "prompteol",
    k: int | float = 1024,
    components: Sequence[str] = ("attn", "resid"),
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Score each part of h^L = h^0 + A^L + F^L alone, and DySem on the parts that it uses.

    Args:
        lens: The model.
        data: Pairs in English and the languages of the consensus.
        languages: 𝓛, English among them where it should be.
        template: Prompt template.
        k: Dimensions per text, or fraction of d.
        components: Parts that DySem is run on.
        seed: Of the bootstraps.
        progress: Show progress bars.

    Returns:
        One row per method with ``group``, ``method``, ``component``, ``setting``, ``vector`` and
        the columns of `dysem_lab.evaluate.score`; ``gain``, ``gain_low``, ``gain_high`` are the
        paired difference to the plain cosine of the same component in English (NaN for parts).
    """
    english = data.texts("en")
    plain = ("final", "resid", "attn", "ffn")
    raw = wrap(english, "none")
    mean = capture(lens, raw, "mean", progress=progress, description="mean")["mean"]
    parts = capture(
        lens,
        wrap(english, template),
        list(dict.fromkeys((*plain, *components))),
        progress=progress,
        description="parts",
    )
    cosines = {name: pair_cosine(vectors) for name, vectors in parts.items()}

    rows: list[dict[str, object]] = []

    def add(similarity: Tensor, dims: float, **row: str) -> None:
        rows.append({**row, **score(similarity, data.gold, dims, seed=seed)})

    add(pair_cosine(mean), lens.d_model, group="baseline", method="mean pooling", component="mean")
    for name in plain:
        group, method = ("baseline", "PromptEOL, ") if name == "final" else ("part", "")
        row = {"group": group, "method": method + SYMBOLS[name], "component": name}
        add(cosines[name], lens.d_model, **row)
    # English prompts are the same in both settings, so they are read once, with the parts.
    others = [code for code in languages if code != "en"]
    renderings = {code: data.texts(code) for code in others}
    for setting in SETTINGS:
        read = language_vectors(lens, renderings, components, template, setting, progress=progress)
        vectors = {
            name: torch.stack(
                [
                    parts[name] if code == "en" else read[name][:, others.index(code)]
                    for code in languages
                ],
                dim=1,
            )
            for name in components
        }
        for component in components:
            for vector in VECTORS:
                encoded = semantic_vectors(vectors[component], parts[component], k, vector=vector)
                similarity, dims = pair_similarity(encoded)
                add(
                    similarity,
                    dims,
                    group=f"DySem on {SYMBOLS[component]}",
                    method=f"DySem {SYMBOLS[component]}, {setting}, {vector}",
                    component=component,
                    setting=setting,
                    vector=vector,
                )
                gain = paired_difference(similarity, cosines[component], data.gold, seed=seed)
                rows[-1] |= {
                    "gain": gain["difference"],
                    "gain_low": gain["low"],
                    "gain_high": gain["high"],
                }
    return pd.DataFrame(rows)


def random_vs_semantic(
    lens: LensModel,
    data: STSData,
    languages: Sequence[str],
    *,
    template: str = "prompteol",
    setting: str = "language-specific",
    component: str = "attn",
    vector: str = "mean",
    ks: Sequence[int | float] = (0.05, 0.1, 0.25, 0.5, 1.0),
    n_seeds: int = 5,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Score DySem's joint sets against random sets of the same size.

    Two kinds of control: for every pair, |U(x, y)| dimensions are drawn from all d without
    replacement, so that both cosines of that pair see equally many ("random, per pair"); and one
    set of the mean size is drawn for all pairs ("random, shared"), which keeps the pairs
    comparable with each other. The last row has all d dimensions of the same vector.

    Returns:
        One row per k and ``kind`` ("semantic", the two random ones per ``random_seed``, "all
        dimensions"), with ``k`` and the columns of `dysem_lab.evaluate.score`.

    Source: DySem Figures 3 and 10.
    """
    renderings = {code: data.texts(code) for code in dict.fromkeys([*languages, "en"])}
    captured = language_vectors(lens, renderings, component, template, setting, progress=progress)[
        component
    ]
    source = captured[:, list(renderings).index("en")]
    vectors = captured[:, : len(languages)]
    n_pairs = len(data)
    rows = []
    for k in ks:
        encoded = semantic_vectors(vectors, source, k, vector=vector)
        similarity, size = pair_similarity(encoded)
        rows.append({"kind": "semantic", "k": k, **score(similarity, data.gold, size, seed=seed)})
        first, second = encoded[:n_pairs], encoded[n_pairs:]
        sizes = joint_set(first.sets, second.sets).sum(-1)
        shared = torch.full_like(sizes, round(size))
        for random_seed in range(seed, seed + n_seeds):
            per_pair = random_sets(sizes, lens.d_model, random_seed)
            one_set = random_sets(shared[:1], lens.d_model, random_seed).expand_as(per_pair)
            for kind, drawn in (("random, per pair", per_pair), ("random, shared", one_set)):
                similarity = joint_cosine(first.vectors, second.vectors, drawn)
                result = score(
                    similarity, data.gold, float(drawn.sum(-1).float().mean()), seed=seed
                )
                rows.append({"kind": kind, "k": k, "random_seed": random_seed, **result})
    everything = pair_cosine(semantic_vectors(vectors, source, 1.0, vector=vector).vectors)
    dense = score(everything, data.gold, lens.d_model, seed=seed)
    rows.append({"kind": "all dimensions", "k": lens.d_model, **dense})
    return pd.DataFrame(rows)


def random_sets(sizes: Tensor, d_model: int, seed: int) -> Tensor:
    """Return one random subset of the d dimensions per row, of the given sizes, as a mask."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(len(sizes), d_model, generator=generator).argsort(dim=-1).argsort(dim=-1)
    return order < sizes[:, None]
