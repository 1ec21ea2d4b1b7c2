"""What is checked of every model that is loaded, before a number is read from it."""

import contextlib
import hashlib
import itertools
import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from dysem_lab import paths
from dysem_lab.errors import DysemLabError, InputError, ModelError
from dysem_lab.models.capture import capture
from dysem_lab.models.lens import LensModel
from dysem_lab.models.passes import pad
from dysem_lab.models.places import COMPONENTS, MEANS
from dysem_lab.models.record import forward
from dysem_lab.prompts import template_parts

# Relative errors allowed. In fp32 both checks differ in the last bits only (measured: below 2e-6 on
# eleven architectures). Half precision rounds each addition to 8 or 11 bits, and another batch
# shape rounds differently at every block (measured in bf16: up to 0.045 at single hook points of
# Gemma 3 270M); a wrong mask or position gives errors of the order of 1.
FULL_TOLERANCE = 1e-3
HALF_IDENTITY_TOLERANCE = 2e-2
HALF_PADDING_TOLERANCE = 0.25
SHORT_CUTS = ("shares_prefix", "last_alone")  # of a `LensModel`, where they are exact
# What a cache of another kind (state-space, hybrid) raises when it is copied to a batch.
PREFIX_ERRORS = (DysemLabError, RuntimeError, TypeError, AttributeError, NotImplementedError)
PROMPTS = (
    'This sentence : "A dog sleeps." means in one word:"',
    'This sentence : "Two children build a castle of sand on the long beach." means in one word:"',
    'This sentence : "It rains." means in one word:"',
)


def check_once(lens: LensModel) -> None:
    """Run `check_model`, unless this model passed it before in the same surroundings.

    A pass is remembered in the user's cache, for the model's fingerprint, its data type, the
    device, the versions of torch, transformers and TransformerLens, and this package's own code for
    models; a change in any of them has the model checked again.

    Raises:
        ModelError: As `check_model`.
    """
    key = _surroundings(lens)
    # No record, or a damaged one.
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        passed = json.loads(paths.passed_check_path(key).read_text(encoding="utf-8"))
        lens.shares_prefix, lens.last_alone = (bool(passed[name]) for name in SHORT_CUTS)
        return
    check_model(lens)
    # A cache that cannot be written: checked each time.
    with contextlib.suppress(OSError, InputError):
        passed = {"model": lens.name, **{name: getattr(lens, name) for name in SHORT_CUTS}}
        paths.write_whole(paths.passed_check_path(key), json.dumps(passed))


def _surroundings(lens: LensModel) -> str:
    """Return what a passed check holds for, as a name for its record."""
    device = str(lens.device)
    if lens.device.type == "cuda":
        device += torch.cuda.get_device_name(lens.device)
    digest = hashlib.sha256(f"{lens.fingerprint} {lens.dtype} {device}".encode())
    for package in ("torch", "transformers", "transformer-lens"):
        digest.update(version(package).encode())
    for module in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(module.read_bytes())
    return digest.hexdigest()[:32]


def check_model(lens: LensModel) -> None:
    """Refuse a model whose hook points do not mean what this package takes them to mean.

    The checks, by name: *tokenizer* (it cuts a text the same way each time, and into tokens that
    have an embedding), *hooks fire* (each component has its shape), *dtype* (activations have the
    type of the weights), *residual identity* (block input + attention + FFN = block output, at each
    block), *left padding* (a left-padded batch equals single prompts). Whether a common prefix of
    the prompts may be computed once, and the end of the last block for the last token alone, is
    tried too, and remembered in ``lens.shares_prefix`` and ``lens.last_alone``.

    Raises:
        ModelError: Names the model, the check that failed, where, and by how much.
    """
    half = lens.dtype in (torch.float16, torch.bfloat16)
    identity = HALF_IDENTITY_TOLERANCE if half else FULL_TOLERANCE
    padding = HALF_PADDING_TOLERANCE if half else FULL_TOLERANCE
    points = [*(component.hook for component in COMPONENTS.values()), "blocks.{layer}.hook_in"]
    layers = range(lens.n_layers)
    names = list(dict.fromkeys(point.format(layer=layer) for point in points for layer in layers))
    _check_tokenizer(lens)
    ids = lens.tokenizer(list(PROMPTS))["input_ids"]
    single = [_activations(lens, names, *pad(lens, [row])) for row in ids]
    for name, tensor in single[0].items():
        if tensor.dtype != lens.dtype:
            raise _failed(lens, "dtype", f"{name} is {tensor.dtype}, the weights {lens.dtype}")
    _check_residual_identity(lens, single[0], identity)
    left_padded = _activations(lens, names, *pad(lens, ids, side="left"))
    _check_left_padding(lens, single, left_padded, padding)
    _check_capture(lens, padding)


def _failed(lens: LensModel, check: str, detail: str) -> ModelError:
    return ModelError(
        f"{lens.name}: the load-time check '{check}' failed: {detail}. Vectors read from it would "
        "be wrong, so it is refused"
    )


def _check_tokenizer(lens: LensModel) -> None:
    model = getattr(getattr(lens.tokenizer, "backend_tokenizer", None), "model", None)
    if dropout := getattr(model, "dropout", None):
        raise _failed(lens, "tokenizer", f"it drops a share of {dropout} of its merges at random")
    n = lens.n_embeddings
    ids = {id_ for row in lens.tokenizer(list(PROMPTS))["input_ids"] for id_ in row}
    if not ids or max(ids) >= n:
        worst = lens.tokenizer.convert_ids_to_tokens(max(ids)) if ids else "no token"
        raise _failed(
            lens,
            "tokenizer",
            f"{n} tokens have an embedding, and it gives {worst!r}, so it is another model's",
        )


def _activations(lens: LensModel, names: list[str], ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Return what each hook point sees in one pass, whole; every name must fire."""
    seen: dict[str, Tensor] = {}

    def reader(name: str) -> Callable[..., None]:
        return lambda tensor, hook: seen.__setitem__(name, tensor.detach().clone())

    try:
        forward(lens, ids, mask, [(name, reader(name)) for name in names])
    except KeyError as error:
        raise _failed(lens, "hooks fire", str(error)) from error
    silent = [name for name in names if name not in seen]
    if silent:
        raise _failed(lens, "hooks fire", f"nothing came from {', '.join(silent[:3])}")
    return seen


def _error(found: Tensor, expected: Tensor) -> float:
    """Return the relative error of one tensor against another, in norms."""
    found, expected = found.float(), expected.float()
    return float((found - expected).norm() / expected.norm().clamp_min(1e-12))


def _check_residual_identity(lens: LensModel, seen: dict[str, Tensor], tolerance: float) -> None:
    for layer in range(lens.n_layers):
        block = f"blocks.{layer}."
        parts = [seen[block + name] for name in ("hook_in", "hook_attn_out", "hook_mlp_out")]
        total = torch.stack(parts).float().sum(0)
        if (error := _error(total, seen[block + "hook_out"])) > tolerance:
            raise _failed(
                lens,
                "residual identity",
                f"block {layer}: input + attention + FFN differs from the output by {error:.1e}",
            )


def _check_left_padding(
    lens: LensModel, single: list[dict[str, Tensor]], batch: dict[str, Tensor], tolerance: float
) -> None:
    for name, tensor in batch.items():
        for row, alone in enumerate(single):
            if (error := _error(tensor[row, -1], alone[name][0, -1])) > tolerance:
                raise _failed(
                    lens, "left padding", f"{name} differs from the single prompt by {error:.1e}"
                )


def _check_capture(lens: LensModel, tolerance: float) -> None:
    """Compare a captured batch with single prompts; decide which short cuts may be taken."""
    names = [name for name in COMPONENTS if name not in MEANS]  # a mean takes none
    beginning, end = template_parts("knowledge", "english", "en")
    prompts = [beginning + prompt + end for prompt in PROMPTS]  # long enough to be shared
    lens.shares_prefix = lens.last_alone = False
    alone = [capture(lens, [prompt], names) for prompt in prompts]

    def worst() -> float:
        batch = capture(lens, prompts, names)
        return max(
            _error(batch[name][row], vectors[name][0])
            for name in names
            for row, vectors in enumerate(alone)
        )

    for short_cuts in itertools.product((True, False), repeat=len(SHORT_CUTS)):
        lens.shares_prefix, lens.last_alone = short_cuts
        with contextlib.suppress(*PREFIX_ERRORS):
            if worst() <= tolerance:
                return
    if (error := worst()) > tolerance:  # without a short cut
        raise _failed(lens, "padding", f"a batch differs from single prompts by {error:.1e}")
