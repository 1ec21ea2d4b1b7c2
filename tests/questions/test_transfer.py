"""Transfer tasks: their files, SentEval's protocol against naive loops, figures, the notebook."""

import hashlib
import json
import math
import warnings
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.model_selection import StratifiedKFold

from dysem_lab import paths
from dysem_lab.data import transfer_data as td
from dysem_lab.data.transfer_data import TransferData, available_tasks, load_transfer
from dysem_lab.encoders.vectors import SemanticVectors
from dysem_lab.errors import DataError, InputError
from dysem_lab.models.facts import ModelFacts
from dysem_lab.models.store import VectorStore
from dysem_lab.questions import transfer as tf
from dysem_lab.questions import transfer_scores as transfer
from dysem_lab.questions.finding import Finding
from dysem_lab.questions.transfer_scores import (
    compare_encoders,
    transfer_scores,
)

FACTS = ModelFacts("made/up-1b", "s", "f", "float32", "cpu", 3, 4, "Q8_0")
CV_REGS = [0.25, 0.5, 1, 2, 4, 8]
TEST_REGS = [0.5, 1, 2, 4, 8, 16, 32]


class Planted(dict):
    """An encoder whose vector of each text is known beforehand."""

    def __call__(self, texts):
        return np.array([self[text] for text in texts])


def text_of(i: int, name: str = "t") -> str:
    """Return a text of its own with one to seven words, so that SentEval's order is another."""
    return " ".join([f"{name}{i}", *["word"] * (i * 5 % 7)])


def made_up(sizes, n_classes=2, d=3, signal=1.0, pairs=False, seed=0, name="t"):
    """Return data and an encoder of vectors that differ by class, but not clearly."""
    rng = np.random.default_rng(seed)
    centres = signal * rng.normal(size=(n_classes, d))
    texts, labels, encode = {}, {}, Planted()
    for split, n in sizes.items():
        labels[split] = rng.permutation(np.arange(n) % n_classes)
        columns = []
        for _ in range(2 if pairs else 1):
            names = [text_of(len(encode) + i, name) for i in range(n)]
            rows = centres[labels[split]] + rng.normal(size=(n, d))
            encode.update(zip(names, rows, strict=True))
            columns.append(names)
        texts[split] = tuple(columns)
    return TransferData(name, "a test", tuple(map(str, range(n_classes))), texts, labels), encode


def naive_features(data, encode, split):
    """Return features and labels of a split in SentEval's order."""
    columns, labels = data.texts[split], data.labels[split]
    rows = [
        (*(len(text.split()) for text in item), label, i)
        for i, (*item, label) in enumerate(zip(*columns, labels, strict=True))
    ]
    order = [row[-1] for row in sorted(rows)]
    parts = [encode([texts[i] for i in order]) for texts in columns]
    if len(parts) == 2:
        parts = [np.hstack([abs(parts[0] - parts[1]), parts[0] * parts[1]])]
    return parts[0], labels[order]


def fitted(x, y, reg):
    # Another solver than the package's, to a much smaller tolerance.
    return LogisticRegression(C=reg, solver="lbfgs", tol=1e-8, max_iter=50_000).fit(x, y)


def naive_choice(x, y, regs, n_folds):
    folds = StratifiedKFold(n_folds, shuffle=True, random_state=1111)
    scores = []
    for reg in regs:
        found = [
            fitted(x[training], y[training], reg).score(x[rest], y[rest])
            for training, rest in folds.split(x, y)
        ]
        scores.append(round(100 * np.mean(found), 2))
    return regs[int(np.argmax(scores))]


def facts_of(row) -> list[float]:
    return [float(reg) for reg in row["Cs"].split("/")]


# --- the protocol, against naive loops ---------------------------------------------------------


@pytest.mark.parametrize(("n", "n_classes", "folds"), [(48, 2, 10), (45, 3, 3)])
def test_without_a_test_set_it_is_nested_cross_validation(n, n_classes, folds):
    data, encode = made_up({"all": n}, n_classes)
    row = transfer_scores(encode, data, inner_folds=folds, progress=False).iloc[0]
    x, y = naive_features(data, encode, "all")
    answers, chosen, n_train = np.empty_like(y), [], []
    outer = StratifiedKFold(10, shuffle=True, random_state=1111)
    for training, scored in outer.split(x, y):
        chosen.append(naive_choice(x[training], y[training], CV_REGS, folds))
        answers[scored] = fitted(x[training], y[training], chosen[-1]).predict(x[scored])
        n_train.append(len(training))
    assert facts_of(row) == chosen
    assert row["accuracy"] == pytest.approx(100 * (answers == y).mean())
    assert 0 < row["accuracy"] < 100
    counts = Counter(chosen)
    assert pytest.approx(min(counts, key=lambda reg: (-counts[reg], reg))) == row["C"]
    assert (row["n_train"], row["n_test"], row["n_texts"], row["n_all"]) == (min(n_train), n, n, n)
    assert (row["n_classes"], row["n_dims"], row["inner_folds"]) == (n_classes, 3, folds)
    assert row["n_unconverged"] == 0
    assert math.isnan(row["f1"])


@pytest.mark.parametrize(("n_classes", "pairs"), [(2, True), (3, False)])
def test_with_a_test_set_the_penalty_is_chosen_by_folds_of_train(n_classes, pairs):
    data, encode = made_up({"train": 60, "test": 40}, n_classes, pairs=pairs)
    row = transfer_scores(encode, data, progress=False).iloc[0]
    x, y = naive_features(data, encode, "train")
    x_test, y_test = naive_features(data, encode, "test")
    assert x.shape[1] == (6 if pairs else 3)
    reg = naive_choice(x, y, TEST_REGS, 10)
    answers = fitted(x, y, reg).predict(x_test)
    assert facts_of(row) == [reg]
    assert row["accuracy"] == pytest.approx(100 * accuracy_score(y_test, answers))
    assert (row["n_train"], row["n_test"], row["n_texts"]) == (60, 40, 100)
    assert row["n_dims"] == 3
    if pairs:
        assert row["f1"] == pytest.approx(100 * f1_score(y_test, answers))
    else:
        assert math.isnan(row["f1"])


def test_with_a_dev_set_the_penalty_is_chosen_on_it_and_it_is_not_trained_on():
    # Few training texts in many dimensions: there the penalty matters.
    data, encode = made_up({"train": 30, "dev": 40, "test": 50}, d=20, signal=0.4)
    row = transfer_scores(encode, data, progress=False).iloc[0]
    parts = {split: naive_features(data, encode, split) for split in data.splits}
    on_dev = [round(100 * fitted(*parts["train"], reg).score(*parts["dev"]), 2) for reg in CV_REGS]
    reg = CV_REGS[int(np.argmax(on_dev))]
    assert len(set(on_dev)) > 1
    assert facts_of(row) == [reg]
    assert row["accuracy"] == pytest.approx(
        100 * fitted(*parts["train"], reg).score(*parts["test"])
    )
    assert (row["n_train"], row["n_test"], row["n_texts"]) == (30, 50, 120)
    assert pd.isna(row["inner_folds"])


def test_of_equally_good_penalties_the_strongest_is_taken():
    data, encode = made_up({"train": 20, "dev": 20, "test": 20}, signal=30.0)
    row = transfer_scores(encode, data, progress=False).iloc[0]
    assert (row["accuracy"], row["C"]) == (100.0, 0.25)


def test_of_equally_frequent_choices_the_strongest_penalty_is_named():
    data, encode = made_up({"all": 30}, d=4, signal=0.5, seed=9)
    row = transfer_scores(encode, data, inner_folds=2, progress=False).iloc[0]
    counts = Counter(facts_of(row))
    most = [reg for reg, count in counts.items() if count == max(counts.values())]
    assert len(most) > 1
    assert row["C"] == min(most)


def test_pairs_are_ordered_by_the_first_text_then_the_second_then_the_label():
    first = ["a b", "c", "d", "e", "f g", "h"]
    second = ["1", "2 3", "4", "5", "6 7", "8"]
    labels = np.array([0, 0, 1, 0, 1, 0])
    splits = {split: [f"{split}{text}" for text in first] for split in ("train", "test")}
    many = {
        "train": ([f"{t} {i}" for i in range(5) for t in splits["train"]], second * 5),
        "test": (splits["test"], second),
    }
    data = TransferData(
        "pairs", "t", ("0", "1"), many, {"train": np.tile(labels, 5), "test": labels}
    )
    asked = []

    def encode(texts):
        asked.extend(texts)
        return np.eye(len(texts))

    transfer_scores(encode, data, inner_folds=5, progress=False)
    # The second texts of train come before those of test, which are the same.
    in_test = [text.removeprefix("test") for text in asked if text.startswith("test")]
    assert in_test == ["e", "h", "d", "c", "a b", "f g"]


def test_what_can_be_told_apart_gets_all_and_noise_gets_chance():
    for sizes in ({"all": 60}, {"train": 60, "test": 60}):
        data, encode = made_up(sizes, 3, signal=30.0)
        assert transfer_scores(encode, data, inner_folds=3, progress=False)["accuracy"][0] == 100
    data, encode = made_up({"all": 200}, signal=0.0)
    row = transfer_scores(encode, data, inner_folds=3, progress=False).iloc[0]
    assert row["low"] < 50 < row["high"]
    assert row["majority"] == 50.0


def test_wide_vectors_are_fitted_by_another_solver_to_the_same_answers():
    data, encode = made_up({"train": 40, "test": 60}, d=90, signal=0.3)
    row = transfer_scores(encode, data, progress=False).iloc[0]
    x, y = naive_features(data, encode, "train")
    expected = fitted(x, y, row["C"]).score(*naive_features(data, encode, "test"))
    assert row["accuracy"] == pytest.approx(100 * expected)
    solvers = {transfer._classifier(np.zeros((40, d)), y).solver for d in (39, 41)}
    assert solvers == {"newton-cholesky", "newton-cg"}


def test_vectors_are_not_standardised():
    # A faint dimension tells the classes apart, a strong one only in four of five texts. The
    # penalty forbids to use the faint one, unless its scale is taken away.
    data, _ = made_up({"train": 60, "test": 60})
    faint = {
        text: 2.0 * label - 1
        for split, (texts,) in data.texts.items()
        for text, label in zip(texts, data.labels[split], strict=True)
    }
    strong = {text: -sign if i % 5 == 0 else sign for i, (text, sign) in enumerate(faint.items())}
    scores = [
        transfer_scores(
            lambda texts, scale=scale: np.array([[scale * faint[t], strong[t]] for t in texts]),
            data,
            progress=False,
        )["accuracy"][0]
        for scale in (1e-3, 1.0)
    ]
    assert scores == [80.0, 100.0]


def test_each_different_text_is_encoded_once():
    data, encode = made_up({"train": 40, "test": 20})
    (test,) = data.texts["test"]
    repeated = {"train": data.texts["train"], "test": ([data.texts["train"][0][0], *test[1:]],)}
    data = TransferData("twice", "a test", data.classes, repeated, data.labels)
    asked = []
    transfer_scores(lambda texts: asked.append(texts) or encode(texts), data, progress=False)
    (texts,) = asked
    assert len(texts) == 59
    assert set(texts) == {*repeated["train"][0], *repeated["test"][0]}


@pytest.mark.parametrize("kind", [np.float32, "list", torch.float32, torch.bfloat16])
def test_vectors_may_be_arrays_lists_or_tensors(kind):
    data, encode = made_up({"train": 40, "test": 20})

    def other(texts):
        values = encode(texts).round()  # whole numbers are the same in every kind
        if kind == "list":
            return values.tolist()
        if isinstance(kind, torch.dtype):
            return torch.tensor(values, dtype=kind)
        return values.astype(kind)

    tables = [
        transfer_scores(one, data, progress=False)
        for one in (other, lambda texts: encode(texts).round())
    ]
    pd.testing.assert_frame_equal(*tables)


def test_several_tasks_give_a_row_each():
    first, one = made_up({"all": 40}, name="a")
    second, other = made_up({"train": 30, "test": 10}, name="b")
    both = Planted(one | other)
    table = transfer_scores(both, [first, second], inner_folds=2, progress=False)
    assert table["task"].tolist() == ["a", "b"]
    assert table["n_test"].tolist() == [40, 10]
    assert table["sample"].isna().all()
    assert table["seed"].isna().all()


def test_fits_that_do_not_converge_are_counted_and_give_no_warning(monkeypatch):
    monkeypatch.setattr(transfer, "MAX_ITERATIONS", 1)
    data, encode = made_up({"train": 40, "test": 20})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        row = transfer_scores(encode, data, inner_folds=3, progress=False).iloc[0]
    assert 3 < row["n_unconverged"] <= 3 * 7 + 1


def test_other_warnings_of_a_fit_are_not_swallowed(monkeypatch):
    class Loud(LogisticRegression):
        def fit(self, x, y):
            warnings.warn("something else", RuntimeWarning, stacklevel=2)
            return super().fit(x, y)

    monkeypatch.setattr(transfer, "LogisticRegression", Loud)
    data, encode = made_up({"train": 40, "test": 20})
    with pytest.warns(RuntimeWarning, match="something else"):
        row = transfer_scores(encode, data, inner_folds=3, progress=False).iloc[0]
    assert row["n_unconverged"] == 0


# --- intervals and comparisons -----------------------------------------------------------------


def test_a_comparison_is_paired_on_the_same_texts_and_averaged_by_hand():
    (first, one), (second, other) = (
        made_up({"train": 60, "test": n}, d=6, seed=n, name=f"task {n} ") for n in (40, 80)
    )
    whole, data = Planted(one | other), [first, second]
    methods = {"all": whole, "two": lambda texts: whole(texts)[:, :2]}
    table = compare_encoders(methods, data, inner_folds=3, seed=3, progress=False)
    assert table["method"].tolist() == ["all", "two"] * 3
    tasks = ["task 40 ", "task 80 ", "Avg."]
    assert table["task"].tolist() == [task for task in tasks for _ in methods]
    correct = {}
    for position, (name, encode) in enumerate(methods.items()):
        own = transfer_scores(encode, data, inner_folds=3, progress=False)
        pd.testing.assert_frame_equal(
            own,
            table[table["method"] == name][:2][own.columns].reset_index(drop=True),
            check_dtype=False,
        )
        for i, one in enumerate(data):
            x, y = naive_features(one, encode, "train")
            x_test, y_test = naive_features(one, encode, "test")
            reg = table["C"][2 * i + position]
            correct[name, i] = fitted(x, y, reg).predict(x_test) == y_test
    rng = np.random.default_rng(0)
    draws = []
    for i in range(2):
        row = table.iloc[2 * i + 1]
        apart = correct["two", i].astype(int) - correct["all", i]
        assert row["difference"] == pytest.approx(100 * apart.mean())
        index = rng.integers(0, len(apart), (4000, len(apart)))
        draws.append(100 * apart[index].mean(axis=1))
        bounds = np.quantile(draws[-1], [0.025, 0.975])
        tail = min((draws[-1] <= 0).mean(), (draws[-1] >= 0).mean())
        assert row["difference_p"] == pytest.approx(min(1, max(2 * tail, 1e-4)), abs=0.04)
        # Two bootstraps of 10,000 and 4,000 resamples; a text more or less is 100 / n.
        step = 2.1 * 100 / len(apart)
        assert [row["difference_low"], row["difference_high"]] == pytest.approx(bounds, abs=step)
    average = table.iloc[5]
    parts = table.iloc[[1, 3]]
    assert average["accuracy"] == pytest.approx(parts["accuracy"].mean())
    assert average["difference"] == pytest.approx(parts["difference"].mean())
    bounds = np.quantile((draws[0] + draws[1]) / 2, [0.025, 0.975])
    assert [average["difference_low"], average["difference_high"]] == pytest.approx(bounds, abs=2)
    below = [row["accuracy"] - row["low"] for _, row in parts.iterrows()]
    above = [row["high"] - row["accuracy"] for _, row in parts.iterrows()]
    assert average["low"] == pytest.approx(average["accuracy"] - math.hypot(*below) / 2)
    assert average["high"] == pytest.approx(average["accuracy"] + math.hypot(*above) / 2)
    assert (average["n_test"], average["n_texts"]) == (120, 240)
    # Holm over the two tasks: the smaller p twice, the other once, and never below that.
    small, large = sorted(parts["difference_p"])
    corrected = sorted(parts["difference_p_holm"])
    assert corrected == pytest.approx([min(1, 2 * small), min(1, max(2 * small, large))])
    assert parts["n_compared"].tolist() == [2, 2]
    assert average["difference_p_holm"] == average["difference_p"]
    assert average["n_compared"] == 1
    firsts = table[table["method"] == "all"]
    columns = [name for name in table if name.startswith("difference")]
    assert firsts[columns].isna().all(axis=None)


@pytest.mark.parametrize("architecture", ["Gemma2", "Llama"])
def test_norms_that_are_one_setting_are_one_comparison(tiny_folder, tmp_path, architecture):
    data, _ = made_up({"all": 40})
    folder = tiny_folder(architecture)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "alpha has no effect")
        found = tf.transfer(
            folder, [data], layer=0, alpha=2.0, inner_folds=2, store=VectorStore(tmp_path / "v.db")
        )
    table, undone = found.table, architecture == "Gemma2"
    repeated = table.loc[table["repeated"], "method"].tolist()
    assert repeated == ["CP, norm recovering"] * undone
    assert set(table["n_compared"]) == {3 - undone}
    assert f"after Holm over {3 - undone} comparisons" in found.caption
    assert ("CP (either norm) is above in" in found.caption) == undone
    assert found.caption.endswith("which is counted once.") == undone
    assert ("CP, norm recovering" in {trace.name for trace in found.figure.data}) != undone


def test_tasks_are_resampled_independently_for_the_average():
    # The same vectors under other names: drawn together, the average would vary like each task.
    copies = [made_up({"all": 60}, signal=0.5, name=name) for name in ("a", "b")]
    whole = Planted(copies[0][1] | copies[1][1])
    methods = {"all": whole, "one": lambda texts: whole(texts)[:, :1]}
    table = compare_encoders(methods, [data for data, _ in copies], inner_folds=2, progress=False)
    widths = (table["difference_high"] - table["difference_low"]).dropna().tolist()
    assert widths[0] == pytest.approx(widths[1], abs=3.5)  # two resamplings of the same
    assert widths[2] / np.mean(widths[:2]) == pytest.approx(math.sqrt(0.5), abs=0.12)


def test_a_method_compared_with_itself_differs_by_nothing():
    data, encode = made_up({"all": 40})
    table = compare_encoders({"a": encode, "b": encode}, data, inner_folds=2, progress=False)
    same = table.iloc[1][["difference", "difference_low", "difference_high"]]
    assert same.tolist() == [0.0, 0.0, 0.0]
    assert table["task"].tolist() == ["t"] * 2  # one task has no average


def test_numbers_are_the_same_again():
    data, encode = made_up({"all": 60})
    tables = [
        compare_encoders(
            {"a": encode, "b": lambda texts: encode(texts)[:, :1]},
            data,
            sample=40,
            seed=5,
            inner_folds=2,
            progress=False,
        )
        for _ in range(2)
    ]
    pd.testing.assert_frame_equal(*tables)


# --- samples -----------------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    st.lists(st.integers(1, 60), min_size=2, max_size=5),
    st.integers(1, 200),
    st.integers(0, 3),
)
def test_a_sample_keeps_the_share_of_each_class(counts, size, seed):
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(len(counts)), counts))
    n = len(labels)
    texts = [text_of(i) for i in range(n)]
    classes = tuple(map(str, range(len(counts))))
    data = TransferData("t", "a test", classes, {"all": (texts,)}, {"all": labels})
    part = data.sample(size, seed)
    kept = min(size, n)
    assert len(part) == kept
    for label, count in enumerate(counts):
        found = int((part.labels["all"] == label).sum())
        assert abs(found - count * kept / n) < 1
    of = dict(zip(texts, labels, strict=True))
    (chosen,) = part.texts["all"]
    assert [of[text] for text in chosen] == part.labels["all"].tolist()
    assert [texts.index(text) for text in chosen] == sorted({texts.index(text) for text in chosen})
    assert data.sample(size, seed).digest == part.digest


def test_a_sample_is_of_each_split_and_said_in_the_row():
    data, encode = made_up({"train": 60, "dev": 20, "test": 40}, pairs=True)
    part = data.sample(30, seed=2)
    assert {split: len(part.labels[split]) for split in part.splits} == {
        "train": 30,
        "dev": 20,
        "test": 30,
    }
    first, second = part.texts["train"]
    pairs = set(zip(*data.texts["train"], strict=True))
    assert set(zip(first, second, strict=True)) <= pairs
    row = transfer_scores(encode, data, sample=30, seed=2, progress=False).iloc[0]
    assert (row["n_texts"], row["n_all"], row["sample"], row["seed"]) == (80, 120, 30, 2)
    assert data.sample(30, seed=3).digest != part.digest
    assert data.sample(None).digest == data.digest == data.sample(1000).digest
    whole = transfer_scores(encode, data, sample=1000, seed=2, progress=False).iloc[0]
    assert pd.isna(whole["sample"])
    assert pd.isna(whole["seed"])


# --- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encode", "message"),
    [
        (lambda texts: np.zeros(len(texts)), r"shape \(60,\) for 60 texts.*one vector per text"),
        (lambda texts: np.zeros((len(texts) - 1, 3)), r"shape \(59, 3\) for 60 texts"),
        (lambda texts: np.zeros((len(texts), 0)), r"shape \(60, 0\)"),
        (lambda texts: np.zeros((len(texts), 2, 2)), r"shape \(60, 2, 2\)"),
        (
            lambda texts: SemanticVectors(torch.zeros(60, 3), torch.zeros(60, 3, dtype=torch.bool)),
            r"got SemanticVectors.*masked\(\)",
        ),
    ],
)
def test_vectors_of_a_wrong_shape_are_an_error(encode, message):
    data, _ = made_up({"all": 60})
    with pytest.raises(InputError, match=message):
        transfer_scores(encode, data, progress=False)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_vector_that_is_not_finite_is_an_error_that_names_the_text(bad):
    data, encode = made_up({"all": 60})
    asked = []

    def broken(texts):
        asked.extend(texts)
        vectors = encode(texts)
        vectors[17, 1] = bad
        return vectors

    with pytest.raises(InputError, match=r"vector of text 17 of 60, '(t\d+).*NaN or infinite") as e:
        transfer_scores(broken, data, progress=False)
    assert repr(asked[17]) in str(e.value)


@pytest.mark.parametrize("inner_folds", [1, 0, -3, 2.0, True, None])
def test_a_number_of_folds_must_make_sense(inner_folds):
    data, encode = made_up({"all": 60})
    with pytest.raises(
        InputError, match=rf"inner_folds must be .* at least 2, got {inner_folds!r}"
    ):
        transfer_scores(encode, data, inner_folds=inner_folds, progress=False)


@pytest.mark.parametrize("sample", [0, -5, 2.5, True])
def test_a_sample_must_be_a_number_of_texts(sample):
    data, encode = made_up({"all": 60})
    with pytest.raises(InputError, match=rf"sample must be .* at least 1, got {sample!r}"):
        transfer_scores(encode, data, sample=sample, progress=False)


def test_too_few_texts_of_a_class_are_an_error_with_the_remedy():
    data, encode = made_up({"all": 60})
    with pytest.raises(
        InputError, match=r"class '0' has 2 texts of 4 .* needs 3; .* larger sample"
    ):
        transfer_scores(encode, data, sample=4, progress=False)
    with (
        pytest.raises(InputError, match=r"10 folds need a class of at least 10.*largest has 6"),
        pytest.warns(UserWarning, match="fewer than the 10 folds"),
    ):
        transfer_scores(encode, data, sample=12, progress=False)


def test_a_class_that_not_all_folds_have_is_warned_about_once():
    data, encode = made_up({"train": 60, "test": 30}, 3)
    labels = data.labels["train"].copy()
    labels[np.flatnonzero(labels == 2)[4:]] = 0
    data = TransferData("rare", "t", data.classes, data.texts, {**data.labels, "train": labels})
    said = "rare: class '2' has 4 texts to train on, fewer than the 10 folds"
    with pytest.warns(UserWarning, match=said) as caught:
        transfer_scores(encode, data, progress=False)
    assert len(caught) == 1


def test_nothing_to_score_is_an_error():
    data, encode = made_up({"all": 60})
    with pytest.raises(InputError, match=r"data is empty.*load_transfer"):
        transfer_scores(encode, [], progress=False)
    with pytest.raises(InputError, match="task 't' occurs twice"):
        transfer_scores(encode, [data, data], progress=False)
    with pytest.raises(InputError, match="encoders is empty"):
        compare_encoders({}, data, progress=False)
    odd = TransferData(
        "odd", "t", data.classes, {"test": data.texts["all"]}, {"test": data.labels["all"]}
    )
    with pytest.raises(InputError, match=r"splits of odd \('test',\).*train.*dev.*test"):
        transfer_scores(encode, odd, progress=False)


# --- DySem's vectors ---------------------------------------------------------------------------


def test_masked_vectors_are_zero_outside_each_set():
    vectors = torch.tensor([[1.0, -2.0, 3.0], [4.0, 5.0, 6.0]])
    sets = torch.tensor([[True, True, False], [False, False, False]])
    semantic = SemanticVectors(vectors, sets)
    assert semantic.masked().tolist() == [[1.0, -2.0, 0.0], [0.0, 0.0, 0.0]]
    assert vectors[0, 2] == 3.0  # the estimator's own vectors stay whole


# --- files -------------------------------------------------------------------------------------


def write(folder, name, text):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")


def test_a_folder_gives_texts_with_integer_labels(tmp_path):
    write(tmp_path, "TREC.train.tsv", "text\tlabel\tfine\nWho ?\tHUM\tx\n How  many ? \tNUM\tx\n")
    write(tmp_path, "TREC.test.jsonl", '{"text": "Where ?", "label": "LOC"}\n')
    data = load_transfer(tmp_path, "TREC")
    assert data.texts == {"train": (["Who ?", "How many ?"],), "test": (["Where ?"],)}
    assert {split: labels.tolist() for split, labels in data.labels.items()} == {
        "train": [3, 5],
        "test": [4],
    }
    assert data.classes[3] == "HUM"
    assert data.splits == ("train", "test")
    assert len(data) == 3
    assert repr(data) == (
        f"TransferData(TREC, texts: train 2, test 1, 6 classes, from local folder {tmp_path.name})"
    )


def test_pairs_and_numeric_labels_of_parquet_are_read(tmp_path):
    table = pd.DataFrame({"sentence1": ["a", "b"], "sentence2": ["c", "NA"], "label": [1, 0]})
    table.to_parquet(tmp_path / "MRPC.train.parquet")
    table[::-1].to_csv(tmp_path / "MRPC.test.csv.gz", index=False)
    data = load_transfer(tmp_path, "MRPC")
    assert data.is_pairs
    assert data.texts == {"train": (["a", "b"], ["c", "NA"]), "test": (["b", "a"], ["NA", "c"])}
    assert data.labels["train"].tolist() == [1, 0]
    assert data.labels["test"].tolist() == [0, 1]


def test_a_folder_may_have_the_tasks_in_a_folder_named_transfer(tmp_path, monkeypatch):
    write(tmp_path / "transfer", "MR.csv", "text,label\ngood,1\nbad,0\n")
    write(tmp_path, "CR.csv", "text,label\nelsewhere,1\n")
    assert available_tasks(tmp_path) == ("MR",)
    assert load_transfer(tmp_path, "MR").labels["all"].tolist() == [1, 0]
    monkeypatch.setenv(paths.DATA_VARIABLE, str(tmp_path))
    assert available_tasks("stsb") == ("MR",)
    assert load_transfer("stsb", "MR").digest == load_transfer(tmp_path / "transfer", "MR").digest


def test_a_task_counts_as_there_when_all_its_splits_are(tmp_path):
    write(tmp_path, "TREC.train.csv", "text,label\n")
    with pytest.raises(DataError, match=r"none of the transfer tasks.*TREC\.train.*'transfer'"):
        available_tasks(tmp_path)
    write(tmp_path, "TREC.test.csv", "text,label\n")
    assert available_tasks(tmp_path) == ("TREC",)
    assert available_tasks("hub") == tuple(td.TRANSFER_TASKS)


def test_blank_texts_are_left_out_and_counted(tmp_path):
    write(tmp_path, "CR.csv", 'text,label\ngood,1\n"  ",1\nbad,0\n,0\n')
    with pytest.warns(UserWarning, match=r"CR: blank texts are left out: 2 of 4 in .*CR\.csv"):
        data = load_transfer(tmp_path, "CR")
    assert data.texts["all"] == (["good", "bad"],)
    assert data.labels["all"].tolist() == [1, 0]
    assert data.n_blank == 2
    assert "2 blank ones left out" in repr(data)


def test_a_pair_with_one_blank_text_is_left_out_whole(tmp_path):
    for split in ("train", "test"):
        write(tmp_path, f"MRPC.{split}.csv", "sentence1,sentence2,label\na,,1\nb,c,0\n")
    with pytest.warns(UserWarning, match=r"1 of 2 in .*train.*; 1 of 2 in .*test"):
        data = load_transfer(tmp_path, "MRPC")
    assert data.texts["train"] == (["b"], ["c"])
    assert data.n_blank == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,stars\nx,1\n", r"MR\.csv: no column label; it has text, stars"),
        ("words,stars\nx,1\n", "no column label, text; it has words, stars"),
        ("text,label\nx,1\ny,2\n", r"MR\.csv, row 1: label '2' is none of 0, 1"),
        ("text,label\nx,\n", "row 0: label '' is none of 0, 1"),
        ("text,label\n", "no texts; MR needs some in its all split"),
        ("text,label\na,b,1\nc,d,0\n", "more values than its header"),
    ],
)
def test_a_damaged_file_is_an_error_that_names_file_and_row(tmp_path, content, message):
    write(tmp_path, "MR.csv", content)
    with pytest.raises(DataError, match=message):
        load_transfer(tmp_path, "MR")


@pytest.mark.parametrize("label", ["1.0", "True", " 1", "１", "[1]", "null", "nan"])
def test_a_label_is_a_class_as_it_is_written_and_nothing_like_it(tmp_path, label):
    value = f'"{label}"' if label in (" 1", "１", "nan") else label.replace("True", "true")
    write(tmp_path, "MR.jsonl", f'{{"text": "x", "label": 0}}\n{{"text": "y", "label": {value}}}\n')
    with pytest.raises(DataError, match=r"MR\.jsonl, row 1: label .* is none of 0, 1"):
        load_transfer(tmp_path, "MR")


def test_quotes_of_a_tsv_stay_and_swallow_nothing(tmp_path):
    texts = ['"open', '"Hello" she said.', "plain", 'closed"']
    rows = "".join(f"{text}\t{i % 2}\n" for i, text in enumerate(texts))
    write(tmp_path, "MR.tsv", f"text\tlabel\n{rows}")
    data = load_transfer(tmp_path, "MR")
    assert data.texts["all"] == (texts,)
    assert data.labels["all"].tolist() == [0, 1, 0, 1]


def test_real_pairs_rewritten_as_tsv_are_the_same(transfer_folder, tmp_path):
    truth = load_transfer(transfer_folder, "MRPC")
    for split in truth.splits:
        rows = zip(*truth.texts[split], truth.labels[split], strict=True)
        lines = "".join(f"{first}\t{second}\t{label}\n" for first, second, label in rows)
        write(tmp_path, f"MRPC.{split}.tsv", f"sentence1\tsentence2\tlabel\n{lines}")
    assert load_transfer(tmp_path, "MRPC").digest == truth.digest


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text;label\nx;1\n", r"MR\.csv: it looks separated by semicolons"),
        ("text,label,label\nx,1,0\n", "'label' is the name of several columns"),
        ("text,label\ncafé,1\n".encode("latin-1"), "may be in Latin-1"),
    ],
)
def test_a_table_that_is_none_is_named(tmp_path, content, message):
    (tmp_path / "MR.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        load_transfer(tmp_path, "MR")


def test_a_text_that_nobody_sees_is_a_blank_one_and_half_a_character_an_error(tmp_path):
    write(tmp_path, "MR.csv", "text,label\ngood,1\n\u200b,0\n")
    with pytest.warns(UserWarning, match="1 of 2"):
        assert load_transfer(tmp_path, "MR").texts["all"] == (["good"],)
    (tmp_path / "MR.csv").unlink()
    write(tmp_path, "MR.jsonl", '{"text": "\\ud83d", "label": 1}\n')
    with pytest.raises(DataError, match=r"MR\.jsonl, row 0: text holds .* half of a surrogate"):
        load_transfer(tmp_path, "MR")


@pytest.mark.parametrize("source", [None, 3, ["demo"], "x" * 300])
def test_what_is_no_source_is_refused(source):
    for call in (available_tasks, lambda place: load_transfer(place, "MR")):
        with pytest.raises(InputError, match="the folder of transfer tasks"):
            call(source)


@pytest.mark.parametrize("task", [None, 3, ["MR"]])
def test_what_is_no_task_is_refused(task):
    with pytest.raises(InputError, match="unknown transfer task"):
        load_transfer("demo", task)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"texts": {"all": ("ab",)}}, "give one as"),
        ({"texts": {"all": (["a", ""],)}}, "all text 1 is empty"),
        ({"texts": {"all": (["a"],)}}, r"one label per item; there are labels \(2,\) for 1 texts"),
        ({"texts": {"all": (["a", "b"],) * 3}}, "one list of texts, or two"),
        ({"texts": {"train": (["a", "b"],)}}, "mappings from the same splits"),
        ({"texts": [["a", "b"]]}, "mappings from the same splits"),
        ({"labels": {"all": np.array([0, 2])}}, "from 0 to 1, the positions of the classes"),
        ({"labels": {"all": np.array([0, -1])}}, "from 0 to 1, the positions of the classes"),
        ({"labels": {"all": np.array([0.0, 1.0])}}, "whole numbers from 0 to 1"),
        ({"labels": {"all": np.array([False, True])}}, "whole numbers from 0 to 1"),
        ({"origins": "mine"}, "origins must be a mapping from splits to words, got 'mine'"),
    ],
)
def test_texts_and_labels_that_do_not_fit_together_are_refused(change, message):
    whole = {"texts": {"all": (["a", "b"],)}, "labels": {"all": np.array([0, 1])}}
    with pytest.raises(InputError, match=message):
        TransferData("t", "a test", ("x", "y"), **{**whole, **change})


def test_the_record_says_from_which_files_the_texts_of_each_split_are(tmp_path):
    row = "text,label\nWho ?,HUM\n"
    write(tmp_path / "transfer", "TREC.train.csv", row)
    write(tmp_path / "transfer", "TREC.test.csv", row.replace("Who", "Whom"))
    data = load_transfer(tmp_path, "TREC")
    sha256 = {
        split: hashlib.sha256((tmp_path / "transfer" / f"TREC.{split}.csv").read_bytes())
        for split in ("train", "test")
    }
    expected = {
        split: f"TREC.{split}.csv, sha256 {of.hexdigest()[:16]}" for split, of in sha256.items()
    }
    assert data.origins == expected
    (source,) = tf.facts_of_transfer(FACTS, [data], 1).record()["data"]
    assert source["origins"] == expected
    demo = load_transfer("demo", "opinion").origins
    assert list(demo) == ["all"]
    assert demo["all"].startswith("demo_transfer.csv, sha256 ")
    made, _ = made_up({"all": 40})
    (source,) = tf.facts_of_transfer(FACTS, [made]).record()["data"]
    assert source["origins"] == {"all": "not known"}


def test_only_blank_texts_are_no_texts(tmp_path):
    write(tmp_path, "MR.csv", 'text,label\n" ",1\n')
    with pytest.raises(DataError, match="no texts"):
        load_transfer(tmp_path, "MR")


def test_a_missing_value_is_not_a_blank_text(tmp_path):
    write(tmp_path, "MR.jsonl", '{"text": "x", "label": 1}\n{"text": null, "label": 0}\n')
    with pytest.raises(DataError, match=r"MR\.jsonl, row 1: text is (None|nan), not a text"):
        load_transfer(tmp_path, "MR")


def test_a_cut_file_is_an_error(tmp_path):
    write(tmp_path, "MR.csv", "text,label\ngood,1\nbad,0\n")
    pd.read_csv(tmp_path / "MR.csv").to_csv(tmp_path / "CR.csv.gz", index=False)
    whole = (tmp_path / "CR.csv.gz").read_bytes()
    (tmp_path / "CR.csv.gz").write_bytes(whole[:-12])
    with pytest.raises(DataError, match=r"CR\.csv\.gz: cannot be read"):
        load_transfer(tmp_path, "CR")


def test_unknown_tasks_files_and_folders_are_errors_with_the_remedy(tmp_path):
    with pytest.raises(InputError, match=r"unknown transfer task 'STSB'.*MR, CR, SUBJ"):
        load_transfer(tmp_path, "STSB")
    with pytest.raises(InputError, match=r"unknown transfer task 'MR'; choose.*opinion, question"):
        load_transfer("demo", "MR")
    with pytest.raises(DataError, match=r"has no SST2\.train with a suffix of \.csv"):
        load_transfer(tmp_path, "SST2")
    with pytest.raises(DataError, match=r"no folder .*nowhere; give 'demo', 'stsb', 'hub'"):
        load_transfer(tmp_path / "nowhere", "MR")


def test_the_digest_knows_texts_labels_and_splits(tmp_path):
    contents = ("good,1\nbad,0", "good,0\nbad,1", "good,1\nworse,0", "bad,0\ngood,1")
    digests = set()
    for i, content in enumerate(contents):
        write(tmp_path / str(i), "MR.csv", f"text,label\n{content}\n")
        digests.add(load_transfer(tmp_path / str(i), "MR").digest)
    write(tmp_path / "again", "MR.csv", f"text,label\n{contents[0]}\n")
    assert len(digests) == 4
    assert load_transfer(tmp_path / "again", "MR").digest in digests


def test_the_demo_tasks_are_balanced_and_without_repetitions():
    texts = []
    for task in available_tasks("demo"):
        data = load_transfer("demo", task)
        assert len(data) == 60
        counts = np.bincount(data.labels["all"])
        assert set(counts) == {60 // len(data.classes)}
        texts += data.texts["all"][0]
    assert len(set(texts)) == 120
    opinion = load_transfer("demo", "opinion")
    label = opinion.labels["all"][
        opinion.texts["all"][0].index("The soup was cold and tasted of nothing.")
    ]
    assert opinion.classes[label] == "negative"


# --- the hub, through local stand-ins ----------------------------------------------------------


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Put local folders in the place of the hub's data sets."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = {
        "trec": {"text": "Who ?", "label": 7, "label_coarse_original": "HUM"},
        "phrases": {"idx": 1, "sentence": "good", "label": 1},
        "whole": {"text": "bad .", "label": 0, "label_text": "negative"},
    }
    for name, row in rows.items():
        for split in ("train", "validation", "test"):
            write(tmp_path / name, f"{split}.jsonl", json.dumps(row) + "\n")
    part = td.HubPart
    trec = {
        split: (part(str(tmp_path / "trec"), split, label="label_coarse_original"),)
        for split in ("train", "test")
    }
    phrases, whole = str(tmp_path / "phrases"), str(tmp_path / "whole")
    sst2 = {
        "train": (part(phrases, "train", columns=("sentence",)), part(whole, "train")),
        "dev": (part(whole, "validation"),),
        "test": (part(whole, "test"),),
    }
    monkeypatch.setitem(td.HUB, "TREC", trec)
    monkeypatch.setitem(td.HUB, "SST2", sst2)
    return tmp_path


def test_the_hub_joins_parts_renames_columns_and_says_how_many_texts_differ(hub):
    with pytest.warns(UserWarning, match=r"TREC of the hub.*train 1, SentEval's 5,452; test 1"):
        data = load_transfer("hub", "TREC")
    assert data.texts["train"] == (["Who ?"],)
    assert data.labels["train"].tolist() == [3]
    assert data.source == f"the hub ({hub / 'trec'})"
    with pytest.warns(UserWarning, match=r"dev 1, SentEval's 872"):
        data = load_transfer("hub", "SST2")
    assert data.texts["train"] == (["good", "bad ."],)
    assert data.labels["train"].tolist() == [1, 0]
    assert data.splits == ("train", "dev", "test")
    assert data.origins["dev"] == f"{hub / 'whole'} (validation), revision not pinned"
    phrases = f"{hub / 'phrases'} (train), {hub / 'whole'} (train), revision not pinned"
    assert data.origins["train"] == phrases


def test_what_the_hub_lacks_is_an_error_with_the_remedy(hub, monkeypatch):
    gone = {"all": (td.HubPart(str(hub / "nowhere"), "train"),)}
    monkeypatch.setitem(td.HUB, "MR", gone)
    with pytest.raises(DataError, match=r"cannot load .*nowhere \(train\).*use 'demo', or a local"):
        load_transfer("hub", "MR")


def test_every_task_of_the_hub_has_the_splits_and_columns_of_the_task():
    assert set(td.HUB) == set(td.TRANSFER_TASKS)
    for name, task in td.TRANSFER_TASKS.items():
        assert set(td.HUB[name]) == set(task.sizes)
        for parts in td.HUB[name].values():
            assert all(len(part.columns) == len(task.columns) for part in parts)


# --- real data ---------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def transfer_folder(sts_folder):
    if not (sts_folder / "transfer").is_dir():
        pytest.skip(f"real transfer data is absent: no {sts_folder}/transfer")
    return sts_folder


@pytest.mark.filterwarnings("ignore:(CR|MPQA). blank texts")
def test_real_tasks_have_sentevals_sizes(transfer_folder):
    assert available_tasks(transfer_folder) == tuple(td.TRANSFER_TASKS)
    for name, task in td.TRANSFER_TASKS.items():
        data = load_transfer(transfer_folder, name)
        assert {split: len(labels) for split, labels in data.labels.items()} == task.sizes
        assert data.n_blank == {"CR": 4, "MPQA": 3}.get(name, 0)
        for labels in data.labels.values():
            assert set(np.unique(labels)) == set(range(len(task.classes)))


def test_words_tell_real_question_types_apart(transfer_folder):
    data = load_transfer(transfer_folder, "TREC")
    words = ["who", "where", "when", "many", "what", "how", "name", "city", "mean", "year", "stand"]

    def encode(texts):
        return np.array([[word in text.lower().split() for word in words] for text in texts])

    table = transfer_scores(encode, data, sample=700, inner_folds=2, progress=False)
    assert table["accuracy"][0] > table["majority"][0] + 15
    assert (table["n_train"][0], table["n_test"][0], table["n_all"][0]) == (700, 500, 5952)


# --- figures -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compared():
    first, one = made_up({"all": 40}, name="made up")
    second, other = made_up({"train": 40, "test": 20}, name="b")
    sets, encode = [first, second], Planted(one | other)
    methods = {"plain": encode, "other": lambda texts: encode(texts)[:, :1]}
    return sets, compare_encoders(methods, sets, sample=30, inner_folds=2, progress=False)


def test_the_figure_shows_every_number_with_its_interval(compared):
    _, table = compared
    figure = tf.figure(table, "measured here")
    assert "measured here" in figure.layout.title.subtitle.text
    for panel, value, low, high in (
        ("x", "accuracy", "low", "high"),
        ("x2", "difference", "difference_low", "difference_high"),
    ):
        points = [t for t in figure.data if t.mode == "markers" and t.xaxis == panel]
        rows = table[table[value].notna()]
        assert [t.name for t in points] == list(dict.fromkeys(rows["method"]))
        for trace in points:
            part = rows[rows["method"] == trace.name]
            assert list(trace.x) == pytest.approx(part[value].tolist())
            assert list(np.add(trace.x, trace.error_x.array)) == pytest.approx(part[high].tolist())
            bounds = np.subtract(trace.x, trace.error_x.arrayminus)
            assert list(bounds) == pytest.approx(part[low].tolist())
    places = [y for t in figure.data if t.mode == "markers" and t.xaxis == "x" for y in t.y]
    assert len(set(places)) == len(table)


def test_a_single_method_has_no_panel_of_differences():
    data, encode = made_up({"all": 40})
    table = compare_encoders({"only": encode}, data, inner_folds=2, progress=False)
    figure = tf.figure(table, "")
    assert {trace.xaxis for trace in figure.data} == {"x"}
    caption = tf.caption(table)
    assert "only" in caption
    assert "Against" not in caption


def rows(task, method, accuracy, difference=None, p_holm=np.nan):
    low, high = difference or (np.nan, np.nan)
    return {
        "task": task,
        "method": method,
        "accuracy": accuracy,
        "low": accuracy - 2,
        "high": accuracy + 2,
        "majority": 60.0,
        "difference": (low + high) / 2,
        "difference_low": low,
        "difference_high": high,
        "difference_p_holm": p_holm,
    }


def test_a_label_begins_after_a_dotted_line_that_is_in_its_way():
    each = {"MR": 57.5, "CR": 61.0, "SUBJ": 50.0, "TREC": 90.0}  # intervals of 2 on each side
    table = pd.DataFrame([rows(task, "plain", value) for task, value in each.items()])
    table = table.assign(n_test=100)
    (labels,) = (trace for trace in tf.figure(table, "").data if trace.mode == "text")
    assert list(labels.x) == [60.0, 63.0, 52.0, 92.0]


def test_the_caption_says_what_is_certain():
    table = pd.DataFrame(
        [
            rows("MR", "plain", 80.0),
            rows("MR", "CP", 84.0, (1.0, 7.0), 0.002),
            rows("CR", "plain", 70.0),
            rows("CR", "CP", 67.0, (-5.0, -0.1), 0.06),  # an interval that excludes 0 is not enough
            rows("SUBJ", "plain", 80.0),
            rows("SUBJ", "CP", 77.0, (-5.0, -1.0), 0.02),
            rows("Avg.", "plain", 75.0),
            rows("Avg.", "CP", 76.5, (0.2, 3.0), 0.01),
        ]
    )
    assert tf.caption(table) == (
        "Against plain, for certain (p < 0.05 after Holm over 3 comparisons): CP is above in 1 and "
        "below in 1 of 3. Mean accuracy × 100 over 3 tasks: plain 75.0 [73.0, 77.0], CP 76.5 "
        "[74.5, 78.5]; always answering the most frequent class gives 60.0."
    )
    assert ". Accuracy × 100, MR: plain 80.0 [78.0, 82.0]" in tf.caption(table[:2])


def test_the_facts_line_says_what_was_left_out(compared):
    sets, _ = compared
    facts = tf.facts_of_transfer(FACTS, sets, 30, 0, alpha=4.0, layer=6)
    assert str(facts) == (
        "made/up-1b (Q8_0), 2 tasks with 80 items (stratified sample of at most 30 per split, "
        "of 100, seed 0), α = 4.0, block 7"
    )
    alone = [one for one in sets if one.task == "made up"]
    assert str(tf.facts_of_transfer(FACTS, alone, 30)) == (
        "made/up-1b (Q8_0), made up with 30 items (stratified sample of at most 30 per split, "
        "of 40, seed 0)"
    )
    data, _ = made_up({"train": 30, "dev": 10, "test": 10}, name="made up")
    assert str(tf.facts_of_transfer(FACTS, [data])) == "made/up-1b (Q8_0), made up with 50 items"


def test_the_files_are_named_after_model_tasks_and_items(compared):
    sets, table = compared

    def name(data, sample=None):
        facts = tf.facts_of_transfer(FACTS, data, sample)
        return Finding("transfer", table, tf.figure(table, facts), "", facts).name

    assert name(sets) == "transfer_up-1b_2-tasks-100"
    assert name(sets[:1], 30) == "transfer_up-1b_made-up-30"


def test_the_record_names_model_data_and_versions(compared):
    sets, _ = compared
    record = json.loads(json.dumps(tf.facts_of_transfer(FACTS, sets, 30, layer=6).record()))
    assert record["model"]["name"] == "made/up-1b"
    assert [one["digest"] for one in record["data"]] == [one.digest for one in sets]
    assert record["data"][1]["n_items"] == {"train": 40, "test": 20}
    assert record["sampling"] == {"pairs": None, "sample": 30, "seed": 0}
    assert record["parameters"] == {"layer": 6, "sample": 30, "seed": 0}
    assert record["versions"]["scikit-learn"]
