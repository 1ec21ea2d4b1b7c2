"""What a question is asked, by the names that questions share: checked before anything runs.

What parameters, the model's configuration and the columns of the data can show to be wrong is said
here, so that neither a forward pass nor a batch begins.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from dysem_lab.encoders.settings import VECTORS
from dysem_lab.errors import InputError
from dysem_lab.inputs import (
    at_least,
    check_k,
    different,
    index_of,
    names_of,
    one_of,
    real_number,
    seed_of,
    several,
)
from dysem_lab.models.places import VECTOR_COMPONENTS, output_place
from dysem_lab.questions.grid import check_ms
from dysem_lab.questions.study import Study

# Numbers of things, with the least that there may be.
LEAST = {
    **dict.fromkeys(("n_seeds", "n_random", "n_rotations", "n_draws", "n_sets", "n_texts"), 1),
    **dict.fromkeys(("n_pairs", "n_parts", "rounds", "steps", "top"), 1),
    **dict.fromkeys(("n_examples", "n_timed", "jacobian"), 0),
    "n_points": 2,
}


def asked(study: Study, **given: Any) -> dict[str, Any]:
    """Return a question's settings as JSON values, once the study can answer each of them.

    Those whose names questions share are checked; others are returned as they are.

    Raises:
        InputError: What is no study, or a value that the study does not have.
    """
    require_study(study)
    return {
        name: CHECKS[name](study, value) if name in CHECKS else value
        for name, value in given.items()
    }


def require_study(study: object) -> None:
    """Raise `InputError` where somebody gives something else in the place of a study."""
    if not isinstance(study, Study):
        raise InputError(
            f"study must be a model with its pairs, dl.Study(model, data), got {study!r:.80}"
        )


def require_same_shape(random_weights: Study, study: Study) -> None:
    """Raise `InputError` unless the random weights are of a model of the same shape."""
    shape, needed = ((of.model.n_layers, of.model.d_model) for of in (random_weights, study))
    if shape != needed:
        raise InputError(f"random_weights must have the model's (L, d) {needed}, got {shape}")


def codes_of(study: Study, languages: str | Sequence[str]) -> list[str]:
    """Return languages, once they are different ones that every task has."""
    codes = different(languages, "language")
    for task in study.data:
        for code in codes:
            one_of(code, study.task_languages(task), "language")
    return codes


def block(study: Study, layer: object) -> int:
    """Return the 0-based index of a block that the model has."""
    return index_of(layer, study.n_layers, "layer")


def _m(study: Study, m: Any) -> int:
    check_ms([m], max((len(study.task_languages(task)) for task in study.data), default=0))
    return int(m)


def _output(study: Study, output_layer: Any) -> int | str:
    output_place(output_layer, study.n_layers)
    return output_layer if isinstance(output_layer, str) else int(output_layer)


def _alpha(study: Study, alpha: object) -> float:
    if not math.isfinite(number := real_number(alpha, "alpha")):
        raise InputError(f"alpha must be finite, got {alpha}")
    return number


def _name(valid: Sequence[str], kind: str, study: Study, name: object) -> str:
    return one_of(name, valid, kind)


def _number(least: int, what: str, study: Study, value: object) -> int:
    return at_least(value, least, what)


# One value of each kind: its name → what it has to be.
ONE: dict[str, Callable[[Study, Any], Any]] = {
    "k": lambda study, k: check_k(k, study.size[1] if study.size else None),
    "m": _m,
    "layer": block,
    "output_layer": _output,
    "alpha": _alpha,
    "seed": lambda study, seed: seed_of(seed),
    "vector": partial(_name, VECTORS, "vector"),
    "component": partial(_name, VECTOR_COMPONENTS, "component"),
    "setting": lambda study, name: one_of(name, study.settings, "prompt setting of this study"),
    "task": lambda study, name: one_of(name, study.data, "task"),
    **{name: partial(_number, least, name) for name, least in LEAST.items()},
}


def _several(name: str, study: Study, values: Any) -> list[Any]:
    given = names_of(values, name) if name in ("vector", "component") else values
    return [ONE[name](study, value) for value in several(given, f"{name}s")]


CHECKS: dict[str, Callable[[Study, Any], Any]] = {
    **ONE,
    **{
        f"{name}s": partial(_several, name)
        for name in ("k", "m", "layer", "output_layer", "alpha", "vector", "component")
    },
    "languages": codes_of,
}
