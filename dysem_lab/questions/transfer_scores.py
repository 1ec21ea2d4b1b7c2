"""Transfer tasks: how well a logistic regression on sentence vectors tells opinions, topics, types.

Seven tasks of SentEval (MR, CR, SUBJ, MPQA, SST2, TREC, MRPC), as in Contrastive Prompting (CP),
arXiv 2505.12831, Table 6, and two small ones of our own that need no download. Over 400 lines, as
the protocol stands beside the code that follows it.

The protocol is SentEval's (arXiv 1803.05449, released code) with ``usepytorch=False``:

- Texts are encoded as they are: no standardisation of the vectors. A pair (MRPC) of vectors u and v
  becomes the features |u - v| and u * v.
- C, the inverse of the L2 penalty, is chosen by accuracy rounded to 0.01 %; the smallest of equals.
- MR, CR, SUBJ, MPQA: ten outer folds, each scored by a classifier that is trained on the other
  nine, where C of 2^-2 … 2^3 is chosen by ten inner folds.
- TREC, MRPC: C of 2^-1 … 2^5 is chosen by ten folds of train; scored on test.
- SST2: C of 2^-2 … 2^3 is chosen on dev; trained on train alone, scored on test.
- Folds are stratified and shuffled with seed 1111, in SentEval's order of the texts: by the number
  of words, then by label.

Where it differs from SentEval:

- The classifier is today's `sklearn.linear_model.LogisticRegression`: softmax over the classes, no
  penalty on the intercept. The scikit-learn of SentEval's time fitted one classifier per class and
  penalised the intercept; its shuffled folds were others, too.
- It is fitted by Newton's method, not by lbfgs: the problem has one solution, and on vectors that
  are not standardised lbfgs needs hundreds of steps where Newton needs five (measured on 8,100
  vectors of width 576: 28 s and 2 s for the six C). Each C starts from the solution of the one
  before.
- Blank texts of CR and MPQA are left out, with a warning; SentEval encodes them.
- The accuracy of the ten-fold tasks is that of all predictions together; SentEval's is the mean
  over the folds, which are of nearly equal size.
- The published numbers of CP, and of PromptEOL and SimCSE before it, were made with
  ``usepytorch=True``: a logistic regression that is trained by Adam and stopped early, with a
  weight decay of 10^-5 … 10^-2 in place of C. Compare with them with care.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from scipy.linalg import LinAlgWarning
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.model_selection import StratifiedKFold
from torch import Tensor
from tqdm.auto import tqdm

from dysem_lab.bootstrap import LEVEL, MANY, two_sided
from dysem_lab.data.transfer_data import TransferData
from dysem_lab.display import amount
from dysem_lab.errors import InputError, choices
from dysem_lab.evaluate import wilson_interval
from dysem_lab.inputs import at_least, seed_of
from dysem_lab.questions.scores import with_holm

AVERAGE = "Avg."
OUTER_FOLDS = 10
FOLD_SEED = 1111  # SentEval's, of all folds
# What is trained and what is scored follows from the splits that there are.
CROSS_VALIDATED, WITH_TEST, WITH_DEV = ("all",), ("train", "test"), ("train", "dev", "test")
REGS = {
    CROSS_VALIDATED: 2.0 ** np.arange(-2, 4),
    WITH_TEST: 2.0 ** np.arange(-1, 6),
    WITH_DEV: 2.0 ** np.arange(-2, 4),
}
# Newton's steps at full precision, by Cholesky decomposition, cost the square of the width.
CHOLESKY_WIDTH = 2048
TOLERANCE, MAX_ITERATIONS = 1e-5, 1000  # scikit-learn's 1e-4 cannot tell C = 4 from C = 8

Encoder = Callable[[list[str]], object]
Part = tuple[  # what to train on, and what to score
    Float[np.ndarray, "n f"], Int[np.ndarray, " n"], Float[np.ndarray, "m f"], Int[np.ndarray, " m"]
]
Fold = tuple[Int[np.ndarray, " train"], Int[np.ndarray, " rest"]]


def transfer_scores(
    encode: Encoder,
    data: TransferData | Iterable[TransferData],
    *,
    sample: int | None = None,
    seed: int = 0,
    inner_folds: int = 10,
    progress: bool = True,
) -> pd.DataFrame:
    """Score one method of encoding texts on transfer tasks, by SentEval's protocol (see above).

    Args:
        encode: n texts → vectors ``[n, d]``, or what numpy takes for them, such as
            ``ContrastivePrompting(lens).encode``,
            ``lambda texts: capture(lens, wrap(texts), "final")["final"]``, or
            ``lambda texts: dysem.encode(texts).masked()``. Called once per task, with each
            different text once.
        data: One task or several, from `load_transfer`.
        sample: Stratified random sample of so many items of each split; None is all.
        seed: Of the sample.
        inner_folds: Folds that choose C where there is no dev split: 10 is SentEval's; 3 takes a
            third of the time.
        progress: Show a progress bar.

    Returns:
        One row per task with ``task``, ``accuracy`` (× 100), ``low``, ``high`` (its 95 % Wilson
        interval over the scored texts, for the classifiers and folds as they are), ``f1`` (× 100,
        of class 1; pairs only), ``majority`` (accuracy × 100 of always answering the most frequent
        class of those scored), ``n_train`` (items that a classifier is trained on), ``n_test``
        (items scored; all of them where cross-validated), ``n_texts`` (items used), ``n_all``
        (items that the task has), ``sample``, ``seed`` (missing where nothing was left out),
        ``n_blank``, ``n_classes``, ``n_dims`` (width d of the vectors), ``C`` (the one chosen most
        often), ``Cs`` (the choice of each outer fold, joined by "/"), ``inner_folds`` (missing
        where C is chosen on dev), ``n_unconverged`` (fits, of all, that scikit-learn gave a warning
        about: no convergence, or a change of the solver).

    Raises:
        InputError: Vectors of a wrong shape or not finite (the message names the text), too few
            texts of a class, splits that have no protocol, something that is no task, or an
            `encode` that cannot be called.

    Warns:
        UserWarning: A class has fewer texts than there are folds.

    Source: CP (arXiv 2505.12831), Table 6; SentEval (arXiv 1803.05449), Section 3.
    """
    sets, seed = tasks_of(data), seed_of(seed)
    _require_callable(encode, "encode")
    return pd.DataFrame(
        _row(one, _outcome(encode, one.sample(sample, seed), inner_folds, progress), seed)
        for one in sets
    ).astype({"sample": "Int64", "seed": "Int64", "inner_folds": "Int64"})


def compare_encoders(
    encoders: Mapping[str, Encoder],
    data: TransferData | Iterable[TransferData],
    *,
    sample: int | None = None,
    seed: int = 0,
    inner_folds: int = 10,
    n_resamples: int = MANY,
    progress: bool = True,
) -> pd.DataFrame:
    """Score several methods on the same texts and folds, each against the first one.

    Args:
        encoders: Method → encode, as for `transfer_scores`.
        data: As there, like `sample`, `inner_folds` and `progress`.
        sample: As there.
        seed: Of the sample and of the bootstrap.
        inner_folds: As there.
        n_resamples: Number of bootstrap resamples; no p is below its inverse.
        progress: As there.

    Returns:
        One row per task and method: ``method``, the columns of `transfer_scores`, and
        ``difference`` (accuracy × 100 minus that of the first method) with ``difference_low`` and
        ``difference_high``, a 95 % paired bootstrap interval over the scored texts, and
        ``difference_p``; missing for the first method. ``difference_p_holm`` is corrected for all
        ``n_compared`` of the table. With several tasks, a last block has the task "Avg.": the plain
        mean of their accuracies, with an interval from those of the tasks (square roots of the
        summed squares of their halves) and the mean difference, whose p are corrected by
        themselves.

    Raises:
        InputError: As for `transfer_scores`, or no encoders.
    """
    if not isinstance(encoders, Mapping):
        raise InputError(f"encoders must be such as {{'mine': encode}}, got {encoders!r:.80}")
    if not encoders:
        raise InputError("encoders is empty; give at least one method, such as {'mine': encode}")
    for name, encode in encoders.items():
        _require_callable(encode, f"encoders[{name!r}]")
    sets, seed = tasks_of(data), seed_of(seed)
    n_resamples = at_least(n_resamples, 1, "n_resamples")
    rows: list[dict[str, object]] = []
    draws: list[np.ndarray] = []  # [task][method, resample] of differences
    for i, one in enumerate(sets):
        part = one.sample(sample, seed)
        outcomes = [_outcome(encode, part, inner_folds, progress) for encode in encoders.values()]
        resampled = [
            _differences(o.correct, outcomes[0].correct, n_resamples, [seed, i]) for o in outcomes
        ]
        draws.append(np.stack(resampled))
        for j, (method, outcome) in enumerate(zip(encoders, outcomes, strict=True)):
            difference = 100 * (outcome.correct.mean() - outcomes[0].correct.mean())
            interval = _against_first(j, difference, resampled[j])
            rows.append({"method": method, **_row(one, outcome, seed), **interval})
    table = pd.DataFrame(rows)
    if len(sets) > 1:
        averages = []
        for j, (method, mean) in enumerate(zip(encoders, np.mean(draws, axis=0), strict=True)):
            part_of = table[table["method"] == method]
            interval = _against_first(j, part_of["difference"].mean(), mean)
            averages.append({"method": method, **_average(part_of), **interval})
        table = pd.concat([table, pd.DataFrame(averages)], ignore_index=True)
    counts = ("n_train", "n_classes", "sample", "seed", "inner_folds")
    return with_holm(table.astype(dict.fromkeys(counts, "Int64")), "difference")


def tasks_of(data: TransferData | Iterable[TransferData]) -> list[TransferData]:
    """Return tasks as a list; what are none, or not different ones, is an `InputError`."""
    given = [data] if isinstance(data, TransferData) or not isinstance(data, Iterable) else data
    tasks: dict[str, TransferData] = {}
    for one in given:
        if not isinstance(one, TransferData):
            raise InputError(f"data must be tasks from load_transfer, got {one!r:.80}")
        if one.task in tasks:
            raise InputError(f"task {one.task!r} occurs twice; give each task once")
        tasks[one.task] = one
    if not tasks:
        raise InputError("data is empty; give at least one task, from load_transfer")
    return list(tasks.values())


def _require_callable(encode: object, what: str) -> None:
    if not callable(encode):
        remedy = f"; give its method {what}.encode" if hasattr(encode, "encode") else ""
        raise InputError(f"{what} must be a function of texts, got {encode!r:.80}{remedy}")


@dataclass(frozen=True)
class _Outcome:
    """What the classifiers of one method answered on one task.

    Attributes:
        data: The items that were used.
        labels: True classes of the scored items ``[n]``.
        answers: The classifiers' answers ``[n]``.
        regs: C of each classifier that answered.
        n_train: Items that a classifier was trained on.
        n_dims: Width of the vectors.
        inner_folds: Folds that chose C; None where it was dev.
        n_unconverged: Fits with a warning.
    """

    data: TransferData
    labels: Int[np.ndarray, " n"]
    answers: Int[np.ndarray, " n"]
    regs: list[float]
    n_train: int
    n_dims: int
    inner_folds: int | None
    n_unconverged: int

    @property
    def correct(self) -> Bool[np.ndarray, " n"]:
        """Whether each item got its own class."""
        return self.answers == self.labels


def _row(data: TransferData, outcome: _Outcome, seed: int) -> dict[str, object]:
    """Return a row of a table of results; `data` is the whole task."""
    n_test, n_correct = len(outcome.labels), int(outcome.correct.sum())
    low, high = (100 * end for end in wilson_interval(n_correct, n_test))
    sampled = len(outcome.data) < len(data)
    regs = pd.Series(outcome.regs)
    return {
        "task": data.task,
        "accuracy": 100 * n_correct / n_test,
        "low": low,
        "high": high,
        "f1": 100 * f1_score(outcome.labels, outcome.answers, zero_division=0)
        if data.is_pairs
        else np.nan,
        "majority": 100 * np.bincount(outcome.labels).max() / n_test,
        "n_train": outcome.n_train,
        "n_test": n_test,
        "n_texts": len(outcome.data),
        "n_all": len(data),
        "sample": max(map(len, outcome.data.labels.values())) if sampled else None,
        "seed": seed if sampled else None,
        "n_blank": data.n_blank,
        "n_classes": len(data.classes),
        "n_dims": outcome.n_dims,
        "C": float(regs.mode().min()),
        "Cs": "/".join(f"{reg:g}" for reg in regs),
        "inner_folds": outcome.inner_folds,
        "n_unconverged": outcome.n_unconverged,
    }


def _average(rows: pd.DataFrame) -> dict[str, object]:
    """Return the mean of one method's tasks; what differs between them is left blank."""
    mean = rows["accuracy"].mean()
    below, above = (
        float(np.sqrt(((rows[bound] - rows["accuracy"]) ** 2).sum()) / len(rows))
        for bound in ("low", "high")
    )
    sums = ("n_test", "n_texts", "n_all", "n_blank", "n_unconverged")
    widths = rows["n_dims"].unique()
    return {
        "task": AVERAGE,
        "accuracy": mean,
        "low": mean - below,
        "high": mean + above,
        "majority": rows["majority"].mean(),
        "Cs": "",
        "n_dims": widths[0] if len(widths) == 1 else np.nan,
        **{name: int(rows[name].sum()) for name in sums},
    }


def _differences(
    correct: Bool[np.ndarray, " n"],
    reference: Bool[np.ndarray, " n"],
    n_resamples: int,
    seed: Sequence[int],
) -> Float[np.ndarray, " resample"]:
    """Return bootstrapped differences of accuracy × 100.

    A resample draws items with replacement; how many of them only the one, or only the other
    method gets right is multinomial, so it is drawn at once.
    """
    n = len(correct)
    won, lost = (correct & ~reference).sum() / n, (reference & ~correct).sum() / n
    counts = np.random.default_rng(seed).multinomial(n, [won, lost, 1 - won - lost], n_resamples)
    return 100 * (counts[:, 0] - counts[:, 1]) / n


def _against_first(
    position: int, difference: float, resampled: Float[np.ndarray, " resample"]
) -> dict[str, float]:
    """Return the columns of a difference: percentile interval, p; NaN for the first method."""
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    values = (difference, low, high, two_sided(resampled)) if position else (np.nan,) * 4
    names = ("difference", "difference_low", "difference_high", "difference_p")
    return {name: float(value) for name, value in zip(names, values, strict=True)}


def _outcome(encode: Encoder, data: TransferData, inner_folds: int, progress: bool) -> _Outcome:
    """Encode the texts of one task and let classifiers answer."""
    inner_folds = at_least(inner_folds, 2, "inner_folds")
    if data.splits not in REGS:
        raise choices(f"splits of {data.task}", data.splits, REGS)
    _check_classes(data, inner_folds)
    data = _in_senteval_order(data)
    features = _features(encode, data)
    train, last = data.splits[0], data.splits[-1]
    x, y, regs = features[train], data.labels[train], REGS[data.splits]
    has_dev = data.splits == WITH_DEV
    outer: Sequence[tuple[Any, Any]] = [(slice(None), slice(None))]  # all of train, all of the last
    if data.splits == CROSS_VALIDATED:
        outer = _folds(y, OUTER_FOLDS, data.task)
    answers, chosen, n_train = np.empty_like(data.labels[last]), [], []
    n_fits = len(outer) * (len(regs) * (1 if has_dev else inner_folds) + 1)
    named = {"desc": f"{data.task}: classifiers", "unit": "fit", "leave": False}
    with tqdm(total=n_fits, disable=not progress, **named) as bar:
        fits = _Fits(bar)
        for training, scored in outer:
            x_training, y_training = x[training], y[training]
            if has_dev:
                parts = iter([(x, y, features["dev"], data.labels["dev"])])
            else:
                inner = _folds(y_training, inner_folds, data.task)
                parts = _parts(x_training, y_training, inner)
            chosen.append(fits.best(parts, regs))
            x_scored = features[last][scored]
            answers[scored] = fits.answer(x_training, y_training, x_scored, chosen[-1])
            n_train.append(len(y_training))
    return _Outcome(
        data,
        data.labels[last],
        answers,
        chosen,
        min(n_train),
        x.shape[1] // (2 if data.is_pairs else 1),
        None if has_dev else inner_folds,
        fits.n_unconverged,
    )


def _check_classes(data: TransferData, inner_folds: int) -> None:
    """Raise or warn where the training texts are too few for the folds."""
    split = data.splits[0]
    counts = np.bincount(data.labels[split], minlength=len(data.classes))
    smallest = data.classes[int(counts.argmin())]
    # Three are what is left over by two nested folds that take one each.
    if counts.min() < 3:
        raise InputError(
            f"{data.task}: class {smallest!r} has {amount(counts.min(), 'text')} of "
            f"{counts.sum()} to train on, and needs 3; give a larger sample"
        )
    folds = 0 if data.splits == WITH_DEV else inner_folds
    folds = max(folds, OUTER_FOLDS) if data.splits == CROSS_VALIDATED else folds
    if counts.min() < folds:
        warnings.warn(
            f"{data.task}: class {smallest!r} has {amount(counts.min(), 'text')} to train on, "
            f"fewer than the {folds} folds, so some folds are without it; give a larger sample",
            stacklevel=4,
        )


def _in_senteval_order(data: TransferData) -> TransferData:
    """Return the items of each split by number of words, then by label, as SentEval sorts them."""
    order = {}
    for split, columns in data.texts.items():
        lengths = [np.array([len(text.split()) for text in texts]) for texts in columns]
        order[split] = np.lexsort([data.labels[split], *lengths[::-1]])
    return replace(
        data,
        texts={
            split: tuple([texts[i] for i in order[split]] for texts in columns)
            for split, columns in data.texts.items()
        },
        labels={split: labels[order[split]] for split, labels in data.labels.items()},
    )


def _features(encode: Encoder, data: TransferData) -> dict[str, Float[np.ndarray, "n f"]]:
    """Return split → features of its items: the vector, or |u - v| and u * v of a pair."""
    unique = list(dict.fromkeys(chain(*chain(*data.texts.values()))))
    vectors = _vectors(encode(unique), unique)
    place = {text: i for i, text in enumerate(unique)}
    features = {}
    for split, columns in data.texts.items():
        parts = [vectors[[place[text] for text in texts]] for texts in columns]
        if len(parts) == 2:
            u, v = parts
            parts = [np.concatenate([np.abs(u - v), u * v], axis=1)]
        features[split] = parts[0]
    return features


def _vectors(encoded: object, texts: Sequence[str]) -> Float[np.ndarray, "n d"]:
    """Return what an encoder gave as float64 vectors, once it is known to be sound."""
    if isinstance(encoded, Tensor):
        encoded = encoded.detach().float().cpu().numpy()
    try:
        vectors = np.asarray(encoded)
        if vectors.dtype.kind not in "bfiu":
            raise TypeError(f"{vectors.dtype} is no real number")
        vectors = vectors.astype(np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"encode must give one vector of real numbers per text, got {type(encoded).__name__}: "
            f"{error}"
        ) from error
    if vectors.ndim != 2 or len(vectors) != len(texts) or vectors.shape[1] == 0:
        raise InputError(
            f"encode gave shape {vectors.shape} for {len(texts)} texts; it must give one vector "
            f"per text, [{len(texts)}, d]"
        )
    bad = ~np.isfinite(vectors).all(axis=1)
    if bad.any():
        i = int(bad.argmax())
        raise InputError(
            f"the vector of text {i} of {len(texts)}, {texts[i][:60]!r}, has a NaN or infinite "
            "value; capture in float32 or bfloat16 if float16 overflowed"
        )
    return vectors


def _folds(labels: Int[np.ndarray, " n"], n_folds: int, task: str) -> list[Fold]:
    """Return the positions to train on and those left over, for each of SentEval's folds."""
    largest = int(np.bincount(labels).max())
    if largest < n_folds:
        raise InputError(
            f"{task}: {n_folds} folds need a class of at least {n_folds} texts, the largest has "
            f"{largest}; give a larger sample or fewer inner_folds"
        )
    splitter = StratifiedKFold(n_folds, shuffle=True, random_state=FOLD_SEED)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class")  # said once by us
        return list(splitter.split(np.zeros(len(labels)), labels))


def _parts(
    x: Float[np.ndarray, "n f"], y: Int[np.ndarray, " n"], folds: Sequence[Fold]
) -> Iterator[Part]:
    """Yield features and labels of each fold, one at a time to spare memory."""
    for training, rest in folds:
        yield x[training], y[training], x[rest], y[rest]


@dataclass
class _Fits:
    """Fits classifiers, counting those that scikit-learn warns about, with a progress bar."""

    bar: tqdm
    n_unconverged: int = 0

    def best(self, parts: Iterator[Part], regs: Float[np.ndarray, " reg"]) -> float:
        """Return the C with the best mean accuracy over the parts, the smallest of equals."""
        accuracies = []
        for x, y, x_rest, y_rest in parts:
            classifier = _classifier(x, y)
            accuracies.append(
                [self._fit(classifier, reg, x, y).score(x_rest, y_rest) for reg in regs]
            )
        return float(regs[np.round(100 * np.mean(accuracies, axis=0), 2).argmax()])

    def answer(
        self,
        x: Float[np.ndarray, "n f"],
        y: Int[np.ndarray, " n"],
        x_scored: Float[np.ndarray, "scored f"],
        reg: float,
    ) -> Int[np.ndarray, " scored"]:
        """Return the answers of a classifier that is trained with one C."""
        return self._fit(_classifier(x, y), reg, x, y).predict(x_scored)

    def _fit(
        self, classifier: LogisticRegression, reg: float, x: np.ndarray, y: np.ndarray
    ) -> LogisticRegression:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            classifier.set_params(C=reg).fit(x, y)
        counted = [issubclass(one.category, ConvergenceWarning | LinAlgWarning) for one in caught]
        self.n_unconverged += any(counted)
        for one, is_counted in zip(caught, counted, strict=True):
            if not is_counted:
                warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
        self.bar.update()
        return classifier


def _classifier(x: Float[np.ndarray, "n f"], y: Int[np.ndarray, " n"]) -> LogisticRegression:
    """Return an unfitted classifier that starts from where its last fit ended."""
    n, width = x.shape
    two = len(np.unique(y)) == 2
    return LogisticRegression(
        solver="newton-cholesky" if two and width <= min(n, CHOLESKY_WIDTH) else "newton-cg",
        tol=TOLERANCE,
        max_iter=MAX_ITERATIONS,
        warm_start=True,
    )
