"""The verbs of interpretability: ablate, patch and contrast, each an `Edit` of the forward pass.

An edit goes wherever prompts go through the model: `dysem_lab.capture(…, edit=edit)`,
`dysem_lab.logit_lens(…, edit=edit)`, `dysem_lab.next_token_probabilities(…, edit)`. The store
keeps what was read under it apart from the plain pass, by `Edit.facts`.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dysem_lab.errors import InputError
from dysem_lab.inputs import whole_number
from dysem_lab.models.facts import ModelFacts
from dysem_lab.models.lens import LensModel
from dysem_lab.models.places import COMPONENTS, Place, place
from dysem_lab.models.record import Edit, Hook, activations, row_shape
from dysem_lab.models.steering import Contrast, Intervention

Tokens = str | int  # "last", "all", or the position of a token
Source = Callable[[Sequence[str], Int[Tensor, "batch pos"]], Tensor]


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
        dimensions: Only these dimensions of one that has not.

    Raises:
        InputError: A place that is no single hook point, tokens, heads or dimensions that there
            are not.
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
        dimensions: Sequence[int] | None = None,
    ) -> None:
        """Check what can be checked; nothing is run."""
        super().__init__(lens)
        self.where = one_point(lens, where)
        self._of_heads = COMPONENTS[self.where.component].axes != "d"
        part = heads if self._of_heads else dimensions
        if (dimensions if self._of_heads else heads) is not None:
            has = "heads" if self._of_heads else "dimensions"
            raise InputError(f"{self.where} has {has}; choose among these")
        if tokens not in ("last", "all") and (whole_number(tokens) is None or int(tokens) < 0):
            raise InputError(f"tokens must be 'last', 'all' or a position from 0, got {tokens!r}")
        size = row_shape(lens, self.where)[0]
        indices = None if part is None else [whole_number(index) for index in part]
        if indices is not None and not all(i is not None and 0 <= i < size for i in indices):
            raise InputError(f"{self.where} has parts 0 to {size - 1}, got {list(part or ())}")
        self.tokens, self.every_token = tokens, tokens != "last"
        self._part: Any = slice(None) if indices is None else indices
        self._source, self._label = source, label
        where_and_which = {"place": str(self.where), "tokens": tokens, "part": indices}
        self._settings = {**where_and_which, **settings}

    @cached_property
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
            InputError: A prompt without the token that is replaced.
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
        index = (..., self._part, slice(None)) if self._of_heads else (..., self._part)

        def replace_vectors(tensor: Tensor, hook: object) -> Tensor:
            edited = tensor.clone()
            of_rows = edited[rows]
            vectors = of_rows[chosen]
            vectors[index] = new[index].to(vectors)
            of_rows[chosen] = vectors
            edited[rows] = of_rows
            return edited

        ((_, point),) = self.where.read_at(self.lens.n_layers)
        return [(point, replace_vectors)]


def one_point(lens: LensModel, where: str | Place) -> Place:
    """Return a place that is a single hook point of the model.

    Raises:
        InputError: Another place, such as a sum over blocks, or a mean.
    """
    found = place(where)
    found.check(lens.n_layers)
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
    dimensions: Sequence[int] | None = None,
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
        dimensions: Only these dimensions of another component; None is all.

    Raises:
        InputError: A place that is no single hook point, or heads, dimensions, tokens or a shape
            that there are not.

    Source: zero and mean ablation, Wang et al. (arXiv 2211.00593), Section 2.
    """
    values = row_shape(lens, one_point(lens, where))
    new = torch.zeros(values) if by is None else torch.as_tensor(by).float().detach().cpu()
    if tuple(new.shape) != values:
        raise InputError(
            f"by has shape {tuple(new.shape)}, {place(where)} has {values}; give the values of one "
            "token"
        )
    if not torch.isfinite(new).all():
        raise InputError("by has a NaN or infinite value; leave the texts out that it comes from")
    digest = hashlib.sha256(new.numpy().tobytes()).hexdigest()[:16]
    settings = {"ablation by": digest}
    chosen = {"tokens": tokens, "heads": heads, "dimensions": dimensions}
    return Replacement(lens, where, lambda *_: new, "without", settings, **chosen)  # type: ignore[arg-type]


def patch(
    lens: LensModel,
    sources: Mapping[str, str],
    where: str | Place,
    *,
    tokens: Tokens = "last",
    heads: Sequence[int] | None = None,
    dimensions: Sequence[int] | None = None,
) -> Edit:
    """Return the edit that puts vectors of other prompts' passes into these prompts' passes.

    Also known as an interchange intervention: what changes downstream is what the place carries.

    Args:
        lens: The model.
        sources: Prompt → the prompt whose vectors it gets.
        where: What is exchanged, such as "resid.9" or "z.4" (with ``heads``).
        tokens: "last" (each prompt's own last token), "all" (prompts of equally many tokens), or a
            position from 0.
        heads: As for `ablate`.
        dimensions: As for `ablate`.

    Raises:
        InputError: As for `ablate`; and when it runs: a prompt without a source, or with one of
            another number of tokens where positions count.

    Source: Geiger et al. (arXiv 2106.02997); Meng et al. (arXiv 2202.05262), Section 2.1.
    """
    found = one_point(lens, where)
    ((_, point),) = found.read_at(lens.n_layers)

    def vectors(prompts: Sequence[str], mask: Int[Tensor, "batch pos"]) -> Tensor:
        for prompt in prompts:
            if prompt not in sources:
                raise InputError(f"no source is given for the prompt {prompt!r}")
        read = activations(lens, [sources[prompt] for prompt in prompts], [point])
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

    pairs = "\x1e".join(f"{prompt}\x1f{sources[prompt]}" for prompt in sorted(sources))
    settings = {"patched from": hashlib.sha256(pairs.encode()).hexdigest()[:16]}
    chosen = {"tokens": tokens, "heads": heads, "dimensions": dimensions}
    return Replacement(lens, found, vectors, "patched", settings, **chosen)  # type: ignore[arg-type]


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
