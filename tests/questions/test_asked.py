"""What every question shares: it refuses what it was asked before any pass, and records it."""

import inspect
import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest

import dysem_lab as dl
from dysem_lab.batch.jobs import plan
from dysem_lab.errors import DysemLabError, InputError
from dysem_lab.models import record
from dysem_lab.models.places import place
from dysem_lab.models.store import VectorStore
from dysem_lab.questions.asked import LEAST
from dysem_lab.questions.finding import Finding
from dysem_lab.questions.needs import planning
from dysem_lab.questions.saving import native

pytestmark = [
    pytest.mark.usefixtures("_one_thread"),
    pytest.mark.filterwarnings("ignore"),  # of six pairs and random weights
]
CODES = ["en", "fr", "zh"]
TEXTS = {"en": "It rains.", "fr": "Il pleut.", "zh": "下雨了。"}
OTHERS = {"en": "Rain falls.", "fr": "La pluie tombe.", "zh": "雨在下。"}
THIRD = {"en": "A dog sleeps.", "fr": "Un chien dort.", "zh": "一只狗在睡觉。"}
ENGLISH = {"settings": "english"}
CONTRAST = {"layer": 1, "alpha": 2.0}
OF_PROMPT = {"contrasts": {"prompteol": (1, 2.0)}}
# Question → what its study needs, and what else it is asked, beside the defaults.
STUDIED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "decomposition": ({"templates": ["prompteol", "none"]}, {"languages": CODES}),
    "random_sets": ({}, {"languages": CODES, "n_seeds": 1, "ks": [0.5]}),
    "components": ({}, {}),
    "languages": ({}, {}),
    "language_overlap": ({}, {}),
    "m_sweep": ({}, {"paraphrases": "demo"}),
    "prompt_vector": ({}, {"m": 2}),
    "k_sweep": ({}, {"m": 2, "ks": [0.5]}),
    "templates": ({}, {"m": 2}),
    "layers": ({}, {"m": 2}),
    "layer_choice": ({}, {}),
    "main_results": ({}, {"languages": CODES, "m": 2}),
    "ladder": ({}, {"languages": CODES, "n_random": 1}),
    "honest_choice": ({}, {"ms": [1, 2]}),
    "stability": ({}, {"languages": CODES}),
    "selection_frequency": ({}, {"languages": CODES}),
    "translators": ({}, {"language": "fr", "languages": ["en", "fr"]}),
    "contrast_gains": (ENGLISH, OF_PROMPT),
    "layer_alpha": (ENGLISH, {"layers": [1], "alphas": [2.0]}),
    "output_layers": (ENGLISH, OF_PROMPT),
    "auxiliary_prompts": (ENGLISH, {**OF_PROMPT, "auxiliaries": ["irrelevant"]}),
    "positions": (ENGLISH, {**OF_PROMPT, "positions": ["heads"]}),
    "cp_with_dysem": (ENGLISH, {**CONTRAST, "languages": CODES}),
    "predictions": (ENGLISH, {**CONTRAST, "sentences": ["It rains."], "top": 3}),
    "stream_change": (ENGLISH, {**CONTRAST, "sentence": "It rains."}),
    "cost": (ENGLISH, {"templates": ["prompteol"], "layer": 1, "n_texts": 2, "rounds": 1}),
    "leaderboard": ({}, {"methods": ["prompteol", "dysem"], "languages": CODES, "n_timed": 0}),
    "audit": ({}, {"languages": CODES, "n_rotations": 2, "contrast": dl.Contrast(1)}),
    "set_ablation": ({}, {"languages": CODES, "layers": [1], "seeds": [0], "n_rotations": 1}),
    "set_interchange": ({}, {"languages": CODES, "layers": [1], "seeds": [0], "n_rotations": 1}),
    "heads": ({}, {"languages": CODES, "n_heads": [1], "n_draws": 2}),
    "residuals": ({}, {"languages": CODES, "n_pairs": 2}),
    "faithfulness": ({}, {"n_points": 2, "n_random": 2, "steps": 2, "integrated": 1}),
    "head_patching": ({}, {}),
    "concept": ({}, {"n_random": 2, "top": 3}),
    "layer_curves": ({}, {"m": 2}),
    "dimension": ({}, {"dimension": 1, "m": 2}),
}


# What no question can be asked, by the name of the parameter.
NO_COUNT = [-1, 1.5, "2"]
WRONG: dict[str, list[Any]] = {
    "dev": ["demo", None],
    "study": ["demo", None],
    "k": [0, -1, 1.5, "4", None],
    "ks": [[0], [], 0.5, "4"],
    "m": [0, 99, "2"],
    "ms": [[0], [99], [], 2],
    "languages": [["xx"], ["en", "en"], [], "xx", 3],
    "language": ["xx", ["fr"]],
    "receivers": [["xx"], []],
    "component": ["atn", "z", 3],
    "components": [["atn"], ["z"], [], 3],
    "vector": ["means", None],
    "vectors": [["means"], [], 3],
    "setting": ["germanic", ["english"]],
    "task": ["STS99", ["demo"]],
    "templates": [["prompt"], ["none"], [], 3],
    "methods": [["no"], 3],
    "aggregation": ["sum"],
    "by": ["median"],
    "seed": [-1, 2**32, 1.5, "0", None],
    "seeds": [[-1], [2**70], [0, 0], []],
    "layer": [4, -1, "1", 1.5],
    "layers": [[4], [], 1],
    "alpha": [float("nan"), "2", None],
    "alphas": [[float("inf")], [], 2.0],
    "output_layer": [9, 0, "middle", "final.3"],
    "output_layers": [[9], ["middle"], []],
    "position": ["tail"],
    "positions": [["tail"], [], 3],
    "auxiliary": ["nothing"],
    "auxiliaries": [["nothing"], [], 3],
    "contrast": [dl.Contrast(4)],
    "chosen_on": ["demo", 3],
    "several": [0, *NO_COUNT],
    "contrasts": [{"prompteol": (4, 2.0)}, {"prompteol": (1, float("nan"))}],
    "sentences": ["It rains.", [], [""], 3],
    "sentence": ["", 3],
    "n_heads": [[0], [], ["2"]],
    **{name: [0, *NO_COUNT] for name in LEAST},
    **{name: NO_COUNT for name in ("n_examples", "n_timed", "jacobian", "integrated")},
}
FREE = (
    *("corpus", "test", "others", "translator", "paraphrases", "random_weights"),
    *("fit", "fit_split", "centre", "centred_on", "dimension"),
)


@pytest.fixture(scope="module")
def lens(tiny_folder):
    """Return a random model of four blocks, once no module is left to import what is patched."""
    assert all(getattr(dl, name) for name in dl.__all__)
    return dl.load_model(tiny_folder("Llama", 4))


@pytest.fixture(scope="module")
def ask(lens, tmp_path_factory) -> Callable[..., Finding]:
    """Return a function that asks a question by its name, with other values for some parameters."""
    pairs = dl.load_data("demo", languages=CODES).head(6)
    store = VectorStore(tmp_path_factory.mktemp("store") / "v.sqlite")

    def of(name: str, **given: Any) -> Finding:
        settings, values = STUDIED[name]
        tasks = ("one", "two") if name == "translators" else ("demo",)
        data = dict.fromkeys(tasks, pairs)
        study = dl.Study(lens, data, languages=CODES, store=store, **settings)
        studies = (study, study) if name in ("honest_choice", "layer_alpha") else (study,)
        named = dict(zip(inspect.signature(getattr(dl, name)).parameters, studies, strict=False))
        return getattr(dl, name)(**{**named, **values, **given})

    return of


def of_texts(lens) -> dict[str, tuple[Callable[..., Finding], dict[str, Any]]]:
    """Return the questions of a few texts, and what they are asked."""
    dysem, english = (dl.DySem(lens, codes, k=0.5) for codes in (CODES, ["en"]))
    quiet = {"progress": False, "centre": None}
    corpus = ["It rains.", "A dog sleeps.", "They sing.", "Snow fell."]
    pair = dl.capture_pair(lens, "It rains.", "Rain falls.")
    heads = {"heads": [(1, 1)], "n_draws": 2, "progress": False, "centre": {"en": corpus}}
    patch = {"receiver": "It rains.", "donor": THIRD, "layer": 1, "n_draws": 2, "top": 3}
    return {
        "explain": (partial(dl.explain, dysem), {"x": TEXTS, "y": OTHERS, **quiet}),
        "explain_difference": (
            partial(dl.explain_difference, dysem),
            {"x": TEXTS, "y": OTHERS, "z": THIRD, **quiet},
        ),
        "head_ablation": (
            partial(dl.head_ablation, english),
            {"x": "It rains.", "y": "Rain falls.", **heads},
        ),
        "pair": (partial(dl.pair, lens), {"first": TEXTS, "second": OTHERS, "k": 4}),
        "pair_layer_curves": (partial(dl.pair_layer_curves, pair), {}),
        "attention": (partial(dl.attention, lens), {"text": "It rains.", "layer": 1, "head": 1}),
        "contrast_effect": (
            partial(dl.contrast_effect, lens),
            {"text": "It rains.", "contrast": dl.Contrast(1), "top": 3},
        ),
        "patch_effect": (partial(dl.patch_effect, lens), patch),
        "search": (partial(dl.search, english), {"corpus": corpus, "query": "It rains.", "n": 2}),
    }


OF_TEXTS = (
    *("explain", "explain_difference", "head_ablation", "pair", "pair_layer_curves"),
    *("attention", "contrast_effect", "patch_effect", "search"),
)


def questions() -> Iterator[str]:
    """Yield the names of all public functions that return a finding."""
    for name in dl.__all__:
        function = getattr(dl, name)
        returned = getattr(function, "__annotations__", {}).get("return")
        if isinstance(returned, type) and issubclass(returned, Finding):
            yield name


def test_every_public_question_is_asked_here():
    assert sorted(questions()) == sorted([*STUDIED, *OF_TEXTS, "transfer"])


# --- before any pass


# A task with fewer languages than m uses all that it has.
FINE = [("main_results", "m", 99)]


@pytest.fixture
def _no_pass(monkeypatch):
    for function in ("forward", "keys_and_values"):
        monkeypatch.setattr(record, function, lambda *_, **__: pytest.fail("a pass was made"))


def accepted(ask: Callable[..., Finding], function: Callable[..., Finding], name: str) -> list[Any]:
    """Return the wrong values that a question took, or answered by something else than an error."""
    found = []
    for parameter in inspect.signature(function).parameters:
        for value in WRONG.get(parameter, []):
            try:
                with planning():
                    ask(**{parameter: value})
            except DysemLabError:
                continue
            except Exception as error:
                found.append((parameter, value, f"{type(error).__name__}: {error}"))
            else:
                found.append((parameter, value, "accepted"))
    return [one for one in found if (name, *one[:2]) not in FINE]


@pytest.mark.usefixtures("_no_pass")
@pytest.mark.parametrize("name", STUDIED)
def test_what_is_wrong_is_said_before_a_question_says_what_it_needs(ask, name):
    known = {*WRONG, *FREE}
    assert set(inspect.signature(getattr(dl, name)).parameters) <= known
    assert not accepted(partial(ask, name), getattr(dl, name), name)


@pytest.mark.parametrize("name", OF_TEXTS)
def test_a_question_of_texts_refuses_what_is_wrong_before_a_pass(lens, monkeypatch, name):
    function, values = of_texts(lens)[name]
    for of in ("forward", "keys_and_values"):
        monkeypatch.setattr(record, of, lambda *_, **__: pytest.fail("a pass was made"))

    def ask(**given: Any) -> Finding:
        return function(**{**values, **given})

    assert not accepted(ask, getattr(dl, name), name)


@pytest.mark.parametrize("what", ["study", "test", "dev"])
def test_what_is_no_study_is_refused(ask, what):
    for name in STUDIED:
        if what in inspect.signature(getattr(dl, name)).parameters:
            for wrong in ("demo", None, dl.load_data("demo")):
                with pytest.raises(InputError, match="study must be a model with its pairs"):
                    ask(name, **{what: wrong})


def test_a_study_without_pairs_is_refused(lens):
    with pytest.raises(InputError, match="the study has no pairs; give it some"):
        dl.components(dl.Study(lens, {}))
    for ask in (dl.ladder, dl.set_ablation, dl.heads):
        with pytest.raises(InputError, match="has none; give one"):
            ask(dl.Study(lens, {}), ["en"], *([[1]] if ask is dl.set_ablation else []))
    with pytest.raises(InputError, match="unknown task"):
        dl.language_overlap(dl.Study(lens, {}))


KINDS = (None, 3, 2**70, float("nan"), "It rains.", [3], [[]], {}, object(), np.zeros(0))


@pytest.mark.filterwarnings("ignore")
def test_what_is_of_another_kind_is_refused_by_an_error_that_says_so(lens):
    texts, english = ["It rains.", "Snow fell."], dl.PromptEncoder(lens)
    data = dl.load_data("demo", languages=["en", "fr"]).head(4)
    study = dl.Study(lens, {"demo": data}, languages=["en", "fr"], settings="english")
    calls: list[tuple[Callable[[Any], Any], tuple[Any, ...]]] = [
        # What is asked, and of the kinds those that have a meaning there.
        (lambda x: english.encode_renderings(x, progress=False), ()),
        (lambda x: dl.untrained(x), ()),
        (lambda x: dl.capture(x, texts), ()),
        (lambda x: dl.ablate(x, "attn.1"), ()),
        (lambda x: dl.attention(x, "It rains.", 0, 0), ()),
        (lambda x: dl.contrast_effect(x, "It rains.", dl.Contrast(1)), ()),
        (lambda x: dl.patch_effect(x, "It rains.", "Snow fell.", 1), ()),
        (lambda x: dl.search(x, texts, "Rain."), ()),
        (lambda x: dl.read_corpus(x, texts), ()),
        (lambda x: dl.pair_layer_curves(x), ()),
        (lambda x: dl.paraphrased(x, "demo"), ()),
        (lambda x: dl.score_systems(x, {"demo": data}), ()),
        (lambda x: dl.score_systems({"a": english}, x), ()),
        (lambda x: dl.published_leaderboard(x), (None,)),
        (lambda x: dl.ablate(lens, "attn.1", tokens=x), (3, 2**70)),
        (lambda x: dl.contrast_gains(study, x), ()),
        (lambda x: dl.stability(study, ["en"], others=x), (None, {})),
        (lambda x: dl.explain(english, "It rains.", "Rain.", centre=x, progress=False), (None,)),
        (lambda x: study.needs(x), ()),
        (lambda x: study.needs((), output_layers=x), (3,)),
        (lambda x: study.needs((), contrasts=x), (None,)),
        (lambda x: study.needs("attn", templates=x), (None,)),
        (lambda x: study.vectors("demo", contrast=x), (None,)),
    ]
    raw = []
    for number, (call, meant) in enumerate(calls):
        for value in KINDS:
            if not any(value is one or value == one for one in meant if np.ndim(value) == 0):
                try:
                    call(value)
                except DysemLabError:
                    continue
                except Exception as error:
                    raw.append(f"{number} {value!r}: {type(error).__name__}: {error}")
    assert not raw, "\n".join(raw)


def test_a_contrast_after_what_is_read_is_refused(lens):
    data = dl.load_data("demo").head(4)
    study = dl.Study(lens, {"demo": data}, settings="english")
    late = dl.Contrast(2)
    words = "resid.1 is read before block 2 has run, so the contrast would not reach it; use 3 or"
    with pytest.raises(InputError, match=words):
        study.vectors("demo", "resid", layers=1, contrast=late)
    with pytest.raises(InputError, match=words):
        study.embeddings("demo", 2, contrast=late)
    with pytest.raises(InputError, match=words):
        dl.capture(lens, dl.wrap(["It rains."]), "resid", 1, edit=dl.contrast(lens, late))
    last = dl.Contrast(3, position="hidden")
    with pytest.raises(InputError, match=r"attn\.sum is read in block 3 before .* earlier"):
        study.needs("attn", contrasts=last)
    with pytest.raises(InputError, match=r"attn\.sum is read in block 3 before .* earlier"):
        dl.audit(study, ["en"], contrast=last)


@pytest.mark.parametrize("text", ["final.3", "final.1-2", "mean.each", "final.each"])
def test_blocks_of_what_has_none_are_refused(lens, text):
    component = text.partition(".")[0]
    with pytest.raises(InputError, match=f"{text}' is no place; '{component}' is of the whole"):
        place(text)
    assert str(place(component)) == component
    if component == "final":
        with pytest.raises(InputError, match="is no place"):
            dl.PromptEncoder(lens, output_layer=text)


# --- and after it


# Where a parameter is in a record under another name, or beside the parameters.
OTHERWISE = {
    ("honest_choice", "dev"): "chosen_on",
    ("honest_choice", "test"): "data",
    ("stability", "others"): "varied",
    ("explain", "renderings"): "x",  # in which they are
    ("explain_difference", "renderings"): "x",
    ("head_ablation", "renderings"): "x",
    ("pair", "settings"): "k",
    ("dimension", "corpus"): "data",
}
UNRECORDED = ("study", "lens", "encoder", "store", "progress")
# Said by name, by digest, or in all languages.
NAMED = ("fit", "centre", "paraphrases", "corpus", "sentences", "x", "y", "z")


def check_record(name: str, finding: Finding, given: dict[str, Any]) -> None:
    recorded = finding.facts.record()
    assert json.loads(json.dumps(recorded, allow_nan=False)) == recorded
    for parameter, one in inspect.signature(getattr(dl, name)).parameters.items():
        if parameter in UNRECORDED:
            continue
        place = OTHERWISE.get((name, parameter), parameter)
        assert place in {**recorded, **recorded["parameters"]}, f"{parameter} is not recorded"
        value = given.get(parameter, one.default)
        if isinstance(value, str | int | float | list) and parameter not in NAMED:
            assert recorded["parameters"][parameter] in (native(value), [value]), parameter


@pytest.mark.parametrize("name", STUDIED)
def test_the_record_has_every_parameter_as_json(ask, name):
    check_record(name, ask(name), STUDIED[name][1])


@pytest.mark.parametrize("name", OF_TEXTS)
def test_the_record_of_a_question_of_texts_has_every_parameter(lens, name):
    function, given = of_texts(lens)[name]
    check_record(name, function(**given), given)


def test_numbers_of_numpy_are_numbers_in_a_record():
    given = {"k": np.float32(0.25), "ks": np.array([1, 2]), 3: (np.int64(4), np.nan), "no": None}
    assert native(given) == {"k": 0.25, "ks": [1, 2], "3": [4, None], "no": None}
    assert [type(one) for one in native(given)["ks"]] == [int, int]


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"k": 0}, "k must be an integer >= 1 or a fraction"),
        ({"ks": [0]}, "k must be an integer >= 1 or a fraction"),
        ({"m": 99}, "m must be between 1 and"),
        ({"layer": 99}, "layer must be between 0 and 7, got 99"),
        ({"layers": [99]}, "layer must be between 0 and 7, got 99"),
        ({"contrast_layer": 99}, "layer must be between 0 and 7, got 99"),
        ({"component": "atn"}, "unknown component"),
        ({"components": ["atn"]}, "unknown component"),
        ({"seed": -1}, "seed must be a whole number of at least 0"),
        ({"languages": ["en", "xx"]}, "'xx'"),
    ],
)
def test_a_batch_says_what_will_fail_before_the_first_notebook(
    tiny_folder, tmp_path, parameters, said
):
    (name,) = parameters
    jobs = plan([str(tiny_folder("Llama", 8))], "demo", tmp_path, parameters=parameters)
    asked = [job for job in jobs if name in job.parameters]
    assert asked
    # One uses fewer languages where there are; one says it as it begins; one has other blocks.
    spared = {"m": "10_main_results", "component": "26_why_similar", "ks": "27_causal"}.get(name)
    late = {job.notebook.stem for job in asked if said not in job.problem}
    assert late <= {spared}
