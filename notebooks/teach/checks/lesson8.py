"""Lesson 8: a similarity as a sum of parts, and the control that breaks a pretty picture.

Over 400 lines, as each exercise names its typical wrong answers.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from torch import Tensor

from checks.frame import (
    Lesson,
    drawn,
    require_close,
    require_same,
)
from checks.quiz8 import QUESTIONS
from checks.tools import fitted, record, tokens_of
from dysem_lab import LensModel, PromptEncoder, STSData, capture, explain, wrap
from dysem_lab.errors import InputError
from dysem_lab.evaluate import mean_with_interval
from dysem_lab.models.record import norm_of, output_matrix
from dysem_lab.questions.style import PALETTE, layout

LESSON = Lesson(8, "Why are these two similar?", QUESTIONS)
check, hint, progress, quiz = LESSON.check, LESSON.hint, LESSON.progress, LESSON.quiz


class Run(NamedTuple):
    """What the attention of every block did for the last token of one prompt.

    Attributes:
        tokens: The prompt's, as text.
        pattern: How much of its attention each head gives to each token.
        values: What there is to be read at each token, as each head reads it.
        W_O: The heads' output matrices.
        gain: g of the norm after the attention.
        attn: a^l, what is added to the stream.
    """

    tokens: list[str]
    pattern: Float[Tensor, "L n_heads pos"]
    values: Float[Tensor, "L pos n_heads d_head"]
    W_O: Float[Tensor, "L n_heads d_head d"]
    gain: Float[Tensor, "L d"]
    attn: Float[Tensor, "L d"]

    @property
    def heads(self) -> Float[Tensor, "L n_heads d"]:
        """What each head writes before the norm, as in lesson 2."""
        return torch.einsum("lhp,lphe,lhed->lhd", self.pattern, self.values, self.W_O)


def run(lens: LensModel, text: str) -> Run:
    """Run one sentence in the one-word prompt.

    Raises:
        InputError: The model has no norm after its attention.
    """
    if not lens.post_norms:
        raise InputError(f"{lens.name} has no norm after its attention; use gemma-3-270m")
    (prompt,) = wrap([text])
    points = ("attn.hook_pattern", "attn.hook_v", "hook_attn_out")
    names = {
        point: [f"blocks.{block}.{point}" for block in range(lens.n_layers)] for point in points
    }
    seen, _ = record(lens, [prompt], [name for of_point in names.values() for name in of_point])
    pattern, values, attn = (
        torch.stack([seen[name][0].float().cpu() for name in names[point]]) for point in points
    )
    values = values.view(*values.shape[:2], -1, lens.d_head)
    values = values.repeat_interleave(lens.n_heads // values.shape[2], 2)
    return Run(tokens_of(lens, prompt), pattern[:, :, -1], values, *_weights(lens), attn[:, -1])


def _weights(lens: LensModel) -> tuple[Tensor, Tensor]:
    """Return W_O and the gain of the norm after the attention, of each block."""
    blocks = range(lens.n_layers)
    W_O = torch.stack([output_matrix(lens, block)[0].float().cpu() for block in blocks])
    return W_O, torch.stack([norm_of(lens, f"blocks.{block}.ln1_post").gain for block in blocks])


def corpus_by_head(
    lens: LensModel, texts: Sequence[str], through_norm: Callable[[Tensor, Tensor], Tensor]
) -> Float[Tensor, "n parts d"]:
    """Return what each head of each block wrote into A^L, of many texts.

    Args:
        lens: The model.
        texts: n texts.
        through_norm: (parts of one block [parts, d], gain [d]) → what the norm makes of them.
    """
    z = capture(lens, wrap(texts), "z", "each")["z"]  # [n, L, n_heads, d_head]
    W_O, gain = _weights(lens)
    heads = torch.einsum("nlhe,lhed->nlhd", z, W_O)
    return torch.stack(
        [torch.cat([through_norm(*block) for block in zip(of, gain, strict=True)]) for of in heads]
    )


def random_pairs(n_texts: int, n_pairs: int = 400, seed: int = 0) -> list[tuple[int, int]]:
    """Return pairs of texts of a set that are no pair of it."""
    rng = np.random.default_rng(seed)
    found: list[tuple[int, int]] = []
    while len(found) < n_pairs:
        i, j = rng.integers(0, n_texts, 2).tolist()
        if (i - j) % n_texts not in (0, n_texts // 2):
            found.append((i, j))
    return found


def parts_figure(
    values: Float[Tensor, "L n_heads"], title: str, facts: str, unit: str
) -> go.Figure:
    """Return a map of a number for each head, both counted from 1."""
    bound = float(values.abs().max())
    blocks, heads = ([str(i + 1) for i in range(n)] for n in values.shape)
    figure = go.Figure(
        go.Heatmap(
            z=values.tolist(),
            x=[f"head {head}" for head in heads],
            y=blocks,
            zmin=-bound,
            zmax=bound,
            colorscale=[[0, PALETTE[1]], [0.5, "#FFFFFF"], [1, PALETTE[0]]],
            colorbar_title=unit,
            hovertemplate="block %{y}, %{x}: %{z:.3f}<extra></extra>",
        )
    )
    figure.update_yaxes(title="block", type="category")
    return fitted(layout(figure, title, facts, 480))


def deletions(
    encoder: PromptEncoder,
    pairs: Sequence[tuple[str, str]],
    corpus: STSData,
    mean: Float[Tensor, " d"],
) -> pd.DataFrame:
    """Delete each word of the first sentence of each pair, and see what the similarity loses.

    Args:
        encoder: Of a model.
        pairs: The sentences.
        corpus: What both similarity and attribution are centred on.
        mean: The mean of its texts' vectors.

    Returns:
        One row per word: ``pair``, ``word``, ``attribution`` (what its tokens add to the centred
        similarity) and ``drop``, by how much that similarity is lower once the word is deleted from
        the text, which is then run anew.
    """
    lens, rows, shorter, before = encoder.lens, [], [], []
    for pair, (x, y) in enumerate(pairs):
        why = explain(encoder, x, y, "token", centre=corpus)
        (prompt,) = wrap([x])
        words = prompt[prompt.start : prompt.stop].split(" ")
        # Where each word ends in the prompt; the blank before a word goes with it.
        ends = prompt.start + np.cumsum([len(word) + 1 for word in words]) - 1
        attribution = np.zeros(len(words))
        spans = lens.tokenizer(str(prompt), return_offsets_mapping=True)["offset_mapping"]
        tokens = why.table[why.table["kind"] == "token"]
        columns = zip(spans, tokens["of_text"], tokens["contribution"], strict=True)
        for (_, end), of_text, added in columns:
            if of_text:
                attribution[np.searchsorted(ends, min(end, prompt.stop))] += added
        for i, (word, added) in enumerate(zip(words, attribution, strict=True)):
            rows.append({"pair": pair, "word": word, "attribution": added})
            shorter.append(" ".join(words[:i] + words[i + 1 :]))
            before.append(why.similarity)
    vectors = encoder.encode([*shorter, *(y for _, y in pairs)]).vectors - mean
    to = vectors[len(shorter) :][[row["pair"] for row in rows]]
    left = torch.cosine_similarity(vectors[: len(shorter)], to)
    return pd.DataFrame(rows).assign(drop=np.array(before) - left.double().numpy())


def deletion_table(
    words: pd.DataFrame, gain_over_random: Callable[[Tensor, Tensor], float]
) -> pd.DataFrame:
    """Return what deletions say of an attribution, beside two others that look at no model.

    Args:
        words: From `deletions`.
        gain_over_random: (drops, attributions) of one pair's words → how much more deleting the
            word of the largest attribution costs than deleting a random one.

    Returns:
        One row per way to choose a word: ``gain``, the mean over pairs, with its 95 % interval
        ``low`` to ``high``; ``hits``, how often it is the word whose deletion costs most;
        ``below random``, how often deleting it costs less than a random word; and ``pairs``.
    """
    ways = {
        "largest attribution": lambda pair: pair["attribution"].to_numpy(float),
        "longest word": lambda pair: pair["word"].str.len().to_numpy(float),
        "last word": lambda pair: np.arange(len(pair), dtype=float),
    }
    pairs = [pair for _, pair in words.groupby("pair")]
    drops = [torch.tensor(pair["drop"].to_numpy(float)) for pair in pairs]
    rows = []
    for name, way in ways.items():
        ranked = [torch.tensor(way(pair)) for pair in pairs]
        gains = np.array(
            [float(gain_over_random(*given)) for given in zip(drops, ranked, strict=True)]
        )
        hits = [int(a.argmax() == b.argmax()) for a, b in zip(drops, ranked, strict=True)]
        found = mean_with_interval(gains)
        rows.append(
            {
                "deleted": name,
                "gain": found["mean"],
                "low": found["low"],
                "high": found["high"],
                "hits": float(np.mean(hits)),
                "below random": float((gains < 0).mean()),
                "pairs": len(pairs),
            }
        )
    chance = float(np.mean([1 / len(drop) for drop in drops]))
    rows.append({"deleted": "a random word", "gain": 0.0, "hits": chance, "pairs": len(pairs)})
    return pd.DataFrame(rows).set_index("deleted")


def _through_norm(parts: Tensor, gain: Tensor) -> Tensor:
    """Return parts of a vector as its norm in this pass scales them."""
    return parts * gain / parts.sum(0).square().mean().sqrt()


def _each_by_itself(parts: Tensor, gain: Tensor) -> Tensor:
    return parts * gain / parts.square().mean(-1, keepdim=True).sqrt()


@LESSON.exercise(
    1,
    "Through a norm that is held still",
    hints=(
        "The norm divides by one number, the root mean square of what it gets. What it gets is "
        "the sum of the parts: parts.sum(0).",
        "rms = parts.sum(0).square().mean().sqrt(). Every part is divided by this same number, "
        "and multiplied by the gain.",
        "parts * gain / parts.sum(0).square().mean().sqrt()",
    ),
)
def frozen_norm(through_norm: Callable[[Tensor, Tensor], Tensor], of: Run) -> str:
    """Test that the parts stay apart, and that they add up to what the norm makes of the whole."""
    shapes = (((4, 8), (8,)), ((3, 5), (5,)), ((1, 6), (6,)))
    require_same(
        through_norm,
        _through_norm,
        [drawn(seed, *shape) for seed, shape in enumerate(shapes)],
        "through_norm(parts, gain)",
        shapes={(8,): "The parts are added together: each part has a row of its own still."},
        mistakes={
            "You divide each part by its own rms. The norm sees only the sum and divides by *its* "
            "rms; normalised one by one, the parts do not add up to what it gives.": (
                _each_by_itself
            ),
            "The gain g is missing.": lambda parts, gain: _through_norm(
                parts, torch.ones_like(gain)
            ),
            "You divide by the length of the sum (norm()). The root mean square has a mean in it: "
            "it is the length divided by √d.": lambda parts, gain: (
                parts * gain / parts.sum(0).norm()
            ),
            "You divide by the mean square; take its root.": lambda parts, gain: (
                parts * gain / parts.sum(0).square().mean()
            ),
            "You divide by the rms of all parts' numbers together. The norm gets their sum: add "
            "up first.": lambda parts, gain: parts * gain / parts.square().mean().sqrt(),
            "You divide by the rms of the parts' mean; it is their sum that comes in.": (
                lambda parts, gain: parts * gain / parts.mean(0).square().mean().sqrt()
            ),
            "Nothing was divided.": lambda parts, gain: parts * gain,
        },
        otherwise="The rows have to add up to the norm of the sum, g ⊙ x / rms(x) with "
        "x = parts.sum(0), and to be in the same proportion as the parts.",
    )
    for block in (0, len(of.attn) // 2, len(of.attn) - 1):
        require_close(
            through_norm(of.heads[block], of.gain[block]).sum(0),
            of.attn[block],
            otherwise=f"On random parts it is right, but in block {block} the heads do not add up "
            "to what the attention added to the stream.",
            tolerance=1e-3,
        )
    return (
        "The heads' parts add up to a^l in the first, a middle and the last block: with the "
        "divisor of this very pass held still, the norm is a linear map."
    )


def _by_token(pattern: Tensor, values: Tensor, W_O: Tensor) -> Tensor:
    return torch.einsum("hp,phe,hed->pd", pattern, values, W_O)


@LESSON.exercise(
    2,
    "Heads over their source tokens",
    hints=(
        "In lesson 2 z was a sum over tokens, z_h = Σ_t pattern[h, t] v[t, h]. Leave the sum over "
        "tokens out, and add up over the heads.",
        "A token's part: Σ_h pattern[h, t] · (v[t, h] through W_O[h]).",
        'torch.einsum("hp,phe,hed->pd", pattern, values, W_O)',
    ),
)
def over_tokens(by_token: Callable[[Tensor, Tensor, Tensor], Tensor], of: Run) -> str:
    """Test what comes from each token, on random tensors and on the model's own."""
    sizes = ((2, 5, 3, 4), (4, 3, 2, 6))  # heads, tokens, d_head, d
    examples = []
    for seed, (h, p, e, d) in enumerate(sizes):
        scores, values, W_O = drawn(seed, (h, p), (p, h, e), (h, e, d))
        examples.append((scores.softmax(-1), values, W_O))

    def without_pattern(pattern: Tensor, values: Tensor, W_O: Tensor) -> Tensor:
        return _by_token(torch.ones_like(pattern), values, W_O)

    require_same(
        by_token,
        _by_token,
        examples,
        "by_token(pattern, values, W_O) of 2 heads, 5 tokens and d = 4",
        shapes={
            (4,): "The tokens are added together: that is the whole attention output. Keep them "
            "apart.",
            (2, 4): "These are the heads, as in lesson 2: here the heads are added up, and the "
            "tokens kept apart.",
            (2, 5, 4): "Each token through each head is still there: add up over the heads.",
            (5, 2, 4): "Each token through each head is still there: add up over the heads.",
            (5, 3): "W_O is missing: this is z, not yet in the stream.",
            (4, 5): "The tokens come first, then the dimensions.",
        },
        mistakes={
            "The pattern is missing: how much of a token a head has read counts.": without_pattern,
            "Every token is read through head 0's matrix; each head has its own.": (
                lambda pattern, values, W_O: _by_token(pattern, values, W_O[:1].expand_as(W_O))
            ),
            "All heads use the pattern of head 0; each has its own.": (
                lambda pattern, values, W_O: _by_token(pattern[:1].expand_as(pattern), values, W_O)
            ),
            "This is the mean over the heads; W_O's output is their sum.": (
                lambda pattern, values, W_O: _by_token(pattern, values, W_O) / len(pattern)
            ),
        },
        otherwise="On random tensors it is not Σ_h pattern[h, t] · v[t, h] W_O[h].",
    )
    for block in (0, len(of.attn) - 1):
        found = by_token(of.pattern[block], of.values[block], of.W_O[block])
        require_close(
            found.sum(0),
            of.heads[block].sum(0),
            otherwise=f"In block {block} the tokens' parts and the heads' parts do not add up to "
            "the same vector.",
            tolerance=1e-3,
        )
    return "The same vector, cut another way: by where it was read and not by who read it."


def _pair_matrix(x: Tensor, y: Tensor) -> Tensor:
    return x @ y.T / (x.sum(0).norm() * y.sum(0).norm())


@LESSON.exercise(
    3,
    "A similarity as a sum over pairs of parts",
    hints=(
        "Multiply two sums out: (p1 + p2)·(q1 + q2) has four dot products. All of them at once "
        "are parts_x @ parts_y.T.",
        "The cosine divides by the lengths of the two whole vectors: parts_x.sum(0).norm() and "
        "likewise for y.",
        "parts_x @ parts_y.T / (parts_x.sum(0).norm() * parts_y.sum(0).norm())",
    ),
)
def bilinear(pair_matrix: Callable[[Tensor, Tensor], Tensor]) -> str:
    """Test that the entries are the terms of the cosine of the two sums."""
    shapes = (((3, 6), (4, 6)), ((5, 4), (2, 4)), ((1, 7), (6, 7)))
    require_same(
        pair_matrix,
        _pair_matrix,
        [drawn(seed, *shape) for seed, shape in enumerate(shapes)],
        "pair_matrix(parts_x, parts_y) of 3 and 4 parts",
        shapes={
            (): "This is the cosine itself: keep its terms apart, one for each pair of parts.",
            (4, 3): "The parts of x are the rows, those of y the columns.",
            (3,): "The parts of y are added up; each pair has an entry of its own.",
            (6,): "This is one term per dimension. Here the terms are per pair of parts: sum over "
            "d, and keep the parts.",
            (6, 6): "You summed over the parts and kept the dimensions; it is the other way round.",
        },
        mistakes={
            "These are the cosines of the parts: each divided by its own lengths. They do not add "
            "up to anything. All terms are divided by the lengths of the two *whole* vectors.": (
                lambda x, y: torch.cosine_similarity(x[:, None], y[None], dim=-1)
            ),
            "These are dot products: divide by the lengths of the two whole vectors.": (
                lambda x, y: x @ y.T
            ),
            "The length of a whole vector is that of the *sum* of its parts, parts.sum(0).norm(); "
            "you take the norm of all their numbers together.": (
                lambda x, y: x @ y.T / (x.norm() * y.norm())
            ),
            "The length of a whole vector is not the sum of its parts' lengths: add the parts, "
            "then take the norm.": (
                lambda x, y: x @ y.T / (x.norm(dim=-1).sum() * y.norm(dim=-1).sum())
            ),
            "You divide by the length of x only.": lambda x, y: x @ y.T / x.sum(0).norm(),
            "You divide by the squared lengths.": lambda x, y: (
                x @ y.T / (x.sum(0).norm() * y.sum(0).norm()) ** 2
            ),
        },
        otherwise="The entries have to add up to the cosine of parts_x.sum(0) and parts_y.sum(0), "
        "and entry (p, q) has to grow with the dot product of p and q.",
    )
    return (
        "Every entry is what two parts add together, and all of them add up to the cosine. The two "
        "lengths below the line are given, not explained."
    )


@LESSON.exercise(
    4,
    "Which dimension adds most?",
    hints=(
        "The dot product is a sum over dimensions of x_j y_j. Which of its terms is the largest?",
        "(x * y) is [n, d]; .argmax(dim=-1) is the place of the largest of each row.",
    ),
)
def leading(leaders: Callable[[Tensor, Tensor], Tensor]) -> str:
    """Test the index of the largest term of each pair's dot product."""

    def right(x: Tensor, y: Tensor) -> Tensor:
        return (x * y).argmax(-1)

    require_same(
        leaders,
        right,
        [drawn(seed, (n, d), (n, d)) for seed, (n, d) in enumerate(((9, 6), (20, 5), (7, 30)))],
        "leaders(x, y) of 9 pairs",
        shapes={
            (6,): "This is one number per dimension; for each pair one index is asked for.",
            (): "This is one number for all pairs; each pair has one that leads.",
            (9, 6): "These are the terms; which of each row is the largest?",
        },
        mistakes={
            "You look for the largest |x_j y_j|: a dimension in which the two have opposite signs "
            "takes away, it does not add.": lambda x, y: (x * y).abs().argmax(-1),
            "You look at x only. A term is x_j times y_j.": lambda x, y: x.argmax(-1),
            "You look at y only. A term is x_j times y_j.": lambda x, y: y.argmax(-1),
            "You look at |x| only. A term is x_j times y_j.": lambda x, y: x.abs().argmax(-1),
            "You look for the dimension in which the two differ least. That may be one in which "
            "both are 0.": lambda x, y: (x - y).abs().argmin(-1),
            "You look at the sum x_j + y_j; the terms are products.": lambda x, y: (x + y).argmax(
                -1
            ),
            "This is the smallest term.": lambda x, y: (x * y).argmin(-1),
            "This is the largest term itself; its place is asked for (argmax).": (
                lambda x, y: (x * y).amax(-1)
            ),
        },
        otherwise="On random vectors it is not the dimension with the largest x_j y_j.",
    )
    return "The two lengths are the same for all terms of a pair, so the product decides."


def _centred(parts: Tensor, corpus: Tensor) -> Tensor:
    return parts - corpus.mean(0)


@LESSON.exercise(
    5,
    "Each part minus its own mean",
    hints=(
        "corpus[i, p] is part p of text i. What does part p do on average over the texts?",
        "The mean over the texts is corpus.mean(0), [parts, d]: a mean for each part.",
    ),
)
def centring(centred: Callable[[Tensor, Tensor], Tensor]) -> str:
    """Test that each part loses its own mean over the corpus."""
    sizes = ((3, 4, 6), (5, 2, 3), (2, 2, 4))  # texts, parts, d
    require_same(
        centred,
        _centred,
        [drawn(seed, (p, d), (n, p, d)) for seed, (n, p, d) in enumerate(sizes)],
        "centred(parts, corpus)",
        shapes={(3, 4, 6): "This is one result per text of the corpus: take its mean."},
        mistakes={
            "You subtract the mean of the whole vector from every part: then it is gone as often "
            "as there are parts. Each part has a mean of its own.": (
                lambda parts, corpus: parts - corpus.sum(1).mean(0)
            ),
            "You spread the mean of the whole vector evenly over the parts. They add up, but a "
            "part that is large in every text still looks large in this one: subtract its own "
            "mean.": lambda parts, corpus: parts - corpus.mean((0, 1)),
            "You subtract the mean over this text's own parts. The mean is over the texts of the "
            "corpus.": lambda parts, corpus: parts - parts.mean(0),
            "You subtract each part's mean over the dimensions.": (
                lambda parts, corpus: parts - parts.mean(-1, keepdim=True)
            ),
            "You subtract one text of the corpus, not their mean.": (
                lambda parts, corpus: parts - corpus[0]
            ),
            "You add the mean.": lambda parts, corpus: parts + corpus.mean(0),
            "You subtract the sum over the texts; divide it by their number.": (
                lambda parts, corpus: parts - corpus.sum(0)
            ),
        },
        otherwise="On random parts it is not parts[p] minus the mean of corpus[:, p].",
    )
    return "What is left of a part is what is special about it in this text."


def _surprise(contribution: Tensor, random: Tensor) -> Tensor:
    return (contribution - random.mean(0)) / random.std(0, correction=0)


@LESSON.exercise(
    6,
    "How surprising is a part?",
    hints=(
        "For each part: how far is its contribution here from its mean over the random pairs, "
        "counted in standard deviations over the random pairs?",
        "The random pairs are axis 0: random.mean(0) and random.std(0, correction=0).",
    ),
)
def surprising(surprise: Callable[[Tensor, Tensor], Tensor]) -> str:
    """Test the distance from the random pairs, in their standard deviations."""
    sizes = ((12, 4), (30, 7), (6, 3))
    require_same(
        surprise,
        _surprise,
        [drawn(seed, (p,), (n, p)) for seed, (n, p) in enumerate(sizes)],
        "surprise(contribution, random) of 4 parts",
        shapes={
            (12, 4): "This is one number per random pair still: take mean and standard deviation "
            "over the pairs, axis 0.",
            (12,): "You work along the parts; the random pairs are axis 0.",
            (): "This is one number for all parts.",
        },
        mistakes={
            "You do not divide by the spread: a part that is large in every pair by chance would "
            "lead.": lambda c, random: c - random.mean(0),
            "You divide by the variance, not by its root.": lambda c, random: (
                (c - random.mean(0)) / random.var(0, correction=0)
            ),
            "You do not subtract what the part adds to random pairs.": lambda c, random: (
                c / random.std(0, correction=0)
            ),
            "You divide by the standard error (the spread over √n): that is how well the *mean* "
            "is known. How far pairs lie apart is the spread itself.": lambda c, random: (
                _surprise(c, random) * len(random) ** 0.5
            ),
            "You take one mean and one spread for all parts; each part has its own.": (
                lambda c, random: (c - random.mean()) / random.std(correction=0)
            ),
            "That is the standard deviation with n - 1, a little more. Both are in use; here it is "
            "n, `correction=0`, as in the package.": lambda c, random: (
                (c - random.mean(0)) / random.std(0)
            ),
            "You took the absolute value: below what is usual is a surprise too, of the other "
            "sign.": lambda c, random: _surprise(c, random).abs(),
            "The sign is turned round: more than usual is positive.": lambda c, random: (
                -_surprise(c, random)
            ),
        },
        otherwise="On random numbers it is not (contribution - mean) / standard deviation, of each "
        "part over the random pairs.",
    )
    return "Large is not the same as telling: a part counts by how far it is from its usual."


def _gain_over_random(drops: Tensor, attribution: Tensor) -> float:
    return float(drops[attribution.argmax()] - drops.mean())


@LESSON.exercise(
    7,
    "Better than a random word?",
    hints=(
        "Which word has the largest attribution? drops[…] says what deleting it costs.",
        "Deleting a random word costs drops.mean() on average: every word is as likely.",
        "drops[attribution.argmax()] - drops.mean()",
    ),
)
def deleting(gain_over_random: Callable[[Tensor, Tensor], Tensor | float]) -> str:
    """Test how much more the most attributed word costs than a random one."""
    require_same(
        gain_over_random,
        _gain_over_random,
        [drawn(seed, (n,), (n,)) for seed, n in enumerate((6, 9, 4, 7))],
        "gain_over_random(drops, attribution)",
        mistakes={
            "That is what deleting the word costs. A random word costs something too: subtract "
            "drops.mean().": lambda drops, a: drops[a.argmax()],
            "You take the word whose deletion costs most. That is the answer, and the question is "
            "whether the *attribution* finds it.": lambda drops, a: drops.max() - drops.mean(),
            "You take the largest |attribution|; the word that adds most is asked for.": (
                lambda drops, a: drops[a.abs().argmax()] - drops.mean()
            ),
            "You subtract attributions from drops. Both terms are drops: of the chosen word, and "
            "of a random one.": lambda drops, a: drops[a.argmax()] - a.mean(),
            "You compare with the word of the least attribution. That control is chosen by the "
            "attribution itself; a random word is not.": lambda drops, a: (
                drops[a.argmax()] - drops[a.argmin()]
            ),
            "You compare with the mean of the *other* words only. A random word may also be the "
            "chosen one: take the mean of all.": lambda drops, a: (
                (drops[a.argmax()] - drops.mean()) * len(drops) / (len(drops) - 1)
            ),
            "The sign is turned round.": lambda drops, a: drops.mean() - drops[a.argmax()],
            "You divide; a difference of drops is asked for.": lambda drops, a: (
                drops[a.argmax()] / drops.mean()
            ),
        },
        otherwise="On random numbers it is not the drop of the most attributed word minus the "
        "mean drop.",
    )
    return "0 is no better than pointing at a word with closed eyes, and below 0 is worse."
