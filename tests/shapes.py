"""Runtime checks of annotated shapes, for jaxtyping's import hook: arrays alone, nothing else.

Other types are mypy's, and bad input is answered by the package's own errors, which its tests want
to see; so this is on where the input is sound: in the runs of all notebooks and explorers.
"""

import functools
import inspect
import types
import typing
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import AbstractArray
from torch import Tensor


def _arrays(annotation: object) -> tuple[type, ...]:
    """Return the array types of an annotation, alone or in a union."""
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        return tuple(one for part in typing.get_args(annotation) for one in _arrays(part))
    is_array = isinstance(annotation, type) and issubclass(annotation, AbstractArray)
    return (annotation,) if is_array else ()


def check_shapes(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function with its arrays checked, before and after."""
    annotated = {
        name: arrays
        for name, annotation in function.__annotations__.items()
        if (arrays := _arrays(annotation))
    }
    if not annotated:
        return function
    signature = inspect.signature(function)

    def check(name: str, value: object) -> None:
        arrays = annotated.get(name, ())
        if arrays and isinstance(value, Tensor | np.ndarray) and not isinstance(value, arrays):
            expected = " or ".join(one.__name__ for one in arrays)
            raise AssertionError(
                f"{function.__qualname__}: {name} is {value.dtype} {tuple(value.shape)}, "
                f"annotated {expected}"
            )

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            check(name, value)
        result = function(*args, **kwargs)
        check("return", result)
        return result

    return checked
