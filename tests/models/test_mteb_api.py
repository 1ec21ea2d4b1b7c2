"""Encoders in MTEB: tasks made of local data, run by `mteb.evaluate` without a network."""

import json
import socket
import string
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression

from dysem_lab.data.sts import load_data
from dysem_lab.encoders.base import Encoder, MeanPooling, PromptEncoder
from dysem_lab.encoders.dysem import DySem
from dysem_lab.encoders.vectors import SemanticVectors
from dysem_lab.errors import InputError, MissingTranslationError
from dysem_lab.evaluate import spearman
from dysem_lab.harnesses.mteb_api import mteb_model, mteb_scores
from dysem_lab.harnesses.sentence_api import pack, unpack
from dysem_lab.retrieval.mteb_backend import IndexBackend
from dysem_lab.translation.parallel_table import ParallelTable

mteb = pytest.importorskip("mteb", reason="the extra eval is not installed")

from datasets import Dataset, DatasetDict  # noqa: E402
from mteb.abstasks.classification import AbsTaskClassification  # noqa: E402
from mteb.abstasks.clustering import AbsTaskClustering  # noqa: E402
from mteb.abstasks.pair_classification import AbsTaskPairClassification  # noqa: E402
from mteb.abstasks.retrieval import AbsTaskRetrieval  # noqa: E402
from mteb.abstasks.sts import AbsTaskSTS  # noqa: E402
from mteb.abstasks.task_metadata import TaskMetadata  # noqa: E402
from mteb.models import EncoderProtocol  # noqa: E402
from mteb.models.abs_encoder import AbsEncoder  # noqa: E402
from mteb.models.model_meta import ScoringFunction  # noqa: E402

pytestmark = pytest.mark.usefixtures("_one_thread", "_no_network")

LANGUAGES = ("en", "fr")


@pytest.fixture(autouse=True, scope="module")
def _no_network():
    def refused(*args, **kwargs):
        raise AssertionError("the network was asked")

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        patch.setattr(socket.socket, "connect", refused)
        patch.setattr(socket, "getaddrinfo", refused)
        yield


@pytest.fixture(scope="module")
def pairs():
    return load_data("demo", languages=LANGUAGES).head(24)


@pytest.fixture(scope="module")
def prompteol(tiny_lens):
    return PromptEncoder(tiny_lens)


@pytest.fixture(scope="module")
def dysem(tiny_lens, pairs):
    return DySem(tiny_lens, LANGUAGES, ParallelTable.from_data(pairs), k=8, setting="english")


def local_task(base, kind, main_score, dataset, langs=("eng-Latn",), **attributes):
    """Return a task of MTEB whose data are in memory."""
    metadata = TaskMetadata(
        dataset={"path": "local/none", "revision": "1"},
        name=f"Local{kind}",
        description="Made in a test.",
        type=kind,
        category="t2t",
        eval_splits=["test"],
        eval_langs=list(langs),
        main_score=main_score,
    )
    task = type(f"Local{kind}", (base,), {"metadata": metadata, **attributes})()
    task.dataset, task.data_loaded = dataset, True
    return task


def sts_task(data, **options):
    first, second = data.sentences["en"]
    columns = {"sentence1": list(first), "sentence2": list(second), "score": list(data.gold)}
    dataset = DatasetDict(test=Dataset.from_dict(columns))
    return local_task(AbsTaskSTS, "STS", "cosine_spearman", dataset, **options)


def evaluated(model, task, folder):
    return mteb.evaluate(
        model, task, cache=mteb.ResultCache(folder), show_progress_bar=False, co2_tracker=False
    )


def keyed(result):
    return mteb_scores(result).set_index("key")["score"]


def cosines(x, y):
    return torch.nn.functional.cosine_similarity(x.double(), y.double()).numpy()


def test_the_model_is_what_mteb_calls_an_encoder(dysem, prompteol):
    for encoder in (dysem, prompteol):
        model = mteb_model(encoder)
        assert isinstance(model, AbsEncoder)
        assert isinstance(model, EncoderProtocol)


@pytest.mark.parametrize("source", ["demo", "stsb"])
def test_sts_has_our_evaluators_number_under_spearman(source, tiny_lens, pairs, request, tmp_path):
    data = pairs
    if source == "stsb":
        folder = request.getfixturevalue("sts_folder")
        data = load_data(folder, "STSB", languages=LANGUAGES).head(60)
    table = ParallelTable.from_data(data)
    dysem = DySem(tiny_lens, LANGUAGES, table, k=8, setting="english")
    for encoder in (dysem, PromptEncoder(tiny_lens)):
        result = evaluated(mteb_model(encoder), sts_task(data), tmp_path)
        first, second = (
            encoder.encode(list(side), progress=False) for side in data.sentences["en"]
        )
        ours = spearman(encoder.similarity_pairwise(first, second), data.gold)
        found = keyed(result)
        assert 100 * found["spearman"] == pytest.approx(ours, abs=0.01)
        main = result.task_results[0].get_score()
        assert main == found["cosine_spearman"]
        # The main score is the plain cosine of the vectors, whatever the sets are.
        x, y = first.vectors, second.vectors
        assert main == pytest.approx(spearmanr(cosines(x, y), data.gold).statistic, abs=1e-3)
        if encoder is dysem:
            assert abs(main - found["spearman"]) > 1e-3
    assert list(tmp_path.rglob("LocalSTS.json"))


def test_a_wrapped_dysem_needs_its_translations(tiny_lens, pairs, tmp_path):
    model = mteb_model(DySem(tiny_lens, LANGUAGES, k=8, setting="english"))
    with pytest.raises(MissingTranslationError, match=r"'fr'.*give DySem a translator"):
        evaluated(model, sts_task(pairs), tmp_path)


CORPUS = (
    ("d0", "Dogs", "A dog sleeps."),
    ("d1", "", "Two children sing."),
    ("d2", "Money", "The market fell."),
    ("d3", "", "It rains in the north."),
)
QUERIES = {"q0": "A cat sleeps.", "q1": "Shares lost value."}
RELEVANT = {"q0": {"d0": 1}, "q1": {"d2": 1, "d3": 1}}


def documents():
    return [f"{title} {text}".strip() for _, title, text in CORPUS]


def retrieval_task():
    ids, titles, texts = zip(*CORPUS, strict=True)
    split = {
        "corpus": Dataset.from_dict({"id": ids, "title": titles, "text": texts}),
        "queries": Dataset.from_dict({"id": list(QUERIES), "text": list(QUERIES.values())}),
        "relevant_docs": {query: dict(of_query) for query, of_query in RELEVANT.items()},
        "top_ranked": None,
    }
    dataset = {"default": {"test": split}}
    return local_task(AbsTaskRetrieval, "Retrieval", "ndcg_at_10", dataset)


def ndcg(similarity, query):
    """nDCG of one query with binary relevance, from its definition."""
    order = [CORPUS[d][0] for d in np.argsort(-similarity)]
    gain = sum(1 / np.log2(rank + 2) for rank, name in enumerate(order) if name in RELEVANT[query])
    return gain / sum(1 / np.log2(rank + 2) for rank in range(len(RELEVANT[query])))


@pytest.fixture(scope="module")
def retriever(tiny_lens):
    texts = [*documents(), *QUERIES.values()]
    table = ParallelTable({"en": texts, "fr": [text.swapcase() for text in texts]})
    return DySem(tiny_lens, LANGUAGES, table, k=4, setting="english")


def test_retrieval_ranks_by_our_similarity_and_reads_titles(retriever, prompteol, tmp_path):
    for encoder in (retriever, prompteol):
        found = keyed(evaluated(mteb_model(encoder), retrieval_task(), tmp_path))
        queries = encoder.encode(list(QUERIES.values()), progress=False)
        similarity = encoder.similarity(queries, encoder.encode(documents(), progress=False))
        expected = np.mean(
            [ndcg(row, query) for row, query in zip(similarity.numpy(), QUERIES, strict=True)]
        )
        assert found["ndcg_at_10"] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("reranked", [False, True], ids=["corpus", "reranked"])
def test_retrieval_by_an_index_on_disk_has_the_same_scores(
    retriever, prompteol, reranked, tmp_path
):
    pytest.importorskip("numba", reason="no numba: pip install -e '.[index]'")
    from mteb.models import SearchEncoderWrapper

    names = [name for name, _, _ in CORPUS]
    for encoder in (retriever, prompteol):
        folder, found = tmp_path / encoder.name.replace("/", ""), []
        backend = IndexBackend(folder / "index", encoder.dense)
        for model in (
            mteb_model(encoder),
            SearchEncoderWrapper(mteb_model(encoder), index_backend=backend),
        ):
            task = retrieval_task()
            if reranked:
                few = {query: names[::-1][:3] for query in QUERIES}
                task.dataset["default"]["test"]["top_ranked"] = few
            found.append(keyed(evaluated(model, task, folder / str(len(found)))))
        pd.testing.assert_series_equal(*found)


LABELLED = [(text, label) for label, words in enumerate((
    ("dog", "cat", "horse", "sheep", "mouse", "goose"),
    ("hammer", "drill", "saw", "wrench", "pliers", "chisel"),
)) for text in (f"I saw a {word}." for word in words)]  # fmt: skip


def masked(semantic):
    return [
        [value if chosen else 0.0 for value, chosen in zip(vector, one_set, strict=True)]
        for vector, one_set in zip(semantic.vectors.tolist(), semantic.sets.tolist(), strict=True)
    ]


def classification_task():
    train, test = LABELLED[::2], LABELLED[1::2]
    dataset = DatasetDict(
        {
            split: Dataset.from_dict({"text": [t for t, _ in rows], "label": [c for _, c in rows]})
            for split, rows in (("train", train), ("test", test))
        }
    )
    return local_task(AbsTaskClassification, "Classification", "accuracy", dataset, n_experiments=1)


def test_classification_reads_masked_vectors(tiny_lens, tmp_path):
    encoder = DySem(tiny_lens, ("en",), k=8, setting="english")
    found = keyed(evaluated(mteb_model(encoder), classification_task(), tmp_path))
    x = np.array(masked(encoder.encode([text for text, _ in LABELLED], progress=False)))
    y = np.array([label for _, label in LABELLED])
    classifier = LogisticRegression(max_iter=1000).fit(x[::2], y[::2])
    assert found["accuracy"] == pytest.approx((classifier.predict(x[1::2]) == y[1::2]).mean())


def test_clustering_runs_and_says_that_no_similarity_is_in_it(tiny_lens, prompteol, tmp_path):
    columns = {"sentences": [t for t, _ in LABELLED], "labels": [c for _, c in LABELLED]}
    dataset = DatasetDict(test=Dataset.from_dict(columns))
    for encoder in (DySem(tiny_lens, ("en",), k=8, setting="english"), prompteol):
        task = local_task(
            AbsTaskClustering,
            "Clustering",
            "v_measure",
            dataset,
            max_fraction_of_documents_to_embed=None,
            n_clusters=2,
        )
        table = mteb_scores(evaluated(mteb_model(encoder), task, tmp_path))
        assert not table["own_similarity"].any()
        assert table.set_index("key")["score"]["v_measure"] == table["main_score"][0]
        assert table["main_score"].between(0, 1).all()


def test_pair_classification_has_our_similarity_under_its_keys(dysem, pairs, tmp_path):
    first, second = pairs.sentences["en"]
    labels = (pairs.gold > np.median(pairs.gold)).astype(int).tolist()
    columns = {"sentence1": list(first), "sentence2": list(second), "labels": labels}
    dataset = DatasetDict(test=Dataset.from_dict(columns))
    task = local_task(AbsTaskPairClassification, "PairClassification", "max_ap", dataset)
    table = mteb_scores(evaluated(mteb_model(dysem), task, tmp_path)).set_index("key")
    own = table[table["own_similarity"]]
    assert len(own)
    assert all(key.startswith("similarity_") for key in own.index)
    similarity = dysem.similarity_pairwise(
        *(dysem.encode(list(side), progress=False) for side in (first, second))
    ).numpy()
    order = np.argsort(-similarity)
    hits = np.array(labels)[order]
    precision = [hits[: rank + 1].mean() for rank in range(len(hits)) if hits[rank]]
    assert own.loc["similarity_ap", "score"] == pytest.approx(np.mean(precision), abs=1e-6)


@pytest.mark.parametrize(
    ("kind", "packed"),
    [
        ("STS", True),
        ("Retrieval", True),
        ("PairClassification", True),
        ("Classification", False),
        ("MultilabelClassification", False),
        ("Clustering", False),
        ("Regression", False),
    ],
)
def test_what_a_task_sees_of_dysem(kind, packed, dysem, pairs):
    texts = list(pairs.sentences["en"][0][:5])
    metadata = local_task(AbsTaskSTS, kind, "x", None).metadata
    batches = [{"text": texts[:3]}, {"text": texts[3:]}]
    found = mteb_model(dysem).encode(
        batches, task_metadata=metadata, hf_split="test", hf_subset="default", batch_size=2
    )
    semantic = dysem.encode(texts, progress=False)
    assert found.dtype == np.float32
    if packed:
        assert torch.equal(unpack(found).sets, semantic.sets)
        assert torch.equal(unpack(found).vectors, semantic.vectors)
        np.testing.assert_array_equal(found, pack(semantic))
    else:
        np.testing.assert_array_equal(found, np.float32(masked(semantic)))


def test_texts_are_read_in_the_language_of_the_task(dysem, pairs):
    french, english = (pairs.sentences[code][0][:3] for code in ("fr", "en"))
    model = mteb_model(dysem)

    def encode(texts, langs):
        metadata = sts_task(pairs, langs=langs).metadata
        return model.encode(
            [{"text": list(texts)}], task_metadata=metadata, hf_split="test", hf_subset="default"
        )

    as_english = encode(english, ["eng-Latn"])
    np.testing.assert_allclose(encode(french, ["fra-Latn"]), as_english, atol=1e-5)
    for langs in (["fra-Latn", "eng-Latn"], ["tur-Latn"]):
        with pytest.raises(
            InputError, match=f"LocalSTS, subset 'default', has texts in {langs[0]}"
        ):
            encode(french, langs)


def test_a_tidy_table_says_which_scores_are_by_our_similarity(dysem, pairs, tmp_path):
    table = mteb_scores(evaluated(mteb_model(dysem), sts_task(pairs), tmp_path))
    columns = ["task", "split", "subset", "key", "score", "main_score", "own_similarity"]
    assert list(table) == columns
    assert set(table.loc[table["own_similarity"], "key"]) == {"spearman", "pearson"}
    assert {"cosine_spearman", "euclidean_pearson"} <= set(table["key"])
    main = table.loc[table["key"] == "cosine_spearman", "score"].item()
    assert set(table["main_score"]) == {main}
    assert set(table["task"]) == {"LocalSTS"}
    assert "main_score" not in set(table["key"])


def test_two_settings_never_share_cached_results(tiny_lens, pairs, prompteol, tmp_path):
    table = ParallelTable.from_data(pairs)
    other = ParallelTable({code: [*pairs.texts(code), "A."] for code in LANGUAGES})
    settings = {"k": 8, "setting": "english"}
    encoders = [
        DySem(tiny_lens, LANGUAGES, table, **settings),
        DySem(tiny_lens, LANGUAGES, other, **settings),
        DySem(tiny_lens, LANGUAGES[::-1], table, **settings),
        DySem(tiny_lens, LANGUAGES, table, **{**settings, "k": 9}),
        prompteol,
        PromptEncoder(tiny_lens, output_layer=2),
        # MTEB's own names of these two settings are the same.
        PromptEncoder(tiny_lens, "a/b {text}"),
        PromptEncoder(tiny_lens, "a_b {text}"),
        MeanPooling(tiny_lens),
    ]
    cache = mteb.ResultCache(tmp_path)
    paths = {cache.get_task_result_path("T", mteb_model(one).mteb_model_meta) for one in encoders}
    assert len(paths) == len(encoders)
    assert len({mteb_model(one).mteb_model_meta for one in encoders}) == len(encoders)
    again = mteb_model(encoders[0]).mteb_model_meta
    assert cache.get_task_result_path("T", again) in paths


def test_cached_results_are_found_again(prompteol, pairs, tmp_path):
    before = keyed(evaluated(mteb_model(prompteol), sts_task(pairs), tmp_path))
    (path,) = tmp_path.rglob("LocalSTS.json")
    stamp = path.stat().st_mtime_ns
    after = keyed(evaluated(mteb_model(prompteol), sts_task(pairs), tmp_path))
    assert path.stat().st_mtime_ns == stamp
    assert after.to_dict() == pytest.approx(before.to_dict(), abs=1e-4)
    meta = json.loads((path.parent / "model_meta.json").read_text())
    assert meta["experiment_kwargs"]["template"] == "prompteol"


def test_the_description_of_a_model(dysem, prompteol, tiny_lens):
    meta = mteb_model(dysem).mteb_model_meta
    network = tiny_lens.bridge.original_model
    assert meta.name.startswith("dysem-lab/PromptEOL-DySem-")
    assert set(meta.name) <= {*string.ascii_letters, *string.digits, *"/._-"}
    assert meta.revision == tiny_lens.fingerprint
    assert meta.languages == ["eng-Latn", "fra-Latn"]
    # Embedding and head 259 x 32 each; a block: q, o 32 x 32, k, v 16 x 32, three of the FFN
    # 48 x 32, two norms of 32; the final norm.
    block = 2 * 32 * 32 + 2 * 16 * 32 + 3 * 48 * 32 + 2 * 32
    assert meta.n_parameters == 2 * 259 * 32 + 3 * block + 32
    assert meta.memory_usage_mb == pytest.approx(4 * meta.n_parameters / 2**20)
    assert sum(one.numel() for one in network.parameters()) == meta.n_parameters
    assert meta.max_tokens == 512
    assert meta.embed_dim == 64
    assert meta.similarity_fn_name is ScoringFunction.CUSTOM
    assert meta.use_instructions is True
    assert meta.training_datasets == set()
    assert meta.framework == ["PyTorch", "Transformers"]
    assert meta.experiment_kwargs["k"] == 8
    assert meta.experiment_kwargs["translator"] == dysem.translator.name
    json.dumps(meta.to_dict(), default=str)
    dense = mteb_model(prompteol).mteb_model_meta
    assert dense.similarity_fn_name is ScoringFunction.COSINE
    assert dense.languages == ["eng-Latn"]
    assert dense.embed_dim == 32
    assert mteb_model(MeanPooling(tiny_lens)).mteb_model_meta.use_instructions is False


def test_what_is_known_of_a_model_can_be_told(prompteol):
    known = {"release_date": "2026-01-31", "license": "apache-2.0", "contacts": ["someone"]}
    meta = mteb_model(prompteol, revision="v1", **known).mteb_model_meta
    assert meta.revision == "v1"
    assert {name: getattr(meta, name) for name in known} == known
    with pytest.raises(InputError, match=r"unknown field of mteb's ModelMeta 'licence'.*license"):
        mteb_model(prompteol, licence="mit")
    with pytest.raises(InputError, match=r"does not accept[\s\S]*release_date"):
        mteb_model(prompteol, release_date="yesterday")


def test_hub_models_and_embedded_ones_have_their_page(prompteol, tiny_lens, monkeypatch):
    commit = "0123456789abcdef0123456789abcdef01234567"
    monkeypatch.setattr(tiny_lens, "name", "qwen3-8b")
    monkeypatch.setattr(tiny_lens, "source", f"Qwen/Qwen3-8B-Base@{commit}")
    meta = mteb_model(prompteol).mteb_model_meta
    assert meta.revision == commit
    assert meta.adapted_from == "Qwen/Qwen3-8B-Base"
    assert meta.reference == "https://huggingface.co/Qwen/Qwen3-8B-Base"
    assert meta.open_weights is True
    monkeypatch.setattr(tiny_lens, "name", "owner/model")
    assert mteb_model(prompteol).mteb_model_meta.adapted_from == "owner/model"
    monkeypatch.setattr(tiny_lens, "name", "gemma-3-270m")
    meta = mteb_model(prompteol).mteb_model_meta
    assert (meta.license, meta.release_date) == ("gemma", "2025-08-14")
    assert meta.name == "dysem-lab/PromptEOL-gemma-3-270m"


LETTERS = "aeinorst"


class Letters(Encoder):
    """An encoder of a user's own, without a language model."""

    name, width, blocks = "letters", len(LETTERS), 0
    config = {}  # noqa: RUF012

    def encode(self, texts, *, language="en", store=None, progress=True):
        rows = torch.tensor([counts(text) for text in texts])
        return SemanticVectors(rows.reshape(-1, len(LETTERS)))


def counts(text):
    return [float(text.count(letter)) for letter in LETTERS]


def test_an_encoder_of_your_own_needs_a_revision(pairs, tmp_path):
    with pytest.raises(InputError, match="give revision="):
        mteb_model(Letters())
    found = keyed(evaluated(mteb_model(Letters(), revision="1"), sts_task(pairs), tmp_path))
    x, y = (torch.tensor([counts(t) for t in side]) for side in pairs.sentences["en"])
    expected = spearmanr(cosines(x, y), pairs.gold).statistic
    assert found["spearman"] == pytest.approx(expected, abs=1e-3)


def test_what_cannot_be_honoured_is_an_error(dysem, prompteol, pairs):
    metadata = sts_task(pairs).metadata
    where = {"task_metadata": metadata, "hf_split": "test", "hf_subset": "default"}
    for encoder in (dysem, prompteol):
        model = mteb_model(encoder)
        with pytest.raises(InputError, match="precision='int8'"):
            model.encode([{"text": ["A."]}], **where, precision="int8")
        with pytest.raises(InputError, match="a batch of image without text"):
            model.encode([{"image": [1]}], **where)
    with pytest.raises(InputError, match="text 0 is empty"):
        mteb_model(prompteol).encode([{"text": [""]}], **where)
    with pytest.raises(InputError, match="one of dysem-lab's"):
        mteb_model("gpt2")


def test_mteb_is_imported_when_it_is_needed_and_where_absent_the_error_names_the_extra():
    code = (
        "import sys, dysem_lab.harnesses.mteb_api as api\n"
        "assert 'mteb' not in sys.modules\n"
        "sys.modules['mteb'] = None\n"
        "try: api.mteb_model(None)\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "ModelError mteb_model needs mteb" in run.stdout, run.stderr
    assert "pip install 'dysem-lab[eval]'" in run.stdout
