"""The verbs of interpretability: ablate, patch and contrast, each an `Edit` of the forward pass.

An edit goes wherever prompts go through the model: `dysem_lab.capture(…, edit=edit)`,
`dysem_lab.logit_lens(…, edit=edit)`, `dysem_lab.next_token_probabilities(…, edit)`. The store
keeps what was read under it apart from the plain pass, by `Edit.facts`.

Over 400 lines, as the public verbs say their shapes and errors in full.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dysem_lab.errors import InputError
from dysem_lab.inputs import array_of, whole_number
from dysem_lab.models.facts import ModelFacts
from dysem_lab.models.lens import LensModel, require_model
from dysem_lab.models.places import COMPONENTS, Place, place
from dysem_lab.models.record import Edit, Hook, activations, row_shape
from dysem_lab.models.steering import Contrast, Intervention

Tokens = str | int  # "last", "all", or the position of a token
Source = Callable[[Sequence[str], Int[Tensor, "batch pos"]], Tensor]
Mask = Bool[Tensor, " values"] | Bool[np.ndarray, " values"]
Dimensions = Sequence[int] | Mask | Mapping[str, Mask]  # for all prompts, or of each
ORTHONORMAL = 1e-4  # how far products of a basis's columns may be from 0 and 1


class Replacement(Edit):
    """Vectors at one hook point, replaced by others.

    Args:
        lens: The model.
        where: A component of one block, or "final".
        source: (prompts, attention mask) → what is put in, ``[values]`` for every text and token,
            or ``[batch, pos, values]``.
        label: What the change is called.
        settings: What it consists of besides, as JSON values: they make its fingerprint.
        tokens: "last", "all", or a position from 0.
        heads: Only these heads of a component that has them; None is all values.
        dimensions: Only these dimensions of one that has not: indices, a mask ``[d]``, or prompt →
            mask. An empty set changes nothing.
        basis: Orthonormal columns ``[d, r]``: only the part in their span is replaced, and
            dimensions are those of the r coordinates.

    Raises:
        InputError: A place that is no single hook point, tokens, heads or dimensions that there
            are not, a mask of another width, or a basis that is not orthonormal; and when it runs,
            a prompt without a mask.
    """

    def __init__(
        self,
        lens: LensModel,
        where: str | Place,
        source: Source,
        label: str,
        settings: Mapping[str, Any],
        *,
        tokens: Tokens = "last",
        heads: Sequence[int] | None = None,
        dimensions: Dimensions | None = None,
        basis: Float[Tensor, "d r"] | None = None,
    ) -> None:
        """Check what can be checked; nothing is run."""
        super().__init__(lens)
        self.where = one_point(lens, where)
        self._of_heads = COMPONENTS[self.where.component].axes != "d"
        part = heads if self._of_heads else dimensions
        if (dimensions if self._of_heads else heads) is not None:
            has = "heads" if self._of_heads else "dimensions"
            raise InputError(f"{self.where} has {has}; choose among these")
        named = isinstance(tokens, str) and tokens in ("last", "all")
        if not named and (whole_number(tokens) is None or int(tokens) < 0):
            raise InputError(f"tokens must be 'last', 'all' or a position from 0, got {tokens!r}")
        size = row_shape(lens, self.where)[0]
        self._basis = None
        if basis is not None:
            if self._of_heads:
                raise InputError(f"{self.where} has heads; a basis is of one vector per token")
            self._basis = _orthonormal(basis, size, self.where)
            size = self._basis.shape[1]
        self._part, which = _chosen(part, size, self.where)
        self.tokens, self.every_token = tokens, tokens != "last"
        self._source, self._label = source, label
        where_and_which = {"place": str(self.where), "tokens": tokens, "part": which}
        spanned = {} if self._basis is None else {"basis": _digest({"": self._basis})}
        self._settings = {**where_and_which, **spanned, **settings}

    def check_reach(self, place: Place) -> None:
        """Raise `InputError` where a vector is read before the change."""
        n_layers = self.lens.n_layers
        if place.stage(n_layers) < self.where.stage(n_layers):
            raise InputError(
                f"{place} is read before {self.where}, so the change there would not reach it; "
                "read what comes later, or change an earlier block"
            )

    @property
    def facts(self) -> ModelFacts:
        """The model's facts under a fingerprint of the edited model's own."""
        return self.lens.facts.edited(f"{self._label} {self.where}", self._settings)

    def hooks(
        self,
        prompts: Sequence[str],
        mask: Int[Tensor, "batch pos"],
        rows: slice = slice(None),
    ) -> list[Hook]:
        """Return the hook that replaces the vectors in the pass over these prompts.

        Raises:
            InputError: A prompt without the token that is replaced, or without a set of dimensions.
        """
        lengths = mask.sum(1)[rows]
        texts = torch.arange(len(lengths), device=mask.device)
        at: Any = slice(None) if self.tokens == "all" else lengths - 1
        if not isinstance(self.tokens, str):
            if (short := lengths <= self.tokens).any():
                raise InputError(
                    f"{prompts[int(short.nonzero()[0])]!r} has no token at position {self.tokens}"
                )
            at = torch.full_like(lengths, self.tokens)
        chosen = texts if self.tokens == "all" else (texts, at)
        values = row_shape(self.lens, self.where)
        new = self._source(prompts, mask[rows]).to(mask.device)
        new = new.expand(len(lengths), mask.shape[1], *values)[chosen]
        part = self._masks(prompts).to(mask.device)
        if len(part) > 1 and self.tokens == "all":  # one row per text, for all of its tokens
            part = part[:, None]

        def replace_vectors(tensor: Tensor, hook: object) -> Tensor:
            edited = tensor.clone()
            of_rows = edited[rows]
            vectors = of_rows[chosen]
            of_rows[chosen] = self._replaced(vectors, new, part)
            edited[rows] = of_rows
            return edited

        ((_, point),) = self.where.read_at(self.lens.n_layers)
        return [(point, replace_vectors)]

    def _masks(self, prompts: Sequence[str]) -> Bool[Tensor, "*n d"]:
        """Return what is replaced: one row for all prompts, or one of each."""
        if not isinstance(self._part, Mapping):
            return self._part[None]
        for prompt in prompts:
            if prompt not in self._part:
                raise InputError(f"no dimensions are given for the prompt {prompt!r}")
        return torch.stack([self._part[prompt] for prompt in prompts])

    def _replaced(
        self, old: Float[Tensor, "... d"], new: Float[Tensor, "... d"], part: Bool[Tensor, "... r"]
    ) -> Float[Tensor, "... d"]:
        """Return the old vectors with the chosen part of the new ones."""
        if self._basis is None:
            shown = part[..., None] if self._of_heads else part
            return torch.where(shown, new.to(old), old)
        basis = self._basis.to(old.device)
        coordinates = (new.float() - old.float()) @ basis
        return (old.float() + (coordinates * part) @ basis.T).to(old)


class Together(Edit):
    """Several edits of one pass.

    Args:
        lens: The model.
        edits: In the order in which they are made.
    """

    def __init__(self, lens: LensModel, edits: Sequence[Edit]) -> None:
        """Take the edits; nothing is run."""
        super().__init__(lens)
        self.edits = list(edits)
        self.every_token = any(edit.every_token for edit in edits)

    @property
    def facts(self) -> ModelFacts:
        """The model's facts under a fingerprint of the edited model's own."""
        named = [edit.facts.fingerprint for edit in self.edits]
        return self.lens.facts.edited(f"{len(named)} edits", {"edits": named})

    def hooks(
        self,
        prompts: Sequence[str],
        mask: Int[Tensor, "batch pos"],
        rows: slice = slice(None),
    ) -> list[Hook]:
        """Return the hooks of all of them."""
        return [hook for edit in self.edits for hook in edit.hooks(prompts, mask, rows)]


def _chosen(part: Dimensions | None, size: int, where: Place) -> tuple[Any, Any]:
    """Return the parts that are replaced as a mask, or as one of each prompt; and as JSON."""
    if part is None:
        return torch.ones(size, dtype=torch.bool), None
    if isinstance(part, Mapping):
        masks = {prompt: _mask(one, size, where) for prompt, one in part.items()}
        return masks, {"of each": _digest(masks)}
    if isinstance(part, Tensor | np.ndarray) and part.dtype in (torch.bool, np.bool_):
        mask = _mask(part, size, where)
        return mask, mask.nonzero()[:, 0].tolist()
    given = part if isinstance(part, Iterable) else [part]
    indices = [whole_number(index) for index in given]
    if not all(i is not None and 0 <= i < size for i in indices):
        raise InputError(f"{where} has parts 0 to {size - 1}, got {list(given)!r:.200}")
    mask = torch.zeros(size, dtype=torch.bool)
    mask[indices] = True
    return mask, indices


def _mask(mask: object, size: int, where: Place) -> Bool[Tensor, " values"]:
    """Return a mask on the CPU, once it is known to be one of so many dimensions."""
    found = torch.as_tensor(mask) if isinstance(mask, Tensor | np.ndarray) else None
    if found is None or found.dtype != torch.bool or tuple(found.shape) != (size,):
        raise InputError(
            f"a set of dimensions of {where} must be a mask of {size} booleans, got {mask!r:.80}"
        )
    return found.detach().cpu()


def _orthonormal(basis: object, size: int, where: Place) -> Float[Tensor, "d r"]:
    """Return a basis in float32 on the CPU, once its columns are known to be orthonormal."""
    found = _floats("basis", basis)
    if found.ndim != 2 or found.shape[0] != size or not 1 <= found.shape[1] <= size:
        raise InputError(
            f"basis has shape {tuple(found.shape)}, {where} needs [{size}, r], r from 1 to {size}"
        )
    products = found.T.double() @ found.double()
    error = (products - torch.eye(found.shape[1], dtype=torch.float64)).abs().max()
    if not error <= ORTHONORMAL:  # nor NaN
        raise InputError(
            f"the columns of basis are not orthonormal (by {error:.2g}); take "
            "torch.linalg.qr(basis).Q, which spans the same"
        )
    return found


def _floats(what: str, given: object) -> Tensor:
    """Return numbers as float32 on the CPU."""
    if isinstance(given, Tensor):
        return given.detach().float().cpu()
    numbers = array_of(given, what)
    if numbers.dtype.kind not in "fiub":
        raise InputError(f"{what} must be numbers, got {numbers.dtype}")
    return torch.from_numpy(np.array(numbers, dtype=np.float32))


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """Return sixteen hex digits of named tensors."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name}\x1e".encode() + tensors[name].numpy().tobytes())
    return digest.hexdigest()[:16]


def one_point(lens: LensModel, where: str | Place) -> Place:
    """Return a place that is a single hook point of the model.

    Raises:
        InputError: Another place, such as a sum over blocks, or a mean.
    """
    found = place(where)
    found.check(require_model(lens).n_layers)
    if not found.of_last_token or (found.per_block and not isinstance(found.blocks, int)):
        raise InputError(
            f"{found} is not one hook point; name a block, as in '{found.component}.4'"
        )
    return found


def ablate(
    lens: LensModel,
    where: str | Place,
    by: Float[Tensor, "..."] | None = None,
    *,
    tokens: Tokens = "last",
    heads: Sequence[int] | None = None,
    dimensions: Dimensions | None = None,
    basis: Float[Tensor, "d r"] | None = None,
) -> Edit:
    """Return the edit that takes a component out of the forward pass.

    Args:
        lens: The model.
        where: What is taken out, such as "attn.4", "ffn.7", "z.4" (with ``heads``) or "resid.9".
        by: What stands in its place, of the shape of one token's values; None is zero. The mean
            over other texts ("mean ablation") keeps later blocks on vectors that they know:
            ``dl.capture(lens, others, "attn", 4)["attn"].mean(0)``.
        tokens: "last", "all", or a position from 0. Tokens before the last one change the last
            one's vectors too.
        heads: Only these heads of "z" or "value"; None is all.
        dimensions: Only these dimensions of another component: indices, a mask ``[d]`` of booleans
            for all prompts, or prompt → mask, a set for each. None is all; an empty set changes
            nothing.
        basis: Orthonormal columns ``[d, r]``, such as directions, or a rotation Q of the stream:
            only what lies in their span is taken out, x ↦ x + BBᵀ(by - x). ``dimensions`` are then
            those of the r coordinates xB (select after a rotation, and rotate back).

    Raises:
        InputError: A place that is no single hook point, heads, dimensions, tokens or a shape that
            there are not, or a basis whose columns are not orthonormal; and when it runs, a prompt
            without a mask of its own.

    Source: zero and mean ablation, Wang et al. (arXiv 2211.00593), Section 2.
    """
    values = row_shape(lens, one_point(lens, where))
    new = _values("by", torch.zeros(values) if by is None else by, values, place(where))
    digest = hashlib.sha256(new.numpy().tobytes()).hexdigest()[:16]
    settings = {"ablation by": digest}
    chosen = {"tokens": tokens, "heads": heads, "dimensions": dimensions, "basis": basis}
    return Replacement(lens, where, lambda *_: new, "without", settings, **chosen)  # type: ignore[arg-type]


def _values(what: str, given: object, shape: tuple[int, ...], where: Place) -> Tensor:
    """Return one token's values in float32 on the CPU, once they are known to be of a place."""
    new = _floats(what, given)
    if tuple(new.shape) != shape:
        raise InputError(
            f"{what} has shape {tuple(new.shape)}, {where} has {shape}; give the values of one "
            "token"
        )
    if not torch.isfinite(new).all():
        raise InputError(
            f"{what} has a NaN or infinite value; leave the texts out that it comes from"
        )
    return new


def patch(
    lens: LensModel,
    sources: Mapping[str, str] | Mapping[str, Float[Tensor, "..."]],
    where: str | Place,
    *,
    tokens: Tokens = "last",
    heads: Sequence[int] | None = None,
    dimensions: Dimensions | None = None,
    basis: Float[Tensor, "d r"] | None = None,
) -> Edit:
    """Return the edit that puts vectors of other prompts' passes into these prompts' passes.

    Also known as an interchange intervention: what changes downstream is what the place carries.

    Args:
        lens: The model.
        sources: Prompt → the prompt whose vectors it gets; or, where these are known already, the
            values of one token that it gets, of the shape that `capture` gives them.
        where: What is exchanged, such as "resid.9" or "z.4" (with ``heads``).
        tokens: "last" (each prompt's own last token), "all" (prompts of equally many tokens), or a
            position from 0.
        heads: As for `ablate`.
        dimensions: As for `ablate`.
        basis: As for `ablate`.

    Raises:
        InputError: As for `ablate`; vectors of another shape or with NaN; and when it runs: a
            prompt without a source, or with one of another number of tokens where positions count.

    Source: Geiger et al. (arXiv 2106.02997); Meng et al. (arXiv 2202.05262), Section 2.1.
    """
    found = one_point(lens, where)
    if not isinstance(sources, Mapping):
        raise InputError(
            "sources must be a mapping from prompts to prompts or values, got "
            f"{type(sources).__name__}"
        )
    chosen = {"tokens": tokens, "heads": heads, "dimensions": dimensions, "basis": basis}
    named = {prompt: of for prompt, of in sources.items() if isinstance(of, str)}
    if sources and not named:
        shape = row_shape(lens, found)
        known = {prompt: _values("a source", of, shape, found) for prompt, of in sources.items()}

        def source(prompts: Sequence[str], mask: Int[Tensor, "batch pos"]) -> Tensor:
            _require_sources(prompts, known)
            return torch.stack([known[prompt] for prompt in prompts])[:, None]

        settings = {"patched with": _digest(known)}
        return Replacement(lens, found, source, "patched", settings, **chosen)  # type: ignore[arg-type]
    if len(named) < len(sources):
        raise InputError("sources must be all prompts or all values; make two patches")
    ((_, point),) = found.read_at(lens.n_layers)

    def vectors(prompts: Sequence[str], mask: Int[Tensor, "batch pos"]) -> Tensor:
        _require_sources(prompts, named)
        read = activations(lens, [named[prompt] for prompt in prompts], [point])
        tensor, theirs = read.seen[point], read.mask.sum(1)
        mine = mask.sum(1)
        if tokens == "last":  # each source's last token, at the place of the prompt's own
            last = tensor[torch.arange(len(theirs), device=tensor.device), theirs - 1]
            return last[:, None]
        if tokens == "all" and (unequal := (mine != theirs)).any():
            i = int(unequal.nonzero()[0])
            raise InputError(
                f"{prompts[i]!r} has {int(mine[i])} tokens, its source {int(theirs[i])}; patch "
                "tokens='last', or give prompts of equally many"
            )
        if not isinstance(tokens, str) and (theirs <= tokens).any():
            raise InputError(f"a source has no token at position {tokens}")
        width = mask.shape[1]
        return torch.nn.functional.pad(
            tensor[:, :width],
            (0, 0) * (tensor.ndim - 2) + (0, max(0, width - tensor.shape[1])),
        )

    pairs = "\x1e".join(f"{prompt}\x1f{named[prompt]}" for prompt in sorted(named))
    settings = {"patched from": hashlib.sha256(pairs.encode()).hexdigest()[:16]}
    return Replacement(lens, found, vectors, "patched", settings, **chosen)  # type: ignore[arg-type]


def _require_sources(prompts: Sequence[str], sources: Mapping[str, object]) -> None:
    for prompt in prompts:
        if prompt not in sources:
            raise InputError(f"no source is given for the prompt {prompt!r}")


def contrast(lens: LensModel, contrast: Contrast | None = None, **settings: Any) -> Edit:
    """Return the edit of Contrastive Prompting, for prompts that `dysem_lab.wrap` made.

    Args:
        lens: The model.
        contrast: The settings; or give its fields by name.
        settings: As for `dysem_lab.Contrast`.

    Raises:
        InputError: As for `dysem_lab.Contrast`, or a block or heads that the model does not have.

    Source: CP (arXiv 2505.12831), Section 3.
    """
    return Intervention(lens, Contrast(**settings) if contrast is None else contrast)
