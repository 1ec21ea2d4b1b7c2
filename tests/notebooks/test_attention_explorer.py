"""Attention patterns and token texts, against plain transformers and by hand."""

import contextlib
import math

import pytest
import torch
from plotly.callbacks import Points
from transformers import AutoModelForCausalLM, AutoTokenizer

from dysem_lab.errors import InputError
from dysem_lab.explorers.attention_explorer import explore_attention
from dysem_lab.models.loading import load_model
from dysem_lab.models.readout import label, token_texts
from dysem_lab.models.record import counted
from dysem_lab.questions.attention import attention, caption, figure, read_patterns, table
from tests.notebooks.conftest import run_lines

pytestmark = pytest.mark.usefixtures("_one_thread")

TEXT = "A dog sleeps in the warm sun."  # longer than the sliding windows of 16 tokens
LONG = "Hello " * 19 + "there"
PROMPT = f'This sentence : "{TEXT}" means in one word:"'
ARCHITECTURES = ("Llama", "Qwen3", "Phi3", "Gemma2")


@contextlib.contextmanager
def passes(lens):
    """Collect the width of every pass through the first block, on whichever thread it runs.

    `dysem_lab.models.record.counted` holds the model's lock, so a panel's own thread would wait.
    """
    widths = []
    handle = lens.bridge.original_model.model.layers[0].register_forward_hook(
        lambda module, inputs, output: widths.append(output[0].shape[-2])
    )
    with pytest.MonkeyPatch.context() as patch:
        # The hook only looks; a store would refuse it as one of others.
        patch.setattr(type(lens), "check_own_pass", lambda lens: None)
        try:
            yield widths
        finally:
            handle.remove()


def by_transformers(folder):
    """Return the pattern and the norms of the value vectors from an untouched model."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    config = model.config
    d_head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    n_kv = config.num_key_value_heads
    values, handles = [], []
    for block in model.model.layers:
        fused = not hasattr(block.self_attn, "v_proj")
        module = block.self_attn.qkv_proj if fused else block.self_attn.v_proj

        def keep(_, inputs, output):
            values.append(output[0, :, -n_kv * d_head :].unflatten(-1, (n_kv, d_head)))

        handles.append(module.register_forward_hook(keep))
    with torch.no_grad():
        output = model(**tokenizer([PROMPT], return_tensors="pt"), output_attentions=True)
    for handle in handles:
        handle.remove()
    return torch.cat(output.attentions), torch.stack(values)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_patterns_and_value_weights_are_those_of_plain_transformers(tiny_folder, architecture):
    folder = tiny_folder(architecture)
    pattern, values = by_transformers(folder)
    lens = load_model(folder)
    read = read_patterns(lens, TEXT)
    assert read.pattern.shape == pattern.shape == (3, 4, len(PROMPT), len(PROMPT))
    torch.testing.assert_close(read.pattern, pattern, atol=1e-5, rtol=1e-4)
    for layer, head, i, j in ((0, 0, 5, 3), (1, 1, 40, 39), (2, 2, 30, 30), (2, 3, 50, 41)):
        v = values[layer, j, head // 2]  # two query heads share a value head
        expected = float(pattern[layer, head, i, j]) * math.sqrt(sum(float(x) ** 2 for x in v))
        weighted = read.of_head(layer, head, value_weighted=True)[i, j]
        assert float(weighted) == pytest.approx(expected, rel=1e-4, abs=1e-7)


def test_one_block_alone_is_the_same_and_runs_no_later_block(tiny_lens):
    whole, one = read_patterns(tiny_lens, TEXT), None
    with counted(tiny_lens) as work:
        one = read_patterns(tiny_lens, TEXT, layer=1)
    assert work.rows == 2
    assert one.pattern.shape[0] == 1
    torch.testing.assert_close(one.of_head(1, 2), whole.of_head(1, 2))
    with pytest.raises(InputError, match="layer must be between 1 and 1 here, got 0"):
        one.of_head(0, 2)


def test_the_figure_shows_the_pattern_below_the_diagonal_and_the_row_of_the_token(tiny_lens):
    read = read_patterns(tiny_lens, "Hi.", "none")
    figure = attention(tiny_lens, "Hi.", 2, 3, "none", token=1).figure
    heatmap, bars, _ = figure.data
    expected = read.pattern[2, 3]
    for i in range(3):
        for j in range(3):
            shown = heatmap.z[i][j]
            assert shown == (None if j > i else pytest.approx(float(expected[i, j]))), (i, j)
    assert list(bars.x) == pytest.approx(expected[1, :2].tolist())
    assert "head 4 in layer 3" in figure.layout.title.text
    assert figure.layout.xaxis.ticktext == tuple(map(label, "Hi."))


def test_the_caption_names_what_a_token_looks_at_most(tiny_lens):
    read = read_patterns(tiny_lens, "Hi.", "none")
    row = read.pattern[0, 1, 2].tolist()
    best = max(range(3), key=row.__getitem__)
    said = caption(read, 0, 1)
    assert said.startswith("Layer 1, head 2: \u2068.\u2069 (token 3 of 3) looks at ")
    assert f"looks at {label('Hi.'[best])} (token {best + 1}) {row[best]:.0%}" in said


def test_the_finding_has_what_each_token_sees_and_says_what_was_asked(tiny_lens):
    text = "<b>"
    patterns = read_patterns(tiny_lens, text, "none")
    for weighted in (False, True):
        finding = attention(tiny_lens, text, 1, 2, "none", value_weighted=weighted, token=1)
        rows = finding.table
        assert rows["seen_token"].tolist() == ["<", "<", "b", "<", "b", ">"]
        expected = patterns.of_head(1, 2, weighted)
        assert rows["weight"].tolist() == pytest.approx(
            [float(expected[row.position, row.seen_position]) for row in rows.itertuples()]
        )
        assert rows.equals(table(patterns, 1, 2, value_weighted=weighted))
        assert str(finding.facts) in finding.figure.layout.title.subtitle.text.replace("<br>", " ")
        assert "head 3: \u2068b\u2069 (token 2 of 3) looks at" in finding.caption
        assert "\u2068<\u2069" in finding.caption  # no HTML outside of a panel
    recorded = finding.facts.record()
    asked = recorded["parameters"]
    assert asked["value_weighted"] is True
    assert (asked["layer"], asked["head"], asked["token"]) == (1, 2, 1)
    assert recorded["data"] == [{"label": text}]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"layer": 3}, "layer must be between 0 and 2, got 3"),
        ({"head": 4}, "head must be between 0 and 3, got 4"),
        ({"token": 3}, "token must be between -3 and 2 for this prompt, got 3"),
        ({"text": " "}, "text 0 is empty"),
        ({"template": "prompt"}, "unknown template 'prompt'"),
    ],
)
def test_errors_name_the_bad_value(tiny_lens, arguments, said):
    settings = {"text": "Hi.", "layer": 0, "head": 0, "template": "none", **arguments}
    with counted(tiny_lens) as work, pytest.raises(InputError, match=said):
        attention(tiny_lens, **settings)
    assert work.rows == 0


def test_bytes_that_are_part_of_a_character_are_shown_as_bytes(tiny_lens):
    ids = tiny_lens.tokenizer("a 猫")["input_ids"]
    assert token_texts(tiny_lens, ids) == ["a", " ", "⟨E7⟩", "⟨8C⟩", "⟨AB⟩"]
    assert token_texts(tiny_lens, [1, 9999]) == ["<s>", "⟨9999⟩"]


@pytest.mark.parametrize("name", ["gemma-3-270m", "smollm2-135m-instruct"])
def test_tokens_of_any_script_are_readable_and_complete(embedded, name):
    lens = embedded(name)
    for text in ("The dog sleeps.", "猫が眠っている。", "الكلب نائم", "कुत्ता सो रहा है", "𓀀"):
        ids = lens.tokenizer(text, add_special_tokens=False)["input_ids"]
        read = b""
        for token in token_texts(lens, ids):
            hexadecimal = token.startswith("⟨")
            read += bytes.fromhex(token.strip("⟨⟩")) if hexadecimal else token.encode()
        assert read.decode() == text


def test_labels_keep_space_marks_and_direction_to_themselves():
    assert label(" dog") == "\u2068␣dog\u2069"
    assert label("\u0941") == "\u2068\u25cc\u0941\u2069"
    assert label("<s>") == "\u2068&lt;s&gt;\u2069"


def test_moving_sliders_runs_no_pass_and_a_new_text_runs_one(tiny_lens):
    panel = explore_attention(tiny_lens, "Hi.", "none")
    assert panel.message == ""
    with passes(tiny_lens) as widths:
        panel.set(layer=3, head=2, value_weighted=True, back=1).wait()
    assert widths == []
    read = read_patterns(tiny_lens, "Hi.", "none")
    expected = read.of_head(2, 1, value_weighted=True)
    assert list(panel.figure.data[1].x) == pytest.approx(expected[1, :2].tolist())
    with passes(tiny_lens) as widths:
        panel.set(text="Hello there.").wait()
    assert widths == [len("Hello there.")]
    panel.set(back=500).wait()  # past the beginning: the first token
    assert len(panel.figure.data[1].x) == 1


def test_the_line_of_python_reproduces_the_view(tiny_lens):
    panel = explore_attention(tiny_lens, 'He said "no".', layer=1)
    panel.set(head=4, back=2).wait()
    found = run_lines(panel.python, {"lens": tiny_lens})
    assert found.figure.to_json() == panel.figure.to_json()


def test_a_click_chooses_the_token(tiny_lens):
    panel = explore_attention(tiny_lens, "Hi.", "none")
    trace = panel.plot.data[0]
    points = Points(point_inds=[(1, 0)], xs=[1], ys=[2], trace_name="", trace_index=0)
    trace._dispatch_on_click(points, None)
    panel.wait()
    assert panel.controls["back"].value == 1
    assert "(token 2)" in panel.figure.layout.annotations[1].text


def test_an_empty_text_is_an_error_in_a_sentence(tiny_lens):
    panel = explore_attention(tiny_lens, "Hi.")
    panel.set(text="  ").wait()
    assert panel.message == "the text is empty; type a sentence"
    assert panel.figure is not None


def test_a_long_text_keeps_one_block_and_has_few_labels(tiny_lens, monkeypatch):
    monkeypatch.setattr("dysem_lab.explorers.attention_explorer.KEPT", 1000)
    panel = explore_attention(tiny_lens, LONG, "none")
    with passes(tiny_lens) as widths:
        panel.set(head=2).wait()
        assert widths == []
        panel.set(layer=2).wait()
    assert widths == [len(LONG)]
    assert panel.message == ""
    drawn = figure(read_patterns(tiny_lens, LONG, "none"), 0, 0)
    assert len(drawn.layout.xaxis.tickvals) == 60
    heatmap = drawn.data[0]
    assert heatmap.xgap == heatmap.ygap == 0  # a cell is smaller than a gap would be
    assert heatmap.customdata is None  # 512 tokens have 262,144 pairs
