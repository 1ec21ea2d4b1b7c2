"""The analyses of the DySem paper: a study in, tidy tables out.

Every table has one row per task and setting, with the columns of `dysem_lab.evaluate.score`:
``spearman``, ``low``, ``high`` (× 100, 95 % bootstrap interval over pairs), ``n_dims`` (#Dim.),
``n_pairs``, ``n_undefined``.
"""

from collections.abc import Iterator, Mapping, Sequence

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from dysem_lab.consensus import consensus_set
from dysem_lab.encoders.dysem import SemanticVectors, n_dims, semantic_vectors
from dysem_lab.encoders.settings import VECTORS
from dysem_lab.errors import InputError, choices
from dysem_lab.evaluate import paired_difference, score
from dysem_lab.inputs import names_of
from dysem_lab.joint import cosine, joint_cosine, joint_set, pairwise_similarity
from dysem_lab.prompts import TEMPLATE_NAMES
from dysem_lab.questions.grid import PAIRS_PER_CHUNK, check_ms, sweep
from dysem_lab.questions.study import Study

SYMBOLS = {
    "attn": "A^L",
    "attn_raw": "A^L (before the post-norm)",
    "ffn": "F^L",
    "resid": "h^L",
    "final": "N(h^L)",
}
PER_LAYER = ("attn", "attn_raw", "ffn")  # what a block adds to the stream
Scored = tuple[Float[Tensor, " n"], float]  # similarities of the pairs, and #Dim.


def pair_cosine(vectors: Float[Tensor, "twice_n d"]) -> Float[Tensor, " n"]:
    """Return the plain cosine of row i with row n + i, in float32; NaN where a row is zero."""
    n_pairs = len(vectors) // 2
    return cosine(vectors[:n_pairs], vectors[n_pairs:])


def pair_similarity(encoded: SemanticVectors) -> Scored:
    """Return the DySem similarity of text i with text n + i, and #Dim."""
    n_pairs = len(encoded) // 2
    first, second = encoded[:n_pairs], encoded[n_pairs:]
    similarity = pairwise_similarity(first.vectors, second.vectors, first.sets, second.sets)
    return similarity, n_dims(first, second)


def decomposition(
    study: Study,
    languages: Sequence[str],
    *,
    k: int | float = 1024,
    components: Sequence[str] = ("attn", "resid"),
    seed: int = 0,
) -> pd.DataFrame:
    """Score each part of h^L = h^0 + A^L + F^L alone, and DySem on the parts that it uses.

    Args:
        study: Its first template is used, and "none" for mean pooling; DySem in its settings.
        languages: 𝓛, English among them where it should be.
        k: Dimensions per text, or fraction of d.
        components: Parts that DySem is run on.
        seed: Of the bootstraps.

    Returns:
        One row per task and method with ``group``, ``method``, ``component``, ``setting``,
        ``vector``; ``gain``, ``gain_low``, ``gain_high`` are the paired difference to the plain
        cosine of the same component in English (NaN for parts).
    """
    plain = ("final", "resid", "attn", "ffn")
    prompt = TEMPLATE_NAMES.get(study.templates[0], study.templates[0])
    rows: list[dict[str, object]] = []
    for task, data in study.data.items():
        d_model = study.model.d_model
        parts = {
            name: study.vectors(task, name, languages=["en"])[:, 0]
            for name in dict.fromkeys((*plain, *components))
        }
        cosines = {name: pair_cosine(vectors) for name, vectors in parts.items()}
        pooled = pair_cosine(study.vectors(task, "mean", template="none", languages=["en"])[:, 0])
        plain_rows = [("baseline", "mean pooling", "mean", pooled)] + [
            (
                "baseline" if name == "final" else "part",
                f"{prompt}, {SYMBOLS[name]}" if name == "final" else SYMBOLS[name],
                name,
                cosines[name],
            )
            for name in plain
        ]
        for group, method, name, similarity in plain_rows:
            labels = {"task": task, "group": group, "method": method, "component": name}
            rows.append({**labels, **score(similarity, data.gold, d_model, seed=seed)})
        for setting in study.settings:
            for name in components:
                vectors = study.vectors(task, name, setting=setting, languages=languages)
                for vector in VECTORS:
                    encoded = semantic_vectors(vectors, parts[name], k, vector=vector)
                    similarity, dims = pair_similarity(encoded)
                    gain = paired_difference(similarity, cosines[name], data.gold, seed=seed)
                    rows.append(
                        {
                            "task": task,
                            "group": f"DySem on {SYMBOLS[name]}",
                            "method": f"DySem {SYMBOLS[name]}, {setting}, {vector}",
                            "component": name,
                            "setting": setting,
                            "vector": vector,
                            **score(similarity, data.gold, dims, seed=seed),
                            "gain": gain["difference"],
                            "gain_low": gain["low"],
                            "gain_high": gain["high"],
                        }
                    )
    return pd.DataFrame(rows)


def random_vs_semantic(
    study: Study,
    languages: Sequence[str],
    *,
    component: str = "attn",
    vector: str = "mean",
    ks: Sequence[int | float] = (0.05, 0.1, 0.25, 0.5, 1.0),
    n_seeds: int = 5,
    seed: int = 0,
) -> pd.DataFrame:
    """Score DySem's joint sets against random sets of the same size.

    Two kinds of control: for every pair, |U(x, y)| dimensions are drawn from all d without
    replacement, so that both cosines of that pair see equally many ("random, per pair"); and one
    set of the mean size is drawn for all pairs ("random, shared"), which keeps the pairs
    comparable with each other. The last row of a task has all d dimensions of the same vector.

    Args:
        study: Its first template and first setting are used.
        languages: 𝓛.
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
    rows = []
    for task, data in study.data.items():
        vectors = study.vectors(task, component, languages=languages)
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
                per_pair = random_sets(sizes, d_model, draw)
                one_set = random_sets(shared[:1], d_model, draw).expand_as(per_pair)
                for kind, drawn in (("random, per pair", per_pair), ("random, shared", one_set)):
                    similarity = joint_cosine(first.vectors, second.vectors, drawn)
                    mean_size = float(drawn.sum(-1).float().mean())
                    result = score(similarity, data.gold, mean_size, seed=seed)
                    rows.append({**labels, "kind": kind, "random_seed": draw, **result})
        everything = pair_cosine(semantic_vectors(vectors, source, 1.0, vector=vector).vectors)
        dense = score(everything, data.gold, d_model, seed=seed)
        rows.append({"task": task, "kind": "all dimensions", "k": d_model, **dense})
    return pd.DataFrame(rows)


def random_sets(sizes: Tensor, d_model: int, seed: int) -> Tensor:
    """Return one random subset of the d dimensions per row, of the given sizes, as a mask."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(len(sizes), d_model, generator=generator).argsort(dim=-1).argsort(dim=-1)
    return order < sizes[:, None]


def component_scores(
    study: Study,
    components: Sequence[str] = ("resid", "attn", "attn_raw", "ffn"),
    *,
    k: int | float = 1024,
    seed: int = 0,
) -> pd.DataFrame:
    """Score h^L, A^L and F^L in English alone: plain cosine, and DySem with m = 1.

    "attn_raw", the attention output before a post-norm, is left out where the model has none.

    Returns:
        One row per task, component and ``method`` ("all dimensions", "DySem, m = 1").

    Source: DySem Figures 4 and 11.
    """
    rows = []
    for task, data in study.data.items():
        read = {name: study.vectors(task, name, languages=["en"]) for name in components}
        for name, vectors in read.items():
            if name == "attn_raw" and "attn" in read and _agree(vectors, read["attn"]):
                continue
            plain = pair_cosine(vectors[:, 0])
            (selected,) = sweep(vectors, vectors[:, 0], [k], [1], ["source"]).values()
            for method, similarity, dims in (
                ("all dimensions", plain, study.model.d_model),
                ("DySem, m = 1", selected.similarity, _mean(selected.sizes)),
            ):
                result = score(similarity, data.gold, dims, seed=seed)
                rows.append({"task": task, "component": name, "method": method, **result})
    return pd.DataFrame(rows)


def _agree(a: Tensor, b: Tensor) -> bool:
    """Return whether vectors are the same up to rounding, which differs between batches."""
    return bool((a - b).norm() <= 1e-3 * b.norm())


def rank_languages(
    study: Study,
    task: str,
    *,
    template: str | None = None,
    setting: str | None = None,
    component: str = "attn",
    seed: int = 0,
) -> pd.DataFrame:
    """Score every language alone by the plain cosine of its vectors, best first.

    The paper adds languages to the consensus in this order, chosen on the labels that it reports
    on.

    Returns:
        One row per language: ``task``, ``setting``, ``language``, ``rank`` (1 is best) and the
        score.

    Source: DySem Section 4 and Figures 5 and 12.
    """
    setting = setting if setting is not None else study.settings[0]
    rows = []
    for code in study.task_languages(task):
        vectors = study.vectors(
            task, component, template=template, setting=setting, languages=[code]
        )
        result = score(
            pair_cosine(vectors[:, 0]), study.data[task].gold, study.model.d_model, seed=seed
        )
        rows.append({"task": task, "setting": setting, "language": code, **result})
    table = pd.DataFrame(rows).sort_values("spearman", ascending=False, ignore_index=True)
    table.insert(3, "rank", table.index + 1)
    return table


def single_languages(study: Study, *, component: str = "attn", seed: int = 0) -> pd.DataFrame:
    """Return `rank_languages` for every task and setting of a study."""
    return pd.concat(
        [
            rank_languages(study, task, setting=setting, component=component, seed=seed)
            for task in study.data
            for setting in study.settings
        ],
        ignore_index=True,
    )


def language_overlap(
    study: Study, task: str, *, setting: str, component: str = "attn", k: int | float = 1024
) -> tuple[pd.DataFrame, float]:
    """Return how much the sets overlap that each two languages select for the same text.

    A language's set is its k largest positive dimensions: the consensus set for m = 1.

    Returns:
        The mean Jaccard index over texts, languages on both axes (a text for which both sets are
        empty does not count); and the Jaccard index of two
        random sets of the mean size, |S|² / d over 2|S| − |S|² / d.

    Raises:
        InputError: The task is in one language only.
    """
    codes = study.task_languages(task)
    if len(codes) < 2:
        raise InputError(f"{task} is in {codes[0]!r} alone; an overlap is of two languages or more")
    sets = torch.stack(
        [
            consensus_set(study.vectors(task, component, setting=setting, languages=[code]), k)
            for code in codes
        ],
        dim=1,
    ).float()  # [2n, m, d]
    common = sets @ sets.mT
    sizes = sets.sum(-1)
    union = sizes[:, :, None] + sizes[:, None] - common
    overlap = (common / union).nanmean(0).numpy()  # 0 / 0 where both sets are empty
    size = float(sizes.mean())
    by_chance = size**2 / study.model.d_model
    return pd.DataFrame(overlap, codes, codes), by_chance / (2 * size - by_chance)


def grid(
    study: Study,
    ks: Sequence[int | float],
    ms: Sequence[int] | None = None,
    *,
    components: Sequence[str] = ("attn",),
    vectors: Sequence[str] = VECTORS,
    languages: Mapping[str, Sequence[str]] | Sequence[str] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Score DySem for every task, template, setting, component, m, k and vector.

    Args:
        study: Its tasks, templates and settings span the grid.
        ks: Dimensions per text, or fractions of d.
        ms: Numbers of languages; a task with fewer uses all that it has. None is each number.
        components: Internal vectors.
        vectors: "mean" and "source".
        languages: Order in which languages are added, or one order per setting. None ranks them by
            their single-language score on the same pairs: the paper's protocol, which uses the
            labels that it reports on.
        seed: Of the bootstraps.

    Returns:
        One row per cell with ``task``, ``template``, ``setting``, ``component``, ``m``,
        ``languages`` (joined by "/"), ``k``, ``vector``.

    Raises:
        InputError: k, m or a name out of range.

    Source: DySem Figures 6, 7, 9, 13–17, 22–24 and Table 5.
    """
    check_ms(ms or [1], _most_languages(study, languages))
    rows = []
    for task, template, setting, component in (
        (task, template, setting, component)
        for task in study.data
        for template in study.templates
        for setting in study.settings
        for component in components
        if template != "none"
    ):
        order = _order(study, task, template, setting, component, languages)
        x = study.vectors(task, component, template=template, setting=setting, languages=order)
        english = study.vectors(task, component, template=template, languages=["en"])
        available = range(1, len(order) + 1)
        used = list(dict.fromkeys(min(m, len(order)) for m in ms or available))
        for cell, result in sweep(x, english[:, 0], ks, used, vectors).items():
            rows.append(
                {
                    "task": task,
                    "template": template,
                    "setting": setting,
                    "component": component,
                    "m": cell.m,
                    "languages": "/".join(order[: cell.m]),
                    "k": cell.k,
                    "vector": cell.vector,
                    **score(
                        result.similarity, study.data[task].gold, _mean(result.sizes), seed=seed
                    ),
                }
            )
    return pd.DataFrame(rows)


def _order(
    study: Study,
    task: str,
    template: str,
    setting: str,
    component: str,
    languages: Mapping[str, Sequence[str]] | Sequence[str] | None,
) -> list[str]:
    """Return the languages that a task has in the order in which they join the consensus."""
    if languages is None:
        ranked = rank_languages(
            study, task, template=template, setting=setting, component=component
        )
        return ranked["language"].tolist()
    if isinstance(languages, Mapping) and setting not in languages:
        raise choices("prompt setting with an order of languages", setting, languages)
    given = languages[setting] if isinstance(languages, Mapping) else languages
    order = names_of(given, "language")
    for code in order:
        if code not in study.languages:
            raise choices("language", code, study.languages)
    return [code for code in order if code in study.task_languages(task)]


def _most_languages(
    study: Study, languages: Mapping[str, Sequence[str]] | Sequence[str] | None
) -> int:
    """Return how many languages a consensus can have at most."""
    most = max(len(study.task_languages(task)) for task in study.data)
    if languages is None:
        return most
    orders = languages.values() if isinstance(languages, Mapping) else [languages]
    return min(most, max(len(names_of(order, "language")) for order in orders))


def plain_scores(
    study: Study, components: Sequence[str] = ("final", "attn"), *, seed: int = 0
) -> pd.DataFrame:
    """Score the plain cosine in English, on all d, of each template: what DySem starts from.

    Returns:
        One row per task, template and component.
    """
    return pd.DataFrame(
        {
            "task": task,
            "template": template,
            "component": name,
            **score(
                pair_cosine(study.vectors(task, name, template=template, languages=["en"])[:, 0]),
                data.gold,
                study.model.d_model,
                seed=seed,
            ),
        }
        for task, data in study.data.items()
        for template in study.templates
        for name in components
    )


def layer_scores(
    study: Study,
    m: int,
    *,
    component: str = "attn",
    k: int | float = 1024,
    vectors: Sequence[str] = VECTORS,
    languages: Mapping[str, Sequence[str]] | Sequence[str] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Score DySem on each layer's output alone and on the sum up to that layer.

    Args:
        study: Its first template is used.
        m: Number of languages; a task with fewer uses all that it has.
        component: "attn" (a^l and A^l), "attn_raw" or "ffn" (f^l and F^l).
        k: Dimensions per text, or fraction of d.
        vectors: "mean" and "source".
        languages: As for `grid`; None ranks them by the sum over all layers.
        seed: Of the bootstraps.

    Returns:
        One row per task, setting, vector, ``kind`` ("layer-wise", "cumulative") and ``layer``
        (0-based block index).

    Raises:
        InputError: k, m or a name out of range.

    Source: DySem Figures 8 and 18–21.
    """
    if component not in PER_LAYER:  # h^l is a sum over layers already
        raise choices("component for layers", component, PER_LAYER)
    check_ms([m], _most_languages(study, languages))
    rows = []
    for task, data in study.data.items():
        for setting in study.settings:
            order = _order(study, task, study.templates[0], setting, component, languages)
            codes = order[:m]
            results: dict[tuple[str, str, int], list[Tensor]] = {}
            for pairs in _chunks(len(data)):
                for cell, part in _layer_chunk(
                    study, task, setting, codes, pairs, component, k, vectors
                ):
                    results.setdefault(cell, []).append(part)
            for (kind, vector, layer), parts in results.items():
                similarity, sizes = torch.cat(parts, dim=1)
                rows.append(
                    {
                        "task": task,
                        "setting": setting,
                        "vector": vector,
                        "kind": kind,
                        "layer": layer,
                        "languages": "/".join(codes),
                        "k": k,
                        **score(similarity, data.gold, _mean(sizes), seed=seed),
                    }
                )
    return pd.DataFrame(rows)


def _layer_chunk(
    study: Study,
    task: str,
    setting: str,
    codes: Sequence[str],
    pairs: Sequence[int],
    component: str,
    k: int | float,
    vectors: Sequence[str],
) -> Iterator[tuple[tuple[str, str, int], Float[Tensor, "2 c"]]]:
    """Yield (kind, vector, layer) with the similarities and set sizes of some pairs."""

    def read(languages: Sequence[str]) -> Float[Tensor, "twice_c m L d"]:
        return study.vectors(
            task, component, setting=setting, languages=languages, layers="each", pairs=pairs
        )

    each = read(codes)
    source = each[:, [codes.index("en")]] if "en" in codes else read(["en"])
    m = len(codes)
    for kind, x, x_source in (
        ("layer-wise", each, source),
        ("cumulative", each.cumsum(2), source.cumsum(2)),
    ):
        for layer in range(x.shape[2]):
            cells = sweep(x[:, :, layer], x_source[:, 0, layer], [k], [m], vectors)
            for cell, result in cells.items():
                sizes = result.sizes.to(result.similarity.dtype)
                yield (kind, cell.vector, layer), torch.stack([result.similarity, sizes])


def _chunks(n_pairs: int) -> Iterator[range]:
    for start in range(0, n_pairs, PAIRS_PER_CHUNK):
        yield range(start, min(start + PAIRS_PER_CHUNK, n_pairs))


def _mean(sizes: Tensor) -> float:
    return float(sizes.double().mean())
