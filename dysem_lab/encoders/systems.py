"""Every compared system by a short name, at the settings of its paper."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dysem_lab.encoders.aggregation import ValueAggregation
from dysem_lab.encoders.base import Encoder, MeanPooling, PromptEncoder
from dysem_lab.encoders.contrastive import ContrastivePrompting
from dysem_lab.encoders.dysem import DySem
from dysem_lab.encoders.echo import Echo
from dysem_lab.encoders.embed_filter import EmbedFilter
from dysem_lab.encoders.geneol import GenEOL
from dysem_lab.encoders.kv_embedding import KVEmbedding
from dysem_lab.encoders.llm2vec import LLM2Vec
from dysem_lab.encoders.prepending import TokenPrepending
from dysem_lab.encoders.trained import PromptBERT, SentenceBERT, SimCSE
from dysem_lab.errors import DysemLabError, InputError, ModelError, choices
from dysem_lab.inputs import names_of
from dysem_lab.models.lens import LensModel
from dysem_lab.translation.paraphrases import Paraphrases
from dysem_lab.translation.translate import Translator

# Every encoder that can be saved, by the name that it has in a file.
ENCODERS: dict[str, type[Encoder]] = {
    f"{kind.__module__}.{kind.__qualname__}": kind
    for kind in (
        ContrastivePrompting,
        DySem,
        Echo,
        EmbedFilter,
        GenEOL,
        KVEmbedding,
        LLM2Vec,
        MeanPooling,
        PromptBERT,
        PromptEncoder,
        SentenceBERT,
        SimCSE,
        TokenPrepending,
        ValueAggregation,
    )
}


def output_of(lens: LensModel) -> int | str:
    """Return where the papers of CK, Token Prepending and CP read an embedding.

    They read LLaMA2-7B after 27 of its 32 blocks (Knowledge Enhancement apart). Models of 32 blocks
    are read there; for the others, which have no published setting, it is "penultimate".
    """
    return 27 if lens.n_layers == 32 else "penultimate"


# Contrastive Prompting's block and α are the paper's for LLaMA2-7B, not tuned for a model.
TRAINING_FREE: dict[str, Callable[[LensModel], Encoder]] = {
    "mean": MeanPooling,
    "prompteol": PromptEncoder,
    "pretended_cot": lambda lens: PromptEncoder(lens, "pretended_cot"),
    "knowledge": lambda lens: PromptEncoder(lens, "knowledge"),
    "ck": lambda lens: PromptEncoder(lens, "ck", output_of(lens)),
    "metaeol": lambda lens: PromptEncoder(lens, "metaeol"),
    "embed_filter": EmbedFilter,
    "echo": Echo,
    "kv": KVEmbedding,
    "va": lambda lens: ValueAggregation(lens, "va"),
    "wva": lambda lens: ValueAggregation(lens, "wva"),
    "aligned_wva": ValueAggregation,
    "tp": lambda lens: TokenPrepending(lens, output_layer=output_of(lens)),
    "tp_cot": lambda lens: TokenPrepending(lens, "pretended_cot", output_layer=output_of(lens)),
    "tp_knowledge": lambda lens: TokenPrepending(lens, "knowledge"),
    "cp_ns": lambda lens: ContrastivePrompting(lens, output_layer=output_of(lens)),
    "cp_nr": lambda lens: ContrastivePrompting(
        lens, norm="recovering", output_layer=output_of(lens)
    ),
    "cp_cot": lambda lens: ContrastivePrompting(
        lens, 6, alpha=3.0, output_layer=output_of(lens), template="pretended_cot"
    ),
    "cp_knowledge": lambda lens: ContrastivePrompting(lens, 6, alpha=3.0, template="knowledge"),
}
DYSEM: dict[str, Mapping[str, Any]] = {
    "dysem": {"setting": "language-specific", "vector": "mean"},
    "dysem_source": {"setting": "language-specific", "vector": "source"},
    "dysem_english": {"setting": "english", "vector": "mean"},
    "dysem_english_source": {"setting": "english", "vector": "source"},
    "dysem_resid": {"setting": "language-specific", "vector": "mean", "component": "resid"},
}
PARAPHRASED: dict[str, Mapping[str, Any]] = {"geneol": {}}
TRAINED: dict[str, Callable[[], Encoder]] = {
    "minilm": lambda: SentenceBERT("all-minilm-l6-v2"),
    "sbert": SentenceBERT,
    "simcse": lambda: SimCSE(supervised=False),
    "simcse_sup": lambda: SimCSE(supervised=True),
    "promptbert": lambda: PromptBERT(supervised=False),
    "promptbert_sup": lambda: PromptBERT(supervised=True),
}
NAMES = (*TRAINING_FREE, *PARAPHRASED, *DYSEM, *TRAINED)


def needs_lens(names: str | Sequence[str]) -> bool:
    """Return whether `named_systems` needs a model for these names."""
    return any(name not in (*TRAINED, "trained") for name in names_of(names))


def chosen_names(
    names: str | Sequence[str], languages: str | Sequence[str], paraphrased: bool = False
) -> list[str]:
    """Return the names that `named_systems` makes systems of; no model is needed for that.

    Args:
        names: As there.
        languages: As there.
        paraphrased: Whether there are paraphrases.

    Raises:
        InputError: A name that does not exist.
    """
    several = len(names_of(languages, "language")) > 1
    groups = {
        "all": [
            *TRAINING_FREE,
            *(PARAPHRASED if paraphrased else ()),
            *(DYSEM if several else ()),
        ],
        "trained": list(TRAINED),
    }
    chosen = [name for each in names_of(names, "method") for name in groups.get(each, [each])]
    for name in chosen:
        if name not in NAMES:
            raise choices("method", name, (*NAMES, *groups))
    return chosen


def named_systems(
    lens: LensModel | None,
    names: str | Sequence[str] = "all",
    languages: Sequence[str] = ("en",),
    translator: Translator | None = None,
    k: int | float = 0.25,
    paraphrases: Paraphrases | None = None,
) -> dict[str, Encoder]:
    """Return systems by name, each at the settings of its paper for LLaMA2-7B.

    Other models have no published settings: blocks and α are then a guess, not tuned.

    Args:
        lens: The model of the training-free ones; None where there is none of them.
        names: Names of `NAMES`; "all" is every training-free one that the model has the blocks for,
            in the order of the papers, with DySem where there are two languages or more, and GenEOL
            where there are paraphrases; "trained" is every trained one, whose weights come from the
            hub, but for "minilm".
        languages: Of DySem's consensus.
        translator: Of DySem; None takes the renderings of the data.
        k: Of DySem; 0.25 is the paper's 1024 of 4096.
        paraphrases: Of GenEOL, as for `dysem_lab.paraphrased`; None takes those of the data.

    Raises:
        InputError: A name that does not exist, no model for a training-free system, or one with too
            few blocks for a system that is named itself.
        ModelError: No checkpoint of a trained system can be loaded.

    Warns:
        UserWarning: Some checkpoints cannot be loaded, or the model has too few blocks for some of
            "all"; the other systems are returned.
    """
    if lens is None and needs_lens(names):
        raise InputError(f"{names!r} needs a model; give one of load_model")
    languages, given = names_of(languages, "language"), names_of(names, "method")
    chosen = chosen_names(names, languages, paraphrases is not None)
    made: dict[str, Encoder] = {}
    failed: dict[str, DysemLabError] = {}
    for name in chosen:
        if name in TRAINED:
            try:
                made[name] = TRAINED[name]()
            except ModelError as error:
                failed[name] = error
            continue
        assert lens is not None
        if name in DYSEM:
            made[name] = DySem(lens, languages, translator, k, **DYSEM[name])
        elif name in PARAPHRASED:
            made[name] = GenEOL(lens, translator=paraphrases, **PARAPHRASED[name])
        else:
            try:
                made[name] = TRAINING_FREE[name](lens)
            except InputError as error:  # a block of the paper's settings that there is not
                if name in given:
                    raise
                failed[name] = error
    for name, reason in failed.items():
        if not made:
            raise reason
        warnings.warn(f"{name} is left out: {reason}", stacklevel=2)
    return made
