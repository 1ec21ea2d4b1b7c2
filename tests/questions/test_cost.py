"""Cost of Contrastive Prompting: blocks and tokens counted independently, ratios by hand."""

import contextlib
import itertools
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from dysem_lab.encoders.contrastive import ContrastivePrompting
from dysem_lab.errors import InputError
from dysem_lab.models.record import counted
from dysem_lab.models.steering import Contrast
from dysem_lab.models.store import VectorStore
from dysem_lab.questions import cost
from dysem_lab.questions.contrast_rows import Method
from dysem_lab.questions.published import published_cp
from dysem_lab.questions.study import Study

pytestmark = pytest.mark.usefixtures("_one_thread")

TEXTS = ["A dog sleeps.", "Rain fell on the long road to the sea.", "It is late."]
PROMPTS = {
    "prompteol": 'This sentence : "{}" means in one word:"',
    "pretended_cot": 'After thinking step by step , this sentence : "{}" means in one word:"',
    "knowledge": (
        "The essence of a sentence is often captured by its main subjects and actions, while "
        "descriptive terms provide additional but less central details. With this in mind , this "
        'sentence : "{}" means in one word:"'
    ),
}
AUXILIARY = 'The irrelevant information of this sentence : "{}" means in one word:"'


@contextlib.contextmanager
def watched(lens):
    """Note (rows, tokens of a row) of everything that comes out of a block."""
    seen = []
    handles = [
        lens.bridge.hook_dict[f"blocks.{layer}.hook_out"].register_forward_hook(
            lambda module, arguments, output: seen.append(tuple(output.shape[:2]))
        )
        for layer in range(lens.n_layers)
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@pytest.fixture
def study(tiny_lens, demo, tmp_path):
    return Study(
        tiny_lens,
        demo.head(6),
        settings="english",
        store=VectorStore(tmp_path / "v.sqlite"),
    )


def four(output_layer="penultimate", layer=1):
    return [
        Method(template, output_layer, contrast)
        for template in ("prompteol", "ck")
        for contrast in (None, Contrast(layer))
    ]


# Blocks


def blocks_of(method):
    """Return the blocks of a method on a model with the paper's 32, which is not loaded."""
    lens = SimpleNamespace(name="llama", n_layers=32, d_model=8, n_heads=2, post_norms=False)
    return cost.encoder(lens, method).blocks


def test_the_paper_s_numbers_with_one_block_more_for_the_auxiliary_prompt():
    expected = {
        ("prompteol", 27, None): 27,
        ("prompteol", 27, 4): 27 + 5,
        ("knowledge", "penultimate", None): 31,
        ("knowledge", "penultimate", 6): 31 + 7,
        ("ck", 27, None): 54,
        ("ck", 27, 6): 54 + 7,
        ("prompteol", "last", None): 32,
        ("prompteol", "final", 0): 32 + 1,
    }
    for (template, output, layer), blocks in expected.items():
        contrast = None if layer is None else Contrast(layer)
        assert blocks_of(Method(template, output, contrast)) == blocks
    paper = published_cp("3").set_index("method")["value"].astype(float)
    assert paper["PromptEOL+CP"] == expected["prompteol", 27, 4] - 1
    assert paper["Knowledge Enhancement+CP"] == expected["knowledge", "penultimate", 6] - 1
    assert paper["CK+CP"] == expected["ck", 27, 6] - 1
    alone = Method("prompteol", 27, Contrast(4, "self_scaling"))
    assert blocks_of(alone) == 27, "no auxiliary prompt"


def test_an_output_before_the_contrast_has_no_cost():
    with pytest.raises(InputError, match="output_layer 2 is read before block 4 has run"):
        blocks_of(Method("prompteol", 2, Contrast(4)))


@pytest.mark.parametrize("template", ["prompteol", "knowledge", "ck"])
def test_blocks_that_run_for_one_text_are_those_computed_and_those_counted(tiny_lens, template):
    outputs = [1, 2, 3, "penultimate", "last", "final"]
    contrasts = [None, Contrast(0), Contrast(1, "recovering"), Contrast(0, "self_scaling")]
    for output, contrast in itertools.product(outputs, contrasts):
        if output == 1 and contrast == contrasts[2]:
            continue
        method = Method(template, output, contrast)
        encoder = cost.encoder(tiny_lens, method)
        with watched(tiny_lens) as seen, counted(tiny_lens) as work:
            encoder.encode(TEXTS[:1])
        blocks = sum(rows for rows, _ in seen)
        assert encoder.blocks == blocks == work.rows, method
        assert work.tokens == sum(rows * tokens for rows, tokens in seen)


def test_counting_stops_with_the_block_and_after_an_error(tiny_lens):
    encode = cost.encoder(tiny_lens, Method("prompteol", 2, None)).encode
    with counted(tiny_lens) as work:
        encode(TEXTS[:1])
    assert work.rows == 2
    with pytest.raises(InputError, match="empty"), counted(tiny_lens):
        encode([" "])
    encode(TEXTS[:1])
    assert work.rows == 2
    assert not any(point.fwd_hooks for point in tiny_lens.bridge.hook_dict.values())


# What is timed


def test_what_is_timed_is_what_the_encoder_gives(tiny_lens):
    contrast = Contrast(1, "scaling", 3.0, auxiliary="background", heads=(0, 2))
    encoder = ContrastivePrompting(
        tiny_lens, 1, "scaling", 3.0, "heads", 3, "ck", "background", heads=(0, 2)
    )
    found = cost.encoder(tiny_lens, Method("ck", 3, contrast)).encode(TEXTS).vectors
    assert torch.allclose(found, encoder.encode(TEXTS).vectors, atol=1e-6)
    # A contrast that changes nothing gives the plain embedding.
    still = (
        cost.encoder(tiny_lens, Method("ck", 3, Contrast(1, "self_scaling", 1.0)))
        .encode(TEXTS)
        .vectors
    )
    plain = cost.encoder(tiny_lens, Method("ck", 3, None)).encode(TEXTS).vectors
    assert torch.allclose(plain, still, atol=1e-4)
    assert (plain - found).abs().max() > 1e-2


def test_tokens_are_those_of_all_prompts_of_a_text(tiny_lens):
    def n_tokens(template):
        lengths = [len(tiny_lens.tokenizer(template.format(text))["input_ids"]) for text in TEXTS]
        return sum(lengths) / len(TEXTS)

    plain = n_tokens(PROMPTS["prompteol"])
    ck = n_tokens(PROMPTS["pretended_cot"]) + n_tokens(PROMPTS["knowledge"])
    auxiliary = n_tokens(AUXILIARY)
    for method, expected in (
        (Method("prompteol", 2, None), plain),
        (Method("prompteol", 2, Contrast(1)), plain + auxiliary),
        (Method("ck", 2, None), ck),
        (Method("ck", 2, Contrast(1)), ck + auxiliary),
        (Method("prompteol", 2, Contrast(1, "self_scaling")), plain),
    ):
        assert cost.tokens_per_text(tiny_lens, method, TEXTS) == pytest.approx(expected)


def test_costs_of_one_text_are_its_tokens_times_its_blocks(study):
    table = cost.table(study, four(), n_texts=1, rounds=1).set_index(["template", "method"])
    lens = study.lens
    texts = study.texts("demo", "en")

    def works(text):
        n = {k: len(lens.tokenizer(v.format(text))["input_ids"]) for k, v in PROMPTS.items()}
        auxiliary = 2 * len(lens.tokenizer(AUXILIARY.format(text))["input_ids"])
        ck = 2 * (n["pretended_cot"] + n["knowledge"])
        eol = 2 * n["prompteol"]
        return eol, eol + auxiliary, ck, ck + auxiliary

    assert tuple(table["token_blocks"]) in [works(text) for text in texts]
    assert table["blocks"].tolist() == table["counted"].tolist() == [2, 4, 4, 6]
    assert table["paper_blocks"].tolist() == [2, 3, 4, 5]
    assert table["blocks_ratio"].tolist() == [1, 2, 2, 3]


def test_token_blocks_of_many_texts_are_what_went_through_the_blocks(study):
    table = cost.table(study, four("last"), n_texts=8, rounds=2)
    assert table["n_texts"].tolist() == [8] * 4
    texts = cost._sample(study, 8, 0)
    for row, method in zip(table.itertuples(), four("last"), strict=True):
        with watched(study.lens) as seen:
            cost.encoder(study.lens, method).encode(texts)
        assert row.token_blocks * 8 == pytest.approx(sum(a * b for a, b in seen))
        assert row.token_blocks_ratio == pytest.approx(row.token_blocks / table["token_blocks"][0])
    assert study.store.contents().empty, "nothing is kept"


# Time


class Clock:
    """A clock that stands still but for what the methods take: seconds of each in each round."""

    def __init__(self, seconds):
        self.now, self.seconds, self.calls = 0.0, seconds, []
        self.real = cost.encoder

    def perf_counter(self):
        return self.now

    def encoder(self, lens, method):
        encoder, of_rounds = self.real(lens, method), iter([0, *self.seconds[method]])

        def timed(texts, progress):
            self.calls.append((method, tuple(texts)))
            encoder.encode(texts, progress=progress)
            self.now += next(of_rounds)

        return SimpleNamespace(encode=timed, blocks=encoder.blocks)


def test_ratios_are_within_rounds_and_medians_over_them(study, monkeypatch):
    methods = four()
    seconds = dict(zip(methods, [[1, 10, 2], [1.5, 13, 2.2], [4, 18, 4], [3, 30, 8]], strict=True))
    clock = Clock(seconds)
    monkeypatch.setattr(cost, "time", clock)
    monkeypatch.setattr(cost, "encoder", clock.encoder)
    table = cost.table(study, methods, n_texts=4, rounds=3)
    assert table["time_ratio"].tolist() == pytest.approx([1, 1.3, 2, 3])
    assert table["time_low"].tolist() == pytest.approx([1, 1.1, 1.8, 3])
    assert table["time_high"].tolist() == pytest.approx([1, 1.5, 4, 4])
    assert table["seconds"].tolist() == pytest.approx([250 * s for s in (2, 2.2, 4, 8)])
    assert table["tokens_per_second"].tolist() == pytest.approx(
        [n * 4 / s for n, s in zip(table["tokens"], (2, 2.2, 4, 8), strict=True)]
    )
    # A pass over one text each, not timed; then rounds, each in another order.
    warm, rounds = clock.calls[:4], clock.calls[4:]
    assert [method for method, _ in warm] == methods
    assert all(len(texts) == 1 for _, texts in warm)
    orders = [[method for method, _ in rounds[i : i + 4]] for i in (0, 4, 8)]
    assert all(sorted(map(str, order)) == sorted(map(str, methods)) for order in orders)
    assert len({order[0] for order in orders}) == 3
    assert len({texts for _, texts in rounds}) == 1
    assert len(rounds[0][1]) == 4


def test_each_output_layer_has_its_own_plain_prompteol(study, monkeypatch):
    methods = [
        Method("prompteol", 2, None),
        Method("prompteol", 3, None),
        Method("ck", 2, None),
        Method("ck", 3, None),
    ]
    clock = Clock(dict(zip(methods, [[1], [2], [3], [8]], strict=True)))
    monkeypatch.setattr(cost, "time", clock)
    monkeypatch.setattr(cost, "encoder", clock.encoder)
    assert cost.table(study, methods, 2, 1)["time_ratio"].tolist() == pytest.approx([1, 1, 3, 4])


def test_texts_are_a_seeded_sample_of_different_ones(study):
    there = set(study.texts("demo", "en"))
    few = cost._sample(study, 5, 0)
    assert len(set(few)) == 5
    assert set(few) < there
    assert cost._sample(study, 5, 0) == few
    assert cost._sample(study, 5, 1) != few
    assert sorted(cost._sample(study, 10_000, 0)) == sorted(there)


def test_refusals_name_the_value_and_the_remedy(study):
    for arguments, message in (
        ((four(), 0, 3), "n_texts must be a whole number of at least 1, got 0"),
        ((four(), 4, 0), "rounds must be a whole number of at least 1, got 0"),
        ((four(), 4, 1.5), r"rounds must be a whole number of at least 1, got 1\.5"),
        (([], 4, 1), "one or more different"),
        ((four()[:1] * 2, 4, 1), "one or more different"),
        ((four()[1:], 4, 1), "prompteol at output layer 'penultimate' has nothing to be compared"),
        (([*four(), Method("ck", 3, None)], 4, 1), "ck at output layer 3 has nothing"),
        ((four(layer=2), 4, 1), "read before block 2 has run"),
        ((four(9), 4, 1), "output_layer must be between 1 and 3, got 9"),
    ):
        with pytest.raises(InputError, match=message):
            cost.table(study, *arguments)


# Figure and caption


def table_of():
    names = [(t, m) for t in ("prompteol", "knowledge") for m in ("plain", "CP-NS")]
    table = pd.DataFrame(names, columns=["template", "method"])
    return table.assign(
        blocks=[29, 34, 29, 34],
        counted=[29, 34, 29, 34],
        paper_blocks=[29, 33, 29, 33],
        blocks_ratio=[1, 34 / 29, 1, 34 / 29],
        token_blocks_ratio=[1, 1.3, 1.1, 1.5],
        time_ratio=[1, 1.25, 1.05, 1.6],
        time_low=[1, 1.2, 0.9, 1.5],
        time_high=[1, 1.4, 1.1, 1.8],
        seconds=[12.34, 15, 13, 19],
        n_texts=64,
        rounds=3,
        device="cpu",
        cores=8,
        threads=4,
    )


def test_the_caption_has_every_method_s_time_blocks_and_the_paper_s():
    caption = cost.caption(table_of(), published_cp("3"))
    # 1.25 of 1 and 1.6 of 1.05 are 25 % and 52 % more time; 34 of 29 blocks are 17 % more.
    assert caption.startswith("Contrastive Prompting takes 25% to 52% more time than the prompt")
    assert "runs 17% to 17% more blocks" in caption
    assert "median and range of 3 rounds: PromptEOL+CP 1.25 [1.20, 1.40], blocks 1.17" in caption
    assert "PromptEOL+CP 1.25 [1.20, 1.40], blocks 1.17, in the paper 1.15;" in caption
    assert "Knowledge Enhancement 1.05 [0.90, 1.10], blocks 1.00, in the paper 1.15;" in caption
    assert "Knowledge Enhancement+CP 1.60 [1.50, 1.80], blocks 1.17, in the paper 1.37." in caption
    assert "On cpu (8 cores, torch threads: 4), 64 texts, 3 rounds" in caption
    assert "took 12.3 s for 1,000 texts; another machine takes another time." in caption


def test_a_prompt_that_the_paper_does_not_have_has_no_mark_of_the_paper():
    own = table_of().replace({"template": {"knowledge": "In short, {text} is"}})
    caption = cost.caption(own, published_cp("3"))
    assert "In short, {text} is+CP 1.60 [1.50, 1.80], blocks 1.17. On" in caption
    figure = cost.figure(own, published_cp("3"), "a model")
    (paper,) = [trace for trace in figure.data if trace.name and "in the paper" in trace.name]
    assert pd.Series(paper.x).isna().tolist() == [False, False, True, True]


def test_the_figure_has_counts_ratios_and_the_paper_s_marks():
    figure = cost.figure(table_of(), published_cp("3"), "a model, demo")
    named = {trace.name: trace for trace in figure.data if trace.name}
    bars = figure.data[0]
    assert list(bars.x) == [29, 34, 29, 34]
    assert list(named["as the paper counts them"].x) == [29, 33, 29, 33]
    assert list(named["blocks in the paper (LLaMA2-7B)"].x) == pytest.approx(
        [1, 31 / 27, 31 / 27, 37 / 27]
    )
    assert list(named["tokens × blocks, counted"].x) == [1, 1.3, 1.1, 1.5]
    time = named["time, measured: median and range of rounds"]
    assert list(time.x) == [1, 1.25, 1.05, 1.6]
    assert list(time.error_x.array) == pytest.approx([0, 0.15, 0.05, 0.2])
    assert list(time.error_x.arrayminus) == pytest.approx([0, 0.05, 0.15, 0.1])
    assert time.error_x.visible
    assert not named["tokens × blocks, counted"].error_x.visible
    assert list(figure.layout.yaxis.ticktext) == [
        "PromptEOL",
        "PromptEOL+CP",
        "Knowledge Enhancement",
        "Knowledge Enhancement+CP",
    ]
    title = figure.layout.title.subtitle.text.replace("<br>", " ")
    assert "a model, demo, cpu (8 cores, torch threads: 4), 64 texts, 3 rounds" in title
    assert "times differ from machine to machine" in title
    assert figure.layout.width == 1000
