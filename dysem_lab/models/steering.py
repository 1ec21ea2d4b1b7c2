"""Contrastive Prompting: an auxiliary prompt's vector subtracted at one block, last token only.

A `Contrast` says what is changed, and an `Intervention` is a contrast on a loaded model: hooks for
`dysem_lab.capture`. Source: Contrastive Prompting (CP), arXiv 2505.12831.

Over 400 lines, as positions, norms and what each reaches are said, and checked, where they are.
"""

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dysem_lab.display import card
from dysem_lab.errors import InputError, choices
from dysem_lab.inputs import index_of, one_of, real_number, require_characters, whole_number
from dysem_lab.models.facts import ModelFacts
from dysem_lab.models.lens import LensModel
from dysem_lab.models.places import BLOCK_ORDER, Place, place
from dysem_lab.models.record import Edit, Hook, record
from dysem_lab.prompts import SLOT, Prompt, auxiliaries

NORMS = ("scaling", "recovering", "scaled_recovering", "head_recovering", "self_scaling")
SCALED_NORMS = ("scaling", "scaled_recovering", "self_scaling")  # those that read α
NOISE = 1e-5  # of a norm: a difference that is smaller is what float32 rounds off
NOISE_OF_HALF = 2.0  # the same in steps (eps) of a data type of 16 bits, whose passes leave about 1


class Position(NamedTuple):
    """Where the normal prompt's vector is replaced.

    Attributes:
        hook: Hook point of block ``{layer}``.
        auxiliary: Component of the auxiliary pass that is subtracted there.
        meaning: What is replaced.
        reaches: The first part of its block that has the change, of `BLOCK_ORDER`.
    """

    hook: str
    auxiliary: str
    meaning: str
    reaches: str


POSITIONS: dict[str, Position] = {
    "heads": Position("blocks.{layer}.attn.hook_z", "z", "contextualised value vectors z", "z"),
    "ffn": Position(
        "blocks.{layer}.mlp.hook_out", "ffn_raw", "output of the FFN module", "ffn_raw"
    ),
    "hidden": Position(
        "blocks.{layer}.hook_out", "resid", "residual stream after the block", "resid"
    ),
    # What CP's released code does where its paper says FFN output and hidden state: it edits the
    # module's *input*, and subtracts the auxiliary z there, a vector of another space.
    "released_ffn": Position(
        "blocks.{layer}.mlp.hook_in", "z", "input of the FFN, minus z", "ffn_raw"
    ),
    "released_hidden": Position(
        "blocks.{layer}.hook_in", "z", "input of the block, minus z", "resid_pre"
    ),
}

# Position → what of its block has a factor that a norm after the module divides out again.
BEFORE_NORM = {"heads": ("z", "attn_raw"), "ffn": ("ffn_raw",)}


@dataclass(frozen=True)
class Contrast:
    """The settings of one intervention.

    Attributes:
        layer: Block l, 0-based, at which the vector is replaced. The paper counts from 1: its "5th
            layer" is 4.
        norm: With v⁺ and v⁻ the vectors of the normal and the auxiliary prompt and D = v⁺ - v⁻,
            the new vector is

            - "scaling": α D (the paper's norm scaling);
            - "recovering": D ‖v⁺‖ / ‖D‖ (its norm recovering; α is not used);
            - "scaled_recovering": α D ‖v⁺‖ / ‖D‖ (released code);
            - "head_recovering": recovering within each head (released code; position "heads");
            - "self_scaling": α v⁺, at every token and without an auxiliary prompt (released code,
              a control).

            Where D = 0, recovering gives the zero vector: there is no direction to rescale.
        alpha: α, finite.
        position: A name of `POSITIONS`: "heads" (the paper's choice), "ffn", "hidden",
            "released_ffn", "released_hidden".
        auxiliary: A name of `dysem_lab.prompts.auxiliaries`, or a prompt with one ``{text}``.
        heads: Only these heads are replaced, and norms are taken over them; None is all.

    Raises:
        InputError: Unknown names, α that is not finite, heads or per-head norms elsewhere than at
            the heads.

    Source: CP (arXiv 2505.12831), Section 3; names of the released code in parentheses above.
    """

    layer: int = 4
    norm: str = "scaling"
    alpha: float = 2.0
    position: str = "heads"
    auxiliary: str = "irrelevant"
    heads: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Check what can be checked without a model."""
        one_of(self.norm, NORMS, "norm")
        one_of(self.position, POSITIONS, "position")
        layer = whole_number(self.layer)
        if layer is None or layer < 0:
            raise InputError(f"layer must be a block index from 0, got {self.layer!r}")
        alpha = real_number(self.alpha, "alpha")
        if not math.isfinite(alpha):
            raise InputError(f"alpha must be finite, got {self.alpha}")
        object.__setattr__(self, "layer", layer)
        object.__setattr__(self, "alpha", alpha)
        auxiliary_template(self.auxiliary)
        if self.position != "heads" and (self.heads is not None or self.norm == "head_recovering"):
            what = "heads" if self.heads is not None else "norm='head_recovering'"
            raise InputError(f"{what} needs position='heads', got {self.position!r}")
        if self.heads is not None:
            object.__setattr__(self, "heads", _indices(self.heads))

    @property
    def subtracted(self) -> Place:
        """The vector of the auxiliary pass that is subtracted."""
        return Place(POSITIONS[self.position].auxiliary, self.layer)

    @property
    def every_token(self) -> bool:
        """Whether it changes every token, so that it needs a pass of its own."""
        return self.norm == "self_scaling"

    def reaches(self, place: Place, n_layers: int) -> bool:
        """Whether the change is in a vector of the last token, of a model of so many blocks."""
        changed = BLOCK_ORDER.index(POSITIONS[self.position].reaches)
        return place.stage(n_layers) >= (self.layer, changed)

    def check_reach(self, place: Place, n_layers: int, named: str = "") -> None:
        """Raise `InputError` where a vector, which may be named, would be that of the plain pass.

        So it would where the model does not have the block, or the change comes after what is read.
        """
        layer = index_of(self.layer, n_layers, "layer")
        if self.reaches(place, n_layers):
            return
        early = place.n_blocks(n_layers) <= layer
        when = f"before block {layer} has run"
        if not early:
            when = f"in block {layer} before position {self.position!r}"
        sums = place.blocks in ("sum", "each")
        remedy = (
            f"contrast at an earlier layer than {layer}" if sums else f"use {layer + 1} or more"
        )
        raise InputError(
            f"{named or place} is read {when}, so the contrast would not reach it; {remedy}"
        )

    @property
    def settings(self) -> dict[str, Any]:
        """The fields as JSON values, those that this contrast does not use set to None."""
        fields = asdict(self)
        fields["alpha"] = float(self.alpha) if self.norm in SCALED_NORMS else None
        fields["auxiliary"] = (
            None if self.norm == "self_scaling" else auxiliary_template(self.auxiliary)
        )
        fields["heads"] = sorted(self.heads) if self.heads is not None else None
        return fields

    def _repr_html_(self) -> str:
        return card(str(self), self.settings)

    def __str__(self) -> str:
        alpha = f" α={self.alpha:g}" if self.norm in SCALED_NORMS else ""
        where = "" if self.position == "heads" else f" {self.position}"
        heads = "" if self.heads is None else f" heads {'/'.join(map(str, self.heads))}"
        default = self.auxiliary == "irrelevant" or self.norm == "self_scaling"
        auxiliary = "" if default else f" {self.auxiliary!r}"
        return f"CP {self.norm}{alpha}{where} l={self.layer}{heads}{auxiliary}"


def _indices(heads: Sequence[int]) -> tuple[int, ...]:
    """Return head indices, once they are known to be some and all different."""
    given = tuple(heads) if isinstance(heads, Iterable) else ()
    found = [number for number in map(whole_number, given) if number is not None]
    if not found or len(set(found)) != len(given):
        raise InputError(f"heads must be one or more different indices, got {heads!r:.200}")
    return tuple(found)


def auxiliary_template(auxiliary: str) -> str:
    """Return an auxiliary prompt with its ``{text}`` slot, from its name or as it was given.

    Raises:
        InputError: Neither a name nor a prompt with exactly one slot.
    """
    named = auxiliaries()
    if isinstance(auxiliary, str) and auxiliary in named:
        return named[auxiliary]
    if not isinstance(auxiliary, str) or auxiliary.count(SLOT) != 1:
        raise choices("auxiliary prompt", auxiliary, (*named, f"any string with one {SLOT}"))
    require_characters(auxiliary, "the auxiliary prompt")
    return auxiliary.strip()


def contrasted(
    plus: Float[Tensor, "batch ..."],
    minus: Float[Tensor, "batch ..."] | None,
    norm: str = "scaling",
    alpha: float = 2.0,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "batch ..."]:
    """Return the vectors that replace those of the normal prompt.

    Args:
        plus: v⁺, ``[batch, n_heads, d_head]`` at the heads, ``[batch, d]`` elsewhere.
        minus: v⁻, of the same shape; not read by "self_scaling".
        norm: A name of `NORMS`, see `Contrast`.
        alpha: α.
        dtype: In which both were computed: it says what is rounding.

    Returns:
        As `plus`; zero where both prompts say the same, as where a window of attention ends before
        they differ: their difference is then rounding alone, which has no direction.

    Source: CP (arXiv 2505.12831), Section 3.3; norms are over the whole concatenated vector, except
        "head_recovering".
    """
    if norm == "self_scaling" or minus is None:
        return alpha * plus
    difference = plus - minus
    axes = -1 if norm == "head_recovering" else tuple(range(1, plus.ndim))
    wanted, other, found = (
        torch.linalg.vector_norm(vectors, dim=axes, keepdim=True)
        for vectors in (plus, minus, difference)
    )
    noise = max(NOISE, NOISE_OF_HALF * torch.finfo(dtype).eps)
    heard = found > noise * torch.maximum(wanted, other)
    difference = torch.where(heard, difference, 0.0)
    if norm == "scaling":
        return alpha * difference
    factor = torch.where(heard, wanted / found, 0.0)
    return difference * (alpha * factor if norm == "scaled_recovering" else factor)


def require_contrast(contrast: object) -> None:
    """Raise `InputError` where something else stands in the place of a contrast."""
    if not isinstance(contrast, Contrast):
        raise InputError(f"contrast must be a dl.Contrast, got {contrast!r:.80}")


def check_contrast(contrast: Contrast, lens: LensModel) -> None:
    """Raise an error unless a model has what a contrast changes.

    Raises:
        InputError: A block or a head that the model does not have, or a released position where
            ``n_heads * d_head`` is not d.
    """
    require_contrast(contrast)
    of = f" for {lens.name}"
    index_of(contrast.layer, lens.n_layers, "layer", of)
    for head in contrast.heads or ():
        index_of(head, lens.n_heads, "heads", of)
    released = contrast.position.startswith("released")
    if released and lens.n_heads * lens.d_head != lens.d_model:
        raise InputError(
            f"position {contrast.position!r} subtracts z, {lens.n_heads} heads of {lens.d_head}, "
            f"from a vector of width {lens.d_model}: {lens.name} cannot do that; use 'heads', "
            "'ffn' or 'hidden'"
        )


def alpha_is_undone(contrast: Contrast, lens: LensModel, read: str | Place = "resid") -> bool:
    """Whether a norm follows the intervention and undoes any positive factor.

    Gemma 2 and 3 normalise the attention output and the FFN output before adding them to the
    residual stream: any positive factor on all of z or of the FFN output is divided out again.

    Args:
        contrast: The intervention.
        lens: The model.
        read: Which vector is compared. What stands before that norm still has the factor.
    """
    if not lens.post_norms or contrast.position not in BEFORE_NORM or contrast.heads is not None:
        return False
    read = place(read)
    blocks = [block for block, _ in read.read_at(lens.n_layers)]
    return read.component not in BEFORE_NORM[contrast.position] or contrast.layer not in blocks


def warn_if_alpha_is_undone(contrast: Contrast, lens: LensModel) -> None:
    """Warn where a norm follows the intervention, so that α has no effect (`alpha_is_undone`)."""
    if contrast.norm in SCALED_NORMS and alpha_is_undone(contrast, lens):
        warnings.warn(
            f"alpha has no effect at position {contrast.position!r} of {lens.name}: a norm follows "
            "and undoes any positive factor, so norm scaling and norm recovering give the same "
            "vectors; use position='hidden' to see an effect",
            stacklevel=3,
        )


class AuxiliaryVectors:
    """v⁻ of texts; one auxiliary pass serves all contrasts and templates that share this object.

    Its prompts are shortened as `dysem_lab.capture` does by itself, to 512 tokens.

    Args:
        lens: The model.
        contrasts: Whose vectors will be asked for.
    """

    def __init__(self, lens: LensModel, contrasts: Iterable[Contrast]) -> None:
        """Note which vectors each auxiliary prompt has to give; nothing is run yet."""
        self._lens = lens
        self._wanted: dict[str, list[Place]] = {}
        for contrast in contrasts:
            kinds = self._wanted.setdefault(contrast.auxiliary, [])
            if contrast.subtracted not in kinds:
                kinds.append(contrast.subtracted)
        self._rows: dict[tuple[str, Place], Tensor] = {}
        self._of = ""  # fingerprint of the weights that they are of

    def __call__(self, prompts: Sequence[str], contrast: Contrast) -> Float[Tensor, "batch ..."]:
        """Return v⁻ of the texts of normal prompts: float32, on the CPU."""
        if (now := self._lens.fingerprint) != self._of:
            self.forget()
            self._of = now
        wrapped = auxiliary_prompts(prompts, contrast.auxiliary)
        kinds = self._wanted[contrast.auxiliary]
        lacking = [p for p in dict.fromkeys(wrapped) if (p, contrast.subtracted) not in self._rows]
        for batch, read in record(self._lens, lacking, kinds):
            for kind, rows in read.items():
                for index, row in zip(batch, rows, strict=True):
                    self._rows[lacking[index], kind] = row
        return torch.stack([self._rows[prompt, contrast.subtracted] for prompt in wrapped])

    def forget(self) -> None:
        """Drop the vectors of the texts so far."""
        self._rows.clear()


class Intervention(Edit):
    """A contrast on a loaded model: hooks for `dysem_lab.capture`.

    The auxiliary prompts run through block l and no further, batch by batch as they are needed.

    Args:
        lens: The model.
        contrast: What is changed.
        auxiliary: Vectors that several interventions share; None makes its own.

    Raises:
        InputError: As for `check_contrast`.
    """

    def __init__(
        self, lens: LensModel, contrast: Contrast, auxiliary: "AuxiliaryVectors | None" = None
    ) -> None:
        """Check that the model has the block and the heads."""
        super().__init__(lens)
        check_contrast(contrast, lens)
        self.contrast = contrast
        self.every_token = contrast.every_token
        self._auxiliary = auxiliary or AuxiliaryVectors(lens, [contrast])

    def check_reach(self, place: Place) -> None:
        """Raise `InputError` where a vector is read before the contrast."""
        self.contrast.check_reach(place, self.lens.n_layers)

    @property
    def facts(self) -> ModelFacts:
        """The model's facts under a name and a fingerprint of the edited model's own."""
        return contrast_facts(self.lens.facts, self.contrast)

    def hooks(
        self,
        prompts: Sequence[str],
        mask: Int[Tensor, "batch pos"],
        rows: slice = slice(None),
    ) -> list[Hook]:
        """Return the hook that replaces the vectors in the pass over these prompts.

        Args:
            prompts: Normal prompts.
            mask: Attention mask of the pass (1 for real tokens, padding on the right).
            rows: Which rows of the pass are these prompts, where others are in it too.
        """
        contrast = self.contrast
        at_heads = contrast.position == "heads"
        heads = slice(None) if contrast.heads is None else list(contrast.heads)
        part = (..., heads, slice(None)) if at_heads else ...
        last_tokens = (torch.arange(len(mask), device=mask.device)[rows], mask.sum(1)[rows] - 1)
        where = (rows,) if self.every_token else last_tokens
        minus = None
        if not self.every_token:
            minus = self._auxiliary(prompts, contrast).to(mask.device)
            minus = minus[:, heads] if at_heads else minus.flatten(1)

        def replace_vectors(tensor: Tensor, hook: object) -> Tensor:
            edited = tensor.clone()
            vectors = edited[where]
            plus = vectors[part].float()
            made = contrasted(plus, minus, contrast.norm, contrast.alpha, tensor.dtype)
            vectors[part] = made.to(tensor.dtype)
            edited[where] = vectors
            return edited

        return [(POSITIONS[contrast.position].hook.format(layer=contrast.layer), replace_vectors)]


def as_edit(lens: LensModel, contrast: Contrast | None) -> Edit:
    """Return a contrast on a model as an edit of the forward pass; None is the plain pass."""
    return Edit(lens) if contrast is None else Intervention(lens, contrast)


def auxiliary_prompts(prompts: Sequence[str], auxiliary: str) -> list[str]:
    """Return the auxiliary prompt of each normal prompt's text.

    Raises:
        InputError: A prompt that `dysem_lab.wrap` did not make, so its text is not known.
    """
    before, after = auxiliary_template(auxiliary).split(SLOT)
    wrapped: list[str] = []
    for prompt in prompts:
        if not isinstance(prompt, Prompt):
            raise InputError(
                f"not a prompt made by dysem_lab.wrap, so its text is unknown: {prompt!r}"
            )
        wrapped.append(Prompt.build(before, prompt[prompt.start : prompt.stop], after))
    return wrapped


def contrast_facts(facts: ModelFacts, contrast: Contrast | None) -> ModelFacts:
    """Return what a store knows an edited model by; None is the model as it is."""
    if contrast is None:
        return facts
    return facts.edited(str(contrast), contrast.settings)
