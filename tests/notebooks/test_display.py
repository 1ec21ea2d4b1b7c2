"""What objects show in a notebook and in a terminal: short, informative, escaped, theme-neutral."""

import re
from html.parser import HTMLParser

import pytest
import torch

import dysem_lab as dl
from dysem_lab.display import amount, card
from dysem_lab.questions.names import said


class Cells(HTMLParser):
    """Collects the rows of a card, and every tag that is left open."""

    def __init__(self, html):
        super().__init__()
        self.rows, self.open, self.title, self.inside = {}, [], "", None
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.inside = tag

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        self.inside = None

    def handle_data(self, data):
        if self.inside == "strong":
            self.title += data
        elif self.inside == "th":
            self.name = data
        elif self.inside == "td":
            self.rows[self.name] = self.rows.get(self.name, "") + data


def test_a_card_escapes_and_joins():
    html = card("<b>", {"a & b": "<script>", "list": ["x", 2], "none": None, "many": 12345})
    cells = Cells(html)
    assert not cells.open
    assert cells.title == "<b>"
    assert cells.rows == {"a & b": "<script>", "list": "x / 2", "none": "–", "many": "12,345"}
    assert "<script>" not in html
    assert not re.search(r"(?<!-)color|background", html), "the theme's own colours"


def test_semantic_vectors_say_how_large_their_sets_are():
    sets = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]], dtype=torch.bool)
    vectors = dl.SemanticVectors(torch.ones(3, 4), sets)
    rows = Cells(vectors._repr_html_()).rows
    assert rows["mean |S(x)| (least to greatest)"] == "2.0 (0 to 4)"
    assert rows["texts with an empty set"] == "1"
    assert repr(vectors) == "SemanticVectors(3 texts, d=4, mean |S|=2.0)"
    assert Cells(vectors[:0]._repr_html_()).rows["texts"] == "0"


@pytest.mark.parametrize("architecture", ["Llama", "Qwen3", "Gemma2"])
def test_a_model_shows_its_shape(tiny_folder, architecture):
    lens = dl.load_model(tiny_folder(architecture))
    rows = Cells(lens._repr_html_()).rows
    assert rows["blocks (L)"] == "3"
    assert rows["width of the residual stream (d)"] == "32"
    width = {"Qwen3": 12}.get(architecture, 8)
    assert rows["heads"] == f"4, 2 of keys and values, of width {width}"
    assert rows["norm after attention and FFN"] == ("yes" if architecture == "Gemma2" else "no")


def test_configurations_and_data_show_their_settings(tiny_lens, tmp_path):
    demo = dl.load_data("demo", languages=["en", "ar"])
    store = dl.VectorStore(tmp_path / "v.sqlite")
    shown = {
        "PromptEOL + DySem (LS, mean, m=2)": dl.DySem(tiny_lens, ["en", "ar"], k=0.5),
        "PromptEOL + CP-NS": dl.ContrastivePrompting(tiny_lens, 1, output_layer="last"),
        "mean pooling": dl.MeanPooling(tiny_lens),
        "STSData demo": demo,
        f"Study of {tiny_lens.facts.shown}": dl.Study(
            tiny_lens, demo, languages=["en", "ar"], store=store
        ),
        "CP scaling α=2 l=1": dl.Contrast(1),
    }
    for title, each in shown.items():
        cells = Cells(each._repr_html_())
        assert cells.title == title
        assert not cells.open
        assert len(cells.rows) >= 4
        assert 10 < len(repr(each)) < 700
    rows = Cells(shown["PromptEOL + CP-NS"]._repr_html_()).rows
    assert rows["passes per text"] == "2"
    assert rows["blocks per text"] == "5"
    assert Cells(demo._repr_html_()).rows["languages"] == "en / ar"


def test_one_thing_is_one_in_words():
    said_of = {0: "0 pairs", 1: "1 pair", 1.2: "1 pair", 2: "2 pairs", 1379: "1,379 pairs"}
    assert {n: amount(n, "pair") for n in said_of} == said_of
    assert [amount(n, "forward pass") for n in (1, 2)] == ["1 forward pass", "2 forward passes"]
    assert [said("n_sets", n) for n in (1, 2)] == ["1 random set a text", "2 random sets a text"]
    assert said("n_heads", [1]) == "1 head taken out"
    assert said("n_heads", [1, 2]) == "1/2 heads taken out"
