"""Pairs as systems encode them, and the passes that several systems read, run once."""

from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import TypeVar

from tqdm.auto import tqdm

from dysem_lab.data.sts import STSData
from dysem_lab.encoders.base import Encoder, LensEncoder
from dysem_lab.encoders.vectors import SemanticVectors
from dysem_lab.errors import MissingTranslationError
from dysem_lab.models.capture import fill, fill_contrasts, missing_rows
from dysem_lab.models.lens import LensModel
from dysem_lab.models.passes import MAX_TOKENS
from dysem_lab.models.places import Place
from dysem_lab.models.steering import Contrast, Intervention
from dysem_lab.models.store import VectorStore, prompt_key
from dysem_lab.prompts import Prompt

Read = TypeVar("Read", bound=Hashable)


def renderings_of(encoder: Encoder, pairs: STSData) -> dict[str, list[str]]:
    """Return language → texts, as a system takes them: a translator has its own renderings."""
    ready = () if encoder.translator else pairs.languages
    return {code: pairs.texts(code) for code in {"en", *ready}}


def encoded_pairs(
    encoder: Encoder, pairs: STSData, store: VectorStore | None, progress: bool
) -> tuple[SemanticVectors, SemanticVectors]:
    """Return the encoded first and second sentences."""
    encoded = encoder.encode_renderings(
        renderings_of(encoder, pairs), store=store, progress=progress
    )
    return encoded[: len(pairs)], encoded[len(pairs) :]


def run_together(
    systems: Iterable[tuple[Encoder, STSData]], store: VectorStore, *, progress: bool = True
) -> None:
    """Keep what several systems read of the same prompts, each prompt run once for all of them.

    Mean pooling and VA read the same plain pass, so do PromptEOL, WVA, AlignedWVA and DySem in
    English; contrasts of one prompt share all its tokens but the last. What only one system reads,
    and what changes a pass otherwise, is left to the system. The numbers are those of a pass by
    itself, up to rounding.

    Args:
        systems: Each with pairs that it will encode. Those without renderings are left out.
        store: Where the systems will look for their vectors.
        progress: Show a progress bar.

    Raises:
        ModelError: As for `dysem_lab.capture` with a store.
    """
    plain: dict[LensModel, dict[Prompt, dict[Place, None]]] = {}
    steered: dict[tuple[LensModel, Place], dict[Prompt, dict[Contrast, None]]] = {}
    for encoder, pairs in systems:
        if not isinstance(encoder, LensEncoder):
            continue
        lens, place = encoder.lens, encoder.place
        try:
            views = encoder.views(renderings_of(encoder, pairs))
        except MissingTranslationError:  # said where the system is scored
            continue
        for view in views:
            prompts = [prompt for prompt in view.prompts if isinstance(prompt, Prompt)]
            if view.edit is None:
                _note(plain.setdefault(lens, {}), prompts, place)
            elif isinstance(view.edit, Intervention):
                _note(steered.setdefault((lens, place), {}), prompts, view.edit.contrast)
    for lens, of_places in plain.items():
        for places, group in _alike(of_places):
            keys = [prompt_key(prompt, MAX_TOKENS) for prompt in group]
            only = missing_rows(lens.facts, store, keys, places)
            _run(fill(lens, group, keys, places, store, only), len(only), progress)
    for (lens, place), of_contrasts in steered.items():
        for contrasts, group in _alike(of_contrasts):
            _run(fill_contrasts(lens, group, contrasts, [place], store), len(group), progress)


def _note(reads: dict[Prompt, dict[Read, None]], prompts: Iterable[Prompt], read: Read) -> None:
    for prompt in prompts:
        reads.setdefault(prompt, {})[read] = None


def _alike(reads: Mapping[Prompt, Mapping[Read, None]]) -> Iterator[tuple[list[Read], list[str]]]:
    """Yield prompts with one beginning of which the same is read, where that is more than one."""
    groups: dict[tuple[str, tuple[Read, ...]], list[str]] = {}
    for prompt, wanted in reads.items():
        begins = prompt[: prompt.start]
        groups.setdefault((begins, tuple(sorted(wanted, key=str))), []).append(prompt)
    for (_, read), prompts in groups.items():
        if len(read) > 1:
            yield list(read), prompts


def _run(batches: Iterator[int], n_texts: int, progress: bool) -> None:
    with tqdm(
        total=n_texts,
        desc="read by several systems",
        unit="text",
        disable=not progress or not n_texts,
        leave=False,
    ) as bar:
        for n_done in batches:
            bar.update(n_done)
