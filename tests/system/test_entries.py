"""Every entry that takes texts, names, models or settings, given something else by mistake."""

import json
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from dysem_lab.data.transfer_data import load_transfer
from dysem_lab.encoders.aggregation import ValueAggregation
from dysem_lab.encoders.base import Encoder, MeanPooling, PromptEncoder
from dysem_lab.encoders.contrastive import ContrastivePrompting
from dysem_lab.encoders.dysem import DySem, language_vectors, semantic_vectors
from dysem_lab.encoders.echo import Echo
from dysem_lab.encoders.kv_embedding import KVEmbedding
from dysem_lab.encoders.prepending import TokenPrepending
from dysem_lab.encoders.systems import DYSEM, ENCODERS, named_systems, needs_lens
from dysem_lab.encoders.trained import SimCSE
from dysem_lab.encoders.transform import Transformed
from dysem_lab.encoders.vectors import SemanticVectors, n_dims
from dysem_lab.errors import InputError
from dysem_lab.explorers.attention_explorer import explore_attention
from dysem_lab.explorers.contrast_explorer import explore_contrast
from dysem_lab.explorers.dimension_explorer import explore_dimensions
from dysem_lab.explorers.layer_explorer import explore_layers
from dysem_lab.explorers.pair_explorer import explore_pair
from dysem_lab.explorers.patch_explorer import explore_patch
from dysem_lab.explorers.search_explorer import explore_search
from dysem_lab.harnesses import mteb_api
from dysem_lab.harnesses.sentence_api import SentenceEncoder, sentence_encoder, unpack
from dysem_lab.models.capture import capture
from dysem_lab.models.steering import Contrast
from dysem_lab.prompts import wrap
from dysem_lab.questions.attention import attention
from dysem_lab.questions.contrast_effect import contrast_effect
from dysem_lab.questions.corpus import read_corpus
from dysem_lab.questions.pair_layers import capture_pair
from dysem_lab.questions.pair_view import pair_view
from dysem_lab.questions.patching import patch_effect
from dysem_lab.questions.search import search
from dysem_lab.questions.searched import Corpus
from dysem_lab.questions.steered import SteeredTexts
from dysem_lab.questions.transfer_scores import compare_encoders, transfer_scores

pytestmark = pytest.mark.usefixtures("_one_thread")

TEXTS = ["A dog sleeps.", "It rains."]
FRENCH = ["Un chien dort.", "Il pleut."]
HALF = "half \ud83d"


def untrained(texts):
    """Call what all trained encoders share, without weights."""
    return SimCSE.__new__(SimCSE).encode(texts)


def of_mteb(lens, texts):
    adapter = mteb_api._Model(sentence_encoder(MeanPooling(lens)), None)
    return adapter.encode(
        [{"text": texts}], task_metadata=None, hf_split="test", hf_subset="default"
    )


# Name → what is called with a model and texts.
ENTRIES = {
    "wrap": lambda lens, texts: wrap(texts),
    "capture": lambda lens, texts: capture(lens, texts, "attn")["attn"],
    "MeanPooling": lambda lens, texts: MeanPooling(lens).encode(texts).vectors,
    "PromptEncoder": lambda lens, texts: PromptEncoder(lens, "ck").encode(texts).vectors,
    "Echo": lambda lens, texts: Echo(lens).encode(texts).vectors,
    "ValueAggregation": lambda lens, texts: (
        ValueAggregation(lens, template="ck").encode(texts).vectors
    ),
    "TokenPrepending": lambda lens, texts: (
        TokenPrepending(lens, "ck", exit=2).encode(texts).vectors
    ),
    "ContrastivePrompting": lambda lens, texts: ContrastivePrompting(lens, 0).encode(texts).vectors,
    "DySem": lambda lens, texts: DySem(lens, "en").encode(texts).vectors,
    "renderings": lambda lens, texts: (
        DySem(lens, ("en", "fr")).encode(TEXTS, renderings={"fr": texts}).vectors
    ),
    "language_vectors": lambda lens, texts: language_vectors(lens, {"en": texts}, "attn")["attn"],
    "mteb": of_mteb,
    "read_corpus": lambda lens, texts: read_corpus(DySem(lens, "en"), texts).texts,
    "renderings of a corpus": lambda lens, texts: read_corpus(
        DySem(lens, ("en", "fr")), TEXTS, {"fr": texts}
    ).vectors["english", "attn"],
    "Corpus": lambda lens, texts: Corpus(MeanPooling(lens), texts).texts,
    "renderings of Corpus": lambda lens, texts: Corpus(
        MeanPooling(lens), {"en": TEXTS, "fr": texts}
    ).renderings["fr"],
    "SteeredTexts": lambda lens, texts: SteeredTexts(lens, texts).texts,
}
# The same, where right texts need no look at what comes out.
MORE = {
    "trained": lambda lens, texts: untrained(texts),
    "explore_dimensions": lambda lens, texts: explore_dimensions(DySem(lens, "en"), texts),
    "explore_search": lambda lens, texts: explore_search(MeanPooling(lens), {"en": texts}),
    "probes": lambda lens, texts: contrast_effect(lens, "A dog.", Contrast(0), texts),
    "explore_contrast": lambda lens, texts: explore_contrast(lens, "A dog.", texts),
    "renderings of explore_pair": lambda lens, texts: explore_pair(
        lens, *TEXTS, renderings={"fr": texts}
    ),
    "renderings of explore_layers": lambda lens, texts: explore_layers(
        lens, *TEXTS, ("en", "fr"), renderings={"fr": texts}
    ),
}
NO_TEXTS = [
    "AB",
    pd.DataFrame({"first": TEXTS, "second": TEXTS}),
    {"first": TEXTS[0], "second": TEXTS[1]},
    set(TEXTS),
    np.array([TEXTS, TEXTS]),
    np.array(TEXTS[0]),
    b"AB",
    7,
    None,
    [TEXTS, TEXTS],
    [TEXTS[0], None],
    [TEXTS[0], float("nan")],
    [TEXTS[0], "\u200b"],
    [TEXTS[0], HALF],
]


@pytest.mark.parametrize("entry", [*ENTRIES, *MORE])
@pytest.mark.parametrize("texts", NO_TEXTS, ids=lambda texts: type(texts).__name__)
def test_what_is_no_list_of_texts_is_refused_everywhere(tiny_lens, entry, texts):
    if isinstance(texts, dict) and entry == "Corpus":
        texts = {"en": texts}  # it may have languages
    words = (
        "s must be a list of strings",
        "texts is empty",
        r"0 is empty or not a string: \[",
        "1 is empty or not a string",
        r"1 holds '\\ud83d'",
    )
    with pytest.raises(InputError, match="|".join(words)):
        {**ENTRIES, **MORE}[entry](tiny_lens, texts)


def equal(first, second):
    if isinstance(first, torch.Tensor | np.ndarray):
        return torch.equal(torch.as_tensor(first), torch.as_tensor(second))
    return first == second


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_column_an_array_and_an_iterator_are_lists_of_texts(tiny_lens, entry):
    expected = ENTRIES[entry](tiny_lens, FRENCH)
    columns = (
        tuple(FRENCH),
        pd.Series(FRENCH, index=[1, 0]),  # in the order of the rows, whatever they are called
        np.array(FRENCH),
        iter(FRENCH),
    )
    for texts in columns:
        assert equal(ENTRIES[entry](tiny_lens, texts), expected), type(texts)


ONE_TEXT = {
    "attention": lambda lens, text: attention(lens, text, 0, 0),
    "explore_attention": explore_attention,
    "explore_contrast": explore_contrast,
    "explore_pair": lambda lens, text: explore_pair(lens, "A.", text),
    "explore_patch": lambda lens, text: explore_patch(lens, "A.", text),
    "patch_effect": lambda lens, text: patch_effect(lens, text, "A.", 0),
    "pair_view": lambda lens, text: pair_view(lens, {"en": "A."}, {"en": text}),
    "explore_layers": lambda lens, text: explore_layers(lens, text, "A."),
    "capture_pair": lambda lens, text: capture_pair(lens, text, "A."),
    "search": lambda lens, text: search(MeanPooling(lens), TEXTS, text),
    "explore_search": lambda lens, text: explore_search(MeanPooling(lens), TEXTS, text),
    "encode": lambda lens, text: sentence_encoder(MeanPooling(lens)).encode([text]),
}


@pytest.mark.parametrize("entry", ONE_TEXT)
@pytest.mark.parametrize("text", [["A."], 3, b"A.", HALF], ids=ascii)
def test_what_is_no_text_is_refused_everywhere(tiny_lens, entry, text):
    with pytest.raises(InputError, match=r"[01] is empty or not a string|[01] holds '\\ud83d'"):
        ONE_TEXT[entry](tiny_lens, text)


@pytest.mark.parametrize(
    "texts",
    [text for text in NO_TEXTS if not isinstance(text, str)],
    ids=lambda x: type(x).__name__,
)
def test_a_sentence_encoder_takes_one_text_or_a_list_and_nothing_else(tiny_lens, texts):
    with pytest.raises(InputError, match=r"must be a list of strings|is empty or not|holds|once"):
        sentence_encoder(MeanPooling(tiny_lens)).encode(texts)
    with pytest.raises(InputError, match="needs texts, once"):
        sentence_encoder(MeanPooling(tiny_lens)).encode(TEXTS, sentences=TEXTS)


def test_batches_of_mteb_that_are_no_mappings_are_refused(tiny_lens):
    adapter = mteb_api._Model(sentence_encoder(MeanPooling(tiny_lens)), None)
    for batch in ({"image": [1]}, TEXTS, "text", 3):
        with pytest.raises(InputError, match=r"a batch of .* without text"):
            adapter.encode([batch], task_metadata=None, hf_split="test", hf_subset="default")


# --- renderings and names


def test_renderings_come_by_language_in_a_mapping_or_a_table(tiny_lens):
    dysem = DySem(tiny_lens, ("en", "fr"))
    expected = dysem.encode(TEXTS, renderings={"fr": FRENCH})
    table = pd.DataFrame({"fr": FRENCH, "de": [None, ""]}, index=[7, 3])
    for renderings in (table, {"fr": pd.Series(FRENCH), "de": 3}):
        found = dysem.encode(TEXTS, renderings=renderings)
        assert torch.equal(found.vectors, expected.vectors)
        assert torch.equal(found.sets, expected.sets)
    twice = pd.concat([table, table], axis=1)
    with pytest.raises(InputError, match="fr renderings must be a list of strings, got DataFrame"):
        dysem.encode(TEXTS, renderings=twice)
    for bad in (FRENCH, "fr", 3, np.array([FRENCH])):
        for call in (
            lambda bad=bad: dysem.encode(TEXTS, renderings=bad),
            lambda bad=bad: read_corpus(dysem, TEXTS, bad),
            lambda bad=bad: explore_pair(tiny_lens, *TEXTS, renderings=bad),
            lambda bad=bad: explore_patch(tiny_lens, *TEXTS, renderings=bad),
            lambda bad=bad: capture_pair(tiny_lens, *TEXTS, ("en", "fr"), bad),
        ):
            with pytest.raises(InputError, match="renderings must be texts by their language"):
                call()
    with pytest.raises(InputError, match=r"other numbers of texts are not aligned: .*'fr': 1"):
        language_vectors(tiny_lens, {"en": TEXTS, "fr": FRENCH[:1]}, "attn")


def test_a_bare_name_is_one_name(tiny_lens):
    assert DySem(tiny_lens, "en").languages == ("en",)
    assert capture_pair(tiny_lens, *TEXTS, "fr").languages == ("fr",)
    assert explore_layers(tiny_lens, *TEXTS, "en").controls["m"].max == 1
    assert explore_pair(tiny_lens, *TEXTS, "en").controls["languages"].value == "en"
    assert pair_view(tiny_lens, {"en": "A."}, {"en": "B."}, "en").encoder.languages == ("en",)
    assert list(named_systems(tiny_lens, "mean")) == ["mean"]
    assert not set(named_systems(tiny_lens, ["mean", "echo"], "en")) & set(DYSEM)
    for bad in (None, 3, ["mean", 3], {"mean"}):
        with pytest.raises(InputError, match="methods must be one or more strings"):
            named_systems(tiny_lens, bad)
        with pytest.raises(InputError, match="names must be one or more strings"):
            needs_lens(bad)
    for bad in (None, 3, ["en", 3], [["en"]]):
        with pytest.raises(InputError, match="languages must be one or more"):
            DySem(tiny_lens, bad)
        with pytest.raises(InputError, match="languages must be one or more"):
            named_systems(tiny_lens, "mean", bad)


# --- models, translators, and settings of another type

CONSTRUCTORS = (
    MeanPooling,
    PromptEncoder,
    Echo,
    ValueAggregation,
    KVEmbedding,
    TokenPrepending,
    ContrastivePrompting,
    DySem,
)


@pytest.mark.parametrize("constructor", CONSTRUCTORS)
@pytest.mark.parametrize("lens", ["gemma-3-270m", None, 3])
def test_the_name_of_a_model_is_no_model(constructor, lens):
    with pytest.raises(InputError, match=r"lens must be a model of load_model, got .*; use lens ="):
        constructor(lens)


ODD = [None, 3, 2.5, True, [], {}, ["a"], b"a", {"a": 1}, np.array([1, 2]), HALF, "{text} \ud83d"]


@pytest.mark.parametrize(
    ("constructor", "setting"),
    [
        (PromptEncoder, "template"),
        (PromptEncoder, "output_layer"),
        (TokenPrepending, "start"),
        (TokenPrepending, "placeholder"),
        (TokenPrepending, "seed"),
        (Echo, "template"),
        (ValueAggregation, "variant"),
        (ValueAggregation, "layers"),
        (KVEmbedding, "bias"),
        (KVEmbedding, "template"),
        (ContrastivePrompting, "layer"),
        (ContrastivePrompting, "norm"),
        (ContrastivePrompting, "alpha"),
        (ContrastivePrompting, "position"),
        (ContrastivePrompting, "auxiliary"),
        (ContrastivePrompting, "heads"),
        *((DySem, setting) for setting in DySem.settings),
        (DySem, "translator"),
        (DySem, "contrast"),
    ],
)
def test_settings_of_another_type_are_refused_by_name(tiny_lens, constructor, setting):
    allowed = {
        "output_layer": (None, 3),
        "placeholder": (None,),
        "heads": (None,),
        "seed": (3,),
        "alpha": (3, 2.5),
        "bias": (3, 2.5),
        "k": (3,),
        "translator": (None,),
        "contrast": (None,),
    }
    right = [repr(value) for value in allowed.get(setting, ())]
    for value in ODD:
        if repr(value) in right:
            continue
        arguments = {"exit": 2} if constructor is TokenPrepending else {}
        with pytest.raises(InputError):
            constructor(tiny_lens, **arguments, **{setting: value})


@pytest.mark.parametrize("template", [None, 3, ["prompteol"], {}, HALF, "{text} \ud83d"])
def test_a_template_is_a_string_of_characters(template):
    with pytest.raises(InputError, match="template"):
        wrap(TEXTS, template)
    for setting in (None, 3, ["english"], np.array(["english", "english"])):
        with pytest.raises(InputError, match="unknown prompt setting"):
            wrap(TEXTS, "prompteol", setting)


# --- what encoders return


def test_vectors_of_another_encoder_are_refused(tiny_lens):
    dysem, dense = DySem(tiny_lens, "en"), MeanPooling(tiny_lens)
    semantic, vectors = dysem.encode(TEXTS), dense.encode(TEXTS).vectors
    for function in (dysem.similarity, dysem.similarity_pairwise, n_dims):
        for bad in (vectors, None, "ab", TEXTS):
            with pytest.raises(InputError, match="give SemanticVectors, as DySem's encode"):
                function(semantic, bad)
    for function in (dense.similarity, dense.similarity_pairwise):
        for bad in (None, "ab", TEXTS, {}):
            with pytest.raises(InputError, match="vy must be a tensor or an array of numbers"):
                function(vectors, bad)
        with pytest.raises(InputError, match=r"SemanticVectors are no array; give their \.vectors"):
            function(vectors, semantic)


@pytest.mark.parametrize("index", [0.9, "a", None, [0.5], ["a"], 1j, {}])
def test_what_is_no_position_chooses_no_texts(index):
    texts = SemanticVectors(torch.ones(3, 2), torch.ones(3, 2, dtype=torch.bool))
    with pytest.raises((InputError, IndexError), match=r"position|chosen|ind"):
        texts[index]
    with pytest.raises(IndexError):
        texts[torch.tensor([True, False])]


def test_semantic_vectors_are_float32_whatever_they_were_made_of():
    vectors, sets = torch.ones(3, 2), torch.ones(3, 2, dtype=torch.bool)
    for dtype in (torch.float16, torch.bfloat16, torch.int64):
        made = SemanticVectors(vectors.to(dtype), sets)
        assert made.vectors.dtype == made.masked().dtype == torch.float32
        assert torch.equal(made.vectors, vectors)
        encoded = semantic_vectors(vectors[:, None].to(dtype), None, 1)
        assert encoded.vectors.dtype == torch.float32
    assert SemanticVectors(vectors.double(), sets).vectors.dtype == torch.float64
    for bad in (vectors[0], vectors[None], vectors[:2], vectors[:, :1]):
        with pytest.raises(InputError, match=r"must both be \[n, d\]"):
            SemanticVectors(bad, sets)
    for bad in (vectors, vectors[:, None, :0], torch.ones(3, 0, 2), "a"):
        with pytest.raises(InputError, match="vectors must be"):
            semantic_vectors(bad, None, 1)


@pytest.mark.parametrize(
    "rows",
    [
        None,
        "ab",
        3,
        [],
        {},
        [[1.0, 2.0], [1.0]],
        [torch.ones(2), torch.ones(3)],
        ["a", "b"],
        np.array([["a", "b"]]),
        torch.ones(2, 0),
        torch.ones(2, 2, 2),
        torch.full((2, 2), torch.nan),
        torch.ones(2, 2) + 1j,
        [torch.ones(2, 2)],
    ],
    ids=lambda rows: f"{rows!r:.30}",
)
def test_what_encode_does_not_return_is_no_embedding(tiny_lens, rows):
    model = sentence_encoder(MeanPooling(tiny_lens))
    for call in (
        lambda: model.similarity(rows, torch.ones(2, 2)),
        lambda: model.similarity_pairwise(torch.ones(2, 2), rows),
        lambda: unpack(rows),
    ):
        with pytest.raises(InputError):
            call()


def test_embeddings_of_any_precision_are_compared(tiny_lens):
    model = sentence_encoder(MeanPooling(tiny_lens))
    rows = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).half()
    expected = model.similarity(rows.float(), rows.float())
    asked = rows.float().requires_grad_()
    for given in (rows, rows.numpy(), list(rows), asked, rows.double(), rows.tolist()):
        found = model.similarity(given, given)
        np.testing.assert_allclose(found.detach(), expected, atol=1e-6)
        assert found.dtype == torch.float32


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": "8"},
        {"batch_size": None},
        {"batch_size": True},
        {"truncate_dim": "8"},
        {"truncate_dim": 1.5},
        {"truncate_dim": True},
    ],
)
def test_options_of_another_type_are_refused(tiny_lens, options):
    with pytest.raises(InputError, match=next(iter(options))):
        sentence_encoder(MeanPooling(tiny_lens)).encode(TEXTS, **options)
    for undefined in (None, "0", True, [0.0]):
        with pytest.raises(InputError, match="undefined must be"):
            sentence_encoder(MeanPooling(tiny_lens), undefined=undefined)


# --- saving and loading


@pytest.mark.parametrize(
    "k", [np.int64(8), np.int32(8), np.float32(0.25), np.float64(0.25), 8, 0.25]
)
def test_numbers_of_numpy_are_saved_as_numbers(tiny_lens, tmp_path, k):
    dysem = DySem(tiny_lens, np.array(["en", "fr"]), k=k, contrast=None)
    file = dysem.save(tmp_path / "dysem.json")
    assert json.loads(file.read_text())["k"] == k
    again = DySem.load(str(file), tiny_lens)
    assert (again.config, type(again.k)) == (dysem.config, type(dysem.k))


def test_every_setting_may_be_a_number_of_numpy(tiny_lens, tmp_path):
    two, text = np.int64(2), np.str_("prompteol")
    for encoder in (
        TokenPrepending(tiny_lens, text, two, two, two, seed=two),
        ContrastivePrompting(
            tiny_lens, two, output_layer="last", alpha=np.float32(1.5), heads=np.array([0, 1])
        ),
        ValueAggregation(tiny_lens, layers=[np.int64(0), two]),
        DySem(tiny_lens, "en", setting="english", contrast=Contrast(two, heads=(np.int64(1),))),
    ):
        file = encoder.save(tmp_path / "encoder.json")
        assert type(encoder).load(file, tiny_lens).config == encoder.config
        model = sentence_encoder(encoder, undefined=np.float64(-0.5))
        again = SentenceEncoder.load(model.save(tmp_path / "model.json"), tiny_lens)
        assert again.encoder.config == encoder.config
        assert again.undefined == -0.5


LOADERS = {
    **{kind.__name__: kind.load for kind in CONSTRUCTORS},
    "SentenceEncoder": SentenceEncoder.load,
}


@pytest.mark.parametrize("load", LOADERS)
def test_what_is_no_file_of_settings_is_refused_alike(tiny_lens, tmp_path, load):
    file = tmp_path / "settings.json"
    for where in (tmp_path / "none.json", tmp_path / "no" / "folder.json", tmp_path):
        if load == "ContrastivePrompting" and where != tmp_path:
            continue  # it asks after names
        with pytest.raises(InputError, match=r"give a file that `save` wrote|is no name; give one"):
            LOADERS[load](where, tiny_lens)
    for where in (None, 3, "a\0b.json", "a" * 5000 + ".json", [file]):
        with pytest.raises(InputError, match="path"):
            LOADERS[load](where, tiny_lens)
    damaged = (
        b"",
        b"{",
        b"\xff\xfe",
        b"null",
        b"3",
        b'"model"',
        b"[]",
        b'[{"model": 1}]',
        b"{}",
        b"[" * 100_000,
        b'{"a": ' * 100_000,
        b"1" * 10_000,
    )
    for text in damaged:
        file.write_bytes(text)
        with pytest.raises(InputError, match=rf"is not a saved configuration of {load}"):
            LOADERS[load](file, tiny_lens)


def test_a_device_that_never_ends_is_no_file_of_settings(tiny_lens):
    if not Path("/dev/zero").exists():
        pytest.skip("no /dev/zero here")
    with pytest.raises(InputError, match="it is no file"):
        DySem.load("/dev/zero", tiny_lens)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"k": "a"}, "k must be an int or a float, got 'a'"),
        ({"k": None}, "k must be an int or a float, got None"),
        ({"k": float("nan")}, "k must be"),
        ({"languages": 3}, "languages must be one or more strings"),
        ({"languages": []}, "languages must be one or more different codes"),
        ({"component": ["attn"]}, "unknown component"),
        ({"template": 3}, "unknown template 3"),
        ({"setting": {}}, "unknown prompt setting"),
        ({"contrast": 5}, "its contrast needs"),
        ({"contrast": {"layer": 1}}, "its contrast needs"),
        ({"contrast": {"colour": 1}}, "its contrast needs"),
        ({"colour": "red"}, "it has an unknown colour"),
        ({"translator": "x"}, "it has an unknown translator"),
        ({"lens": "x"}, "it has an unknown lens"),
        ({"model": ["x"]}, "these are settings of"),
    ],
)
def test_settings_that_have_no_meaning_are_named(tiny_lens, tmp_path, change, words):
    file = DySem(tiny_lens, "en").save(tmp_path / "dysem.json")
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | change))
    with pytest.raises(InputError, match=words):
        DySem.load(file, tiny_lens)
    model = sentence_encoder(DySem(tiny_lens, "en")).save(tmp_path / "model.json")
    settings = json.loads(model.read_text())
    model.write_text(json.dumps(settings | {"config": config | change}))
    with pytest.raises(InputError, match=words):
        SentenceEncoder.load(model, tiny_lens)
    for missing in config:
        file.write_text(json.dumps({name: config[name] for name in config if name != missing}))
        with pytest.raises(InputError, match=f"of DySem: it has no {missing}"):
            DySem.load(file, tiny_lens)


@pytest.mark.parametrize("name", ["../mine", "a/b", "/tmp/mine", "..", ".", "", "a\0b"])
def test_settings_under_a_name_stay_in_their_folder(tiny_lens, name):
    encoder = ContrastivePrompting(tiny_lens, 0)
    with pytest.raises(InputError, match=r"is no name|is no path|an empty string"):
        encoder.save(name)
    with pytest.raises(InputError, match=r"is no name|is no path|an empty string"):
        ContrastivePrompting.load(name, tiny_lens)


@pytest.mark.parametrize("constructor", CONSTRUCTORS)
def test_a_file_that_cannot_be_written_is_named(tiny_lens, tmp_path, constructor):
    arguments = {"exit": 2} if constructor is TokenPrepending else {}
    languages = {"languages": "en"} if constructor is DySem else {}
    layer = {"layer": 0} if constructor is ContrastivePrompting else {}
    encoder = constructor(tiny_lens, **arguments, **languages, **layer)
    for where in (tmp_path / "no" / "folder.json", tmp_path / "is.json"):
        (tmp_path / "is.json").mkdir(exist_ok=True)
        with pytest.raises(InputError, match=r"cannot write .*give the path of a file"):
            encoder.save(where)
        with pytest.raises(InputError, match=r"cannot write .*give the path of a file"):
            sentence_encoder(encoder).save(where)


def concrete(kind):
    """Yield the encoders of the package below a class."""
    for below in kind.__subclasses__():
        yield from concrete(below)
        if below.__module__.startswith("dysem_lab.") and not below.__abstractmethods__:
            yield below


def test_every_encoder_of_the_package_can_be_restored_and_nothing_else():
    fitted_anew = {Transformed}  # the texts that it was fitted on are not among its settings
    assert set(ENCODERS.values()) == {*concrete(Encoder)} - fitted_anew
    assert all(name.startswith("dysem_lab.encoders.") for name in ENCODERS)


@pytest.mark.parametrize(
    "named",
    [
        "os.system",
        "dysem_lab.batch.run",
        "dysem_lab.encoders.base.Encoder",
        "dysem_lab.encoders.base.LensEncoder",
        "dysem_lab.encoders.vectors.SemanticVectors",
        "dysem_lab.nowhere.Encoder",
        "DySem",
        "",
    ],
)
def test_no_other_name_in_a_file_is_looked_up(tiny_lens, tmp_path, monkeypatch, named):
    file = sentence_encoder(DySem(tiny_lens, "en")).save(tmp_path / "model.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"encoder": named}))
    monkeypatch.setattr("importlib.import_module", lambda *a: pytest.fail(f"imported {a}"))
    with pytest.raises(InputError, match="unknown encoder"):
        SentenceEncoder.load(file, tiny_lens)


@pytest.mark.parametrize(
    "change",
    [
        {"encoder": 3},
        {"encoder": None},
        {"config": []},
        {"config": {}},
        {"undefined": "a"},
        {"undefined": None},
        {"undefined": True},
        {"undefined": 3},
    ],
)
def test_damaged_settings_of_a_sentence_encoder_are_named(tiny_lens, tmp_path, change):
    file = sentence_encoder(MeanPooling(tiny_lens)).save(tmp_path / "model.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(InputError, match=r"is not a saved configuration of|undefined must be"):
        SentenceEncoder.load(file, tiny_lens)


@pytest.mark.parametrize(
    "model", [None, 3, {}, {"dtype": 3}, {"dtype": "float32", "revision": 3, "fingerprint": "a"}]
)
def test_a_file_that_does_not_say_which_model_is_refused(tiny_lens, tmp_path, model):
    file = sentence_encoder(MeanPooling(tiny_lens)).save(tmp_path / "model.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model": model}))
    with pytest.raises(InputError, match="it does not say which model it was saved for"):
        SentenceEncoder.load(file)


@pytest.mark.parametrize(
    "config", [{}, {"colour": 1}, {"model": "x/y", "device": "cpu", "supervised": True}]
)
def test_settings_that_a_trained_encoder_does_not_have_are_refused(tmp_path, config):
    file = tmp_path / "model.json"
    name = "dysem_lab.encoders.trained.SimCSE"
    file.write_text(json.dumps({"encoder": name, "config": config, "undefined": 0.0}))
    with pytest.raises(InputError, match="is not a saved configuration of SimCSE"):
        SentenceEncoder.load(file)


# --- transfer tasks


def words_in(texts):
    return np.array([[len(text), text.count(" ")] for text in texts], dtype=float)


def test_what_is_no_encoder_or_task_is_refused(tiny_lens):
    data, encode = load_transfer("demo", "opinion"), words_in
    for bad in (None, 3, "opinion", ["opinion"], [data, None], {"opinion": data}):
        with pytest.raises(InputError, match="data must be tasks from load_transfer"):
            transfer_scores(encode, bad)
        with pytest.raises(InputError, match="data must be tasks from load_transfer"):
            compare_encoders({"a": encode}, bad)
    for bad in (None, 3, "encode", MeanPooling(tiny_lens)):
        with pytest.raises(InputError, match="encode must be a function of texts"):
            transfer_scores(bad, data)
        with pytest.raises(InputError, match=r"encoders\['a'\] must be a function of texts"):
            compare_encoders({"a": bad}, data)
    with pytest.raises(InputError, match=r"give its method encode\.encode"):
        transfer_scores(MeanPooling(tiny_lens), data)
    for bad in ([encode], None, encode):
        with pytest.raises(InputError, match="encoders must be such as"):
            compare_encoders(bad, data)
    for seed in (-1, None, 0.5, True):
        with pytest.raises(InputError, match="seed must be"):
            transfer_scores(encode, data, seed=seed)
    for n_resamples in (0, None, 1.5, True):
        with pytest.raises(InputError, match="n_resamples must be"):
            compare_encoders({"a": encode}, data, n_resamples=n_resamples)


@pytest.mark.parametrize(
    "encoded",
    [None, "vectors", [["a"]] * 60, [[1.0], [1.0, 2.0]], {"a": 1}, np.ones((60, 2)) + 1j],
    ids=lambda encoded: f"{encoded!r:.20}",
)
def test_what_is_no_vectors_is_refused(encoded):
    with pytest.raises(InputError, match=r"encode (must give|gave)"):
        transfer_scores(lambda texts: encoded, load_transfer("demo", "opinion"), progress=False)


def test_folds_may_be_a_number_of_numpy():
    data = load_transfer("demo", "opinion").sample(40)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = [
            transfer_scores(words_in, data, inner_folds=folds, seed=np.int64(0), progress=False)
            for folds in (2, np.int64(2))
        ]
    pd.testing.assert_frame_equal(*rows)
