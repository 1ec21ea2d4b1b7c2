"""Where does a similarity stand? One number beside those of related and of unrelated pairs."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from dysem_lab.data.languages import LANGUAGES
from dysem_lab.data.sts import STSData, load_data
from dysem_lab.display import Progress, amount, silent
from dysem_lab.encoders.base import LensEncoder
from dysem_lab.encoders.vectors import SemanticVectors
from dysem_lab.errors import InputError
from dysem_lab.models.capture import capture, missing_rows
from dysem_lab.models.passes import MAX_TOKENS
from dysem_lab.models.record import Edit
from dysem_lab.models.store import VectorStore, prompt_key

RELATED = 4.0  # of 5: the lowest score of a related pair
TIMED = 16  # prompts by which the time of the rest is told
# Two readings of one pair, in batches of other lengths, differ by less; pairs that do are told
# apart by nothing that is shown.
SAME = 1e-6
TIES = 0.05  # share of pairs with the very same similarity that is said


@dataclass(frozen=True, eq=False)
class Scale:
    """The similarities that an encoder gives to the pairs of a corpus, and to unrelated texts.

    Attributes:
        name: Of the corpus.
        pairs: Of its pairs, NaN where there is no similarity.
        related: Of those that are scored 4 or more of 5.
        unrelated: Of the first texts, each with the second text of another pair, drawn at random.
        seed: Of that draw.
    """

    name: str
    pairs: Float[np.ndarray, " n"]
    related: Float[np.ndarray, " n_related"]
    unrelated: Float[np.ndarray, " n"]
    seed: int

    @property
    def of(self) -> str:
        """What it is a scale of: its unrelated pairs, counted."""
        return f"{amount((~np.isnan(self.unrelated)).sum(), 'unrelated pair')} of {self.name}"

    def above(self, similarity: float) -> str:
        """Say what share of the unrelated pairs a similarity is higher than."""
        some = self.unrelated[~np.isnan(self.unrelated)]
        if np.isnan(similarity) or not len(some):
            return "none"
        return f"{100 * np.mean(some < similarity - SAME):.0f} %"

    def place(self, similarity: float) -> str:
        """Say where a similarity stands."""
        if np.isnan(similarity):
            return "no similarity, so no place among those of other pairs"
        (of_all, n), (of_related, n_related), (of_unrelated, n_unrelated) = (
            (
                f"{100 * np.mean(there < similarity - SAME):.0f} %" if len(there) else "none",
                len(there),
            )
            for some in (self.pairs, self.related, self.unrelated)
            for there in [some[~np.isnan(some)]]
        )
        same = np.abs(self.pairs[~np.isnan(self.pairs)] - similarity) <= SAME
        equal = np.mean(same) if n else 0.0
        ties = f" ({100 * equal:.0f} % have the same)" if equal >= TIES else ""
        return (
            f"higher than {of_all} of the {n} pairs of {self.name}{ties}; than {of_related} of the "
            f"{n_related} related ones, and than {of_unrelated} of {n_unrelated} unrelated ones"
        )


def scale(
    encoder: LensEncoder,
    pairs: STSData | str = "demo",
    *,
    store: VectorStore | None = None,
    seed: int = 0,
    language: str = "en",
    progress: bool = True,
) -> Scale:
    """Return the scale of an encoder on scored pairs.

    Args:
        encoder: A model's.
        pairs: "demo", or pairs in the languages that the encoder reads.
        store: As for `dysem_lab.capture`: what is there needs no forward pass.
        seed: Of the unrelated pairs.
        language: The texts' own, as for the encoder.
        progress: Show progress bars.

    Raises:
        InputError: Pairs that lack a language of the encoder, or fewer than two of them.
    """
    data = _pairs(encoder, pairs, language)
    columns = {code: data.texts(code) for code in data.languages}
    encoded = encoder.encode_renderings(columns, language, store=store, progress=progress)
    return scale_of(encoder, data, encoded, "the demo set" if pairs == "demo" else data.name, seed)


def scale_of(
    encoder: LensEncoder, data: STSData, encoded: SemanticVectors, name: str, seed: int = 0
) -> Scale:
    """Return the scale of an encoder from what it makes of the texts of pairs.

    Args:
        encoder: A model's.
        data: The n pairs.
        encoded: The n first texts, then the n second ones.
        name: What to call the pairs.
        seed: Of the unrelated pairs.
    """
    n = len(data)
    first = encoded[:n]
    of_pairs = _similarity(encoder, first, encoded[n:])
    unrelated = _similarity(encoder, first, encoded[torch.from_numpy(n + others(n, seed))])
    return Scale(name, of_pairs, of_pairs[data.gold >= RELATED], unrelated, seed)


def others(n: int, seed: int = 0) -> Int[np.ndarray, " n"]:
    """Return for each of n first texts whose second text it meets: never its own.

    It is one cycle through a random order.
    """
    order = np.random.default_rng(seed).permutation(n)
    other = np.empty(n, dtype=np.int64)
    other[order] = np.roll(order, 1)
    return other


def unread(
    encoder: LensEncoder, store: VectorStore, pairs: STSData | str = "demo", language: str = "en"
) -> int:
    """Return how many forward passes the scale needs that the store does not have."""
    return sum(len(prompts) for prompts, _ in _missing(encoder, store, pairs, language))


def read_pairs(
    encoder: LensEncoder,
    store: VectorStore,
    pairs: STSData | str = "demo",
    language: str = "en",
    progress: Progress = silent,
) -> None:
    """Capture what the scale needs that the store does not have.

    Args:
        encoder: As for `scale`, like `pairs` and `language`.
        store: Where it is kept; what was read before `progress` stops the work stays.
        pairs: The pairs.
        language: Their own.
        progress: Called before each batch.
    """
    missing = _missing(encoder, store, pairs, language)
    done, total = 0, sum(len(prompts) for prompts, _ in missing)
    component, blocks = encoder.place
    for prompts, edit in missing:
        for start in range(0, len(prompts), TIMED):
            progress(done, total, "Demo pairs")
            some = prompts[start : start + TIMED]
            capture(encoder.lens, some, component, blocks, edit=edit, store=store, progress=False)
            done += len(some)


def seconds_needed(
    encoder: LensEncoder,
    store: VectorStore,
    pairs: STSData | str = "demo",
    clock: Callable[[], float] = time.perf_counter,
    language: str = "en",
    timed: int = TIMED,
) -> float:
    """Return how long the scale would take, told by its first passes, which are kept."""
    missing = _missing(encoder, store, pairs, language)
    if not missing:
        return 0.0
    n, (prompts, edit) = sum(len(of) for of, _ in missing), missing[0]
    some, (component, blocks) = prompts[:timed], encoder.place
    begun = clock()
    capture(encoder.lens, some, component, blocks, edit=edit, store=store, progress=False)
    return (clock() - begun) / len(some) * (n - len(some))


def _pairs(encoder: LensEncoder, pairs: STSData | str, language: str = "en") -> STSData:
    """Return the pairs in the languages that the encoder reads, and in their own."""
    codes = list(dict.fromkeys([language, *encoder.languages]))
    if isinstance(pairs, str):
        pairs = load_data(pairs, languages=[code for code in LANGUAGES if code in codes])
    if lacking := [code for code in codes if code not in pairs.languages]:
        raise InputError(
            f"{pairs.name} has no {', '.join(lacking)}, so there is no scale in "
            f"{'/'.join(encoder.languages)}; give pairs in these languages"
        )
    if len(pairs) < 2:
        raise InputError(f"{pairs.name} has {amount(len(pairs), 'pair')}; a scale needs 2 or more")
    return pairs


def _missing(
    encoder: LensEncoder, store: VectorStore, pairs: STSData | str, language: str
) -> list[tuple[list[str], Edit | None]]:
    """Return the different prompts of each view that the store lacks."""
    data = _pairs(encoder, pairs, language)
    found = []
    for view in encoder.views({code: data.texts(code) for code in data.languages}, language):
        prompts = list(dict.fromkeys(view.prompts))
        keys = [prompt_key(prompt, MAX_TOKENS) for prompt in prompts]
        facts = view.edit.facts if view.edit else encoder.lens.facts
        rows = missing_rows(facts, store, keys, [encoder.place])
        if rows:
            found.append(([prompts[row] for row in rows], view.edit))
    return found


def _similarity(
    encoder: LensEncoder, x: SemanticVectors, y: SemanticVectors
) -> Float[np.ndarray, " n"]:
    return encoder.similarity_pairwise(x, y).double().numpy()
