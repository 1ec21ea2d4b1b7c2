"""What a model would say: tokens as text, next tokens, and the logit lens.

Over 400 lines, as all that is unembedded goes through one read-out.
"""

import html
import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.convert_slow_tokenizer import bytes_to_unicode

from dysem_lab.display import Progress, silent
from dysem_lab.errors import InputError, choices
from dysem_lab.inputs import at_least, index_of, seed_of
from dysem_lab.models.capture import capture, unique_prompts
from dysem_lab.models.lens import LensModel
from dysem_lab.models.places import Place
from dysem_lab.models.record import Edit, final_norm, next_token_logits, norm_of, unembed

VISIBLE = {" ": "\u2423", "\n": "\u23ce", "\t": "\u21e5"}
_ISOLATE = "\u2068{}\u2069"  # a right-to-left token turns nothing around that stands beside it
_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")
_BYTE_OF = {sign: byte for byte, sign in bytes_to_unicode().items()}
# Vectors of the residual stream's own basis, and the one after the final norm: those whose
# dimensions the unembedding reads.
READ = ("attn", "ffn", "resid", "final")
PROMOTED, DEMOTED = "promoted", "demoted"
ROWS = 64  # of logits that are held at once: 64 MB with a vocabulary of 2¹⁸
COLUMNS = 32  # of the unembedding that are read at once


def token_texts(lens: LensModel, ids: Sequence[int]) -> list[str]:
    """Return the text of each token as a reader knows it.

    The space that a token begins with is kept. Bytes that are only a part of a character stand as
    ⟨E7 8C⟩, special tokens as the vocabulary has them, and a row of the embedding that is no token
    as its number.
    """
    tokenizer, special = lens.tokenizer, set(lens.tokenizer.all_special_ids)
    # After a letter no decoder takes away the space that a token begins with.
    letter = tokenizer("a", add_special_tokens=False)["input_ids"]

    def decode(of: list[int]) -> str:
        return str(tokenizer.decode(of, clean_up_tokenization_spaces=False))

    texts = []
    for token in ids:
        piece = tokenizer.convert_ids_to_tokens(int(token))
        text = decode([*letter, int(token)])[len(decode(letter)) :]
        if piece is None:
            text = f"⟨{token}⟩"
        elif int(token) in special or not text:
            text = str(piece)
        elif "\ufffd" in text:
            text = f"⟨{_bytes_of(str(piece))}⟩"
        texts.append(text)
    return texts


def _bytes_of(piece: str) -> str:
    """Return the bytes that an entry of the vocabulary stands for, in hexadecimal."""
    if found := _BYTE_PIECE.fullmatch(piece):
        return found[1]
    return " ".join(f"{_BYTE_OF[sign]:02X}" for sign in piece if sign in _BYTE_OF) or piece


def label(token: str) -> str:
    """Return a token ready for an axis of a figure.

    White space is a sign, a mark that combines with the letter before it stands on a dotted circle,
    and the direction of its script stays within it.
    """
    carrier = "\u25cc" if unicodedata.category(token[0]).startswith("M") else ""
    return _ISOLATE.format(visible(carrier + token))


def visible(token: str) -> str:
    """Return a token with its white space and control characters as signs, ready for a figure."""
    return html.escape("".join(map(_visible, token)), quote=False)


def _visible(sign: str) -> str:
    if sign in VISIBLE or sign.isprintable():
        return VISIBLE.get(sign, sign)
    return sign.encode("unicode_escape").decode()


def next_token_probabilities(
    lens: LensModel, prompts: Sequence[str], edit: Edit | None = None
) -> Float[Tensor, "n n_tokens"]:
    """Return the model's own distribution of the token after each prompt.

    Each prompt is a pass of its own, so nothing is padded; only its last position is unembedded.

    Args:
        lens: The model.
        prompts: n prompts.
        edit: A change of the forward pass, such as from `dysem_lab.contrast`; None is the plain
            pass.

    Returns:
        Float32 on the CPU; each row sums to 1.

    Raises:
        InputError: No prompt or an empty one.
        ModelError: The prediction is not finite.
    """
    if not unique_prompts(prompts):
        raise InputError("there are no prompts; give one or more")
    return next_token_logits(lens, prompts, edit).softmax(-1)


def logit_lens(
    lens: LensModel,
    prompts: Sequence[str] | Float[Tensor, "n d"] | Float[np.ndarray, "n d"],
    top: int = 5,
    *,
    edit: Edit | None = None,
    n_random: int = 20,
    seed: int = 0,
) -> pd.DataFrame:
    """Return the tokens that the residual stream of the last token would predict after each block.

    The stream h^l is put through the final norm and the unembedding, as if no block came after it.
    After the last block that is the model's own prediction. Any vector of the stream's own basis
    can be read so: A^L, its part on a set of dimensions, a head's output, the difference of two
    texts. The norm gives each the same length, so beside it stands what random directions give.

    Args:
        lens: The model.
        prompts: Prompts, of which repeated ones count once; or vectors.
        top: Tokens per block, or per vector.
        edit: A change of the forward pass, such as from `dysem_lab.ablate`; None is the plain pass.
        n_random: Random directions that vectors are compared with.
        seed: Of these directions.

    Returns:
        One row per prompt, block and rank: ``prompt`` (its position among the different prompts),
        ``layer`` (0-based block), ``rank`` from 1, ``token`` (its text), ``id``, ``probability``.
        Of vectors: ``vector`` (its position) in place of prompt and layer, and ``random``: the mean
        probability that random directions give to the token of that rank.

    Raises:
        InputError: No prompt, an empty one, a list of numbers or of vectors, vectors of another
            width, without length or not finite, an edit of vectors, or `top` below 1 or above the
            number of tokens.
        ModelError: A stream is not finite.

    Source: nostalgebraist, "interpreting GPT: the logit lens" (2020).
    """
    top = at_least(top, 1, "top")
    if isinstance(prompts, np.ndarray):
        numbers = prompts.dtype.kind in "fiu"
        prompts = torch.from_numpy(prompts) if numbers else prompts.tolist()
    if isinstance(prompts, Tensor):
        if edit is not None:
            raise InputError(
                "an edit changes a pass, and vectors are read without one; give prompts, or no edit"
            )
        return _lens_of_vectors(lens, prompts, top, n_random, seed)
    if isinstance(prompts, list | tuple):
        for i, given in enumerate(prompts):
            if not isinstance(given, str):
                raise InputError(
                    f"prompts must be strings, got {given!r:.80} at {i}; vectors are read as one "
                    f"tensor or array [n, {lens.d_model}], such as torch.tensor(vectors)"
                )
    unique = unique_prompts(prompts)
    if not unique:
        raise InputError("there are no prompts; give one or more")
    stream = capture(lens, unique, "resid", "each", edit=edit, progress=False)["resid"]
    found = read_out(lens, stream.flatten(0, 1), top)
    top = found.ids.shape[1]
    labels = {
        "prompt": torch.arange(len(stream)).repeat_interleave(lens.n_layers * top),
        "layer": torch.arange(lens.n_layers).repeat_interleave(top).repeat(len(stream)),
    }
    return _tokens(lens, labels, found)


class ReadOut(NamedTuple):
    """The tokens that vectors of the stream would predict, as if no block came after them.

    Attributes:
        ids: The most probable ones of each vector, in order.
        log_p: Their log-probabilities, in nats.
        asked: The log-probabilities of the tokens that were asked for.
        rank: Their ranks among all tokens, from 1.
    """

    ids: Int[Tensor, "*n top"]
    log_p: Float[Tensor, "*n top"]
    asked: Float[Tensor, "*n q"]
    rank: Int[Tensor, "*n q"]


def read_out(
    lens: LensModel,
    vectors: Float[Tensor, "n d"],
    top: int,
    asked: Int[Tensor, "n q"] | None = None,
) -> ReadOut:
    """Return what vectors say through the final norm and the unembedding; see `logit_lens`.

    Args:
        lens: The model.
        vectors: Of the stream's own basis, before the final norm; a few are unembedded at a time,
            so that n may be large.
        top: Tokens per vector.
        asked: Ids of tokens whose log-probability and rank are wanted; None is none.

    Raises:
        InputError: `top` below 1 or above the number of tokens.
    """
    asked = torch.zeros(len(vectors), 0, dtype=torch.long) if asked is None else asked
    top, found = at_least(top, 1, "top"), []
    for some, tokens in zip(vectors.split(ROWS), asked.split(ROWS), strict=True):
        # One at a time, a row stays in the processor's cache: twice as fast as all of them.
        for logits, of_row in zip(unembed(lens, some), tokens, strict=True):
            if top > len(logits):
                raise InputError(f"top must be between 1 and {len(logits)}, got {top!r}")
            best, total, chosen = logits.topk(top), logits.logsumexp(0), logits[of_row]
            rank = 1 + (logits > chosen[:, None]).count_nonzero(1)
            found.append(ReadOut(best.indices, best.values - total, chosen - total, rank))
    return ReadOut(*map(torch.stack, zip(*found, strict=True)))


def _lens_of_vectors(
    lens: LensModel, vectors: Float[Tensor, "n d"], top: int, n_random: int, seed: int
) -> pd.DataFrame:
    """Return the tokens that vectors of the stream would predict; see `logit_lens`."""
    if vectors.ndim != 2 or vectors.shape[1] != lens.d_model or not len(vectors):
        raise InputError(
            f"vectors must be [n, {lens.d_model}], got {tuple(vectors.shape)}; one is vector[None]"
        )
    vectors = vectors.detach().float().cpu()
    wrong = ~torch.isfinite(vectors).all(1) | (vectors == 0).all(1)
    if wrong.any():
        raise InputError(f"vector {int(wrong.nonzero()[0])} is not finite, or has no direction")
    found = read_out(lens, vectors, top)
    directions = random_directions(lens, n_random, float(vectors.norm(dim=1).mean()), seed)
    random = read_out(lens, directions, top).log_p.exp().mean(0)
    rows = torch.arange(len(vectors)).repeat_interleave(len(random))
    return _tokens(lens, {"vector": rows}, found).assign(random=random.repeat(len(vectors)).numpy())


def random_directions(
    lens: LensModel, n: int, norm: float, seed: int
) -> Float[Tensor, "n d_model"]:
    """Return random vectors of one norm, uniform over all directions."""
    generator = torch.Generator().manual_seed(seed_of(seed))
    directions = torch.randn(at_least(n, 1, "n_random"), lens.d_model, generator=generator)
    return directions * (norm / directions.norm(dim=1, keepdim=True))


def _tokens(lens: LensModel, labels: dict[str, Tensor], found: ReadOut) -> pd.DataFrame:
    """Return one row per vector and rank, after the columns that say which vector it is."""
    ids = found.ids.flatten()
    table = pd.DataFrame({name: values.numpy() for name, values in labels.items()})
    return table.assign(
        rank=torch.arange(1, found.ids.shape[1] + 1).repeat(len(found.ids)).numpy(),
        token=token_texts(lens, ids.tolist()),
        id=ids.numpy(),
        probability=found.log_p.exp().flatten().numpy(),
    )


def dimension_lens(
    lens: LensModel, dimension: int, component: str = "resid", top: int = 10
) -> pd.DataFrame:
    """Return the tokens whose logits a dimension raises and lowers most.

    For a vector of the residual stream's basis (attn, ffn, resid) the effect on token t is
    γ_j W_U[t, j] minus its mean over all tokens, which no softmax sees: γ is the weight of the
    final norm, so it is what one more RMS of the stream adds, with the norm's divisor held fixed.
    For "final" it is without γ. A soft cap of the logits (Gemma 2) is left out.

    Args:
        lens: The model.
        dimension: j, from 0.
        component: One of `READ`.
        top: Tokens of each direction.

    Returns:
        One row per ``direction`` ("promoted", "demoted") and ``rank`` from 1: ``token``, ``id``,
        ``effect`` (in logits).

    Raises:
        InputError: Another component, whose dimensions the unembedding does not read, or a
            dimension that the model does not have.

    Source: the logit lens of one basis vector (nostalgebraist, "interpreting GPT: the logit lens",
        2020).
    """
    if component not in READ:
        raise choices("component with a logit lens", component, READ)
    j = index_of(dimension, lens.d_model, "dimension")
    effect = lens.bridge.original_model.get_output_embeddings().weight[:, j].detach().float().cpu()
    if component != "final":
        effect = effect * norm_weight(lens)[j]
    effect = effect - effect.mean()
    rows = []
    for direction, sign in ((PROMOTED, 1), (DEMOTED, -1)):
        ids = (sign * effect).topk(min(top, len(effect))).indices.tolist()
        for rank, (token, text) in enumerate(zip(ids, token_texts(lens, ids), strict=True), 1):
            labels = {"direction": direction, "rank": rank, "token": text, "id": token}
            rows.append({**labels, "effect": float(effect[token])})
    return pd.DataFrame(rows)


def dimension_tokens(
    lens: LensModel, top: int = 10, progress: Progress = silent
) -> list[tuple[list[str], list[str]]]:
    """Return the tokens that each dimension of the stream promotes and demotes most.

    They are those of `dimension_lens`, of all d dimensions at once: of one alone, a column of the
    unembedding is read value by value from all over the memory.

    Args:
        lens: The model.
        top: Tokens of each direction, the strongest first.
        progress: Told of every few dimensions.
    """
    weight = lens.bridge.original_model.get_output_embeddings().weight.detach()
    gains = norm_weight(lens)
    found: list[tuple[list[str], list[str]]] = []
    for columns, gain in zip(weight.split(COLUMNS, 1), gains.split(COLUMNS), strict=True):
        progress(len(found), len(gains), "tokens")
        effects = columns.float().cpu().T * gain[:, None]
        effects -= effects.mean(1, keepdim=True)
        n = min(top, effects.shape[1])
        both = [(sign * effects).topk(n).indices.tolist() for sign in (1, -1)]
        found += [
            (token_texts(lens, up), token_texts(lens, down)) for up, down in zip(*both, strict=True)
        ]
    progress(len(gains), len(gains), "tokens")
    return found


def norm_weight(lens: LensModel) -> Float[Tensor, " d"]:
    """Return γ, what the final norm multiplies each dimension by after dividing by the RMS.

    Asked of the norm itself, since architectures store it in different ways (Gemma's is 1 plus its
    parameter): a vector of 1 and -1 has the RMS 1.
    """
    signs = torch.ones(lens.d_model, dtype=lens.dtype, device=lens.device)
    signs[1::2] = -1
    up, down = final_norm(lens, torch.stack([signs, -signs]))
    return (up - down) / 2 * signs.float().cpu()


class Readers(NamedTuple):
    """The directions of the residual stream that a block, or the unembedding, reads.

    Attributes:
        basis: Orthonormal columns, those that are read most strongly first.
        share: Of what is read, as squared singular values, how much lies along each; they sum to 1.
        rank: How many are read at all. Where it is d, nothing of the stream is unread.
    """

    basis: Float[Tensor, "d d"]
    share: Float[Tensor, " d"]
    rank: int

    def norm(self, vectors: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Return how long vectors are as they are read, up to one factor for all."""
        return ((vectors @ self.basis).square() * self.share).sum(-1).sqrt()


def readers(lens: LensModel, layer: int) -> Readers:
    """Return what a block reads of the stream: W_Q, W_K, W_V, W_in and a gate, side by side.

    Each stands behind its norm, whose weight γ is part of it; the norm's divisor is not. After the
    last block it is the unembedding, less its mean over the tokens, which no softmax sees.

    Args:
        lens: The model.
        layer: The block, 0-based; L is the unembedding.

    Raises:
        InputError: A block that the model does not have.

    Source: Makelov et al. (arXiv 2311.17030): an interchange in the row space of what reads it, and
        outside of it.
    """
    if layer == lens.n_layers:
        gram = _unembedding_gram(lens)
    else:
        Place("resid", layer).check(lens.n_layers)
        gram = _block_gram(lens, layer)
    found = torch.linalg.eigh(gram)
    squared = found.eigenvalues.flip(0).clamp(min=0)
    rank = int((squared > squared[0] * lens.d_model * torch.finfo(torch.float32).eps).sum())
    return Readers(found.eigenvectors.flip(1).float(), (squared / squared.sum()).float(), rank)


def _block_gram(lens: LensModel, layer: int) -> Float[Tensor, "d d"]:
    """Return the products of the rows of all that a block reads with, in float64."""
    block, matrices = lens.bridge.blocks[layer], []
    norms = ["ln1", "ln2" if hasattr(block, "ln2") else "ln1"]  # one norm for both in some
    for module, names, norm in (
        (block.attn, ("W_Q", "W_K", "W_V"), norms[0]),
        (block.mlp, ("W_in", "W_gate"), norms[1]),
    ):
        gain = norm_of(lens, f"blocks.{layer}.{norm}").gain
        for name in names:
            if (matrix := getattr(module, name, None)) is not None:
                columns = matrix.detach().float().cpu().movedim(-2, 0).reshape(lens.d_model, -1)
                matrices.append(gain[:, None] * columns)
    stacked = torch.cat(matrices, 1).double()
    return stacked @ stacked.T


def _unembedding_gram(lens: LensModel) -> Float[Tensor, "d d"]:
    """Return the same of the unembedding; its rows are taken in parts, for there are many."""
    weight = lens.bridge.original_model.get_output_embeddings().weight.detach()
    mean = weight.double().mean(0).cpu()
    gram = torch.zeros(lens.d_model, lens.d_model, dtype=torch.float64)
    for rows in weight.split(16384):
        centred = (rows.double().cpu() - mean).float()
        gram += (centred.T @ centred).double()
    gain = norm_of(lens, "ln_final").gain.double()
    return gain[:, None] * gram * gain
