"""Systems at settings that are chosen on other pairs, each from a small grid. Notebook 24."""

import warnings
from collections.abc import Mapping, Sequence
from itertools import chain, product
from typing import NamedTuple

import numpy as np

from dysem_lab.data.sts import STSData
from dysem_lab.encoders.base import Encoder
from dysem_lab.encoders.contrastive import ContrastivePrompting
from dysem_lab.encoders.dysem import DySem
from dysem_lab.encoders.settings import VECTORS
from dysem_lab.errors import MissingTranslationError
from dysem_lab.evaluate import spearman
from dysem_lab.models.steering import SCALED_NORMS, alpha_is_undone
from dysem_lab.models.store import VectorStore
from dysem_lab.prompts import SETTINGS
from dysem_lab.questions.names import said
from dysem_lab.questions.shared_passes import encoded_pairs, run_together

COMPONENTS = ("attn", "resid")
KS = (0.125, 0.25, 0.5)
DEPTHS = (1 / 8, 1 / 4, 3 / 8, 1 / 2)  # of the block of a contrast; the papers' are among them
ALPHAS = (0.5, 1.0, 2.0, 4.0)
END = "_chosen"  # of the short name of such a system


class Chosen(NamedTuple):
    """A system at the settings that scored best on other pairs.

    Attributes:
        encoder: The system. Its name says the settings, and of how many on which pairs.
        n_tried: Different settings that were tried.
        score: Its Spearman × 100 on the pairs that it was chosen on, the best of them all.
    """

    encoder: Encoder
    n_tried: int
    score: float


def chosen_systems(
    systems: Mapping[str, Encoder], pairs: STSData, store: VectorStore, *, progress: bool = True
) -> dict[str, Chosen]:
    """Choose DySem's and Contrastive Prompting's settings on other pairs than those to report on.

    DySem keeps its languages and its prompt; component, k, v(x) and prompt setting are chosen, in
    one system for all of DySem that is given. Each system of Contrastive Prompting keeps its
    prompt, norm and output layer; block and α are chosen, the block alone where the norm or the
    model has no use for α.

    Args:
        systems: Short name → system; others than these two are passed over.
        pairs: To choose on.
        store: Keeps vectors.
        progress: Show progress bars.

    Returns:
        Short name with `END` → system; of equals the first of the grid.

    Warns:
        UserWarning: The pairs lack renderings that a system needs, or no setting has a score there;
            it is left out.
    """
    grids = _grids(systems)
    run_together(((one, pairs) for one in chain(*grids.values())), store, progress=progress)
    found = {}
    for name, tried in grids.items():
        try:
            scores = [_score(encoder, pairs, store) for encoder in tried]
        except MissingTranslationError as error:
            warnings.warn(f"{name} is left out: {error}", stacklevel=2)
            continue
        if np.isnan(scores).all():
            warnings.warn(
                f"{name} is left out: no setting has a score on {pairs.name}", stacklevel=2
            )
            continue
        best = tried[int(np.nanargmax(scores))]
        best.name += f", {_settings(best)} (best of {len(tried)} on {pairs.name})"
        found[name] = Chosen(best, len(tried), float(np.nanmax(scores)))
    return found


def _grids(systems: Mapping[str, Encoder]) -> dict[str, list[Encoder]]:
    """Return short name → the settings to choose from."""
    grids: dict[str, list[Encoder]] = {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "alpha has no effect")  # said of the system itself
        for name, system in systems.items():
            if isinstance(system, DySem):
                if f"dysem{END}" not in grids:
                    grids[f"dysem{END}"] = _dysem_grid(system)
            elif isinstance(system, ContrastivePrompting):
                grids[f"{name}{END}"] = _contrast_grid(system)
    return {name: tried for name, tried in grids.items() if tried}


def _dysem_grid(system: DySem) -> list[Encoder]:
    names = ("component", "setting", "vector", "k")
    settings: Sequence[str] = SETTINGS
    vectors: Sequence[str] = VECTORS
    if system.languages == ("en",):  # whose prompts and mean are the same in all of these
        settings, vectors = (system.config["setting"],), (system.config["vector"],)
    return [
        DySem.from_config(
            {**system.config, **dict(zip(names, values, strict=True))},
            system.lens,
            translator=system.translator,
        )
        for values in product(COMPONENTS, settings, vectors, KS)
    ]


def _contrast_grid(system: ContrastivePrompting) -> list[Encoder]:
    n_layers = system.lens.n_layers
    alphas = ALPHAS if _uses_alpha(system) else (system.contrast.alpha,)
    blocks = dict.fromkeys(round(depth * n_layers) for depth in DEPTHS)
    return [
        ContrastivePrompting.from_config(
            {**system.config, "layer": block, "alpha": alpha}, system.lens
        )
        for block in blocks
        if block < system.place.n_blocks(n_layers)  # or the contrast would not be read
        for alpha in alphas
    ]


def _uses_alpha(system: ContrastivePrompting) -> bool:
    contrast = system.contrast
    return contrast.norm in SCALED_NORMS and not alpha_is_undone(
        contrast, system.lens, system.place
    )


def _score(encoder: Encoder, pairs: STSData, store: VectorStore) -> float:
    first, second = encoded_pairs(encoder, pairs, store, False)
    with warnings.catch_warnings():  # what is undefined is not chosen
        warnings.filterwarnings("ignore", "Spearman is undefined|.* have no similarity")
        return spearman(encoder.similarity_pairwise(first, second), pairs.gold)


def _settings(encoder: Encoder) -> str:
    """Return the chosen settings that the name of a system does not say by itself."""
    if isinstance(encoder, DySem):
        return said("k", encoder.k)
    assert isinstance(encoder, ContrastivePrompting)
    contrast = encoder.contrast
    alpha = f", {said('alpha', f'{contrast.alpha:g}')}" if _uses_alpha(encoder) else ""
    return f"{said('layer', contrast.layer)}{alpha}"
