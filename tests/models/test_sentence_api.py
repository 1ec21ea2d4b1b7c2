"""Encoders as sentence-transformers models: options, packing, its own tools, saving, pickling."""

import json
import pickle
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dysem_lab.encoders.base import Encoder, MeanPooling, PromptEncoder
from dysem_lab.encoders.contrastive import ContrastivePrompting
from dysem_lab.encoders.dysem import DySem
from dysem_lab.encoders.vectors import SemanticVectors
from dysem_lab.errors import InputError, ModelError
from dysem_lab.harnesses.sentence_api import SentenceEncoder, pack, sentence_encoder, unpack
from dysem_lab.models.loading import load_model
from dysem_lab.models.steering import Contrast
from dysem_lab.models.store import VectorStore
from dysem_lab.translation.parallel_table import ParallelTable

pytestmark = pytest.mark.usefixtures("_one_thread")

ENGLISH = ("A dog sleeps.", "Two children sing.", "The market fell.", "It rains in the north.")
FRENCH = ("Un chien dort.", "Deux enfants chantent.", "Le marché a chuté.", "Il pleut au nord.")
TABLE = ParallelTable({"en": ENGLISH, "fr": FRENCH})


@pytest.fixture(scope="module")
def prompteol(tiny_lens):
    return PromptEncoder(tiny_lens)


@pytest.fixture(scope="module")
def dysem(tiny_lens):
    return DySem(tiny_lens, ("en", "fr"), TABLE, k=12, setting="english")


def naive_dysem(vectors, sets):
    """Cosines over the union of two sets, one pair and one dimension at a time."""
    values = np.zeros((len(vectors), len(vectors)))
    for i, x in enumerate(vectors.tolist()):
        for j, y in enumerate(vectors.tolist()):
            union = [d for d in range(len(x)) if sets[i][d] or sets[j][d]]
            dot = sum(x[d] * y[d] for d in union)
            norms = sum(x[d] ** 2 for d in union) * sum(y[d] ** 2 for d in union)
            values[i, j] = dot / norms**0.5
    return values


def test_one_text_gives_a_vector_a_list_a_matrix_and_no_text_an_empty_one(prompteol, dysem):
    for encoder, width in ((prompteol, 32), (dysem, 64)):
        model = sentence_encoder(encoder)
        many = model.encode(list(ENGLISH))
        assert isinstance(many, np.ndarray)
        assert many.dtype == np.float32
        assert many.shape == (4, width)
        assert np.isfinite(many).all()
        np.testing.assert_allclose(model.encode(ENGLISH[0]), many[0], atol=1e-5)
        assert model.encode([]).shape == (0, width)
        assert model.get_embedding_dimension() == width
        assert model.get_sentence_embedding_dimension() == width
        none = model.encode([], convert_to_tensor=True)
        assert model.similarity(none, many).shape == (0, 4)


def test_dense_embeddings_are_those_of_the_encoder_in_every_form(prompteol):
    model = sentence_encoder(prompteol)
    expected = prompteol.encode(list(ENGLISH), progress=False).vectors
    for texts in (list(ENGLISH), ENGLISH, np.array(ENGLISH), iter(ENGLISH)):
        np.testing.assert_array_equal(model.encode(texts), expected.numpy())
    np.testing.assert_array_equal(model.encode(sentences=list(ENGLISH)), expected.numpy())
    tensor = model.encode(list(ENGLISH), convert_to_tensor=True)
    assert torch.equal(tensor, expected)
    rows = model.encode(list(ENGLISH), convert_to_numpy=False)
    assert isinstance(rows, list)
    assert all(torch.equal(row, one) for row, one in zip(rows, expected, strict=True))
    for method in (model.encode_query, model.encode_document):
        np.testing.assert_array_equal(
            method(list(ENGLISH), prompt="", batch_size=2, show_progress_bar=False, device="cpu"),
            expected.numpy(),
        )


def test_truncating_comes_before_normalising_as_in_sentence_transformers(prompteol):
    raw = prompteol.encode(list(ENGLISH), progress=False).vectors.numpy().astype(np.float64)[:, :5]
    found = sentence_encoder(prompteol).encode(
        list(ENGLISH), truncate_dim=5, normalize_embeddings=True
    )
    expected = raw / np.sqrt((raw**2).sum(1, keepdims=True))
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int8"}, "precision='int8'.*float32"),
        ({"output_value": "token_embeddings"}, "output_value='token_embeddings'.*capture"),
        ({"output_value": None}, "output_value=None"),
        ({"prompt": "query: "}, "prompt='query: '.*template"),
        ({"prompt_name": "query"}, "prompt_name='query'.*setting of the encoder"),
        ({"device": "cuda:3"}, "device='cuda:3'.*model is on cpu.*load_model"),
        ({"device": ["cpu", "cpu"]}, "device"),
        ({"batch_size": 0}, "batch_size must be positive, got 0"),
        ({"pool": {"input": 1}}, "no option pool="),
        ({"task": "query"}, "no option task='query'"),
        ({"truncate_dim": 33}, "between 1 and 32, got 33"),
        ({"truncate_dim": 0}, "between 1 and 32, got 0"),
    ],
)
def test_what_cannot_be_honoured_is_an_error(prompteol, options, message):
    with pytest.raises(InputError, match=message):
        sentence_encoder(prompteol).encode(["A dog."], **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"truncate_dim": 8}, "truncate_dim=8.*k$"), ({"normalize_embeddings": True}, "leave it out")],
)
def test_packed_vectors_are_not_cut_or_scaled(dysem, options, message):
    with pytest.raises(InputError, match=message):
        sentence_encoder(dysem).encode([ENGLISH[0]], **options)


def test_inputs_that_are_no_texts_are_errors(prompteol):
    model = sentence_encoder(prompteol)
    with pytest.raises(InputError, match=r"text 1 is empty or not a string: \{'text'"):
        model.encode(["A dog.", {"text": "A cat."}])
    with pytest.raises(InputError, match="text 1 is empty"):
        model.encode(["A dog.", " "])
    with pytest.raises(InputError, match="needs texts, once"):
        model.encode()
    with pytest.raises(InputError, match="needs texts, once"):
        model.encode(["A dog."], sentences=["A dog."])
    with pytest.raises(InputError, match="one of dysem-lab's"):
        sentence_encoder("gpt2")
    for undefined in (float("nan"), 2, -1.5):
        with pytest.raises(InputError, match="between -1 and 1"):
            sentence_encoder(prompteol, undefined=undefined)


@st.composite
def semantics(draw):
    n, d = draw(st.integers(1, 5)), draw(st.integers(1, 7))
    values = st.floats(-1e4, 1e4, width=32)
    vectors = [[draw(values) for _ in range(d)] for _ in range(n)]
    sets = [[draw(st.booleans()) for _ in range(d)] for _ in range(n)]
    return SemanticVectors(torch.tensor(vectors), torch.tensor(sets))


@given(semantics())
def test_packing_loses_nothing(semantic):
    packed = pack(semantic)
    assert packed.dtype == torch.float32
    assert packed.shape == (len(semantic), 2 * semantic.vectors.shape[1])
    assert torch.isfinite(packed).all()
    for form in (packed, packed.numpy(), list(packed), list(packed.numpy()), packed.double()):
        back = unpack(form)
        assert torch.equal(back.vectors, semantic.vectors)
        assert torch.equal(back.sets, semantic.sets)


def test_the_plain_cosine_and_distance_of_packed_rows_are_those_of_the_vectors():
    generator = torch.Generator().manual_seed(0)
    vectors = 1e-3 * torch.randn(6, 50, generator=generator)
    sets = torch.rand(6, 50, generator=generator) < 0.3
    packed = pack(SemanticVectors(vectors, sets)).numpy()
    rows = vectors.double().numpy()
    np.testing.assert_allclose(packed @ packed.T, rows @ rows.T, rtol=1e-4, atol=1e-10)
    gaps = ((packed[:, None] - packed[None]) ** 2).sum(-1)
    np.testing.assert_allclose(gaps, ((rows[:, None] - rows[None]) ** 2).sum(-1), rtol=1e-4)


def test_arrays_that_are_not_packed_are_refused(dysem):
    packed = sentence_encoder(dysem).encode(list(ENGLISH), convert_to_tensor=True)
    damaged = {
        "normalised": torch.nn.functional.normalize(packed, dim=1),
        "cut": packed[:, :40],
        "cut to odd": packed[:, :63],
        "quantised": (packed * 10).round(),
        "float16": packed.half(),
        "dense": torch.randn(3, 64),
    }
    for rows in damaged.values():
        with pytest.raises(InputError, match="no packed sets"):
            unpack(rows)
    with pytest.raises(InputError, match="shape"):
        unpack(torch.zeros(2, 2, 2))
    with pytest.raises(InputError, match="NaN or infinite"):
        pack(SemanticVectors(torch.tensor([[float("nan")]]), torch.tensor([[True]])))


def test_dysem_is_compared_by_its_own_similarity(dysem):
    model = sentence_encoder(dysem)
    semantic = dysem.encode(list(ENGLISH), progress=False)
    expected = naive_dysem(semantic.vectors.double().numpy(), semantic.sets.numpy())
    rows = model.encode(list(ENGLISH))
    found = model.similarity(rows, torch.tensor(rows))
    assert isinstance(found, torch.Tensor)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)
    pairs = model.similarity_pairwise(rows, rows[::-1].copy())
    np.testing.assert_allclose(pairs.numpy(), np.diag(expected[:, ::-1]), atol=1e-5)
    np.testing.assert_allclose(model.similarity(rows[0], rows[1]), expected[:1, 1:2], atol=1e-5)
    plain = torch.nn.functional.normalize(semantic.vectors, dim=1)
    assert not np.allclose(expected, plain @ plain.T, atol=1e-2)
    assert model.similarity_fn_name == "dysem"


def test_dense_encoders_are_compared_by_cosine(prompteol):
    model = sentence_encoder(prompteol)
    rows = model.encode(list(ENGLISH))
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(model.similarity(rows, rows[:2]), unit @ unit[:2].T, atol=1e-5)
    np.testing.assert_allclose(
        model.similarity_pairwise(rows[:2], rows[2:]), (unit[:2] * unit[2:]).sum(1), atol=1e-5
    )
    assert model.similarity_fn_name == "cosine"


@pytest.mark.parametrize("undefined", [0.0, -1.0])
def test_a_pair_without_a_similarity_has_the_chosen_number_and_is_counted(dysem, undefined):
    empty = SemanticVectors(torch.ones(2, 3), torch.zeros(2, 3, dtype=torch.bool))
    model = sentence_encoder(dysem, undefined=undefined)
    with pytest.warns(UserWarning, match=rf"4 of 4 pairs have no similarity.* {undefined}"):
        assert model.similarity(pack(empty), pack(empty)).tolist() == [[undefined] * 2] * 2
    with pytest.warns(UserWarning, match="2 of 2"):
        assert model.similarity_pairwise(pack(empty), pack(empty)).tolist() == [undefined] * 2


def test_semantic_search_ranks_by_our_similarity(dysem):
    util = pytest.importorskip("sentence_transformers").util
    model = sentence_encoder(dysem)
    corpus = model.encode_document(list(ENGLISH), convert_to_tensor=True)
    hits = util.semantic_search(
        corpus[:2], corpus, score_function=model.similarity, top_k=3, corpus_chunk_size=2
    )
    semantic = dysem.encode(list(ENGLISH), progress=False)
    expected = naive_dysem(semantic.vectors.double().numpy(), semantic.sets.numpy())
    for query, of_query in enumerate(hits):
        order = np.argsort(-expected[query])[:3]
        assert [hit["corpus_id"] for hit in of_query] == order.tolist()
        scores = [hit["score"] for hit in of_query]
        np.testing.assert_allclose(scores, expected[query][order], atol=1e-5)


@pytest.mark.parametrize("given_functions", [True, False])
def test_the_information_retrieval_evaluator_uses_our_similarity(dysem, tmp_path, given_functions):
    library = pytest.importorskip("sentence_transformers.evaluation")
    model = sentence_encoder(dysem)
    queries = {"q0": ENGLISH[0], "q1": ENGLISH[2]}
    corpus = {f"d{i}": text for i, text in enumerate(ENGLISH)}
    relevant = {"q0": {"d1"}, "q1": {"d0", "d3"}}
    functions = {"dysem": model.similarity} if given_functions else None
    evaluator = library.InformationRetrievalEvaluator(
        queries, corpus, relevant, score_functions=functions, corpus_chunk_size=3
    )
    found = evaluator(model, output_path=str(tmp_path))
    semantic = dysem.encode(list(ENGLISH), progress=False)
    similarity = naive_dysem(semantic.vectors.double().numpy(), semantic.sets.numpy())
    reciprocal = []
    for row, wanted in ((0, {1}), (2, {0, 3})):
        order = np.argsort(-similarity[row]).tolist()
        reciprocal.append(1 / (1 + min(order.index(d) for d in wanted)))
    assert found["dysem_mrr@10"] == pytest.approx(np.mean(reciprocal))
    assert 0 < found["dysem_ndcg@10"] < 1


def test_a_dense_encoder_scores_in_the_similarity_evaluator_as_by_hand(prompteol):
    library = pytest.importorskip("sentence_transformers.evaluation")
    model = sentence_encoder(prompteol)
    first, second, gold = ENGLISH[:3], ENGLISH[1:], [0.9, 0.1, 0.5]
    found = library.EmbeddingSimilarityEvaluator(list(first), list(second), gold)(model)
    rows = prompteol.encode(list(ENGLISH), progress=False).vectors.double()
    cosines = torch.nn.functional.cosine_similarity(rows[:3], rows[1:])
    ranks = [sorted(values).index(value) for values in (cosines.tolist(), gold) for value in values]
    expected = np.corrcoef(ranks[:3], ranks[3:])[0, 1]
    assert found["spearman_cosine"] == pytest.approx(expected)


def test_what_tools_read_of_a_model(prompteol, dysem, tiny_lens):
    for encoder in (prompteol, dysem):
        model = sentence_encoder(encoder)
        assert model.device == torch.device("cpu")
        assert model.max_seq_length == min(512, tiny_lens.n_context)
        assert model.model_card_data.set_evaluation_metrics(None, {}, 0, 0) is None
        assert type(encoder).__name__ in repr(model)


def test_vectors_are_kept_in_the_store(prompteol, tmp_path):
    store = VectorStore(tmp_path / "vectors.db")
    sentence_encoder(prompteol, store=store).encode(list(ENGLISH))
    assert set(store.contents()["rows"]) == {4}


def make(kind, lens):
    return {
        "mean": lambda: MeanPooling(lens),
        "ck": lambda: PromptEncoder(lens, "ck", 2),
        "cp": lambda: ContrastivePrompting(lens, layer=1, alpha=0.5, heads=[0, 2]),
        "dysem": lambda: DySem(lens, ("en", "fr"), TABLE, k=0.25, setting="english"),
        "dysem on cp": lambda: DySem(
            lens, ("fr", "en"), TABLE, k=9, setting="english", contrast=Contrast(1, heads=(1,))
        ),
    }[kind]()


KINDS = ("mean", "ck", "cp", "dysem", "dysem on cp")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("given_lens", [True, False])
def test_a_saved_encoder_comes_back_the_same(kind, given_lens, tiny_lens, tmp_path):
    model = sentence_encoder(make(kind, tiny_lens), undefined=-0.5)
    path = model.save(tmp_path / "encoder.json")
    assert json.loads(path.read_text())["config"]["model"] == tiny_lens.name
    lens = tiny_lens if given_lens else None
    back = SentenceEncoder.load(path, lens, translator=TABLE)
    assert type(back.encoder) is type(model.encoder)
    assert back.encoder.config == model.encoder.config
    assert back.undefined == -0.5
    np.testing.assert_array_equal(back.encode(list(ENGLISH)), model.encode(list(ENGLISH)))


@pytest.mark.parametrize("kind", ["ck", "dysem on cp"])
def test_a_pickled_encoder_comes_back_the_same(kind, tiny_lens):
    model = sentence_encoder(make(kind, tiny_lens), undefined=-0.5)
    back = pickle.loads(pickle.dumps(model))
    assert back.encoder.lens is not tiny_lens
    assert back.encoder.config == model.encoder.config
    assert back.undefined == -0.5
    np.testing.assert_array_equal(back.encode(list(ENGLISH)), model.encode(list(ENGLISH)))


def test_a_model_built_in_memory_cannot_be_pickled(tiny_folder):
    import transformers

    from dysem_lab.models.lens import boot

    network = transformers.AutoModelForCausalLM.from_pretrained(tiny_folder("Llama"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_folder("Llama"))
    lens = boot(network.eval(), tokenizer, "mine")
    with pytest.raises(ModelError, match=r"'mine' was built in memory.*load_model\(folder\)"):
        pickle.dumps(sentence_encoder(PromptEncoder(lens)))


def test_other_weights_under_the_same_name_are_noticed(tiny_lens, tmp_path):
    path = sentence_encoder(PromptEncoder(tiny_lens)).save(tmp_path / "encoder.json")
    settings = json.loads(path.read_text())
    settings["model"]["fingerprint"] = "0" * 16
    path.write_text(json.dumps(settings))
    with pytest.raises(ModelError, match=r"other weights.*0000000000000000"):
        SentenceEncoder.load(path)


def test_files_that_are_no_saved_encoder_are_errors(tiny_lens, tiny_folder, tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*; give a file that `save` wrote"):
        SentenceEncoder.load(tmp_path / "none.json")
    path = tmp_path / "encoder.json"
    dysem = {"encoder": "dysem_lab.encoders.dysem.DySem", "config": {}, "undefined": 0}
    wrong = (
        "{",
        "[]",
        "{}",
        json.dumps({**dysem, "encoder": "os.system"}),
        json.dumps({**dysem, "encoder": "dysem_lab.models.store.VectorStore"}),
        json.dumps({**dysem, "encoder": "dysem_lab.nowhere.Encoder"}),
        json.dumps(dysem),
    )
    for text in wrong:
        path.write_text(text)
        with pytest.raises(InputError, match=r"is not a saved configuration of|unknown encoder"):
            SentenceEncoder.load(path, tiny_lens)
    other = load_model(tiny_folder("Qwen3"))
    for kind in ("ck", "dysem"):
        sentence_encoder(make(kind, tiny_lens)).save(path)
        with pytest.raises(InputError, match="not of"):
            SentenceEncoder.load(path, other)


class Lengths(Encoder):
    """An encoder of a user's own, without a language model."""

    name, width, blocks = "lengths", 2, 0
    config = {}  # noqa: RUF012

    def encode(self, texts, *, language="en", store=None, progress=True):
        rows = [[float(len(text)), 1.0] for text in texts]
        return SemanticVectors(torch.tensor(rows).reshape(-1, 2))


def test_an_encoder_of_your_own_works_and_says_that_it_cannot_be_saved(tmp_path):
    model = sentence_encoder(Lengths())
    assert model.encode(["four", "seventy"]).tolist() == [[4, 1], [7, 1]]
    assert model.encode([]).shape == (0, 2)
    assert model.max_seq_length is None
    assert model.device == torch.device("cpu")
    with pytest.raises(InputError, match="Lengths is not of dysem_lab"):
        model.save(tmp_path / "own.json")
    assert pickle.loads(pickle.dumps(model)).encode("four").tolist() == [4, 1]


def test_no_warning_where_all_is_well(dysem):
    model = sentence_encoder(dysem)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = model.encode(list(ENGLISH))
        model.similarity(rows, rows)
