"""Runs the passes of `dysem_lab.questions.faithfulness`: words scored, and words taken away.

What was measured of a pair is appended to a file of the cache, so an interrupted run goes on.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dysem_lab.attribution import kept_words, one_sided, removal_counts
from dysem_lab.data.fit_texts import FitTexts
from dysem_lab.display import Progress
from dysem_lab.encoders.base import View
from dysem_lab.encoders.dysem import DySem
from dysem_lab.encoders.vectors import SemanticVectors
from dysem_lab.joint import joint_cosine, joint_set
from dysem_lab.models.capture import capture
from dysem_lab.models.gradients import Objective, Path, embedding_gradients, midpoints
from dysem_lab.models.last_token import Prefix, prefixes, record_edits
from dysem_lab.models.record import activations
from dysem_lab.models.text_tokens import text_tokens
from dysem_lab.models.unread import TextMeans, Unread, text_means
from dysem_lab.prompts import Prompt, wrap
from dysem_lab.questions.ledger import Ledger
from dysem_lab.questions.reference import Reference, reference
from dysem_lab.questions.splits import split_texts

FORMAT = "1"  # of the file
TOGETHER = 16  # pairs whose passes are batched
SUM, GRADIENT, INTEGRATED = "exact sum", "gradient × input", "integrated gradients"
JACOBIAN, ROLLOUT, LEFT_OUT = "integrated Jacobian", "rollout", "leave-one-out"
RANDOM = "random"
METHODS = (SUM, GRADIENT, INTEGRATED, JACOBIAN, ROLLOUT, LEFT_OUT)
TEXT, READING = "text", "reading"  # where a word is removed from
REMOVALS = (TEXT, READING)
FROZEN, ANEW = "frozen", "anew"  # U
SETS = (FROZEN, ANEW)


class Plan(NamedTuple):
    """What is asked of every pair.

    Attributes:
        n_points: Into how many equal steps the removal of all words is divided.
        n_random: Random orders of each text.
        steps: Of the integrals.
        integrated: Positions of the pairs that have integrated gradients.
        jacobian: Positions of those that have the Jacobian's too.
        seed: Of the random orders.
    """

    n_points: int
    n_random: int
    steps: int
    integrated: frozenset[int]
    jacobian: frozenset[int]
    seed: int

    def asks(self, method: str, n_pairs: int) -> frozenset[int]:
        """Return the positions of the pairs that a method is asked for."""
        some = {INTEGRATED: self.integrated, JACOBIAN: self.jacobian}
        return some.get(method, frozenset(range(n_pairs)))

    @property
    def fractions(self) -> list[float]:
        """Of the words that are removed, from 0 to 1."""
        return [point / self.n_points for point in range(self.n_points + 1)]

    def counts(self, n_words: int) -> list[int]:
        """Return how many words are removed at each fraction."""
        return removal_counts(n_words, self.fractions)

    def random_orders(self, words: Sequence[str]) -> Float[np.ndarray, "orders words"]:
        """Return scores in random orders, the same of a text in any run."""
        text = hashlib.sha256(" ".join(words).encode()).digest()
        rng = np.random.default_rng([self.seed, *text])
        return rng.random((self.n_random, len(words)))


@dataclass
class Pair:
    """What was measured of a pair.

    Attributes:
        words: Of the text whose words are removed, as the prompt has it.
        scores: Method → what it gives each word.
        similarity: Removal → kept words, as a string of 0 and 1 → similarity with U frozen, and
            with U selected anew.
    """

    words: list[str]
    scores: dict[str, list[float]] = field(default_factory=dict)
    similarity: dict[str, dict[str, list[float]]] = field(
        default_factory=lambda: {removal: {} for removal in REMOVALS}
    )

    def add(self, found: Mapping[str, Mapping[str, Any]]) -> None:
        """Add what was measured."""
        self.scores |= found.get("scores", {})
        for removal, known in found.get("similarity", {}).items():
            self.similarity[removal] |= known

    def curve(
        self,
        removal: str,
        sets: str,
        scores: Float[np.ndarray, " words"],
        counts: Sequence[int],
        *,
        inserted: bool = False,
    ) -> Float[np.ndarray, " counts"]:
        """Return the similarity without the first words of an order, or with these alone."""
        known, column = self.similarity[removal], SETS.index(sets)
        kept = kept_words(scores, counts)
        return np.array([known[bits(row)][column] for row in (~kept if inserted else kept)])


def bits(kept: Iterable[bool]) -> str:
    """Return which words are left as a string."""
    return "".join("1" if one else "0" for one in kept)


class Removals:
    """Pairs of texts under an encoder, measured and remembered.

    Args:
        encoder: DySem in one language, without a contrast.
        first: The texts whose words are removed.
        second: The texts that they are compared with.
        corpus: What vectors and parts are centred on, and whose means stand for what is removed.
        plan: What is asked.
        progress: Told of every pair.
    """

    def __init__(
        self,
        encoder: DySem,
        first: Sequence[str],
        second: Sequence[str],
        corpus: FitTexts,
        plan: Plan,
        progress: Progress,
    ) -> None:
        """Read what is known of the pairs; nothing is run."""
        self.encoder, self.lens, self.plan, self._progress = encoder, encoder.lens, plan, progress
        self.lens.check_own_pass()
        (code,) = encoder.languages
        self.code = code
        # The texts as their prompts have them: with a full stop, and one space between words.
        self.words = [prompt[prompt.start : prompt.stop].split() for prompt in self._wrapped(first)]
        self.prompts = self._wrapped([" ".join(words) for words in self.words])
        self.other_prompts = self._wrapped(second)
        self._corpus = corpus
        about = [encoder.config, self.lens.fingerprint, str(self.lens.dtype), corpus.digest]
        self._ledger = Ledger([FORMAT, *about, plan.steps])
        self._names = [f"{x}\x1e{y}" for x, y in zip(self.prompts, self.other_prompts, strict=True)]
        self.pairs = [Pair(of) for of in self.words]
        for name, pair in zip(self._names, self.pairs, strict=True):
            for found in self._ledger[name]:
                pair.add(found)

    def measure(self) -> list[Pair]:
        """Return the pairs with all that the plan asks, in their order."""
        n = len(self.pairs)
        for start in range(0, n, TOGETHER):
            some = range(start, min(start + TOGETHER, n))
            self._score(some)
            self._remove(some)
            self._progress(some.stop, n, "pairs")
        return self.pairs

    # --- scores of words

    def _score(self, some: range) -> None:
        """Add what the methods give the words of some pairs."""
        for method, score_all in ((SUM, self._parts), (ROLLOUT, self._rollout)):
            left = [i for i in some if method not in self.pairs[i].scores]
            for i, tokens in zip(left, score_all(left) if left else (), strict=True):
                self._keep(i, method, tokens)
        alone = {GRADIENT: self._gradient, INTEGRATED: self._integrated, JACOBIAN: self._jacobian}
        for method, score in alone.items():
            for i in set(some) & self.plan.asks(method, len(self.pairs)):
                if method not in self.pairs[i].scores:
                    self._keep(i, method, score(i))

    def objective(self, i: int) -> Objective:
        """Return the similarity of a pair on its own U, as a function of x's vector."""
        U, mean = joint_set(self.x.sets[i], self.y.sets[i]), self.reference.mean
        y = (self.y.vectors[i] - mean)[U]

        def similarity(vectors: Float[Tensor, "rows d"]) -> Float[Tensor, " rows"]:
            return torch.nn.functional.cosine_similarity((vectors - mean)[:, U], y, dim=-1)

        return similarity

    def _parts(self, some: Sequence[int]) -> Iterable[Float[Tensor, " tokens"]]:
        """Return what each token adds to the centred similarity: `dysem_lab.explain` by token."""
        view = View(self.code, [self.prompts[i] for i in some], None, 1.0)
        texts = split_texts(self.encoder, [view], "token").texts
        found = []
        for i, text in zip(some, texts, strict=True):
            mean, of_corpus = self.reference.mean, self.reference.split
            assert of_corpus is not None  # as it is by token
            x, y = self.x.vectors[i] - mean, self.y.vectors[i] - mean
            U = joint_set(self.x.sets[i], self.y.sets[i])
            added = one_sided(text.vectors - of_corpus.expected(text), x, y, U)
            tokens = [row for row, label in enumerate(text.labels) if label.position is not None]
            found.append(added[tokens])
        return found

    def _rollout(self, some: Sequence[int]) -> Iterable[Float[Tensor, " tokens"]]:
        """Return how much of each token flows to the last one, as attention and residual say.

        Source: Abnar and Zuidema (arXiv 2005.00928): the product over blocks of half the mean
        pattern of the heads and half the identity.
        """
        points = [f"blocks.{block}.attn.hook_pattern" for block in range(self.lens.n_layers)]
        found = activations(self.lens, [self.prompts[i] for i in some], points)
        last = found.mask.sum(1) - 1
        flow = torch.nn.functional.one_hot(last, found.mask.shape[1]).float()  # [batch, token]
        for point in reversed(points):
            pattern = found.seen[point].float().mean(1)
            flow = (flow + torch.einsum("bq,bqk->bk", flow, pattern)) / 2
        return list(flow.double().cpu())

    def _path(
        self, prompt: Prompt, of: Objective, points: Float[Tensor, " points"]
    ) -> tuple[Path, Float[Tensor, " tokens"]]:
        """Return a way to a text's embeddings, and its mean gradient times their difference."""
        text, baseline = text_tokens(self.lens, prompt).text, self.means.embedding
        place = self.encoder.place
        path = embedding_gradients(self.lens, prompt, text, place, of, baseline, points)
        added = torch.zeros(text.stop, dtype=torch.float64)
        difference = path.inputs - baseline
        added[text.start :] = (difference.double() * path.gradients.double().mean(0)).sum(-1)
        return path, added

    def _gradient(self, i: int) -> Float[Tensor, " tokens"]:
        """Return gradient × input."""
        prompt = self.prompts[i]
        text = text_tokens(self.lens, prompt).text
        path, _ = self._path(prompt, self.objective(i), torch.ones(1))
        added = torch.zeros(text.stop, dtype=torch.float64)
        added[text.start :] = (path.inputs.double() * path.gradients[0].double()).sum(-1)
        return added

    def _integrated(self, i: int) -> Float[Tensor, " tokens"]:
        """Return integrated gradients of the similarity, from the corpus's mean embedding."""
        return self._path(self.prompts[i], self.objective(i), midpoints(self.plan.steps))[1]

    def _jacobian(self, i: int) -> Float[Tensor, " tokens"]:
        """Return what each token of x adds with all tokens of y, by the integrated Jacobians.

        That is (h_t − r) J_xᵀ [v(y) − v(r)], on U, with the mean Jacobian J_x on the way; the sum
        over y's tokens is known, so one vector-Jacobian product a step takes the place of d.

        Source: Moeller et al. (arXiv 2310.05703), Eq. 7.
        """
        U = joint_set(self.x.sets[i], self.y.sets[i])
        nothing, _ = self._path(self.other_prompts[i], lambda v: v.sum(-1), torch.zeros(1))
        y = (self.y.vectors[i] - nothing.vectors[0]) * U
        return self._path(self.prompts[i], lambda v: v @ y, midpoints(self.plan.steps))[1]

    # --- words taken away

    def _remove(self, some: range) -> None:
        """Add what is left of the similarity in every set of words that some pairs are asked for.

        Sets that several orders pass are run once.
        """
        for method in (None, LEFT_OUT):  # whose sets are known once single words have been removed
            texts = {i: self._sets(i, self.pairs[i].similarity[TEXT]) for i in some}
            self._without(texts)
            for i in some:
                if method is None and LEFT_OUT not in self.pairs[i].scores:
                    self._write(i, {"scores": {LEFT_OUT: self._left_out(i)}})
        for i in some:
            if left := self._sets(i, self.pairs[i].similarity[READING]):
                self._unread(i, left)

    def _sets(self, i: int, known: Iterable[str]) -> list[str]:
        """Return the sets of words that are asked for, without those that are known."""
        pair, n = self.pairs[i], len(self.words[i])
        counts = self.plan.counts(n)
        asked = [np.ones((1, n), dtype=bool), ~np.eye(n, dtype=bool)]
        for scores in pair.scores.values():
            kept = kept_words(np.array(scores), counts)
            asked += [kept, ~kept]
        asked += [kept_words(scores, counts) for scores in self.plan.random_orders(self.words[i])]
        found = dict.fromkeys(bits(row) for rows in asked for row in rows)
        return [one for one in found if one not in known]

    def _without(self, asked: Mapping[int, list[str]]) -> None:
        """Run the texts that are left, each once."""
        each = [(i, one) for i, left in asked.items() for one in left]
        if not each:
            return
        encoded = self._encoded([self._left(i, one) for i, one in each])
        found: dict[int, dict[str, list[float]]] = {}
        for row, (i, one) in enumerate(each):
            found.setdefault(i, {})[one] = self._similarities(i, encoded[row : row + 1])[0]
        for i, of_pair in found.items():
            self._write(i, {"similarity": {TEXT: of_pair}})

    def _left(self, i: int, kept: str) -> Prompt:
        """Return the prompt of the words that are left; without any, the template alone."""
        words = [word for word, one in zip(self.words[i], kept, strict=True) if one == "1"]
        return self._wrapped([" ".join(words)])[0] if words else self.prompts[i].shortened(0)

    def _unread(self, i: int, asked: list[str]) -> None:
        """Run the last token, from which words are hidden."""
        prompt = self.prompts[i]
        tokens = text_tokens(self.lens, prompt)
        (prefix,) = prefixes(self.lens, [prompt])
        hidden = torch.zeros(len(asked), prefix.ids.shape[1], dtype=torch.bool)
        for row, kept in enumerate(asked):
            for word, one in zip(tokens.words, kept, strict=True):
                hidden[row, word] = one == "0"
        edit = Unread(self.lens, hidden, hidden.sum(-1) / len(tokens.text), self.means.reading)
        rows: list[str] = [prompt] * len(asked)
        repeated = Prefix(
            list(range(len(rows))), rows, prefix.ids.expand(len(rows), -1), prefix.before
        )
        place = self.encoder.place
        read = record_edits(self.lens, repeated, {READING: edit}, [place])[READING].vectors[place]
        encoded = self._combined(rows, read)
        found = dict(zip(asked, self._similarities(i, encoded), strict=True))
        self._write(i, {"similarity": {READING: found}})

    def _left_out(self, i: int) -> list[float]:
        """Return what the similarity, on the text's own U, loses without each word."""
        known, n = self.pairs[i].similarity[TEXT], len(self.words[i])
        whole = known["1" * n][0]
        return [whole - known[bits(row)][0] for row in ~np.eye(n, dtype=bool)]

    def _similarities(self, i: int, encoded: SemanticVectors) -> list[list[float]]:
        """Return centred similarities with y: on U of the whole texts, and on U selected anew."""
        mean = self.reference.mean.double()
        y, Sy = self.y.vectors[i].double() - mean, self.y.sets[i]
        x = encoded.vectors.double() - mean
        both = []
        for Sx in (self.x.sets[i], encoded.sets):
            U = joint_set(Sx, Sy).expand(x.shape)
            both.append(joint_cosine(x, y.expand(x.shape), U))
        return torch.stack(both, 1).tolist()

    # --- passes and the file

    @cached_property
    def x(self) -> SemanticVectors:
        """The first texts as they are."""
        return self._encoded(self.prompts)

    @cached_property
    def y(self) -> SemanticVectors:
        """The second texts."""
        return self._encoded(self.other_prompts)

    @cached_property
    def reference(self) -> Reference:
        """The corpus in parts: μ, and E[p]."""
        return reference(self.encoder, self._corpus, "token", self.code, progress=self._progress)

    @cached_property
    def means(self) -> TextMeans:
        """What the tokens of the corpus's texts have in common."""
        prompts = self._wrapped(self._corpus.renderings[self.code])
        return text_means(self.lens, prompts, self._progress)

    def _wrapped(self, texts: Sequence[str]) -> list[Prompt]:
        return wrap(texts, self.encoder.template, self.encoder.setting, self.code)

    def _encoded(self, prompts: Sequence[Prompt]) -> SemanticVectors:
        name, blocks = self.encoder.place
        return self._combined(
            prompts, capture(self.lens, prompts, name, blocks, progress=False)[name]
        )

    def _combined(self, prompts: Sequence[str], read: Float[Tensor, "n d"]) -> SemanticVectors:
        return self.encoder.combined([View(self.code, prompts, None, 1.0)], read[None])

    def _keep(self, i: int, method: str, tokens: Float[Tensor, " tokens"]) -> None:
        """Add what a method gives the words of a pair: the sum over the tokens of each."""
        words = text_tokens(self.lens, self.prompts[i]).words
        self._write(i, {"scores": {method: [tokens[word].sum().item() for word in words]}})

    def _write(self, i: int, found: dict[str, dict[str, Any]]) -> None:
        """Add what was measured of a pair to it, and to the file."""
        self.pairs[i].add(found)
        self._ledger.add(self._names[i], found)
