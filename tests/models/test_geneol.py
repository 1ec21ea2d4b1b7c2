"""GenEOL against an untouched model: the mean over a text and its paraphrases, prompt by prompt."""

import numpy as np
import pytest
import torch

import dysem_lab as dl
from dysem_lab.errors import InputError, MissingTranslationError
from dysem_lab.models.record import counted

pytestmark = pytest.mark.usefixtures("_one_thread")
TEXTS = ["A dog sleeps.", "Nobody knows the way?", "Rain fell"]
TABLE = {
    "en": TEXTS,
    "en-1": ["The dog is asleep.", "The way is not known to anybody?", "It rained"],
    "en-2": ["There is a dog that sleeps.", "Who knows the way? Nobody.", "Rain came down"],
}
PROMPTS = {
    "prompteol": ['This sentence : "{}" means in one word:"'],
    "ck": [
        'After thinking step by step , this sentence : "{}" means in one word:"',
        "The essence of a sentence is often captured by its main subjects and actions, while "
        "descriptive terms provide additional but less central details. With this in mind , this "
        'sentence : "{}" means in one word:"',
    ],
}


def plain(model, tokenizer, text, template, layer):
    """Return one hidden state of the last token, as transformers counts them."""
    text = text.strip()
    text = text[:-1] if text.endswith("?") else text.removesuffix(".")
    ids = tokenizer(template.format(f"{text}."), return_tensors="pt")
    with torch.no_grad():
        states = model(**ids, output_hidden_states=True).hidden_states
    return states[layer][0, -1]


@pytest.mark.parametrize(("template", "layer"), [("prompteol", -1), ("ck", -2)])
@pytest.mark.parametrize("normalized", [False, True])
def test_it_is_the_mean_over_texts_and_prompts(tiny_lens, plain_llama, template, layer, normalized):
    encoder = dl.GenEOL(tiny_lens, 2, dl.ParallelTable(TABLE), template, normalized=normalized)
    found = encoder.encode(TEXTS, progress=False)
    for i, vector in enumerate(found.vectors):
        read = [
            plain(plain_llama, tiny_lens.tokenizer, column[i], prompt, layer)
            for column in TABLE.values()
            for prompt in PROMPTS[template]
        ]
        if normalized:
            read = [one / one.norm() for one in read]
        torch.testing.assert_close(vector, sum(read) / len(read), atol=1e-4, rtol=1e-4)
    assert found.full


def test_it_costs_what_it_says(tiny_lens):
    encoder = dl.GenEOL(tiny_lens, 2, dl.ParallelTable(TABLE), output_layer=2)
    with counted(tiny_lens) as work:
        encoder.encode(TEXTS, progress=False)
    assert encoder.passes == 3
    assert encoder.blocks == 3 * 2
    assert work.rows == encoder.blocks * len(TEXTS)
    assert encoder.name == "PromptEOL + GenEOL (2 paraphrases)"


def test_given_renderings_are_taken_before_those_of_the_table(tiny_lens):
    table = dl.GenEOL(tiny_lens, 2, dl.ParallelTable(TABLE))
    given = dl.GenEOL(tiny_lens, 2)
    expected = table.encode(TEXTS, progress=False).vectors
    found = given.encode_renderings(TABLE, progress=False).vectors
    assert torch.equal(found, expected)
    with pytest.raises(MissingTranslationError, match="no paraphrase 'en-1' of 3 texts"):
        given.encode(TEXTS, progress=False)
    german = {"de": TEXTS, "de-1": TABLE["en-1"], "de-2": TABLE["en-2"]}
    found = given.encode_renderings(german, "de", progress=False).vectors
    assert torch.equal(found, expected)


def test_settings_are_saved_and_loaded(tiny_lens, tmp_path):
    encoder = dl.GenEOL(tiny_lens, 2, dl.ParallelTable(TABLE), "ck", "final", True)
    file = encoder.save(tmp_path / "geneol.json")
    again = dl.GenEOL.load(file, tiny_lens, translator=dl.ParallelTable(TABLE))
    assert again.config == encoder.config
    assert torch.equal(
        again.encode(TEXTS[:1], progress=False).vectors,
        encoder.encode(TEXTS[:1], progress=False).vectors,
    )


def test_it_is_centred_and_explained_as_other_encoders_are(tiny_lens):
    table = {
        code: [*column, *dl.load_data("demo", languages=[code]).head(4).texts(code)]
        for code, column in TABLE.items()
    }
    by = dl.ParallelTable(table)
    encoder = dl.GenEOL(tiny_lens, 2, by, output_layer="attn.sum")
    centred = dl.Transform("centre", fit=table["en"][3:])(encoder, progress=False)
    x = encoder.encode(table["en"], progress=False).vectors
    expected = x[:3] - x[3:].mean(0)
    found = centred.encode(TEXTS, progress=False).vectors
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    why = dl.explain(encoder, *TEXTS[:2], by="head", centre=None, progress=False)
    cosine = torch.nn.functional.cosine_similarity(x[0], x[1], dim=0).item()
    assert why.table["contribution"].sum() == pytest.approx(cosine, abs=1e-5)
    # A mean of unit vectors is no sum with fixed weights, so its heads are not to be had.
    of_unit = dl.GenEOL(tiny_lens, 2, by, output_layer="attn.sum", normalized=True)
    with pytest.raises(InputError):
        dl.explain(of_unit, *TEXTS[:2], by="head", centre=None, progress=False)
    unit = of_unit.encode(TEXTS[:2], progress=False).vectors.numpy()
    expected = unit[0] @ unit[1] / np.linalg.norm(unit[0]) / np.linalg.norm(unit[1])
    why = dl.explain(of_unit, *TEXTS[:2], by="dimension", centre=None, progress=False)
    assert why.similarity == pytest.approx(expected, abs=1e-5)


def test_what_it_cannot_be_is_refused(tiny_lens):
    for arguments, said in (
        ({"n_paraphrases": 0}, "n_paraphrases must be a whole number of at least 1"),
        ({"normalized": 1}, "normalized must be True or False, got 1"),
        ({"translator": 7}, "paraphrases must be 'demo', a file"),
        ({"template": "none"}, "template 'none' has no prompt"),
    ):
        with pytest.raises(InputError, match=said):
            dl.GenEOL(tiny_lens, **arguments)
