"""Similarities of English texts without any block of a model: what every method has to beat."""

import re
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from sklearn.feature_extraction.text import TfidfVectorizer

from dysem_lab.models.lens import LensModel
from dysem_lab.questions.scores import pair_cosine

WORD = r"(?u)\w+"


def word_overlap(texts: Sequence[str]) -> Float[np.ndarray, " n"]:
    """Return the Jaccard index of the words of text i and text n + i; NaN where neither has any."""
    sets = [set(words(text)) for text in texts]
    n_pairs = len(sets) // 2
    return np.array(
        [
            len(x & y) / len(x | y) if x | y else np.nan
            for x, y in zip(sets[:n_pairs], sets[n_pairs:], strict=True)
        ]
    )


def tf_idf(texts: Sequence[str], fit: Sequence[str]) -> Float[np.ndarray, " n"]:
    """Return the cosine of the TF-IDF vectors of text i and text n + i; NaN where one has no words.

    The weights of words are fitted on the other texts; a word that these lack weighs most.
    """
    vocabulary = sorted({word for text in texts for word in words(text)})
    if not vocabulary:
        return np.full(len(texts) // 2, np.nan)
    vectorizer = TfidfVectorizer(vocabulary=vocabulary, token_pattern=WORD).fit(fit)
    x = vectorizer.transform(texts)
    n_pairs = len(texts) // 2
    similarity = np.asarray(x[:n_pairs].multiply(x[n_pairs:]).sum(1)).ravel()
    empty = np.asarray(x.sum(1)).ravel() == 0
    return np.where(empty[:n_pairs] | empty[n_pairs:], np.nan, similarity)


def length_difference(texts: Sequence[str]) -> Float[np.ndarray, " n"]:
    """Return by how many words text i and text n + i differ in length, as a negative number."""
    lengths = np.array([len(words(text)) for text in texts], dtype=np.float64)
    return -np.abs(lengths[: len(texts) // 2] - lengths[len(texts) // 2 :])


def input_embeddings(lens: LensModel, texts: Sequence[str]) -> Float[torch.Tensor, " n"]:
    """Return the cosine of the mean input embeddings of text i and text n + i: no block runs."""
    weights = lens.bridge.original_model.get_input_embeddings().weight
    ids = [lens.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    means = torch.stack([weights[one].detach().float().mean(0).cpu() for one in ids])
    return pair_cosine(means)


def words(text: str) -> list[str]:
    """Return the words of a text, in lower case."""
    return re.findall(WORD, text.lower())
