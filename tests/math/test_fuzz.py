"""Whatever a public entry is given: an error of this package, or an answer of the right form.

A few examples run by default. ``DYSEM_LAB_FUZZ=10000`` runs so many over all entries together.
"""

import json
import math
import os
import signal
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dysem_lab.consensus import consensus_set, resolve_k
from dysem_lab.data.languages import LANGUAGES
from dysem_lab.data.sts import STSData, load_data
from dysem_lab.data.tables import read_table
from dysem_lab.data.transfer_data import load_transfer
from dysem_lab.encoders.aggregation import ValueAggregation
from dysem_lab.encoders.base import MeanPooling, PromptEncoder
from dysem_lab.encoders.contrastive import ContrastivePrompting
from dysem_lab.encoders.dysem import DySem, semantic_vectors
from dysem_lab.encoders.echo import Echo
from dysem_lab.encoders.maps import fitted
from dysem_lab.encoders.prepending import TokenPrepending
from dysem_lab.encoders.transform import KINDS, Transform
from dysem_lab.encoders.vectors import SemanticVectors, n_dims
from dysem_lab.errors import DysemLabError
from dysem_lab.evaluate import (
    aggregate_score,
    average_difference,
    average_score,
    holm,
    mean_with_interval,
    paired_difference,
    score,
    score_table,
    spearman,
)
from dysem_lab.harnesses.sentence_api import SentenceEncoder, sentence_encoder, unpack
from dysem_lab.inputs import checked, has_words, names_of
from dysem_lab.joint import (
    all_pairs_cosine,
    all_pairs_similarity,
    cosine,
    joint_cosine,
    joint_set,
    pairwise_similarity,
)
from dysem_lab.models.capture import capture
from dysem_lab.models.places import COMPONENTS
from dysem_lab.models.steering import NORMS, POSITIONS, Contrast
from dysem_lab.prompts import SETTINGS, TEMPLATES, Prompt, auxiliaries, wrap
from dysem_lab.translation.parallel_table import ParallelTable

pytestmark = pytest.mark.usefixtures("_one_thread")

FUZZ = int(os.environ.get("DYSEM_LAB_FUZZ", "0"))
N_ENTRIES = 18  # the tests below share the examples
LONGEST = 20  # seconds of one call
fuzzed = settings(max_examples=max(15, FUZZ // N_ENTRIES), print_blob=True)


class Refused:
    """What `ours` returns where the input was refused."""


def ours(call, *arguments, **named):
    """Return what a call returns, or `Refused` after an error of this package; nothing else."""
    try:
        with in_time(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", RuntimeWarning)  # such as a division by zero
            return call(*arguments, **named)
    except DysemLabError:
        return Refused


@contextmanager
def in_time():
    """Fail where the block takes longer than `LONGEST` seconds."""

    def ring(*signal_and_frame):
        pytest.fail(f"no answer after {LONGEST} s")

    if not hasattr(signal, "SIGALRM"):
        yield
        return
    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(LONGEST)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# --- things to give

NUMBERS = (0, 1, -1, 2, 7, 10**30, -(10**30), 0.5, -0.0, 1e-45, 3e38, 1e300, math.nan, math.inf)
WORDS = (
    "",
    " ",
    "\u200b",
    "A dog.",
    "Un chien.",
    "犬。",
    "{text}",
    "en",
    "ja",
    "half \ud83d",
    "\0",
)
numbers = st.sampled_from(NUMBERS) | st.integers() | st.floats()
words = st.sampled_from(WORDS) | st.text(max_size=8) | st.text("\ud83d\ude00 aあ\n", max_size=3)
DTYPES = tuple(
    getattr(torch, name)
    for name in (
        *("float16", "bfloat16", "float32", "float64", "float8_e4m3fn", "complex64", "bool"),
        *("uint8", "int8", "int32", "int64"),
    )
)
shapes = st.lists(st.sampled_from([0, 1, 1, 2, 2, 3, 5]), max_size=4).map(tuple)


@st.composite
def tensors(draw, shape=shapes, dtypes=DTYPES):
    """Draw a tensor, an array or a list of some type and form, seldom of odd ones."""
    shape, dtype = draw(shape), draw(st.sampled_from(dtypes))
    some = draw(st.lists(st.sampled_from([0, 1, -1, 0.5, 3, 1e-45, 3e4, 3e38]), min_size=1))
    some += draw(st.sampled_from([*[[]] * 20, [math.nan], [math.inf], [-math.inf]]))
    made = torch.tensor(np.resize(np.array(some), shape)).to(dtype)
    form = draw(
        st.sampled_from([*["tensor"] * 20, *["array"] * 3, "list", "grad", "sparse", "meta", "T"])
    )
    if form == "T":
        return made.transpose(0, -1) if made.ndim else made
    if form == "grad":
        return made.requires_grad_() if dtype.is_floating_point else made
    if form == "sparse":
        return made.to_sparse() if dtype in DTYPES[2:4] else made
    if form == "meta":
        return made.to("meta")
    if form == "array" and dtype not in DTYPES[1:2] + DTYPES[4:5]:
        return made.numpy()[::-1] if made.ndim else made.numpy()
    return made.tolist() if form == "list" else made


simple = st.one_of(st.none(), st.booleans(), numbers, words, st.binary(max_size=4), st.just(1j))
odd = st.sampled_from(
    [
        object(),
        range(3),
        np.float32(0.5),
        np.int64(2),
        np.bool_(True),
        np.str_("en"),
        np.array("en"),
        np.ma.masked_equal([1.0, 2.0], 2),
        pd.Series(["A dog.", None]),
        pd.DataFrame({"en": ["A dog."]}),
        pd.NA,
        pd.Timestamp(0),
        LANGUAGES,
        torch.nn.Linear(1, 1),
        len,
    ]
)
anything = st.recursive(
    simple | odd | tensors(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(simple, inner, max_size=3)
        | st.builds(iter, st.lists(inner, max_size=2))
    ),
    max_leaves=4,
)
sound_texts = st.lists(st.sampled_from(["A dog.", "Un chien.", "犬。", "no"]), max_size=4)
odd_texts = st.lists(words, max_size=3) | anything
texts = st.sampled_from([sound_texts, sound_texts.map(np.array), odd_texts]).flatmap(lambda d: d)
codes = st.sampled_from(["en", "ja", "fr"])


def mostly(right, otherwise=anything):
    """Return mostly right values, so that many calls get past the first checks."""
    return st.sampled_from([*[right] * 11, otherwise]).flatmap(lambda drawn: drawn)


def is_listed(given):
    return isinstance(given, list | tuple | np.ndarray)


# --- texts and names


@fuzzed
@given(
    texts,
    mostly(st.sampled_from([*TEMPLATES, "{text}", "Say {text} {text}"])),
    mostly(st.sampled_from(SETTINGS)),
    mostly(codes | st.lists(codes, max_size=4)),
)
def test_prompts(texts, template, setting, languages):
    found = ours(checked, texts)
    if found is not Refused:
        assert all(isinstance(text, str) and has_words(text) for text in found)
        assert not is_listed(texts) or found == list(texts)
    named = ours(names_of, languages)
    assert named is Refused or all(isinstance(name, str) for name in named)
    prompts = ours(wrap, texts, template, setting, languages)
    if prompts is not Refused:
        assert all(isinstance(prompt, Prompt) for prompt in prompts)
        assert not is_listed(texts) or len(prompts) == len(texts)


# --- the mathematics

same_shape = st.tuples(st.integers(0, 3), st.integers(1, 5))


@fuzzed
@given(
    mostly(tensors(st.tuples(st.integers(0, 3), st.integers(1, 3), st.integers(1, 5)))),
    mostly(st.integers(1, 6) | st.floats(0.01, 1)),
    mostly(st.none()) | tensors(),
)
def test_consensus_sets(vectors, k, keys):
    found = ours(consensus_set, vectors, k, keys)
    if found is not Refused:
        dense = (
            vectors
            if isinstance(vectors, torch.Tensor)
            else torch.tensor(np.array(vectors, order="C"))
        )
        assert found.dtype == torch.bool
        assert found.shape == dense.shape[:-2] + dense.shape[-1:]
        positive = (dense.double() > 0).all(-2)
        assert (found <= positive).all()
        size = positive.sum(-1).clamp(max=resolve_k(k, dense.shape[-1]))
        assert torch.equal(found.sum(-1), size)
    for vector in ("mean", "source"):
        semantic = ours(semantic_vectors, vectors, keys, k, vector=vector)
        assert semantic is Refused or torch.isfinite(semantic.vectors).all()


def is_cosines(values, undefined):
    defined = values[~torch.isclose(values, torch.tensor(undefined).to(values), equal_nan=True)]
    return bool((defined.abs() <= 1).all()) and values.dtype in (torch.float32, torch.float64)


@st.composite
def sides(draw):
    """Draw vx, vy, Sx, Sy that mostly belong together."""
    shape = draw(same_shape)
    other = (draw(st.integers(0, 3)), shape[1]) if draw(st.booleans()) else shape
    floats = draw(st.sampled_from([*[DTYPES[:4]] * 9, DTYPES]))
    vx, vy = (draw(mostly(tensors(st.just(s), floats))) for s in (shape, other))
    Sx, Sy = (draw(mostly(tensors(st.just(s), [torch.bool]))) for s in (shape, other))
    return vx, vy, Sx, Sy


@fuzzed
@given(sides(), mostly(st.sampled_from([math.nan, 0.0, -1.0, -math.inf])))
def test_similarities(sides, undefined):
    vx, vy, Sx, Sy = sides
    ours(joint_set, Sx, Sy)
    for call, arguments, all_pairs in (
        (cosine, (vx, vy), False),
        (joint_cosine, (vx, vy, Sx), False),
        (pairwise_similarity, sides, False),
        (all_pairs_cosine, (vx, vy), True),
        (all_pairs_similarity, sides, True),
    ):
        values = ours(call, *arguments, undefined)
        if values is not Refused:
            values = values.detach()
            assert is_cosines(values, float(undefined))
            rows = np.shape(vx)[:-1]
            assert values.shape == ((rows[0], np.shape(vy)[0]) if all_pairs else rows)


@fuzzed
@given(
    sides(),
    anything | st.integers(-4, 4) | st.lists(st.integers(-4, 4), max_size=3) | st.slices(4),
)
def test_semantic_vectors(sides, index):
    vx, vy, Sx, Sy = sides
    first, second = ours(SemanticVectors, vx, Sx), ours(SemanticVectors, vy, Sy)
    if first is Refused or second is Refused:
        return
    try:
        chosen = ours(first.__getitem__, index)
    except IndexError:
        chosen = Refused
    assert chosen is Refused or chosen.vectors.shape[1] == first.vectors.shape[1]
    assert torch.isfinite(first.masked()).all()
    assert repr(first)
    assert first._repr_html_()
    if len(first):
        assert ours(n_dims, first, second) is Refused or 0 <= n_dims(first, second) <= 5
    assert ours(n_dims, first, vx) is Refused


pairs = st.integers(0, 6)
one_axis = tensors(pairs.map(lambda n: (n,)), DTYPES[:4] + DTYPES[-4:])
resamples = mostly(st.integers(1, 20))


@fuzzed
@given(st.data())
def test_scores(data):
    row = mostly(one_axis | st.lists(numbers, min_size=3, max_size=6))
    same = data.draw(row)
    gold, other = data.draw(st.just(same) | row), data.draw(st.just(same) | row)
    size = len(gold) if is_listed(gold) or getattr(gold, "ndim", 0) == 1 else 3
    name = st.sampled_from(["a", "b"])
    names = data.draw(
        mostly(st.lists(name, min_size=size, max_size=size), st.lists(name) | anything)
    )
    options = {
        "n_resamples": data.draw(resamples),
        "seed": data.draw(mostly(st.integers(0, 9))),
    }
    n_dims = data.draw(mostly(st.none() | st.floats(0, 9)))
    kind = data.draw(mostly(st.sampled_from(["all", "mean", "weighted"])))
    weights = data.draw(mostly(st.none() | st.lists(st.floats(0, 2), max_size=2)))
    tasks = data.draw(mostly(st.just([(same, gold), (other, gold)])))
    value = ours(spearman, same, gold)
    assert value is Refused or math.isnan(value) or -100.001 <= value <= 100.001
    for call, arguments in (
        (score, (same, gold, n_dims)),
        (paired_difference, (same, other, gold)),
        (mean_with_interval, (same,)),
        (average_score, (tasks, n_dims)),
        (average_difference, ([(same, other, gold)],)),
        (aggregate_score, (same, gold, names, kind, n_dims)),
    ):
        more = {"weights": weights} if call is average_score else {}
        found = ours(call, *arguments, **options, **more)
        if found is not Refused:
            measured = {k: v for k, v in found.items() if k not in ("aggregation", "n_dims")}
            assert all(isinstance(number, int | float) for number in measured.values())
            assert not any(math.isinf(number) for number in measured.values())
    corrected = ours(holm, other)
    if corrected is not Refused:
        assert len(corrected) == len(other)
        assert not (corrected > 1).any()
    table = ours(score_table, data.draw(mostly(st.just({"a": same}))), gold, seed=options["seed"])
    assert table is Refused or len(table) <= 1


# --- files


@st.composite
def cells(draw):
    return draw(
        st.sampled_from(
            ["A dog.", "Un chien", "犬。", "", " ", "0", "5", "2.5", "1e30", "nan", "-1"]
        )
        | st.text('a"\t,;\n\r\u2028\ud83d\0', max_size=4)
    )


HEADER = ("sentence1", "sentence2", "score", "row", "pair_ID", "en", "ja", "text", "label", "")


@st.composite
def files(draw):
    """Draw the name and the bytes of a table, or of nothing that is one."""
    suffix = draw(st.sampled_from([*[".csv", ".tsv"] * 3, ".jsonl", ".parquet", ".csv.gz", ".txt"]))
    kind = draw(st.sampled_from([*["table"] * 5, "lines", "bytes", "json"]))
    if kind == "bytes":
        return suffix, draw(st.binary(max_size=60))
    header = draw(st.permutations(HEADER).map(lambda names: names[:4]) | st.just(HEADER[:4]))
    rows = draw(st.lists(st.lists(cells(), min_size=3, max_size=5), max_size=4))
    if kind == "table" and draw(st.booleans()):
        header, rows = (
            ["sentence1", "sentence2", "score", "text", "label", "row"],
            [
                [f"A dog {i}.", "No.", draw(st.sampled_from("012345")), f"Yes {i}.", i % 2, i]
                for i in range(draw(st.integers(1, 5)))
            ],
        )
        if draw(st.booleans()):
            rows[-1][draw(st.integers(0, 5))] = draw(cells())
        rows = [list(map(str, row)) for row in rows]
    if kind == "lines":
        return suffix, "\n".join(draw(st.lists(cells(), max_size=5))).encode(errors="replace")
    if kind == "json":
        value = st.none() | st.booleans() | numbers | words | st.lists(numbers, max_size=2)
        lines = [
            dict(zip(header, draw(st.lists(value, min_size=4, max_size=4)), strict=True))
            for _ in rows
        ]
        return ".jsonl", "\n".join(map(json.dumps, lines)).encode()
    separator = "\t" if "tsv" in suffix else draw(st.sampled_from([*[","] * 5, ";", "\t"]))
    text = "\n".join(separator.join(row) for row in [list(header), *rows])
    encoding = draw(st.sampled_from([*["utf-8"] * 5, "utf-8-sig", "utf-16", "latin-1"]))
    return suffix, text.encode(encoding, errors="replace")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def written(folder: Path, name: str, content: bytes) -> Path:
    for old in folder.iterdir():
        old.unlink()
    (folder / name).write_bytes(content)
    return folder / name


@fuzzed
@given(files())
def test_tables(folder, file):
    suffix, content = file
    path = written(folder, f"test.en{suffix}", content)
    table = ours(read_table, path)
    assert table is Refused or isinstance(table, pd.DataFrame)
    data = ours(load_data, folder)
    if data is not Refused:
        assert len(data) == len(data.gold) == len(data.texts("en")) / 2 > 0
        assert np.isfinite(data.gold).all()
        assert all(map(has_words, data.texts("en")))
    read = ours(ParallelTable.read, path)
    assert read is Refused or len({*map(len, read.columns.values())}) == 1


@fuzzed
@given(files(), files())
def test_tables_in_two_languages(folder, english, french):
    written(folder, f"test.en{english[0]}", english[1])
    (folder / f"test.fr{french[0]}").write_bytes(french[1])
    data = ours(load_data, folder, languages=["en", "fr"])
    if data is not Refused:
        assert len(data.texts("en")) == len(data.texts("fr")) == 2 * len(data)
    read = ours(ParallelTable.read, folder)
    assert read is Refused or {*read.columns} == {"en", "fr"}


@fuzzed
@given(files())
def test_transfer_tables(folder, file):
    suffix, content = file
    written(folder, f"MR{suffix}", content)
    data = ours(load_transfer, folder, "MR")
    assert data is Refused or len(data) > 0


places = mostly(
    st.just("demo"), st.sampled_from(["", ".", "\0", "a" * 300, "~nobody/x", "half \ud83d"])
)


@fuzzed
@given(
    mostly(places),
    mostly(st.none(), st.sampled_from(["STSB", "STS12", "STS99"]) | anything),
    mostly(st.just("test"), st.sampled_from(["dev", "../x", "{text}", "\0"]) | anything),
    mostly(codes | st.lists(codes, min_size=1, max_size=3)),
    mostly(st.integers(1, 200), st.integers(-5, 0) | anything),
    mostly(st.integers(0, 9)),
    mostly(st.lists(st.integers(-132, 140), max_size=3)),
    mostly(codes),
)
def test_data_by_name(source, task, split, languages, size, seed, index, code):
    data = ours(load_data, source, task, split, languages)
    if data is Refused:
        return
    assert isinstance(data, STSData)
    for part in (ours(data.sample, size, seed), ours(data.head, size), ours(data.select, index)):
        if part is not Refused:
            assert len(part) == len(part.gold) == len(part.rows)
            assert {*part.gold} <= {*data.gold}
    in_one = ours(data.texts, code)
    assert in_one is Refused or len(in_one) == 2 * len(data)


@fuzzed
@given(
    mostly(
        st.lists(codes, min_size=2, max_size=3, unique=True).flatmap(
            lambda languages: st.integers(0, 3).flatmap(
                lambda n: st.fixed_dictionaries(
                    {
                        code: st.lists(
                            st.sampled_from(["A dog.", "Un chien.", "", "犬。"]),
                            min_size=n,
                            max_size=n,
                        )
                        for code in languages
                    }
                )
            )
        )
    ),
    mostly(st.sampled_from(["table", ""])),
    texts,
    mostly(codes),
    mostly(codes),
)
def test_parallel_tables(columns, name, texts, source, target):
    table = ours(ParallelTable, columns, name)
    if table is not Refused:
        found = ours(table.translate, texts, source, target)
        assert found is Refused or all(map(has_words, found))
        assert found is Refused or not is_listed(texts) or len(found) == len(texts)


# --- the model

CONFIG = DySem.settings


@st.composite
def settings_files(draw, config):
    """Draw bytes that are mostly a configuration with something changed."""
    kind = draw(st.sampled_from([*["changed"] * 4, "as it is", "bytes", "cut", "deep"]))
    text = json.dumps(config).encode()
    if kind == "as it is":
        return text
    if kind == "bytes":
        return draw(st.binary(max_size=40))
    if kind == "cut":
        at = draw(st.integers(0, len(text)))
        return text[:at] + draw(st.binary(max_size=2)) + text[at + 1 :]
    if kind == "deep":
        return draw(st.sampled_from([b"[", b'{"a":', b"1"])) * draw(st.integers(1, 20_000))
    value = st.recursive(
        st.none() | st.booleans() | numbers | words,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
        max_leaves=4,
    )
    name = draw(st.sampled_from([*config, "contrast", "colour"]))
    return json.dumps({**config, name: draw(value)}).encode()


@fuzzed
@given(st.data())
def test_saved_settings(tiny_lens, folder, data):
    dysem = DySem(tiny_lens, ("en", "fr"), k=8)
    path = written(folder, "dysem.json", data.draw(settings_files(dysem.config)))
    back = ours(DySem.load, path, tiny_lens)
    assert back is Refused or json.loads(json.dumps(back.config)) == back.config
    whole = sentence_encoder(dysem)._settings()
    path = written(folder, "model.json", data.draw(settings_files(whole)))
    back = ours(SentenceEncoder.load, path, tiny_lens)
    assert back is Refused or isinstance(back.encoder, DySem)
    assert ours(DySem.load, data.draw(anything), tiny_lens) is Refused
    for kind in (PromptEncoder, ContrastivePrompting):
        config = kind(tiny_lens, **({"layer": 0} if kind is ContrastivePrompting else {})).config
        path = written(folder, "encoder.json", data.draw(settings_files(config)))
        back = ours(kind.load, path, tiny_lens)
        assert back is Refused or back.config["model"] == tiny_lens.name


@fuzzed
@given(
    mostly(st.integers(0, 3)),
    mostly(st.sampled_from(NORMS)),
    mostly(st.floats(-3, 3)),
    mostly(st.sampled_from([*POSITIONS])),
    mostly(st.sampled_from([*auxiliaries()])),
    mostly(st.none(), st.lists(st.integers(0, 4), max_size=3)),
)
def test_contrasts(tiny_lens, layer, norm, alpha, position, auxiliary, heads):
    contrast = ours(Contrast, layer, norm, alpha, position, auxiliary, heads)
    if contrast is not Refused:
        assert math.isfinite(contrast.alpha)
        assert hash(contrast) == hash(contrast)
        assert json.dumps(contrast.settings)
        assert str(contrast)
    encoder = ours(
        ContrastivePrompting,
        tiny_lens,
        layer,
        norm,
        alpha,
        position,
        "last",
        "prompteol",
        auxiliary,
        heads,
    )
    if encoder is not Refused:
        encoded = ours(encoder.encode, ["A dog."], progress=False)
        assert encoded is Refused or torch.isfinite(encoded.vectors).all()


@fuzzed
@given(
    texts,
    mostly(st.sampled_from([*COMPONENTS]) | st.lists(st.sampled_from([*COMPONENTS]), max_size=3)),
    mostly(st.sampled_from(["sum", "each", 0, 2, range(3), range(1, 2), range(0)])),
    mostly(st.integers(1, 600)),
    mostly(st.none() | st.integers(1, 300)),
)
def test_capture(tiny_lens, prompts, components, layers, max_tokens, tokens_per_batch):
    read = ours(
        capture,
        tiny_lens,
        prompts,
        components,
        layers,
        max_tokens=max_tokens,
        tokens_per_batch=tokens_per_batch,
        progress=False,
    )
    if read is not Refused:
        assert read
        for vectors in read.values():
            assert vectors.dtype == torch.float32
            assert torch.isfinite(vectors).all()
            assert not is_listed(prompts) or len(vectors) == len(prompts)


@fuzzed
@given(
    mostly(codes | st.lists(codes, min_size=1, max_size=3)),
    mostly(st.integers(1, 40) | st.floats(0.01, 1)),
    mostly(st.sampled_from(["attn", "resid"])),
    mostly(st.sampled_from(["prompteol", "{text}"])),
    mostly(st.sampled_from(SETTINGS)),
    mostly(st.sampled_from(["mean", "source"])),
    mostly(st.just(["Yes.", "No."]), texts),
    mostly(codes),
    mostly(
        st.fixed_dictionaries({code: st.just(["A dog.", "犬。"]) for code in ("en", "ja", "fr")}),
        st.dictionaries(codes, texts, max_size=3) | anything,
    ),
)
def test_dysem(tiny_lens, languages, k, component, template, setting, vector, texts, code, given):
    dysem = ours(DySem, tiny_lens, languages, None, k, component, template, setting, vector)
    if dysem is Refused:
        return
    assert json.loads(json.dumps(dysem.config)) == dysem.config
    encoded = ours(dysem.encode, texts, code, given, progress=False)
    if encoded is not Refused:
        assert not is_listed(texts) or len(encoded) == len(texts)
        assert torch.isfinite(encoded.vectors).all()
        assert (encoded.sets.sum(1) <= resolve_k(k, tiny_lens.d_model)).all()


@fuzzed
@given(
    st.sampled_from([PromptEncoder, Echo, ValueAggregation, TokenPrepending]),
    st.fixed_dictionaries(
        {"exit": mostly(st.just(2))},
        optional={
            "template": mostly(st.sampled_from(["ck", "{text}", "{text} or {text}"])),
            "output_layer": mostly(st.sampled_from([2, 3, "last", "final", None])),
            "variant": mostly(st.sampled_from(["va", "wva", "aligned_wva"])),
            "layers": mostly(st.sampled_from(["all", (0, 2), [1, 3]])),
            "start": mostly(st.integers(0, 2)),
            "placeholder": mostly(st.sampled_from([None, "a"])),
            "seed": mostly(st.integers(0, 2**32)),
        },
    ),
    texts,
)
def test_encoders(tiny_lens, kind, arguments, texts):
    arguments = {name: value for name, value in arguments.items() if name in kind.settings}
    encoder = ours(kind, tiny_lens, **arguments)
    if encoder is not Refused:
        assert json.loads(json.dumps(encoder.config)) == encoder.config
        encoded = ours(encoder.encode, texts, progress=False)
        assert encoded is Refused or torch.isfinite(encoded.vectors).all()
        assert (
            encoded is Refused
            or not is_listed(texts)
            or encoded.vectors.shape == (len(texts), encoder.width)
        )


@fuzzed
@given(
    mostly(st.sampled_from(KINDS)),
    tensors(),
    tensors(),
    mostly(st.none() | st.integers(1, 4)),
)
def test_transforms_of_vectors(kind, fit, vectors, k):
    change = ours(fitted, kind, fit, k)
    if change is not Refused and vectors.shape[-1:] == fit.shape[-1:]:
        found = ours(change, vectors)
        assert found is Refused or torch.isfinite(found).all()


@fuzzed
@given(
    mostly(st.sampled_from(KINDS)),
    texts | words,
    mostly(st.none() | st.integers(1, 4)),
    mostly(st.integers(0, 2**32)),
    texts,
)
def test_transforms(tiny_lens, kind, fit, k, seed, texts):
    transform = ours(Transform, kind, fit, k=k, seed=seed)
    if transform is Refused:
        return
    for encoder in (PromptEncoder(tiny_lens), DySem(tiny_lens, "en", k=5)):
        changed = ours(transform, encoder, progress=False)
        if changed is not Refused:
            assert json.loads(json.dumps(changed.config)) == changed.config
            encoded = ours(changed.encode, texts, progress=False)
            assert encoded is Refused or encoded.vectors.shape[1] == changed.width
            assert encoded is Refused or torch.isfinite(encoded.vectors).all()


OPTIONS = (
    "batch_size",
    "truncate_dim",
    "normalize_embeddings",
    "device",
    "precision",
    "prompt",
    "output_value",
    "convert_to_tensor",
)


@fuzzed
@given(
    texts | words,
    mostly(
        st.just({}),
        st.dictionaries(st.sampled_from(OPTIONS), anything | st.integers(1, 40), max_size=2),
    ),
    anything,
    mostly(st.floats(-1, 1)),
)
def test_sentence_encoders(tiny_lens, texts, options, other, undefined):
    for encoder in (MeanPooling(tiny_lens), DySem(tiny_lens, "en")):
        model = ours(sentence_encoder, encoder, undefined=undefined)
        if model is Refused:
            continue
        rows = ours(model.encode, texts, **options)
        rows = other if rows is Refused else rows
        for call in (model.similarity, model.similarity_pairwise):
            for first in (rows, other):
                found = ours(call, first, rows)
                assert found is Refused or torch.isfinite(found).all()
        found = ours(unpack, rows)
        assert found is Refused or torch.isfinite(found.vectors).all()
