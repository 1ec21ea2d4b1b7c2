"""Checks of lesson 3: one vector for a sentence, read from a prompt, compared with gold scores."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from checks.frame import Lesson, drawn, require, require_close, require_number, require_same
from checks.quiz3 import QUESTIONS
from dysem_lab import LensModel
from dysem_lab import spearman as reference

LESSON = Lesson(3, "Reading a sentence vector from a prompt", QUESTIONS)
check, hint, progress, quiz = LESSON.check, LESSON.hint, LESSON.progress, LESSON.quiz

SENTENCES = ("A cat sleeps.", "The train to the coast was two hours late yesterday.")


@LESSON.exercise(
    1,
    "A prompt that asks for one word",
    hints=(
        "The model predicts what comes next, at the last token. After which words would a person "
        "have to go on with one word for the sentence?",
        "Sentence first, question after it, and then the opening quotation mark of the answer.",
        'f\'This sentence : "{sentence}" means in one word:"\'',
    ),
)
def one_word(prompt_for: Callable[[str], str], lens: LensModel) -> str:
    """Test that the prompt holds the sentence and ends, for all sentences, at an open answer."""
    prompts = [prompt_for(sentence) for sentence in SENTENCES]
    for sentence, prompt in zip(SENTENCES, prompts, strict=True):
        require(isinstance(prompt, str), "The prompt must be a string.")
        require(
            "{sentence}" not in prompt,
            "The prompt holds the word {sentence} itself: put an f before the quotation mark.",
        )
        require(
            sentence.rstrip(".") in prompt, f"The sentence {sentence!r} is not in your {prompt!r}."
        )
        require(
            prompt.strip() != sentence,
            "This is the bare sentence. At its last token the model predicts how the text goes "
            "on, not what the sentence means.",
        )
        require(
            prompt == prompt.rstrip(),
            "The prompt ends in white space. It becomes a token (or part of one) that in normal "
            "text belongs to the next word, and the vector is read there.",
        )
        after = prompt.split(sentence.rstrip("."))[-1]
        require(
            len(after.strip(" .\"'")) >= 5,
            "The sentence stands at the end. A causal model reads from left to right: the "
            "question must come after the sentence, or the last token is a word of the sentence.",
        )
        require(
            after[-1] in "\"'“«:",
            f"The prompt ends in {after[-1]!r}. End it where the answer must begin: with a colon, "
            "or better with an opening quotation mark, so that the next token is the word.",
        )
    last = [lens.tokenizer(prompt)["input_ids"][-1] for prompt in prompts]
    require(
        last[0] == last[1],
        "The last token differs between sentences; then the vectors differ for this reason alone.",
    )
    return (
        f"Every prompt ends in the same token, {lens.tokenizer.decode(last[:1])!r}. What differs "
        "in its vector must have been moved there from the sentence."
    )


@LESSON.exercise(
    2,
    "Where is the last real token?",
    hints=(
        "The mask has a 1 for every real token. With padding on the right the last 1 is followed "
        "by 0s, with padding on the left it stands at the end.",
        "Multiply the mask with the positions 0, 1, 2, …: what is the largest value of a row?",
        "(mask * torch.arange(mask.shape[1])).argmax(dim=1)",
    ),
)
def last_real(last_token: Callable[[Tensor], Tensor]) -> str:
    """Test both sides of padding, a row without any, and one with a single token."""
    right = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]])
    left = right.flip(1)
    positions = last_token(right)
    require(
        not isinstance(positions, int),
        f"This is one number, {positions}, for all prompts; every prompt has a last token of its "
        "own, and only the longest ends at the end of its row.",
    )
    require_close(
        positions,
        torch.tensor([2, 4, 0]),
        "The positions for a mask of 3 prompts",
        shapes={
            (): "This is one number; every prompt has a last token of its own.",
            (5,): "This is one number per position: work along the other axis.",
            (3, 5): "This still has an axis of positions; an index per prompt is asked for.",
        },
        mistakes={
            "This is the last padded token, not the last real one: after the shorter prompts "
            "stands padding, and its vectors mean nothing.": torch.full((3,), 4),
            "This is the number of real tokens. Positions count from 0.": torch.tensor([3, 5, 1]),
            "This is the first real token.": torch.zeros(3),
            "-1 is the last position of the row, which is padding in a shorter prompt padded on "
            "the right.": torch.full((3,), -1),
            "This is the position of the first padding, one after the last real token.": (
                torch.tensor([3, 0, 1])
            ),
        },
        otherwise="With padding on the right the positions are 2, 4 and 0 for the masks "
        "11100, 11111 and 10000.",
    )
    require_close(
        last_token(left),
        torch.full((3,), 4),
        mistakes={
            "Counting the real tokens finds the last one only where padding is on the right. "
            "With padding on the left (00111) the last real token is at the end.": (
                torch.tensor([2, 4, 0])
            ),
        },
        otherwise="With padding on the left (00111, 11111, 00001) the last real token is always "
        "at position 4.",
    )
    examples = []
    for seed, (n, n_tokens) in enumerate(((6, 9), (4, 12), (5, 3))):
        lengths = (drawn(seed, (n,))[0].abs() * n_tokens / 2).long() % n_tokens + 1
        mask = (torch.arange(n_tokens) < lengths[:, None]).long()
        examples.append([mask if seed % 2 else mask.flip(1)])
    require_same(
        last_token,
        lambda mask: mask.shape[1] - 1 - mask.flip(1).argmax(1),
        examples,
        "The positions for a random mask",
        otherwise="In two examples it is right, but with other lengths it is not: is a number "
        "fixed in the text?",
    )
    return "This finds the last real token whichever side the padding is on."


@LESSON.exercise(
    3,
    "The contrast: mean pooling",
    hints=(
        "Set the vectors of padding to 0 before you add, and divide by the number of real tokens.",
        "mask[..., None] is [batch, pos, 1] and multiplies with [batch, pos, d].",
        "(hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)",
    ),
)
def mean_pooling(mean_vector: Callable[[Tensor, Tensor], Tensor]) -> str:
    """Test means that are known, and that padding has no influence."""
    hidden = torch.tensor([[[3.0, 30], [1, 10], [8, 80]], [[6.0, 60], [4, 40], [2, 20]]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    real = hidden * mask[..., None]
    found = require_close(
        mean_vector(hidden, mask),
        torch.tensor([[2.0, 20], [4, 40]]),
        "The means of 2 prompts with d = 2",
        shapes={
            (3, 2): "You averaged over the prompts of the batch, not over the tokens.",
            (2, 3): "You averaged over the dimensions, not over the tokens.",
            (2,): "You averaged over two axes; every prompt keeps a vector of width d.",
        },
        mistakes={
            "This is the mean over all positions: padding is counted like words.": hidden.mean(1),
            "Padding is left out of the sum, but you still divide by all positions.": real.mean(1),
            "This is the sum; divide it by the number of real tokens.": real.sum(1),
            "You divide by the real tokens of the whole batch, not of each prompt.": (
                real.sum(1) / mask.sum()
            ),
            "This is the last real token's vector, not the mean.": hidden[
                torch.arange(2), mask.sum(1) - 1
            ],
            "This is the largest value over the tokens, not the mean.": real.amax(1),
        },
        otherwise="The mean of (3, 30) and (1, 10), with a padded third token, is (2, 20).",
    )
    disturbed = hidden.masked_fill(mask[..., None] == 0, 1000.0)
    require_close(
        mean_vector(disturbed, mask), found, otherwise="The result depends on what padding holds."
    )
    examples = []
    for seed, (n, p, d) in enumerate(((3, 5, 4), (4, 6, 2))):
        random, lengths = drawn(seed, (n, p, d), (n,))
        real_tokens = lengths.abs().mul(p).long() % p + 1
        examples.append((random, (torch.arange(p) < real_tokens[:, None]).long()))
    require_same(
        mean_vector,
        lambda h, m: torch.stack([of[at.bool()].mean(0) for of, at in zip(h, m, strict=True)]),
        examples,
        "The means of random prompts",
        otherwise="In one example it is right, but on random vectors it is not the mean over the "
        "real tokens.",
    )
    return "Padding has no influence: the mean is over real tokens only."


@LESSON.exercise(
    4,
    "The angle between two vectors",
    hints=(
        "A cosine is a dot product of vectors that have been brought to length 1.",
        "Sum over the last axis only, so that each of the n pairs keeps its own number.",
        "(x * y).sum(-1) / (x.norm(dim=-1) * y.norm(dim=-1))",
    ),
)
def angle(cosine: Callable[[Tensor, Tensor], Tensor]) -> str:
    """Test known angles, the range, and that lengths do not count."""
    x = torch.tensor([[3.0, 4.0], [1.0, 0.0], [2.0, 0.0], [1.0, 1.0]])
    y = torch.tensor([[6.0, 8.0], [0.0, 5.0], [-4.0, 0.0], [1.0, 0.0]])
    dot = (x * y).sum(-1)
    found = require_close(
        cosine(x, y),
        torch.tensor([1.0, 0.0, -1.0, math.sqrt(0.5)]),
        "The cosines of 4 pairs",
        shapes={
            (4, 4): "This is every vector of x with every vector of y; the pairs (x_i, y_i) are "
            "its diagonal.",
            (2,): "You summed over the pairs, not over the dimensions.",
            (4, 2): "There is one number per dimension still: sum the products over d.",
            (): "This is one number for all pairs together; each pair has its own.",
        },
        mistakes={
            "This is the dot product: it grows with the length of the vectors. Divide by both "
            "lengths.": dot,
            "You divide by one length only.": dot / x.norm(dim=-1),
            "You divide by one length only (of y).": dot / y.norm(dim=-1),
            "You divide by the squared lengths.": dot / ((x**2).sum(-1) * (y**2).sum(-1)),
            "This is the distance 1 - cos; the similarity is the cosine itself.": (
                1 - dot / (x.norm(dim=-1) * y.norm(dim=-1))
            ),
            "You divide by the length of all vectors together, not of each.": (
                dot / (x.norm() * y.norm())
            ),
            "This is the angle; its cosine is asked for.": torch.tensor(
                [0.0, math.pi / 2, math.pi, math.pi / 4]
            ),
        },
        otherwise="Parallel vectors have cosine 1, vectors at a right angle 0, opposite ones -1.",
    )
    require_close(
        cosine(10 * x, 0.1 * y),
        found,
        otherwise="Longer vectors at the same angle must have the same cosine.",
    )
    require_same(
        cosine,
        lambda x, y: torch.cosine_similarity(x, y),
        [drawn(seed, (n, d), (n, d)) for seed, (n, d) in enumerate(((5, 7), (3, 4)))],
        "The cosines of random pairs",
        mistakes={
            "You subtract each vector's mean first: that is a correlation. The cosine takes the "
            "vectors as they are.": lambda x, y: torch.cosine_similarity(
                x - x.mean(-1, keepdim=True), y - y.mean(-1, keepdim=True)
            ),
        },
        otherwise="At these angles it is right, but on random vectors it is not the cosine.",
    )
    return "The cosine sees directions only: 1 parallel, 0 at a right angle, -1 opposite."


@LESSON.exercise(
    5,
    "Does the model order pairs as their gold scores do?",
    hints=(
        "Spearman's correlation is Pearson's correlation of the ranks.",
        "scipy.stats.rankdata gives ranks in which ties share their mean rank. "
        "numpy.corrcoef(a, b)[0, 1] is Pearson's correlation.",
        "100 * np.corrcoef(rankdata(similarity), rankdata(gold))[0, 1]",
    ),
)
def rank_correlation(spearman: Callable[[Tensor, Tensor], float]) -> str:
    """Test agreement, reversal, that only the order counts, and ties."""
    gold = torch.tensor([0.0, 1.0, 2.0, 3.0, 5.0])
    curved = gold.exp()
    value = require_number(spearman(curved, gold), "Spearman x 100")
    pearson = float(torch.corrcoef(torch.stack([curved, gold]))[0, 1])
    require_close(
        value,
        100.0,
        mistakes={
            "In this project scores are shown x 100; yours is between -1 and 1.": 1.0,
            "This is Pearson's correlation of the values. Similarities of the same order as the "
            "scores must give 100, also if they are curved: take ranks first.": 100 * pearson,
            "This is Pearson's correlation of the values: take ranks first (and x 100).": pearson,
        },
        otherwise=f"The same order must give 100; yours gives {value:.2f}.",
    )
    require_close(
        spearman(-gold, gold),
        -100.0,
        "Spearman x 100",
        mistakes={"The opposite order must give -100, not 100: keep the sign.": 100.0},
        otherwise="The opposite order must give -100.",
    )
    order, ratings = torch.tensor([0.3, 0.1, 0.5, 0.2, 0.4]), torch.tensor([2.0, 0, 5, 3, 1])
    require_close(
        spearman(order, ratings),
        60.0,
        "Spearman x 100",
        mistakes={
            "`argsort` lists which pair is first, second, … in order; it is not the rank of each "
            "pair.": 90.0,
        },
        otherwise="For the ranks 3 1 5 2 4 beside 3 1 5 4 2 it is 60.",
    )
    tied = torch.tensor([1.0, 1.0, 2.0, 2.0])
    value = require_number(spearman(tied, torch.tensor([1.0, 2.0, 3.0, 4.0])), "Spearman x 100")
    require(
        min(abs(value - of_places) for of_places in (100.0, 80.0, 60.0)) >= 1e-3,
        "Pairs with the same similarity got different ranks, by where they stand in the list. "
        "Ties share their mean rank (scipy.stats.rankdata does that).",
    )
    require_close(
        value,
        100 * math.sqrt(0.8),
        mistakes={
            "1 - 6 Σ D² / (n (n² - 1)) holds only where no ranks are tied. Take Pearson's "
            "correlation of the ranks.": 90.0,
        },
        otherwise="Ties must share their mean rank, and the result must be Pearson's correlation "
        "of the ranks.",
    )
    examples = []
    for seed, n in enumerate((8, 15, 30)):
        a, b = drawn(seed, (n,), (n,))
        examples.append((a.mul(2).round(), (a + b).mul(2).round()))  # with ties
    require_same(
        spearman,
        reference,
        examples,
        "Spearman x 100",
        otherwise="In small examples it is right, but on random lists with ties it is not the "
        "correlation of the ranks.",
    )
    return "Only the order counts: gold scores need no scale that a cosine would have to hit."
