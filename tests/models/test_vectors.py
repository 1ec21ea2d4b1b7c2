"""What this package makes of a text moves only together with `VECTORS`.

The model is one whose weights are the same on every machine and under every version of torch.
"""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import dysem_lab as dl
from dysem_lab.models.places import COMPONENTS
from dysem_lab.retrieval.identity import VECTORS
from tests.conftest import tiny_config

TEXTS = {
    "en": ["Is it raining?", 'He said "no"'],
    "fr": ["Pleut-il ?", "Il a dit « non »"],
}
# Number → component → a weighted sum of the vectors of both texts in both languages, in the prompt
# of each language; and of DySem the same sum and the sets. Where the test fails, vectors are others
# than they were: undo the change, or raise `VECTORS` and write the new values here.
KNOWN: dict[int, tuple[dict[str, float], float, list[list[int]]]] = {
    1: (
        {
            "attn": -1.107608,
            "attn_raw": -0.755219,
            "ffn": 0.900903,
            "ffn_raw": 0.537840,
            "resid": -0.603902,
            "resid_pre": -1.211006,
            "value": -0.146984,
            "z": -0.112089,
            "final": -0.446823,
            "mean": -0.900793,
            "value_mean": 0.323153,
        },
        -0.830887,
        [[1, 8, 15, 17, 29, 30], [8, 9, 15, 17, 21, 30]],
    )
}


@pytest.fixture(scope="module")
def lens(tmp_path_factory, tiny_tokenizer):
    model = AutoModelForCausalLM.from_config(
        tiny_config("Gemma2", len(tiny_tokenizer)), dtype=torch.float32
    )
    random = np.random.RandomState(0)  # whose stream is frozen
    for _, weights in sorted(model.named_parameters()):
        spread = 0.2 if weights.ndim > 1 else 0.05
        values = spread * random.standard_normal(tuple(weights.shape))
        weights.data = torch.from_numpy(values).float()
    folder = tmp_path_factory.mktemp("known")
    model.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return dl.load_model(folder)


def weighted(vectors: torch.Tensor) -> float:
    """Return a sum that changes with each value, its place and its sign."""
    flat = vectors.double().flatten()
    return float(flat @ torch.arange(1, len(flat) + 1).double().sin() / flat.norm())


def test_vectors_and_sets_are_those_of_their_number(lens):
    prompts = [
        prompt
        for code, texts in TEXTS.items()
        for prompt in dl.wrap(texts, "prompteol", "language-specific", code)
    ]
    read = dl.capture(lens, prompts, list(COMPONENTS), progress=False)
    found = {name: weighted(vectors) for name, vectors in read.items()}
    dysem = dl.DySem(lens, ("en", "fr"), k=6)
    encoded = dysem.encode(TEXTS["en"], renderings=TEXTS, progress=False)
    sets = [row.nonzero()[:, 0].tolist() for row in encoded.sets]
    known, known_sum, known_sets = KNOWN[VECTORS]
    assert found == pytest.approx(known, abs=1e-4)
    assert weighted(encoded.vectors) == pytest.approx(known_sum, abs=1e-4)
    assert sets == known_sets
