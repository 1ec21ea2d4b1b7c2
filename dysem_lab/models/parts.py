"""Exact parts of the last token's vectors: which heads, tokens and FFNs wrote them.

Over 400 lines, as each architecture, vector and intervention is split by the same sum.

At the last token n, with α the attention pattern, v the values and κ(h) the key-value group of a
head (GQA)::

    A^L = Σ_l a^l                a^l = N^l(Σ_h W_O^{l,h} z^{l,h} + b_O)
    z^{l,h} = Σ_t α^{l,h}_{n,t} v^{l,κ(h)}_t
    F^L = Σ_l f^l                h^L = h^0 + A^L + F^L
    f^l = N'^l(Σ_i u_i^l W_out,i + b_out)

N is the identity without a post-norm; with one (Gemma 2 and 3) it is the linear map that the norm
is in this very pass, its divisor held fixed, so the sum is exact. So is `final` with the final
norm's. A part of a text is not what caused it: token t of block l has read the words before it.

So a neuron's part is a weight of this pass, u_i over the divisors, times a direction that is the
same in every pass: W_out,i times the norms' gains. Only the weights are kept of a text, and the
mean of a part over a corpus is the mean of its weights, exactly.

Source: W_O by head, Elhage et al., "A Mathematical Framework for Transformer Circuits" (2021);
heads and tokens of an image's vector, Gandelsman et al. (arXiv 2310.05916).
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor

from dysem_lab.errors import InputError, ModelError
from dysem_lab.models.attended import attended
from dysem_lab.models.lens import LensModel
from dysem_lab.models.passes import MAX_TOKENS, batch_budget, plan_batches
from dysem_lab.models.places import Place
from dysem_lab.models.readout import token_texts
from dysem_lab.models.record import (
    NEURONS,
    Edit,
    Norm,
    edit_of,
    neuron_matrix,
    norm_of,
    output_matrix,
    record,
)
from dysem_lab.models.steering import Contrast, Intervention, auxiliary_prompts
from dysem_lab.models.text_tokens import character_spans

# By what a vector can be split, for each of its components.
SPLITS: dict[str, tuple[str, ...]] = {
    "attn": ("token", "head", "block"),
    "attn_raw": ("token", "head", "block"),
    "ffn": ("block", "ffn", "neuron"),
    "ffn_raw": ("block", "ffn", "neuron"),
    "resid": ("token", "head", "block", "ffn", "neuron"),
    "final": ("token", "head", "block", "ffn", "neuron"),
}
NEURON_TOKENS = (
    1024  # of a pass whose neurons are kept, at every token: 200 MB of an embedded model
)
# How far the parts may be from their sum, as a share of its norm; half precision rounds more.
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4}
HALF_TOLERANCE = 0.05


class Part(NamedTuple):
    """What a part of a vector is; blocks, heads and positions are 0-based.

    Attributes:
        kind: "head", "block", "ffn", "neuron", "token" (of the prompt), "auxiliary" (a token of
            CP's auxiliary prompt), "attention", "embedding", "bias", "edit" (what an intervention
            put in the place of all that came before) or "rounding" (half precision only); of a
            user's directions "direction" and "error".
        block: Of what a block wrote.
        head: Of what a head wrote.
        position: Of a token, in its prompt.
        token: Its text.
        of_text: Whether the token has a character of the text, to which the full stop belongs that
            `dysem_lab.wrap` gives a text without one.
        neuron: Of what a neuron of an FFN wrote.
        direction: Which direction, by number or name.
        of_template: Whether the token has a character of the template. It may have both: most
            tokenizers make one token of a text's full stop and the quotation mark after it.
    """

    kind: str
    block: int | None = None
    head: int | None = None
    position: int | None = None
    token: str | None = None
    of_text: bool = False
    neuron: int | None = None
    direction: int | str | None = None
    of_template: bool = False


class Parts(NamedTuple):
    """Vectors as sums of parts.

    Attributes:
        labels: What each part is.
        vectors: Float32 on the CPU, of n texts whose parts are the same ones.
        whole: What they add up to: the vectors that the pass gave.
        weights: Of the `neurons`, which are parts too and have no labels here.
    """

    labels: list[Part]
    vectors: Float[Tensor, "n parts d"]
    whole: Float[Tensor, "n d"]
    weights: Float[Tensor, "n k"]


def of_each(parts: Parts) -> list[Parts]:
    """Return the parts of each text by itself."""
    tensors = zip(*(tensor.split(1) for tensor in parts[1:]), strict=True)
    return [Parts(parts.labels, *of_text) for of_text in tensors]


class Fixed(NamedTuple):
    """Directions that are the same for every text, which has a weight for each.

    Attributes:
        labels: What each is.
        vectors: Float32 on the CPU.
    """

    labels: list[Part]
    vectors: Float[Tensor, "k d"]


def split(
    lens: LensModel,
    prompts: Sequence[str],
    place: Place,
    by: str,
    edit: Edit | None = None,
    *,
    tokens_per_batch: int | None = None,
) -> Iterator[tuple[list[int], Parts]]:
    """Run prompts, longest first, yielding the positions of each batch with its vectors in parts.

    One pass per prompt. By "token" a prompt is a batch of its own, since each has other tokens.

    Args:
        lens: The model.
        prompts: Different prompts, made by `dysem_lab.wrap`.
        place: The vector: "attn", "attn_raw", "ffn" or "ffn_raw" of one block, or of some or all of
            them added up; "resid" after any, or "final".
        by: "head" (heads; the FFNs and embedding of a stream as rows of their own), "block" (in a
            stream what attention and FFN of a block write together), "ffn" (each FFN; the attention
            of a stream as one row), "neuron" (the same, the FFNs as weights of `neurons`) or
            "token".
        edit: None, or a contrast (`dysem_lab.contrast`).
        tokens_per_batch: As for `dysem_lab.capture`.

    Raises:
        InputError: A vector that is no such sum, with what it can be split by.
        ModelError: The parts do not add up: this architecture writes into its stream otherwise.
    """
    splitter = _Splitter(lens, place, by, edit)
    if by == "neuron":
        lengths = list(map(len, edit_of(lens, edit).tokenize(prompts, MAX_TOKENS)))
        budget = min(batch_budget(lens, tokens_per_batch), NEURON_TOKENS)
        for batch in plan_batches(lengths, budget):
            yield batch, splitter.by_neuron([prompts[i] for i in batch])
        return
    if by == "token":
        tokens = [_tokens(lens, prompt, "token") for prompt in prompts]
        budget = batch_budget(lens, tokens_per_batch)
        for batch in plan_batches(list(map(len, tokens)), budget):
            found = splitter.by_token([prompts[i] for i in batch], [tokens[i] for i in batch])
            yield from (([i], parts) for i, parts in zip(batch, found, strict=True))
        return
    for batch, read in record(
        lens, prompts, splitter.places, edit=edit, tokens_per_batch=tokens_per_batch
    ):
        yield batch, splitter.parts(read)


def neurons(lens: LensModel, place: Place, edit: Edit | None = None) -> Fixed:
    """Return what each neuron of a vector writes, up to a weight: W_out,i through norms' gains.

    Args and errors are those of `split`.
    """
    return _Splitter(lens, place, "neuron", edit).neurons()


def require_split(component: str, by: str) -> None:
    """Raise `InputError` unless a component is a sum of such parts."""
    splits = SPLITS.get(component, ())
    if by not in splits:
        other = [name for name, of in SPLITS.items() if by in of]
        raise InputError(
            f"{component!r} is no sum over {by!r}; split it by "
            f"{', '.join((*splits, 'language', 'dimension'))}"
            + (f", or take the component {' or '.join(other)}" if other else "")
        )


class _Splitter:
    """How the places that a pass reads become parts of one of them.

    Args: as for `split`.
    """

    def __init__(self, lens: LensModel, place: Place, by: str, edit: Edit | None) -> None:
        """Check that the vector is a sum of such parts."""
        self.is_stream = place.component in ("resid", "final")
        if self.is_stream and isinstance(place.blocks, range):
            raise InputError(f"{place} adds up streams, which are no parts of each other; name one")
        require_split(place.component, by)
        if edit is not None and not isinstance(edit, Intervention):
            raise InputError("parts are those of a plain pass, or of one under a contrast")
        self.lens, self.place, self.by, self.edit = lens, place, by, edit
        raw = place.component.endswith("_raw")
        self.attention = "attn_raw" if raw else "attn"
        self.ffn = "ffn_raw" if raw else "ffn"
        self.has_attention = self.is_stream or place.component == self.attention
        self.has_ffn = self.is_stream or place.component == self.ffn
        self.by_head = by in ("head", "token")
        self.in_neurons = by == "neuron"
        self.normed = self.by_head and lens.post_norms and not raw
        self.ffn_normed = self.in_neurons and lens.post_norms and not raw
        self.start, first, self.began_as = Place("resid_pre", 0), 0, "embedding"
        contrast = None if edit is None else edit.contrast
        if contrast and self.is_stream and contrast.position.endswith("hidden"):
            layer, after = contrast.layer, contrast.position == "hidden"
            self.start, first = Place("resid" if after else "resid_pre", layer), layer + after
            self.began_as = "edit"
        if not self.is_stream and place.blocks != "sum":
            first = place.read_at(lens.n_layers)[0][0]
        self.blocks = range(first, place.n_blocks(lens.n_layers))
        if (
            self.in_neurons
            and contrast
            and contrast.position.endswith("ffn")
            and contrast.layer in self.blocks
        ):
            raise InputError(
                f"the contrast replaces what the FFN of block {contrast.layer} writes, so it is no "
                "sum over neurons; split it by 'ffn'"
            )
        names = [f"blocks.{block}.ln1_post" for block in self.blocks if self.normed]
        names += [f"blocks.{block}.ln2_post" for block in self.blocks if self.ffn_normed]
        names += ["ln_final"] * (place.component == "final")
        self._norms = _norms_of(lens, names) if names else {}
        at_heads = contrast and contrast.position == "heads" and contrast.layer in self.blocks
        self.at_heads = contrast if at_heads else None  # what makes a z of another z

    @property
    def places(self) -> list[Place]:
        """What the pass has to give."""
        of_block = [self.attention] * self.has_attention + [self.ffn] * self.has_ffn
        of_block += ["z"] * self.by_head + ["attn_raw"] * self.normed
        of_block += ["ffn_raw"] * self.ffn_normed
        whole = [self.place] + [self.start] * self.is_stream
        if self.place.component == "final":
            whole.append(Place("resid", self.lens.n_layers - 1))
        return [*whole, *(Place(name, block) for block in self.blocks for name in of_block)]

    def parts(self, read: dict[Place, Tensor]) -> Parts:
        """Return the parts by head, block or FFN of what a pass read."""
        found = _Sum()
        for block in self.blocks if self.by_head else ():
            z = read[Place("z", block)]
            W_O, b_O = output_matrix(self.lens, block)
            through = self._post_norm(block, read)
            heads = torch.einsum("nhe,hed->nhd", z, W_O.float().cpu())
            found.add([Part("head", block, head) for head in range(len(W_O))], through(heads))
            self._add_bias(found, block, b_O, through, len(z))
        self._add_others(found, read)
        return self._checked(found, read)

    def by_neuron(self, prompts: Sequence[str]) -> Parts:
        """Run prompts and return the weights of the neurons of each one's vector, and the rest."""
        lens, points = self.lens, self._points()
        u_at = {block: NEURONS.format(layer=block) for block in self.blocks}
        matrices = {block: neuron_matrix(lens, block) for block in self.blocks}
        everywhere = [at for of_place in points.values() for at in of_place]
        seen = attended(lens, prompts, [], self.edit, [*everywhere, *u_at.values()])
        read = {place: _added(map(seen.last, at)) for place, at in points.items()}
        found, weights = _Sum(), []
        found.add([], torch.zeros(len(prompts), 0, lens.d_model))
        for block, (_, b_out) in matrices.items():
            through = self._post_norm_of_ffn(block, read)
            weights.append(seen.last(u_at[block]) / through.scale)
            self._add_bias(found, block, b_out, through, len(prompts))
        self._add_others(found, read)
        none = torch.zeros(len(prompts), 0)
        return self._checked(found, read, torch.cat([none, *weights], 1))

    def neurons(self) -> Fixed:
        """Return what the neurons write, up to a weight."""
        labels, rows, end = [], [torch.zeros(0, self.lens.d_model)], _Linear(None, torch.ones(1))
        if self.place.component == "final":
            end = _Linear(self._norms["ln_final"], torch.ones(1))
        for block in self.blocks:
            W_out, _ = neuron_matrix(self.lens, block)
            norm = self._norms[f"blocks.{block}.ln2_post"] if self.ffn_normed else None
            through = _Linear(norm, torch.ones(1))
            rows.append(end(through(W_out.float().cpu()[None]))[0])
            labels += [Part("neuron", block, neuron=i) for i in range(len(W_out))]
        return Fixed(labels, torch.cat(rows))

    def _points(self) -> dict[Place, list[str]]:
        """Return the hook points that each place is the sum of."""
        n_layers = self.lens.n_layers
        return {place: [at for _, at in place.read_at(n_layers)] for place in self.places}

    def by_token(self, prompts: Sequence[str], tokens: list[list[Part]]) -> list[Parts]:
        """Run prompts and return the parts of each one's vector by token."""
        lens, contrast = self.lens, self.at_heads
        points = self._points()
        everywhere = [at for of_place in points.values() for at in of_place]
        seen = attended(lens, prompts, self.blocks, self.edit, everywhere)
        read = {place: _added(map(seen.last, at)) for place, at in points.items()}
        others: list[list[Part]] = [[] for _ in prompts]
        n_tokens, subtracted = max(map(len, tokens)), None
        if contrast and not contrast.every_token:
            minus = auxiliary_prompts(prompts, contrast.auxiliary)
            others = [_tokens(lens, prompt, "auxiliary") for prompt in minus]
            subtracted = attended(lens, minus, [contrast.layer], None, []).given(contrast.layer)
        n_rows = n_tokens + max(map(len, others))
        written, found = torch.zeros(len(prompts), n_rows, lens.d_model), _Sum()
        for block in self.blocks:
            W_O, b_O = output_matrix(lens, block)
            given = seen.given(block)
            if contrast and block == contrast.layer:
                given = _steered(given, subtracted, read[Place("z", block)], contrast)
            through = self._post_norm(block, read)
            of_block = torch.einsum("nthe,hed->ntd", given, W_O.float().cpu())
            written[:, : of_block.shape[1]] += through(of_block)
            self._add_bias(found, block, b_O, through, len(prompts))
        unlabelled = [Part("token")] * written.shape[1]
        found.add(unlabelled, written)
        self._add_others(found, read)
        whole = self._checked(found, read)
        at = whole.labels.index(Part("token"))
        rest = [*whole.labels[:at], *whole.labels[at + len(unlabelled) :]]
        return [
            _of_tokens(mine, theirs, n_tokens, at, rest, padded)
            for mine, theirs, padded in zip(tokens, others, of_each(whole), strict=True)
        ]

    def _post_norm(self, block: int, read: dict[Place, Tensor]) -> "_Linear":
        """Return what the norm after a block's attention does to parts of its input."""
        if not self.normed:
            return _Linear(None, torch.ones(1))
        norm = self._norms[f"blocks.{block}.ln1_post"]
        return _frozen(norm, read[Place("attn_raw", block)], read[Place(self.attention, block)])

    def _post_norm_of_ffn(self, block: int, read: dict[Place, Tensor]) -> "_Linear":
        """Return the same of the norm after a block's FFN."""
        if not self.ffn_normed:
            return _Linear(None, torch.ones(1))
        norm = self._norms[f"blocks.{block}.ln2_post"]
        return _frozen(norm, read[Place("ffn_raw", block)], read[Place(self.ffn, block)])

    def _add_bias(
        self, found: "_Sum", block: int, b_O: Tensor | None, through: "_Linear", n: int
    ) -> None:
        """Add what the bias of a block's attention, or FFN, and of its post-norm write, if any."""
        bias = torch.zeros(n, 1, self.lens.d_model) if b_O is None else b_O.expand(n, 1, -1)
        bias = through(bias) + through.bias
        if bias.any():
            found.add([Part("bias", block)], bias)

    def _add_others(self, found: "_Sum", read: dict[Place, Tensor]) -> None:
        """Add what is not by head or token: blocks, FFNs, the attention as a whole, the start."""

        def each(name: str) -> Float[Tensor, "n blocks d"]:
            return torch.stack([read[Place(name, block)] for block in self.blocks], 1)

        if self.by == "block" and self.blocks:
            names = [self.attention] * self.has_attention + [self.ffn] * self.has_ffn
            found.add([Part("block", block) for block in self.blocks], _added(map(each, names)))
        elif self.has_ffn and self.blocks and not self.in_neurons:
            ffns = each(self.ffn)
            if self.by == "token":
                found.add([Part("ffn")], ffns.sum(1, keepdim=True))
            else:
                found.add([Part("ffn", block) for block in self.blocks], ffns)
        if self.by in ("ffn", "neuron") and self.has_attention and self.blocks:
            found.add([Part("attention")], each(self.attention).sum(1, keepdim=True))
        if self.is_stream:
            found.add([Part(self.began_as)], read[self.start][:, None])

    def _checked(
        self, found: "_Sum", read: dict[Place, Tensor], weights: Tensor | None = None
    ) -> Parts:
        """Return the parts once they are known to add up to the vector.

        Raises:
            ModelError: They do not.
        """
        vectors, whole, labels = found.vectors(), read[self.place], list(found.labels)
        weights = torch.zeros(len(whole), 0) if weights is None else weights
        if self.place.component == "final":
            stream = read[Place("resid", self.lens.n_layers - 1)]
            through = _frozen(self._norms["ln_final"], stream, whole)
            vectors, weights = through(vectors), weights / through.scale
            if through.bias.any():
                labels.append(Part("bias"))
                vectors = torch.cat([vectors, through.bias.expand(len(vectors), 1, -1)], 1)
        left = whole - vectors.sum(1)
        if weights.shape[1]:
            left = left - weights @ self.neurons().vectors
        share = (left.norm(dim=-1) / whole.norm(dim=-1).clamp(min=1e-30)).max().item()
        half = self.lens.dtype not in TOLERANCE
        if share > (HALF_TOLERANCE if half else TOLERANCE[self.lens.dtype]):
            raise ModelError(
                f"{self.lens.name}: the parts of {self.place} by {self.by} are {share:.0%} away "
                "from it; this architecture writes into its stream in another way, so explain it "
                "by 'language' or 'dimension'"
            )
        if half:
            labels.append(Part("rounding"))
            vectors = torch.cat([vectors, left[:, None]], 1)
        return Parts(labels, vectors, whole, weights)


def _added(tensors: Iterable[Tensor]) -> Tensor:
    """Return a sum of tensors."""
    return torch.stack([*tensors]).sum(0)


class _Sum:
    """Parts as they are found."""

    def __init__(self) -> None:
        self.labels: list[Part] = []
        self._vectors: list[Float[Tensor, "n parts d"]] = []

    def add(self, labels: list[Part], vectors: Float[Tensor, "n parts d"]) -> None:
        """Add some parts."""
        self.labels += labels
        self._vectors.append(vectors)

    def vectors(self) -> Float[Tensor, "n parts d"]:
        """Return all of them."""
        return torch.cat(self._vectors, 1)


class _Linear:
    """The linear map that a norm is in one pass, its divisor held fixed; the identity without one.

    Args:
        norm: The norm; None is none.
        scale: Its divisor, of each text.
    """

    def __init__(self, norm: Norm | None, scale: Float[Tensor, " n"]) -> None:
        self._norm, self.scale = norm, scale[:, None]
        self.bias = torch.zeros(()) if norm is None else norm.bias

    def __call__(self, parts: Float[Tensor, "n parts d"]) -> Float[Tensor, "n parts d"]:
        """Return what becomes of parts of the norm's input, without its bias."""
        if self._norm is None:
            return parts
        if self._norm.centres:
            parts = parts - parts.mean(-1, keepdim=True)
        return parts * self._norm.gain / self.scale[:, None]


def _frozen(norm: Norm, before: Float[Tensor, "n d"], after: Float[Tensor, "n d"]) -> _Linear:
    """Return the linear map that took `before` to `after`; its divisor is found from both."""
    linear = _Linear(norm, torch.ones(1))(before[:, None])[:, 0].double()
    written = (after - norm.bias).double()
    scale = linear.square().sum(-1) / (linear * written).sum(-1)
    return _Linear(norm, torch.where(scale.isfinite(), scale, 1).float())


_norms: WeakKeyDictionary[LensModel, tuple[str, dict[str, Norm]]] = WeakKeyDictionary()


def _norms_of(lens: LensModel, names: Sequence[str]) -> dict[str, Norm]:
    """Return norms of the model by name, each asked for once."""
    fingerprint, known = lens.fingerprint, _norms.get(lens, ("", {}))
    found = known[1] if known[0] == fingerprint else {}
    found |= {name: norm_of(lens, name) for name in names if name not in found}
    _norms[lens] = fingerprint, found
    return found


def _of_tokens(
    mine: list[Part], theirs: list[Part], n_tokens: int, at: int, rest: list[Part], padded: Parts
) -> Parts:
    """Return one text's parts: its tokens and those of its auxiliary prompt, then the others."""
    end = len(padded.labels) - len(rest) + at
    chosen = [*range(at, at + len(mine)), *range(at + n_tokens, at + n_tokens + len(theirs))]
    chosen += [*range(at), *range(end, len(padded.labels))]
    return padded._replace(labels=[*mine, *theirs, *rest], vectors=padded.vectors[:, chosen])


def _steered(
    plus: Float[Tensor, "batch pos n_heads d_head"],
    minus: Float[Tensor, "batch other_pos n_heads d_head"] | None,
    z: Float[Tensor, "batch n_heads d_head"],
    contrast: Contrast,
) -> Float[Tensor, "batch all_pos n_heads d_head"]:
    """Return what the tokens of both prompts give to the z that a contrast put in.

    The new z is a multiple of z⁺ − z⁻, or of z⁺ where nothing is subtracted: of all heads, or of
    each its own.
    """
    heads = torch.zeros(z.shape[1], dtype=torch.bool)
    heads[list(contrast.heads) if contrast.heads is not None else slice(None)] = True
    both = plus if minus is None else torch.cat([plus, -minus * heads[:, None]], 1)
    total = both.sum(1)
    factor = (total * z).sum(-1) / total.square().sum(-1)  # [batch, head]
    factor = torch.where(heads & factor.isfinite(), factor, 1.0)
    return both * factor[:, None, :, None]


def _tokens(lens: LensModel, prompt: str, kind: str) -> list[Part]:
    """Return the tokens of a prompt as it is run, and which of them are of the text.

    Raises:
        ModelError: As for `character_spans`.
    """
    ids, spans, one = character_spans(lens, prompt)
    return [
        Part(
            kind,
            position=i,
            token=text,
            of_text=a < one.stop and b > one.start,
            of_template=a == b or a < one.start or b > one.stop,
        )
        for i, (text, (a, b)) in enumerate(zip(token_texts(lens, ids), spans, strict=True))
    ]
