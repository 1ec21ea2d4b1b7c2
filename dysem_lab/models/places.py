"""Which vector of a forward pass is meant: a component and its blocks, in one vocabulary.

A place is written as a short string: ``attn.sum`` (A^L), ``ffn.each`` (f^l of every block),
``resid.26`` (the residual stream after block 26, 0-based), ``attn.9-17`` (the attention outputs of
blocks 9 to 17, added up), ``final``. Capture, contrasts, embeddings, the store and studies all name
their vectors so.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from dysem_lab.errors import InputError, choices
from dysem_lab.inputs import index_of, names_of, whole_number


class Component(NamedTuple):
    """Where an internal vector is read.

    Attributes:
        hook: Hook point of block ``{layer}``; without a slot, of the whole model.
        meaning: What it is, with its symbol.
        axes: What its values are over: "d", "kv" (``[n_kv, d_head]``), "heads" (``[n_heads,
            d_head]``).
    """

    hook: str
    meaning: str
    axes: str = "d"


COMPONENTS: dict[str, Component] = {
    "attn": Component("blocks.{layer}.hook_attn_out", "attention output a^l added to the stream"),
    "attn_raw": Component("blocks.{layer}.attn.hook_out", "attention output before a post-norm"),
    "ffn": Component("blocks.{layer}.hook_mlp_out", "FFN output f^l added to the stream"),
    "ffn_raw": Component("blocks.{layer}.mlp.hook_out", "FFN output before a post-norm"),
    "resid": Component("blocks.{layer}.hook_out", "residual stream h^l after the block"),
    "resid_pre": Component("blocks.{layer}.hook_in", "residual stream before the block"),
    "value": Component("blocks.{layer}.attn.hook_v", "value vectors, un-repeated GQA groups", "kv"),
    "z": Component(
        "blocks.{layer}.attn.hook_z", "contextualised value vectors before W_O", "heads"
    ),
    "final": Component("ln_final.hook_out", "residual stream after the final norm"),
    "mean": Component("ln_final.hook_out", "mean over the real tokens of `final`"),
    "value_mean": Component(
        "blocks.{layer}.attn.hook_v", "mean over the real tokens of `value`", "kv"
    ),
}
# The parts of a block in the order of its pass.
BLOCK_ORDER = ("resid_pre", "value", "z", "attn_raw", "attn", "ffn_raw", "ffn", "resid")
MEANS = ("mean", "value_mean")  # over tokens; all others are of the last token
# Components with one vector of width d per text; the stream before a block is that after another.
VECTOR_COMPONENTS = tuple(
    name
    for name, component in COMPONENTS.items()
    if component.axes == "d" and name not in (*MEANS, "resid_pre")
)

Blocks = str | int | range  # "sum", "each", one block, or several that are added up
_TEXT = re.compile(r"(?P<component>\w+)(\.(?P<blocks>sum|each|\d+)(-(?P<last>\d+))?)?")


class Place(NamedTuple):
    """One kind of vector: a component, summed over the blocks, at each, at one, or over some.

    Attributes:
        component: A name of `COMPONENTS`.
        blocks: "sum", "each", a 0-based block index, or a range of them that is added up. A
            component of the whole model ("final", "mean") has "sum".
    """

    component: str
    blocks: Blocks = "sum"

    def __str__(self) -> str:
        if not self.per_block:
            return self.component
        if isinstance(self.blocks, range):
            return f"{self.component}.{self.blocks.start}-{self.blocks.stop - 1}"
        return f"{self.component}.{self.blocks}"

    @property
    def per_block(self) -> bool:
        """Whether the component is one of each block."""
        return "{layer}" in COMPONENTS[self.component].hook

    @property
    def of_last_token(self) -> bool:
        """Whether it is read at the last token alone, and not a mean over tokens."""
        return self.component not in MEANS

    def n_blocks(self, n_layers: int) -> int:
        """Return how many blocks must run to read it."""
        if isinstance(self.blocks, range):
            return self.blocks.stop
        return self.blocks + 1 if isinstance(self.blocks, int) else n_layers

    def read_at(self, n_layers: int) -> list[tuple[int, str]]:
        """Return the blocks and hook points that it is read from (block 0 for the whole model)."""
        hook = COMPONENTS[self.component].hook
        if not self.per_block:
            return [(0, hook)]
        if isinstance(self.blocks, int):
            blocks: Iterable[int] = [self.blocks]
        else:
            blocks = self.blocks if isinstance(self.blocks, range) else range(n_layers)
        if self.component in ("resid", "resid_pre") and self.blocks == "sum":
            blocks = [n_layers - 1]  # the stream is cumulative already: its sum is h^L
        return [(block, hook.format(layer=block)) for block in blocks]

    def stage(self, n_layers: int) -> tuple[int, int]:
        """Return when the last of it is there in a pass: the block, and the part of it."""
        if not self.per_block:
            return n_layers, 0
        part = self.component.removesuffix("_mean")
        return self.read_at(n_layers)[-1][0], BLOCK_ORDER.index(part)

    def check(self, n_layers: int) -> None:
        """Raise `InputError` unless a model of so many blocks has it."""
        if isinstance(self.blocks, int):
            index_of(self.blocks, n_layers, "layer")
        if isinstance(self.blocks, range) and not (
            self.blocks.step == 1 and 0 <= self.blocks.start < self.blocks.stop <= n_layers
        ):
            raise InputError(
                f"layers must be one or more blocks of range(0, {n_layers}), got {self.blocks}"
            )


def place(text: str | Place) -> Place:
    """Return the place that a string such as ``attn.sum`` or ``resid.26`` names.

    A component alone is its sum over the blocks.

    Raises:
        InputError: Another string, or blocks of a component that is of the whole model.
    """
    if isinstance(text, Place):
        return text
    found = _TEXT.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise InputError(f"{text!r} is no place; write it as 'attn.sum', 'resid.26' or 'final'")
    component, blocks, last = found["component"], found["blocks"] or "sum", found["last"]
    if component not in COMPONENTS:
        raise choices("component", component, COMPONENTS)
    if not Place(component).per_block and blocks != "sum":
        raise InputError(
            f"{text!r} is no place; {component!r} is of the whole model, after its last block: "
            f"write {component!r}, or 'resid.{blocks}' for the stream after a block"
        )
    if not blocks.isdigit():
        if last:
            raise InputError(f"{text!r} is no place; blocks are numbers, as in 'attn.9-17'")
        return _of(component, blocks)
    return _of(component, range(int(blocks), int(last) + 1) if last else int(blocks))


def places(components: str | Iterable[str], layers: Blocks = "sum") -> list[Place]:
    """Return the places that names of components and `dysem_lab.capture`'s ``layers`` stand for.

    Components with one vector per text ("final", "mean") are the same for all kinds of `layers`.

    Raises:
        InputError: Unknown components, none, or something that no blocks are.
    """
    names = names_of(components, "component")
    if not names:
        raise InputError(f"no component is named; choose from: {', '.join(COMPONENTS)}")
    for name in names:
        if name not in COMPONENTS:
            raise choices("component", name, COMPONENTS)
    if isinstance(layers, range) or (isinstance(layers, str) and layers in ("sum", "each")):
        blocks: Blocks | None = layers
    else:
        blocks = whole_number(layers)
    if blocks is None:
        raise choices("layers", layers, ("sum", "each", "a block index", "a range of blocks"))
    return [_of(name, blocks) for name in names]


def _of(component: str, blocks: Blocks) -> Place:
    return Place(component, blocks if Place(component).per_block else "sum")


def output_place(output_layer: int | str, n_layers: int) -> Place:
    """Return the place of an embedding that is named as the papers name it.

    The only place where the papers' count of layers, which begins at 1, becomes a block index.

    Args:
        output_layer: Number of blocks that have run, 1 to L; "penultimate" is L - 1, "last" is L,
            "final" is L with the final norm after it. Or a place as a string, "attn.sum".
        n_layers: L.

    Raises:
        InputError: Another name, or a number outside 1 to L.
    """
    named = {"penultimate": n_layers - 1, "last": n_layers, "final": n_layers}
    if isinstance(output_layer, str) and "." in output_layer:
        found = place(output_layer)
        found.check(n_layers)
        if found.component not in VECTOR_COMPONENTS or found.blocks == "each":
            raise InputError(
                f"{found} is not one vector of width d; name one, such as 'attn.sum' or 'resid.5'"
            )
        return found
    if isinstance(output_layer, str) and output_layer not in named:
        raise choices("output layer", output_layer, (*named, "a number of blocks"))
    if isinstance(output_layer, str) and output_layer == "final":
        return Place("final")
    number = named[output_layer] if isinstance(output_layer, str) else whole_number(output_layer)
    if number is None or not 1 <= number <= n_layers:
        raise InputError(f"output_layer must be between 1 and {n_layers}, got {output_layer!r}")
    return Place("resid", "sum" if number == n_layers else number - 1)  # h^L is cumulative
