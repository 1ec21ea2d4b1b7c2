"""What people call the names of the code: in figures and menus, and in the line under a title."""

from collections.abc import Iterable, Mapping
from typing import Any

from dysem_lab.prompts import TEMPLATE_NAMES

NO_BREAK = "\u00a0"  # a space at which no line ends
SYMBOLS = {
    "attn": "A^L",
    "attn_raw": "A^L (before the post-norm)",
    "ffn": "F^L",
    "resid": "h^L",
    "ffn_raw": "F^L (before the post-norm)",
    "final": "N(h^L)",
    "aligned_wva": "AlignedWVA",
}
VECTOR_NAMES = {
    "attn": "what attention wrote (A^L)",
    "attn_raw": "what attention wrote, before its post-norm",
    "ffn": "what the FFNs wrote (F^L)",
    "ffn_raw": "what the FFNs wrote, before their post-norm",
    "resid": "the residual stream (h^L)",
    "final": "the residual stream after the final norm",
}
SETTING_NAMES = {
    "language-specific": "each language in a prompt of its own",
    "english": "all languages in the English prompt",
}
COMPARED_NAMES = {
    "mean": "the mean over the languages",
    "source": "the sentence's own language alone",
}
POSITION_NAMES = {
    "heads": "the heads, before the output projection",
    "ffn": "the FFN's output",
    "hidden": "the stream after the block",
    "released_ffn": "the FFN's input, as the released code has it",
    "released_hidden": "the block's input, as the released code has it",
}
NORM_NAMES = {
    "scaling": "scaled by α",
    "recovering": "as long as it was",
    "scaled_recovering": "α times as long as it was",
    "head_recovering": "each head as long as it was",
    "self_scaling": "scaled by α, nothing subtracted",
}
AUXILIARY_NAMES = {
    "irrelevant": "asks for the irrelevant information",
    "redundant": "asks for the redundant information",
    "background": "asks for the background",
    "descriptive": "asks for a descriptive term",
    "sentiment": "asks for the sentiment",
    "entity": "asks for the entity or relation",
}
OUTPUT_NAMES = {
    "penultimate": "after the last block but one",
    "last": "after the last block",
    "final": "after the final norm",
}
OUTPUTS = {
    "penultimate": "the penultimate block",
    "last": "the last block",
    "final": "the final norm",
}
# Of an explanation, and of an ablation.
BY_NAMES = {
    **{name: f"by {name}" for name in ("token", "head", "block", "language", "dimension")},
    "mean": "the mean of other texts in its place",
    "zero": "zero in its place",
}
AGGREGATIONS = {
    "all": "all pairs of a task at once",
    "mean": "mean over the subsets of a task",
    "weighted": "weighted mean over the subsets of a task",
}
# Setting of a question → how it is said with its value ({s} is nothing for one, and "s" for more),
# and what its values are called.
SAID: dict[str, tuple[str, Mapping[str, str]]] = {
    "component": ("{}", SYMBOLS),
    "components": ("{}", SYMBOLS),
    "template": ("{}", TEMPLATE_NAMES),
    "templates": ("{}", TEMPLATE_NAMES),
    "setting": ("{} prompts", {"english": "English"}),
    "prompts": ("{} prompts", {"english": "English"}),
    "vector": ("{} vectors", {}),
    "vectors": ("{} vectors", {}),
    "languages best first": ("languages best first on these pairs: {}", {}),
    "views": ("renderings in {}", {}),
    "temperature": ("temperature τ = {}", {}),
    "m": ("m = {}", {}),
    "k": ("k = {}", {}),
    "ks": ("k = {}", {}),
    "contrasts": ("contrast {}", {}),
    "alpha": ("α = {}", {}),
    "alphas": ("α = {}", {}),
    "layer": ("block {}", {}),
    "layers": ("blocks {}", {}),
    "output_layer": ("read after {}", OUTPUTS),
    "output_layers": ("read after {}", OUTPUTS),
    "by": ("{}", BY_NAMES),
    "by_other": ("by {} of the other text", {}),
    "position": ("contrast of {}", POSITION_NAMES),
    "positions": ("contrast of {}", POSITION_NAMES),
    "auxiliary": ("the auxiliary prompt {}", AUXILIARY_NAMES),
    "n_draws": ("{} random draw{s}", {}),
    "n_seeds": ("{} random draw{s}", {}),
    "n_random": ("{} random draw{s}", {}),
    "n_sets": ("{} random set{s} a text", {}),
    "n_rotations": ("{} rotation{s}", {}),
    "n_heads": ("{} head{s} taken out", {}),
    "n_pairs": ("{} pair{s} shown", {}),
    "n_points": ("words removed in {} step{s}", {}),
    "n_timed": ("timed on {} text{s}", {}),
    "several": ("systems of several passes on at most {} random pair{s} a task", {}),
    "chosen_on": ("settings chosen on {}", {}),
    "inner_folds": ("penalty chosen by {} fold{s}", {}),
    "steps": ("{} step{s} of the integral", {}),
    "top": ("top {} token{s}", {}),
    "sentences": ("{} sentence{s}", {}),
    "aggregation": ("{}", AGGREGATIONS),
    "translator": ("renderings: {}", {}),
    "paraphrases": ("paraphrases: {}", {}),
    "centre": ("centred on {}", {}),
}


def said(name: str, value: Any) -> str:
    """Return a setting of a question in words. Blocks are 1-based there, as in the papers.

    A no-break space follows its commas, so that no line ends within it.
    """
    pattern, names = SAID.get(name, (f"{name.replace('_', ' ')} {{}}", {}))
    values = value if isinstance(value, list | tuple) else [value]
    if name in ("layer", "layers"):
        values = [int(block) + 1 for block in values]
    if name in ("k", "ks"):
        values = [f"{k:g} d" if isinstance(k, float) else k for k in values]
    if name in ("output_layer", "output_layers"):
        values = [one if one in OUTPUTS else f"block {one}" for one in values]
    in_words = "/".join(names.get(str(one), str(one)) for one in values)
    words = pattern.format(in_words, s="" if in_words == "1" else "s")
    return words.replace(", ", f",{NO_BREAK}")


def named(names: Mapping[Any, str], values: Iterable[Any]) -> list[tuple[str, Any]]:
    """Return values with what people call them, for a menu; one without a name is its own."""
    return [(names.get(value, str(value)), value) for value in values]
