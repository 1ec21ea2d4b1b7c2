"""Our encoders in MTEB: a model that `mteb.evaluate` accepts, and what its results mean.

MTEB asks a model for the embeddings of texts, and most tasks for its similarity of embeddings.
DySem's similarity belongs to a pair of texts, so what a task sees of it depends on what it asks:

- Retrieval, reranking, summarisation: every score is by DySem's own similarity. Bitext mining has
  two languages at once, which one source language cannot be: it is refused.
- STS and pair classification: DySem's own similarity is under ``spearman`` and ``pearson``
  (``similarity_…`` of pairs). **The main score of an STS task is not it**: MTEB makes it
  ``cosine_spearman``, the plain cosine of the arrays, which is that of v(x) on all d dimensions
  (`dysem_lab.harnesses.sentence_api.pack`), a baseline without the sets.
- Classification, clustering, regression: these read one vector per text. They get v(x) with zeros
  outside S(x) (`SemanticVectors.masked`), as our own transfer tasks do. That is our reading; the
  paper has no such tasks.

A pair without a similarity counts as 0 here, while `dysem_lab.score` leaves it out; a warning
counts them. `mteb_scores` says of each score of a result whether it is by the encoder's similarity.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import nn

from dysem_lab.data.languages import LANGUAGES, language_of
from dysem_lab.encoders.base import Encoder
from dysem_lab.encoders.checkpoints import optional_package
from dysem_lab.encoders.saved import commit_of
from dysem_lab.errors import InputError, choices
from dysem_lab.harnesses.sentence_api import (
    SentenceEncoder,
    pack,
    sentence_encoder,
)
from dysem_lab.inputs import checked
from dysem_lab.models.loading import presets
from dysem_lab.models.store import VectorStore

# Task types that read one vector per text; all others compare texts.
VECTOR_TASKS = ("Classification", "MultilabelClassification", "Clustering", "Regression")

# What MTEB wants to know of the models that packages carry: hub id, date of release, licence.
PACKAGED_FACTS = {
    "gemma-3-270m": ("google/gemma-3-270m", "2025-08-14", "gemma"),
    "smollm2-135m-instruct": ("HuggingFaceTB/SmolLM2-135M-Instruct", "2024-11-01", "apache-2.0"),
    "all-minilm-l6-v2": ("sentence-transformers/all-MiniLM-L6-v2", "2021-08-30", "apache-2.0"),
}
ISO_639_3 = {
    **{language.nllb[:3]: code for code, language in LANGUAGES.items()},
    "cmn": "zh",
    "ara": "ar",
}
# Scores by a similarity or distance of MTEB's own, and marks of tasks without any similarity.
GENERIC = ("cosine", "dot", "euclidean", "manhattan", "max")
WITHOUT_SIMILARITY = ("scores_per_experiment", "v_measure")


def mteb_model(
    encoder: Encoder,
    *,
    revision: str | None = None,
    store: VectorStore | None = None,
    **known: Any,
) -> Any:
    """Return an encoder as a model that `mteb.evaluate` accepts.

    Read DySem's score of an STS task from the key ``spearman``, never from ``main_score``; see the
    head of `dysem_lab.harnesses.mteb_api` and `mteb_scores`. Translations are DySem's own business:
    ``DySem(lens, languages, translator=ParallelTable(…))`` reads them from a table. Texts of a task
    in another language than English are read as such; an empty text is an error.

    Args:
        encoder: As for `dysem_lab.sentence_encoder`.
        revision: What to call this version; None is the commit of a model of the hub, else the
            fingerprint of the weights.
        store: Where vectors are kept, so that none is computed twice.
        **known: Fields of `mteb.models.ModelMeta` that only you know. For a submission give those
            that are None without: ``release_date``, ``license``, ``reference``,
            ``training_datasets`` (of a trained encoder), ``contacts``.

    Returns:
        A subclass of `mteb.models.abs_encoder.AbsEncoder`. Its ``mteb_model_meta`` holds the
        encoder's settings in ``experiment_kwargs``, so two settings never share cached results.

    Raises:
        ModelError: mteb is not installed.
        InputError: No encoder of ours, a field that MTEB does not have or accept.
    """
    kind = _model_class()
    adapter = sentence_encoder(encoder, store=store)
    return kind(adapter, _meta(adapter, revision, known))


def mteb_scores(result: Any) -> pd.DataFrame:
    """Return the scores of a result of `mteb.evaluate`, and which are by the encoder's similarity.

    Args:
        result: What `mteb.evaluate` returned.

    Returns:
        One row per score with ``task``, ``split``, ``subset``, ``key``, ``score`` (as MTEB has it,
        mostly a fraction), ``main_score`` (the task's headline number, the same in each of its
        rows) and ``own_similarity``: whether the score is by the similarity that the encoder
        brings. For an STS task that is so under ``spearman`` and ``pearson`` only, and the main
        score, ``cosine_spearman``, is the plain cosine.
    """
    return pd.DataFrame(
        {
            "task": task.task_name,
            "split": split,
            "subset": scores["hf_subset"],
            "key": key,
            "score": float(score),
            "main_score": float(scores["main_score"]),
            "own_similarity": not (
                key.startswith(GENERIC) or any(mark in scores for mark in WITHOUT_SIMILARITY)
            ),
        }
        for task in result.task_results
        for split, of_subsets in task.scores.items()
        for scores in of_subsets
        for key, score in scores.items()
        if isinstance(score, int | float) and key != "main_score"
    )


class _Model:
    """The methods that MTEB calls.

    Attributes:
        model: The encoder in the shape of a sentence-transformers model.
        mteb_model_meta: A `mteb.models.ModelMeta`.
    """

    def __init__(self, model: SentenceEncoder, meta: Any) -> None:
        self.model, self.mteb_model_meta = model, meta
        self.similarity, self.similarity_pairwise = model.similarity, model.similarity_pairwise

    def encode(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        **options: Any,
    ) -> Float[np.ndarray, "n width"]:
        """Return the embeddings of the texts of a task, queries and documents alike.

        A batch has a list under ``text``; that of a document is title and text. The task's type
        decides what is seen of DySem (see the module), its subset names the language. Of the
        options, `SentenceEncoder.encode` says which can be honoured.

        Raises:
            InputError: Inputs without text, an unknown option, or a language that DySem does not
                know.
        """
        texts = list(_texts(inputs))
        progress = options.pop("show_progress_bar", True)
        encoder = self.model.encoder
        if encoder.dense:
            return self.model.encode(texts, show_progress_bar=progress, **options)  # type: ignore[return-value]
        self.model.encode([], **options)  # raises for an option that cannot be honoured
        language = _language(task_metadata, hf_subset)
        semantic = encoder.encode(
            texts, language=language, store=self.model.store, progress=progress
        )
        plain = task_metadata.type in VECTOR_TASKS
        return (semantic.masked() if plain else pack(semantic)).numpy()


@cache
def _model_class() -> type:
    """Return `_Model` as a subclass of MTEB's base class."""
    return type(
        "DysemLabModel",
        (_Model, optional_package("mteb.models.abs_encoder", "eval", "mteb_model").AbsEncoder),
        {},
    )


def _texts(inputs: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    for batch in inputs:
        if not isinstance(batch, Mapping) or "text" not in batch:
            has = ", ".join(map(str, batch)) if isinstance(batch, Mapping) else f"{batch!r:.80}"
            raise InputError(f"a batch of {has} without text; our encoders read texts")
        yield from checked(batch["text"])


def _language(task_metadata: Any, hf_subset: str) -> str:
    """Return the code of the one language of a task's texts."""
    scripts = task_metadata.hf_subsets_to_langscripts.get(hf_subset, ())
    codes = {ISO_639_3.get(script.split("-")[0], script) for script in scripts}
    if len(codes) == 1 and codes <= set(LANGUAGES):
        return codes.pop()
    raise InputError(
        f"{task_metadata.name}, subset {hf_subset!r}, has texts in {', '.join(scripts) or '?'}; "
        f"DySem needs one language of {', '.join(LANGUAGES)}"
    )


def _meta(model: SentenceEncoder, revision: str | None, known: Mapping[str, Any]) -> Any:
    """Return what MTEB wants to know of a model."""
    library = optional_package("mteb.models.model_meta", "eval", "mteb_model")
    fields = {**_described(model), **_weighed(model.encoder), "loader": None}
    fields["revision"] = revision or fields["revision"]
    unknown = set(known) - set(library.ModelMeta.model_fields)
    if unknown:
        raise choices(
            "field of mteb's ModelMeta", sorted(unknown)[0], library.ModelMeta.model_fields
        )
    if fields["revision"] is None:
        raise InputError(f"{model.encoder!r:.80} does not say which weights it has; give revision=")
    similarity = library.ScoringFunction
    kind = similarity.COSINE if model.encoder.dense else similarity.CUSTOM
    try:
        return library.ModelMeta(**{**fields, "similarity_fn_name": kind, **known})
    except ValueError as error:
        raise InputError(f"MTEB does not accept this description of the model: {error}") from error


def _described(model: SentenceEncoder) -> dict[str, Any]:
    """Return the fields that follow from the encoder's settings and its model's name."""
    encoder, facts = model.encoder, model.encoder.facts
    source = facts.name if facts else type(encoder).__name__
    preset = presets().query("preset == @source")["hf_id"].tolist()
    hub_id, date, licence = PACKAGED_FACTS.get(source, (None, None, None))
    is_id = source.count("/") == 1 and source[0] not in "./~" and not Path(source).exists()
    hub_id = hub_id or (preset[0] if preset else source if is_id else None)
    settings = {
        **encoder.config,
        "encoder": type(encoder).__qualname__,
        "undefined": model.undefined,
        **({"dtype": facts.dtype, "fingerprint": facts.fingerprint} if facts else {}),
    }
    if encoder.translator is not None:
        settings["translator"] = encoder.translator.name
    # MTEB's own names of settings confuse "a/b" with "a_b" and None with "None"; this does not.
    text = json.dumps(settings, sort_keys=True, ensure_ascii=False, default=str)
    settings["settings"] = hashlib.sha256(text.encode()).hexdigest()[:16]
    prompts = (encoder.config.get(setting) for setting in ("template", "instruction"))
    return {
        "name": "dysem-lab/" + re.sub(r"[^\w.]+", "-", f"{encoder.name} {Path(source).name}"),
        "revision": (commit_of(facts) or facts.fingerprint) if facts else None,
        "release_date": date,
        "languages": [
            LANGUAGES[code].nllb.replace("_", "-")
            for code in dict.fromkeys(["en", *map(language_of, encoder.languages)])
        ],
        "max_tokens": model.max_seq_length,
        "embed_dim": model.get_embedding_dimension(),
        "license": licence,
        "open_weights": True if hub_id else None,
        "public_training_code": None,
        "public_training_data": None,
        "framework": ["PyTorch", "Transformers"],
        "reference": f"https://huggingface.co/{hub_id}" if hub_id else None,
        "use_instructions": any(prompt not in (None, "", "none") for prompt in prompts),
        "training_datasets": None if encoder.trained else set(),
        "adapted_from": hub_id,
        "experiment_kwargs": settings,
    }


def _weighed(encoder: Encoder) -> dict[str, Any]:
    """Return the fields that follow from the model's weights."""
    lens = encoder.lens
    network = lens.bridge.original_model if lens is not None else getattr(encoder, "model", None)
    if not isinstance(network, nn.Module):
        return {"n_parameters": None, "n_embedding_parameters": None, "memory_usage_mb": None}
    weights = list(network.parameters())
    n_bytes = sum(one.numel() * one.element_size() for one in weights)
    embedding = getattr(network, "get_input_embeddings", lambda: None)()
    return {
        "n_parameters": sum(one.numel() for one in weights),
        "n_embedding_parameters": embedding.weight.numel() if embedding is not None else None,
        "memory_usage_mb": n_bytes / 2**20,
    }
