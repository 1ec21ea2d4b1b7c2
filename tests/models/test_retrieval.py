"""The search of a corpus on disk against the joint-set cosine in float64, on odd vectors too."""

import contextlib
import sqlite3
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dysem_lab as dl
from dysem_lab.errors import DataError, InputError, ModelError
from dysem_lab.retrieval import kernels, layout, records, scan
from dysem_lab.retrieval.index import SemanticIndex

pytest.importorskip("numba", reason="no numba: pip install -e '.[index]'")
pytestmark = pytest.mark.usefixtures("_one_thread")

D = 7
ODD = [0.0, 1.0, -1.0, 0.5, 3.0, 1e-3, 1e30, -1e30, 3e38, 1e-30, -1e-30, 1e-44]


def reference(queries, texts):
    """Return every similarity in float64, NaN where it is undefined; pair by pair, no products."""
    x, y = queries.vectors.double().numpy(), texts.vectors.double().numpy()
    found = np.full((len(x), len(y)), np.nan)
    for i, j in np.ndindex(found.shape):
        U = (queries.sets[i] | texts.sets[j]).numpy()
        a, b = x[i][U], y[j][U]
        norms = np.sqrt((a**2).sum()) * np.sqrt((b**2).sum())
        if norms > 0:
            found[i, j] = np.clip((a * b).sum() / norms, -1, 1)
    return found


def agrees(found, expected, allowed=None):
    """Assert that what was found is the best of what is expected, and in its order."""
    expected = expected.copy()
    if allowed is not None:
        expected[:, ~allowed] = np.nan
    for i, row in enumerate(expected):
        n = min(found.rows.shape[1], int((~np.isnan(row)).sum()))
        best = np.sort(row[~np.isnan(row)])[::-1][:n]
        rows = found.rows[i, :n]
        assert (found.rows[i, n:] == -1).all()
        assert len(set(rows.tolist())) == n
        np.testing.assert_allclose(found.scores[i, :n], best, rtol=0, atol=1e-12)
        np.testing.assert_allclose(row[rows], best, rtol=0, atol=1e-12)


@st.composite
def semantic(draw, least=1, most=30, pool=None):
    """Draw vectors of odd and plain values, with sets that are full, empty or anything."""
    n = draw(st.integers(least, most))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((n, D)).astype(np.float32)
    odd = rng.random((n, D)) < draw(st.sampled_from([0, 0.1, 0.6]))
    vectors[odd] = rng.choice(np.array(pool or ODD, np.float32), odd.sum())
    share = draw(st.sampled_from([0, 0.25, 0.7, 1]))
    sets = rng.random((n, D)) < share
    if n > 3 and draw(st.booleans()):
        vectors[n // 2], sets[n // 2] = vectors[0], sets[0]  # equal texts
    return dl.SemanticVectors(torch.from_numpy(vectors), torch.from_numpy(sets))


def shards(folder, texts, dtype="float32", height=16):
    """Return texts as shards of so many rows."""
    made = []
    for a in range(0, len(texts), height):
        shape, arrays = layout.packed(texts[a : a + height], dtype)
        path = folder / f"{a}.bin"
        made.append(layout.Shard(path, a, shape, layout.write(path, shape, arrays)))
    return made


def same_of_candidates(found, queries, made, allowed, k):
    """Assert that all allowed rows as candidates, in another order, give what was found."""
    candidates = np.where(allowed, np.arange(len(allowed)), -1)[None, ::-1].repeat(len(queries), 0)
    some = scan.best_of(queries, made, candidates, k)
    assert (some.rows == found.rows).all()
    assert (some.scores == found.scores).all()
    assert (some.n_undefined == found.n_undefined).all()


@pytest.mark.parametrize("many", [False, True], ids=["few queries", "many"])
@settings(max_examples=150)
@given(texts=semantic(), queries=semantic(most=4), k=st.integers(1, 12), seed=st.integers(0, 99))
def test_hits_are_those_of_the_joint_cosine_in_float64(many, texts, queries, k, seed):
    allowed = np.random.default_rng(seed).random(len(texts)) < 0.8
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(layout, "BLOCK", 8)
        patch.setattr(layout.os, "fsync", lambda handle: None)
        patch.setattr(scan, "MANY", 1 if many else 99)
        patch.setattr(scan, "TILE_VALUES", 5 * D)
        made = shards(Path(folder), texts)
        found = scan.best_rows(queries, made, allowed, k)
        same_of_candidates(found, queries, made, allowed, k)
    expected = reference(queries, texts)
    agrees(found, expected, allowed)
    assert found.n_undefined.tolist() == np.isnan(expected[:, allowed]).sum(1).tolist()


@pytest.mark.parametrize("dtype", ["float16", "int8"])
@pytest.mark.parametrize("many", [False, True], ids=["few queries", "many"])
@settings(max_examples=80)
@given(texts=semantic(), queries=semantic(most=4))
def test_hits_of_fewer_bytes_are_exact_for_what_is_stored(many, dtype, texts, queries):
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(layout, "BLOCK", 8)
        patch.setattr(layout.os, "fsync", lambda handle: None)
        patch.setattr(scan, "MANY", 1 if many else 99)
        made = shards(Path(folder), texts, dtype)
        everything = np.ones(len(texts), bool)
        found = scan.best_rows(queries, made, everything, 5)
        same_of_candidates(found, queries, made, everything, 5)
        stored = [shard.read(np.arange(shard.shape.rows)) for shard in made]
    vectors, sets = map(torch.cat, zip(*stored, strict=True))
    assert torch.equal(sets, texts.sets)
    agrees(found, reference(queries, dl.SemanticVectors(vectors, sets)))
    peaks = texts.vectors.abs().amax(0)  # of a column; a block's is no larger
    step = {"float16": 2.0**-10, "int8": 1 / 250}[dtype]
    tiny = 2.0**-126  # below, no scale of float32 tells values apart
    assert ((vectors - texts.vectors).abs() <= peaks * step + tiny).all()


def test_int8_keeps_signs_of_the_smallest_numbers_of_float32():
    steps = torch.arange(1, 400, dtype=torch.float32)[:, None] * 2.0**-149
    texts = dl.SemanticVectors(torch.stack([steps, -steps]).reshape(-1, 1), torch.ones(798, 1) > 0)
    for rows in torch.arange(798).reshape(2, -1).T:
        stored = layout.as_stored(texts[rows.numpy()], "int8").vectors
        assert (stored[0] > 0 > stored[1]).all(), float(rows[0])


@pytest.mark.parametrize("dtype", layout.DTYPES)
@settings(max_examples=60)
@given(texts=semantic())
def test_what_is_read_of_every_row_is_within_its_bound(dtype, texts):
    _, arrays = layout.packed(texts, dtype)
    if texts.full:
        return
    stored = layout.as_stored(texts, dtype).vectors
    inside = np.where(texts.sets, stored, np.float32(0)).astype(np.float64)
    about = arrays["rough"] * arrays["steps"][:, None].astype(np.float64)
    assert (np.abs(inside - about) <= kernels.HALF_STEP * arrays["steps"][:, None]).all()
    assert not arrays["rough"][~texts.sets.numpy()].any()


def test_of_many_rows_none_is_missed(tmp_path):
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(9000, 24, generator=generator) + 0.7  # of one direction, as models have
    sets = torch.zeros(9000, 24, dtype=torch.bool).scatter(1, vectors.topk(6).indices, True)
    texts = dl.SemanticVectors(vectors, sets)
    made = shards(tmp_path, texts, height=5000)
    everything = np.ones(9000, bool)
    queries = texts[[0, 8999, *range(40, 60)]]
    expected = dl.all_pairs_similarity(
        queries.vectors.double(), vectors.double(), queries.sets, sets
    )
    for some in (slice(0, 1), slice(0, 3), slice(None)):
        found = scan.best_rows(queries[some], made, everything, 10)
        best = expected[some].sort(descending=True, stable=True)
        assert (found.rows == best.indices[:, :10].numpy()).all()
        np.testing.assert_allclose(found.scores, best.values[:, :10].numpy(), atol=1e-12)


def test_scores_are_those_of_the_package(tmp_path):
    texts, queries = drawn(50, 1), drawn(4, 2)
    index = SemanticIndex.create(tmp_path / "index", D)
    index.add(range(50), texts)
    hits = index.search(queries, 50)
    expected = dl.all_pairs_similarity(queries.vectors, texts.vectors, queries.sets, texts.sets)
    order = torch.from_numpy(hits.ids.astype(np.int64))
    assert torch.allclose(hits.scores, expected.gather(1, order), atol=1e-6)
    assert hits.scores.dtype == torch.float32


def test_dense_vectors_are_compared_by_their_cosine(tmp_path):
    vectors = torch.randn(40, D, generator=torch.Generator().manual_seed(3))
    index = SemanticIndex.create(tmp_path / "index", D)
    index.add([f"text {i}" for i in range(40)], dl.SemanticVectors(vectors))
    hits = index.search(dl.SemanticVectors(vectors[:2]), 3)
    expected = torch.cosine_similarity(vectors[:2, None], vectors[None], dim=-1)
    assert torch.allclose(hits.scores, expected.topk(3).values, atol=1e-6)
    assert hits.ids[:, 0].tolist() == ["text 0", "text 1"]
    # Where one side's set is full, so is the joint set.
    some = dl.SemanticVectors(vectors[:2], torch.zeros(2, D, dtype=torch.bool))
    assert torch.equal(index.search(some, 3).scores, hits.scores)


def drawn(n, seed, share=0.4):
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(n, D, generator=generator)
    return dl.SemanticVectors(vectors, torch.rand(n, D, generator=generator) < share)


def test_equal_texts_come_in_the_order_in_which_they_were_added(tmp_path):
    index = SemanticIndex.create(tmp_path / "index", D)
    one = drawn(1, 0)
    for start in range(0, 30, 3):
        index.add([f"{i}" for i in range(start, start + 3)], one[[0, 0, 0]])
    assert index.search(one, 5).ids.tolist() == [["0", "1", "2", "3", "4"]]
    index.delete(["1", "3"])
    assert index.search(one, 4).ids.tolist() == [["0", "2", "4", "5"]]


def test_what_is_not_there_is_no_hit(tmp_path):
    index = SemanticIndex.create(tmp_path / "index", D)
    assert index.search(drawn(2, 0), 3).scores.shape == (2, 0)  # an empty index
    index.add(range(4), drawn(4, 1))
    assert index.search(drawn(0, 0), 3).scores.shape == (0, 3)  # no query
    hits = index.search(drawn(2, 0), 99)  # k larger than the corpus
    assert sorted(hits.ids[0]) == [0, 1, 2, 3]
    nothing = dl.SemanticVectors(torch.ones(1, D), torch.zeros(1, D, dtype=torch.bool))
    index.add(["empty"], nothing)
    hits = index.search(nothing, 5)  # compared on the sets of the others; with its like on none
    assert hits.n_undefined.tolist() == [1]
    assert hits.ids[0, -1] is None
    assert hits.scores[0, -1].isnan()
    assert set(hits.ids[0, :-1]) == {0, 1, 2, 3}
    assert not hits.scores[0, :-1].isnan().any()


def test_a_mask_and_deleted_texts_leave_the_rest(tmp_path):
    index, texts = SemanticIndex.create(tmp_path / "index", D), drawn(20, 1)
    index.add(range(20), texts, [f"Text {i}." for i in range(20)])
    index.delete([3, 4, 0])
    assert len(index) == 17
    assert index.ids == [1, 2, *range(5, 20)]
    assert index.texts([5, 1]) == ["Text 5.", "Text 1."]
    even = [name % 2 == 0 for name in index.ids]
    found = index.search(texts[[3]], 20, even).ids[0].tolist()
    assert sorted(found) == [2, 6, 8, 10, 12, 14, 16, 18]
    kept = index.vectors([7, 2])
    assert torch.equal(kept.vectors, texts.vectors[[7, 2]])
    assert torch.equal(kept.sets, texts.sets[[7, 2]])
    index.add([3], texts[[3]])  # again
    assert index.search(texts[[3]], 1).ids.tolist() == [[3]]
    other = SemanticIndex.open(tmp_path / "index")
    index.add([5, 77], texts[[0, 4]], replace=True)
    assert len(other) == len(index) == 19
    assert torch.equal(other.vectors([5]).vectors, texts.vectors[[0]])
    index.delete(index.ids)
    assert not list((tmp_path / "index").glob("shard-*"))
    assert other.search(texts[[3]], 5).ids.shape == (1, 0)


def test_bad_input_is_refused_with_the_remedy(tmp_path):
    index = SemanticIndex.create(tmp_path / "index", D)
    index.add(["a", "b"], drawn(2, 0))
    for call, said in (
        (lambda: SemanticIndex.create(tmp_path / "index", D), "already; open it"),
        (lambda: SemanticIndex.create(tmp_path / "new", 0), "width must be"),
        (lambda: SemanticIndex.create(tmp_path / "new", 70_000), "at most 65,536"),
        (lambda: SemanticIndex.create(tmp_path / "new", 4, dtype="int4"), "did you mean 'int8'"),
        (lambda: SemanticIndex.open(tmp_path / "none"), "index build"),
        (lambda: index.add(["a"], drawn(1, 0)), "ids that are there already: 'a'; delete them"),
        (lambda: index.add(["c", "c"], drawn(2, 0)), "given twice: 'c'"),
        (lambda: index.add([1.5], drawn(1, 0)), "string or a whole number"),
        (lambda: index.add(["c"], drawn(2, 0)), "1 ids, 2 vectors"),
        (lambda: index.add(["c"], drawn(1, 0), ["One.", "Two."]), "2 texts"),
        (lambda: index.add(["c"], dl.SemanticVectors(torch.ones(1, 3))), "width 3"),
        (lambda: index.add(["c"], torch.ones(1, D)), "give SemanticVectors"),
        (
            lambda: index.add(["c"], dl.SemanticVectors(torch.ones(1, D).double() * 1e300)),
            "float32 does not hold",
        ),
        (lambda: index.delete(["a", "x"]), "no text 'x'"),
        (lambda: index.search(dl.SemanticVectors(torch.ones(1, 3))), "has width 7"),
        (lambda: index.search(drawn(1, 0), 0), "k must be"),
        (lambda: index.search(drawn(1, 0), 1, [True]), "mask must be 2 booleans"),
        (lambda: index.search(dl.SemanticVectors(torch.full((1, D), torch.nan))), "NaN"),
    ):
        with pytest.raises(InputError, match=said):
            call()
    assert index.ids == ["a", "b"]


def test_without_numba_the_remedy_is_named(tmp_path, monkeypatch):
    index = SemanticIndex.create(tmp_path / "index", D)
    monkeypatch.setitem(__import__("sys").modules, "numba", None)
    with pytest.raises(ModelError, match=r"pip install 'dysem-lab\[index\]'"):
        index.search(drawn(1, 0))


def test_a_damaged_shard_is_named_and_can_be_made_anew(tmp_path):
    texts = drawn(6, 0)
    index = SemanticIndex.create(tmp_path / "index", D)
    index.add([0, 1, 2], texts[:3])
    index.add([3, 4, 5], texts[3:], ["Three.", "Four.", "Five."])
    path = max((tmp_path / "index").glob("shard-*"))
    whole = path.read_bytes()
    at = len(whole) // 2
    for damage in (whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :], whole[:-64], None):
        if damage is None:
            path.unlink()
        else:
            path.write_bytes(damage)
        with pytest.raises(DataError, match=f"{path.name} is damaged.*index repair"):
            SemanticIndex.open(tmp_path / "index").search(texts, 2)
    damaged = index.damaged()
    assert damaged["id"].tolist() == [3, 4, 5]
    assert damaged["text"].tolist() == ["Three.", "Four.", "Five."]
    index.add(damaged["id"], texts[3:], damaged["text"].tolist(), replace=True)
    assert index.damaged().empty
    assert index.search(texts, 1).ids[:, 0].tolist() == list(range(6))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("DELETE FROM texts", "does not know all texts of its shards"),
        ("UPDATE facts SET value=3 WHERE name='rows'", "has more than 3 rows"),
        ("UPDATE facts SET value='{' WHERE name='encoder'", "no JSON"),
        ("UPDATE facts SET value='int4' WHERE name='dtype'", "does not say its dtype"),
        ("DELETE FROM facts", "does not say its width"),
    ],
)
def test_an_index_that_lost_a_part_of_its_own_file_is_refused(tmp_path, change, said):
    SemanticIndex.create(tmp_path / "index", D).add(range(6), drawn(6, 0))
    with contextlib.closing(sqlite3.connect(tmp_path / "index" / "index.sqlite")) as connection:
        connection.execute(change)
        connection.commit()
    with pytest.raises(DataError, match=f"{said}.*; move it away and build it anew"):
        SemanticIndex.open(tmp_path / "index").search(drawn(1, 1), 2)


def test_an_index_with_a_lost_shard_says_how_many_texts_it_has(tmp_path):
    index = SemanticIndex.create(tmp_path / "index", D)
    index.add(range(6), drawn(6, 0))
    index.add(range(6, 9), drawn(3, 1))
    index.delete([2, 7])
    next((tmp_path / "index").glob("shard-*")).unlink()
    index = SemanticIndex.open(tmp_path / "index")
    assert (len(index), index.n_deleted) == (7, 2)
    assert "7 texts" in repr(index)
    with pytest.raises(DataError, match="No such file"):
        index.search(drawn(1, 1), 2)


def test_an_index_of_another_encoder_is_refused_by_what_differs(tmp_path, tiny_lens, tiny_folder):
    encoder = dl.DySem(tiny_lens, ("en",), k=8)
    index = SemanticIndex.create(tmp_path / "index", encoder.width, encoder=encoder)
    index.add(["a"], encoder.encode(["A text."], progress=False))
    SemanticIndex.open(tmp_path / "index", dl.DySem(tiny_lens, ("en",), k=8))
    for other, said in (
        (dl.DySem(tiny_lens, ("en", "ja"), k=8), r"languages \['en'\], not \['en', 'ja'\]"),
        (
            dl.DySem(dl.load_model(tiny_folder("Llama", 2)), ("en",), k=8),
            f"model {tiny_lens.name!r}, not .*; fingerprint ",
        ),
        (dl.MeanPooling(tiny_lens), "encoder 'DySem', not 'MeanPooling'"),
    ):
        with pytest.raises(InputError, match=said):
            SemanticIndex.open(tmp_path / "index", other)
    with pytest.raises(InputError, match="width 32, not 31"):
        SemanticIndex.create(tmp_path / "new", 31, encoder=encoder)


def test_an_index_of_code_that_makes_other_vectors_is_refused_by_its_version(
    tmp_path, tiny_lens, monkeypatch
):
    encoder = dl.DySem(tiny_lens, ("en",), k=8)
    made = {"made": encoder, "unsaid": None}
    for name, of in made.items():
        SemanticIndex.create(tmp_path / name, encoder.width, encoder=of)
    monkeypatch.setattr("dysem_lab.__version__", "9.9")
    for name in made:
        SemanticIndex.open(tmp_path / name, encoder)
    monkeypatch.setattr("dysem_lab.retrieval.identity.VECTORS", 2)
    with pytest.raises(InputError, match=r"made by dysem-lab \d.* other vectors .*1, and 2 now"):
        SemanticIndex.open(tmp_path / "made", encoder)
    SemanticIndex.open(tmp_path / "unsaid", encoder)  # whose vectors may be anybody's
    assert len(SemanticIndex.open(tmp_path / "made")) == 0
    SemanticIndex.create(tmp_path / "new", encoder.width, encoder=encoder)
    SemanticIndex.open(tmp_path / "new", encoder)


def test_another_file_in_the_place_of_an_index_is_refused(tmp_path):
    index = SemanticIndex.create(tmp_path / "index", D)
    file = tmp_path / "index" / "index.sqlite"
    with index._database.connection() as connection:
        connection.execute(f"PRAGMA application_id={records.APPLICATION_ID + 1}")
    with pytest.raises(DataError, match=r"another format \(4; this version of dysem-lab reads 3\)"):
        SemanticIndex.open(tmp_path / "index")
    file.write_bytes(b"nothing of the kind" * 99)
    with pytest.raises(DataError, match="not a usable semantic index"):
        SemanticIndex.open(tmp_path / "index")


def clustered(n, full=False):
    """Return texts around some centres, as a corpus has them, on a common direction."""
    generator = torch.Generator().manual_seed(5)
    centres = torch.randn(20, 24, generator=generator)
    vectors = centres[torch.randint(20, (n,), generator=generator)] + 2
    vectors += 0.4 * torch.randn(n, 24, generator=generator)
    sets = torch.zeros(n, 24, dtype=torch.bool).scatter(1, vectors.topk(6).indices, True)
    return dl.SemanticVectors(vectors) if full else dl.SemanticVectors(vectors, sets)


@pytest.mark.parametrize("full", [False, True], ids=["sets", "full"])
def test_a_first_stage_says_what_it_misses_and_hits_have_the_exact_scores(tmp_path, full):
    pytest.importorskip("faiss")
    texts, folder = clustered(1500, full), tmp_path / "index"
    index = SemanticIndex.create(folder, 24)
    index.add(range(1000), texts[:1000])
    index.delete(range(0, 1000, 9))
    assert index.first_stage is None
    with pytest.raises(InputError, match=r"no first stage; index\.build_first_stage"):
        index.search(texts[:2], 5, first_stage=50)
    said = index.build_first_stage(60)
    assert said == SemanticIndex.open(folder).first_stage
    queries, exact = texts[[3, 9, 1200]], index.search(texts[[3, 9, 1200]], 10)
    hits = SemanticIndex.open(folder).search(queries, 10, first_stage=60)
    assert "60 candidates of faiss IVF" in hits.first_stage
    assert exact.first_stage is None
    similarity = dl.all_pairs_similarity(
        queries.vectors, texts.vectors, queries.sets, texts.sets
    ).numpy()
    for row, scores, ids in zip(similarity, hits.scores.numpy(), hits.ids, strict=True):
        np.testing.assert_allclose(scores, row[ids.astype(int)], atol=1e-6)
        assert (np.diff(scores) <= 0).all()
        assert not any(name % 9 == 0 for name in ids)
    # The recall that was said is that of each text of a sample, less itself.
    asked = np.sort(np.random.default_rng(0).permutation(len(index))[:100])
    assert 0.3 < said["recall@10"] <= 1
    assert said["n_queries"] == len(asked) == 100
    # Every text as a candidate, all lists read: what is exact.
    of_odd = [name % 2 == 1 for name in index.ids]
    lots = index.search(queries, 10, of_odd, first_stage=10**4)
    assert set(lots.ids.ravel()) <= {name for name in index.ids if name % 2}
    index.add(range(1000, 1500), texts[1000:])  # all looked at, wherever they are
    assert index.search(texts[1000:1010], 1, first_stage=5).ids.ravel().tolist() == [
        *range(1000, 1010)
    ]
    assert index.build_first_stage(10**4, share=1)["recall@10"] == 1  # all texts of all lists
    with pytest.raises(InputError, match="share must be"):
        index.build_first_stage(share=2)
    for n, error in ((0, "first_stage must be"), (4, "fewer texts than k=5")):
        with pytest.raises(InputError, match=error):
            index.search(queries, 5, first_stage=n)
    (path,) = folder.glob("first-stage-*")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"damaged.*index first-stage"):
        SemanticIndex.open(folder).search(queries, 5, first_stage=50)
    index.build_first_stage(60)
    assert len(list(folder.glob("first-stage-*"))) == 1
    SemanticIndex.open(folder).search(queries, 5, first_stage=50)


def test_a_first_stage_of_huge_and_of_few_vectors(tmp_path):
    pytest.importorskip("faiss")
    index = SemanticIndex.create(tmp_path / "index", D)
    with pytest.raises(InputError, match="has no texts"):
        index.build_first_stage()
    index.add([0], drawn(1, 0))
    assert index.build_first_stage()["recall@10"] is None
    huge = dl.SemanticVectors(torch.tensor([[3e38] * D, [-3e38] * D, [0.0] * D]))
    index.add([1, 2, 3], huge)
    assert index.build_first_stage()["recall@10"] == 1
    for n in (4, 10**12):  # for so many candidates there is no memory
        hits = index.search(huge, 4, first_stage=n)
        assert hits.ids.tolist() == index.search(huge, 4).ids.tolist()
    assert index.search(huge, 4, [False] * 4, first_stage=4).ids.shape == (3, 0)


def test_without_faiss_the_remedy_is_named(tmp_path, monkeypatch):
    index = SemanticIndex.create(tmp_path / "index", D)
    index.add(range(3), drawn(3, 0))
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(ModelError, match=r"pip install 'dysem-lab\[first-stage\]'"):
        index.build_first_stage()


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_compaction_keeps_texts_in_their_order_and_gives_disk_back(tmp_path, dtype, monkeypatch):
    monkeypatch.setattr(records, "rows_per_shard", lambda width, dtype: 40)
    texts = drawn(95, 1)
    index = SemanticIndex.create(tmp_path / "index", D, dtype=dtype)
    for a in range(0, 90, 10):
        index.add(range(a, a + 10), texts[a : a + 10], [f"Text {i}." for i in range(a, a + 10)])
    index.add(range(90, 95), dl.SemanticVectors(texts.vectors[90:]))  # full sets, kept as such
    index.delete([0, 1, 44, 89, *range(50, 60)])
    other = SemanticIndex.open(tmp_path / "index")
    ids, before = other.ids, other.search(texts[:3], 7)
    kept, size = other.vectors(ids), index.n_bytes
    assert index.n_deleted == 4  # a shard without texts is gone already
    assert index.compact() == 4
    assert index.n_deleted == 0
    assert (
        len(list((tmp_path / "index").glob("shard-*"))) == 3
    )  # of at most 40 texts; full sets by themselves
    assert index.n_bytes < size
    for one in (index, other, SemanticIndex.open(tmp_path / "index")):
        assert one.ids == ids
        assert one.texts([2, 88]) == ["Text 2.", "Text 88."]
        now = one.vectors(ids)
        assert torch.equal(now.sets, kept.sets)
        step = {"float32": 0, "float16": 2.0**-20, "int8": 1 / 250}[dtype]
        most = kept.vectors.abs().max() * step
        assert ((now.vectors - kept.vectors).abs() <= most).all()
        if dtype == "float32":
            after = one.search(texts[:3], 7)
            assert torch.equal(after.scores, before.scores)
            assert (after.ids == before.ids).all()
    assert index.compact() == 0
    index.add([1], texts[[1]])
    assert index.search(texts[[1]], 1).ids.tolist() == [[1]]
    assert index.ids == [*ids, 1]
    assert index.damaged().empty


def test_a_search_beside_a_compaction_names_the_right_texts(tmp_path, monkeypatch):
    index, texts = SemanticIndex.create(tmp_path / "index", D), drawn(30, 2)
    index.add(range(30), texts)
    index.delete(range(12))
    other, found = SemanticIndex.open(tmp_path / "index"), SemanticIndex._found

    def meanwhile(self, *arguments):
        done = found(self, *arguments)
        index.compact()  # after the rows were found, before their names are asked
        return done

    monkeypatch.setattr(SemanticIndex, "_found", meanwhile)
    assert other.search(texts[20:22], 1).ids.ravel().tolist() == [20, 21]
