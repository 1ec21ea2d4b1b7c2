"""Whatever is typed into an explorer, it answers, or says in a sentence what to do."""

import re

import pytest

import dysem_lab as dl
from dysem_lab.errors import MissingTranslationError
from dysem_lab.explorers import renderings
from dysem_lab.explorers.attention_explorer import explore_attention
from dysem_lab.explorers.contrast_explorer import explore_contrast
from dysem_lab.explorers.dimension_explorer import explore_dimensions
from dysem_lab.explorers.layer_explorer import explore_layers
from dysem_lab.explorers.pair_explorer import explore_pair
from dysem_lab.explorers.patch_explorer import explore_patch
from dysem_lab.explorers.renderings import Renderer, parse_languages, read_note
from dysem_lab.explorers.search_explorer import explore_search

pytestmark = pytest.mark.usefixtures("_one_thread")

TEXT = "A man plays."
EMPTY = ("", " ", "\u200b", "\n\n")
ODD = (
    "7 🙂",
    "يغسل رجل سيارته.",
    "男性がギターを弾いている。",
    "<script>alert(1)</script>",
    'He said "{text}" and %s {0}.',
    " two\nlines ",
    "word " * 700,
)
CORPUS = [TEXT, "It rains.", "Oh."]
OPEN = {
    "dimensions": (lambda lens: explore_dimensions(dl.DySem(lens, ("en",)), CORPUS), "text"),
    "pair": (lambda lens: explore_pair(lens, TEXT, "It rains.", ("en",), show="paper"), "first"),
    "layers": (lambda lens: explore_layers(lens, TEXT, "It rains.", ("en",)), "second"),
    "search": (lambda lens: explore_search(dl.DySem(lens, ("en",), k=8), [TEXT, "Oh."]), "query"),
    "attention": (explore_attention, "text"),
    "contrast": (lambda lens: explore_contrast(lens, TEXT, ["It rains."]), "text"),
    "patch": (lambda lens: explore_patch(lens, TEXT, "It rains.", layer=1), "donor"),
}


@pytest.mark.parametrize("name", OPEN)
def test_any_sentence_has_an_answer_and_no_sentence_is_said(name, tiny_lens):
    make, box = OPEN[name]
    panel = make(tiny_lens).wait()
    for text in EMPTY:
        panel.set(**{box: text}).wait()
        assert re.fullmatch(r"the [a-z ]+ is empty; type a sentence", panel.message), repr(text)
    panel.set(**{box: "a\0b"}).wait()
    assert re.fullmatch(r"the [a-z ]+ has a null character, .*; type it anew", panel.message)
    for text in ODD:
        panel.set(**{box: text}).wait()
        assert panel.message == "", text
        assert "<script>" not in panel._answer.value + panel._text.value
        assert ("Too long for 512 tokens" in panel.note) == (len(text) > 2000)


def test_how_much_of_a_long_text_is_read(tiny_lens):
    text = "word " * 700
    (prompt,) = dl.wrap([text])
    room = 512 - (len(prompt) - (prompt.stop - prompt.start))  # a token per byte
    said = read_note(tiny_lens, [{"en": TEXT}, {"en": text}], "prompteol")
    whole = len(text.strip())  # the prompt's full stop is not the typist's
    assert said == (
        "Too long for 512 tokens with the prompt, so this was read: of “word word word word word "
        f"word word …” the first {room} of {whole:,} characters."
    )
    assert read_note(tiny_lens, [{"en": TEXT}], "prompteol") == ""
    said = read_note(tiny_lens, [{"en": TEXT, "fr": "mot " * 700}], "prompteol")
    assert "of “mot mot" in said  # what was cut, not what it is a translation of


def test_a_special_token_that_is_typed_in_is_said(tiny_lens):
    typed = f"{TEXT} </s> and <s>"
    said = read_note(tiny_lens, [{"en": typed}, {"en": TEXT}], "prompteol")
    assert said.startswith("“<s>” and “</s>” are read as special tokens of the model, not as ")
    advised = re.search(r"as in “(.+)”", said)[1]
    assert read_note(tiny_lens, [{"en": advised}], "prompteol") == ""


class Known:
    """A translator that knows one text in one language, and is asked once for each."""

    name = label = "known"

    def __init__(self):
        self.asked = []

    def translate(self, texts, source, target):
        self.asked.append((*texts, source, target))
        if target != "fr":
            raise MissingTranslationError("not this one")
        return ["en français"]


def test_renderings_are_typed_of_the_table_of_the_demo_set_or_installed(monkeypatch):
    known = Known()
    source = Renderer(known)
    first = dl.load_data("demo", languages=("en", "de")).sentences
    sentence = first["en"][0][0]
    found = source.render([sentence], [{"ja": "打たれた。"}], ["en", "fr", "de", "ja"], "en")
    assert found.texts == [
        {"en": sentence, "fr": "en français", "de": first["de"][0][0], "ja": "打たれた。"}
    ]
    assert (found.languages, found.note) == (["en", "fr", "de", "ja"], "")
    source.render([sentence], [{}], ["en", "fr", "de"], "en")
    assert len(known.asked) == 2  # nothing twice
    monkeypatch.setattr(renderings, "installed_translator", lambda: Installed())
    found = source.render(["Unknown."], [{}], ["en", "es", "de"], "en")
    assert found.texts == [{"en": "Unknown.", "es": "es by Apertium"}]
    assert "into German" in found.note


class Installed:
    """A translator into Spanish."""

    name = label = "installed"

    def translate(self, texts, source, target):
        if target != "es":
            raise MissingTranslationError("not this one")
        return [f"{target} by Apertium" for _ in texts]


def test_a_note_advises_what_helps():
    source = Renderer(None)
    found = source.render(["Oh.", "Ah."], [{"fr": "Oh !"}, {}], ["fr", "de"], "en")
    assert found.texts == [{"en": "Oh."}, {"en": "Ah."}]
    assert found.languages == ["en"]  # the sentences' own, where there is nothing else
    assert "“Ah.” into French, and of “Oh.” and “Ah.” into German. To" in found.note
    line = re.search(r"such as “(\w+: )…”", found.note)[1] + "Ah !"
    typed = renderings.parse_renderings(line)
    again = source.render(["Oh.", "Ah."], [{"fr": "Oh !"}, typed], ["fr", "de"], "en")
    assert again.languages == ["fr"]
    assert parse_languages("fr, en fr") == ["fr", "en"]
    own = source.render(["Oh."], [{"en": "Ah."}], ["en"], "en")
    assert own.texts == [{"en": "Oh."}]
    assert own.note == (
        "The line in English is not used: the sentences are typed in that language."
    )


def test_a_query_in_no_language_of_the_corpus_says_what_helps(tiny_lens):
    table = dl.ParallelTable.from_data(dl.load_data("demo", languages=("en", "de")).head(2))
    (text,), german = ["It rains."], {"de": ["Es regnet."]}
    encoder = dl.DySem(tiny_lens, ("de",), table, k=8)
    panel = explore_search(encoder, {"en": [text, "Oh."], "de": [*german["de"], "Ach."]}).wait()
    panel.set(language="ja", query="雨だ。").wait()
    assert panel.message.startswith("the corpus is read in German, and the query is in none of")
    line = re.search(r"such as “(\w+: )…”", panel.message)[1] + "Es regnet."
    panel.set(renderings=line).wait()
    assert panel.message == ""


def test_probes_that_are_not_there_and_cosines_that_are_none_are_said(tiny_lens, recwarn):
    panel = explore_contrast(tiny_lens, TEXT, ["It rains."])
    panel.set(probes="").wait()
    assert "Type probes, one a line" in panel.text
    assert "<table>" not in panel.text
    panel.set(probes="Oh.", norm="self_scaling", position="released_hidden", layer=1).wait()
    panel.set(alpha=0.0).wait()
    assert panel.message == ""
    assert "<td>undefined</td>" in panel.text
    assert "has no cosine" in panel.text
    assert not [one for one in recwarn if "have no similarity" in str(one.message)]
