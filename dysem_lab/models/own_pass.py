"""Why a pass through a model would not be its own: hooks, foreign code, training, low precision."""

import functools
from collections.abc import Iterator, Mapping, Set
from typing import Any

import torch
from torch import nn

from dysem_lab.errors import some_of

CALLS = ("_call_impl", "_wrapped_call_impl")
FULL_PRECISION = ("highest", "ieee", "none")
LIBRARIES = ("torch", "transformers", "transformer_lens", "peft", "accelerate")
GLOBAL_HOOKS = ("_global_forward_hooks", "_global_forward_pre_hooks")


def objections(
    modules: Mapping[str, nn.Module],
    first: Set[int],
    functions: Mapping[tuple[int, str], Any],
    is_ours: bool,
) -> list[str]:
    """Return why vectors of a pass through modules are not the model's own, if they are.

    ``first`` are the numbers (``id``) of the modules that were there first, ``functions`` those
    that they carried then, by number and name; ``is_ours`` says that nobody's were put in before.
    """
    hooked = [
        getattr(module, "name", None) or name or "the model"
        for name, module in modules.items()
        if _is_hooked(module)
    ]
    if any(getattr(nn.modules.module, hooks) for hooks in GLOBAL_HOOKS):
        hooked.append("all modules (torch's global hooks)")
    faults = {
        "hooks are on": hooked,
        "modules were put in:": [
            name or "the model"
            for name, module in modules.items()
            if id(module) not in first or not (is_ours or _is_of_library(type(module)))
        ],
        "functions were put in:": [
            f"{name}.{key}"
            for name, module in modules.items()
            for key, function in functions_of(module)
            if id(module) in first
            and (
                functions.get((id(module), key)) is not function
                or not (is_ours or _is_of_library(function))
            )
        ],
        "training mode is on:": [
            name or "the model" for name, module in modules.items() if module.training
        ],
    }
    found = [f"{what} {some_of(names)}" for what, names in faults.items() if names]
    tensors = [
        tensor
        for module in modules.values()
        for tensor in module._parameters.values()
        if tensor is not None
    ]
    places = {(tensor.device.type, tensor.dtype) for tensor in tensors}
    for device in sorted({device for device, _ in places}):
        if torch.is_autocast_enabled(device):
            found.append(f"autocast is on for {device}")
        precision = _product_precision(device)
        if (device, torch.float32) in places and precision not in FULL_PRECISION:
            found.append(
                f"products of float32 are in {precision} on {device} "
                "(torch.set_float32_matmul_precision, torch.backends)"
            )
    return found


def functions_of(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield (name, function) of the functions that an object carries beside its class."""
    if is_hook_point(module):  # only what changes the vectors that its hooks see
        yield "hook_conversion", vars(module).get("hook_conversion")
        return
    for key, value in vars(module).items():
        is_function = callable(value) and not isinstance(value, nn.Module | type)
        if is_function and (key in CALLS or not key.startswith("_")):
            yield key, value


def is_hook_point(module: nn.Module) -> bool:
    """Return whether a module is a hook point of TransformerLens."""
    return "fwd_hooks" in vars(module)


def _is_hooked(module: nn.Module) -> bool:
    """Return whether a user's hook sees what a module takes or gives.

    Libraries put some of their own on modules, but none on hook points.
    """
    if not (module._forward_hooks or module._forward_pre_hooks):
        return False
    hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
    return is_hook_point(module) or not all(map(_is_of_library, hooks))


def _is_of_library(code: Any) -> bool:
    """Return whether a function or a class is of a library, whose version a check depends on."""
    while isinstance(code, functools.partial):
        code = code.func
    home = getattr(code, "__module__", None)
    return home is None or home.partition(".")[0] in LIBRARIES  # None: built in


def _product_precision(device: str) -> str:
    """Return in what torch multiplies matrices of float32 on a kind of device."""
    backend = {"cpu": torch.backends.mkldnn, "cuda": torch.backends.cuda}.get(device)
    # The older `torch.get_float32_matmul_precision` raises where only one backend was set.
    precision = getattr(getattr(backend, "matmul", None), "fp32_precision", None)
    if precision is None:  # torch before 2.9, and other devices
        precision = torch.get_float32_matmul_precision()
    return precision
