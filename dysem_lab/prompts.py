"""Texts into one-word prompts: the templates, their languages, and sentence normalisation."""

import json
from collections.abc import Sequence
from functools import cache
from typing import Any, Literal, Self, get_args

from dysem_lab import paths
from dysem_lab.data.languages import language
from dysem_lab.display import amount
from dysem_lab.errors import InputError, choices
from dysem_lab.inputs import checked, names_of, one_of, require_characters

Setting = Literal["english", "language-specific"]
SETTINGS: tuple[str, ...] = get_args(Setting)
SLOT = "{text}"


class Prompt(str):
    """A prompt that remembers which of its characters are the text.

    It is an ordinary ``str`` everywhere. `dysem_lab.capture` uses the span to shorten an over-long
    text without touching the template around it.

    Attributes:
        start: Index of the text's first character.
        stop: Index after the text's last character.
    """

    start: int
    stop: int

    @classmethod
    def build(cls, prefix: str, text: str, suffix: str) -> Self:
        """Return ``prefix + text + suffix`` with the span of the text."""
        prompt = cls(prefix + text + suffix)
        prompt.start, prompt.stop = len(prefix), len(prefix) + len(text)
        return prompt

    def shortened(self, n_characters: int) -> "Prompt":
        """Return the prompt with only the first ``n_characters`` of its text."""
        text = self[self.start : self.stop][:n_characters]
        return Prompt.build(self[: self.start], text, self[self.stop :])


@cache
def templates() -> dict[str, dict[str, str]]:
    """Return template name → language code → template with one ``{text}`` slot.

    "prompteol" in all twelve languages is DySem's released set; "pretended_cot" and "knowledge"
    outside English are our own translations (the papers publish none). "none" is the bare text,
    for mean pooling.
    """
    return {name: value for name, value in _prompts_file().items() if not name.startswith("_")}


@cache
def metaeol() -> dict[str, str]:
    """Return MetaEOL's eight prompts by name, in English.

    Source: MetaEOL (arXiv 2402.18458), released code: text classification, sentiment, paraphrase
    and information extraction, two prompts each.
    """
    return _prompts_file()["_metaeol"]


@cache
def auxiliaries() -> dict[str, str]:
    """Return the auxiliary prompts of Contrastive Prompting by name, in English.

    Source: CP (arXiv 2505.12831), Table 4; "irrelevant" is its default.
    """
    return _prompts_file()["_auxiliary"]


def _prompts_file() -> Any:
    return json.loads(paths.package_file("prompts.json").read_text(encoding="utf-8"))


TEMPLATES: tuple[str, ...] = ("prompteol", "pretended_cot", "knowledge", "none")
CK = ("pretended_cot", "knowledge")
TEMPLATE_NAMES = {
    "prompteol": "PromptEOL",
    "pretended_cot": "Pretended CoT",
    "knowledge": "Knowledge Enhancement",
    "ck": "CK",
    "metaeol": "MetaEOL",
}


def parts_of(template: str) -> tuple[str, ...]:
    """Return the templates whose embeddings a template stands for the mean of.

    "ck" is Pretended CoT and Knowledge Enhancement (CP, arXiv 2505.12831), "metaeol" the eight
    prompts of `metaeol`; any other template is itself.

    Raises:
        InputError: A template that is no string.
    """
    _require_string(template)
    return {"ck": CK, "metaeol": tuple(metaeol())}.get(template, (template,))


def normalize(text: str) -> str:
    """Return the sentence as the PromptEOL line of work normalises it before wrapping.

    Outer white space goes; a sentence that ends in none of ``. ? " '`` gets a full stop; double
    quotes become single ones; a final question mark becomes a full stop. Hence ``!`` ends as
    ``!.`` and a CJK, Arabic or Hindi full stop gets an ASCII one after it, as in the papers' code.

    Source: released code of PromptEOL (arXiv 2307.16645) and DySem (arXiv 2605.29751).
    """
    text = text.strip()
    if text and text[-1] not in ".?\"'":
        text += "."
    text = text.replace('"', "'")
    return text[:-1] + "." if text.endswith("?") else text


def template_parts(template: str, setting: str, code: str) -> tuple[str, str]:
    """Return what stands before and after the text, for one language.

    A template is a name of `TEMPLATES` or of `metaeol`, or a free one with one ``{text}``.

    Raises:
        InputError: Unknown names, or a free template without exactly one slot or with the
            language-specific setting.
    """
    one_of(setting, SETTINGS, "prompt setting")
    _require_string(template)
    if template == "none":
        return "", ""
    if template in TEMPLATES:
        by_language = templates()[template]
        filled = by_language["en" if setting == "english" else language(code).code]
    elif template in metaeol():
        if setting == "language-specific" and code != "en":
            raise InputError(f"{template!r} exists in English only; use setting='english' with it")
        filled = metaeol()[template]
    elif template.count(SLOT) == 1:
        if setting == "language-specific":
            raise InputError(
                f"the free template {template!r} exists in one language only; "
                f"use setting='english' with it, or a named template: {', '.join(TEMPLATES)}"
            )
        require_characters(template, "the template")
        filled = template.strip()
    elif SLOT in template:
        raise InputError(f"template {template!r} has more than one {SLOT} slot; give it one")
    else:
        raise choices("template", template, (*TEMPLATES, f"any string with {SLOT}"))
    prefix, suffix = filled.split(SLOT)
    return prefix, suffix


def _require_string(template: object) -> None:
    if not isinstance(template, str):
        raise choices("template", template, (*TEMPLATES, f"any string with {SLOT}"))


def wrap(
    texts: Sequence[str],
    template: str = "prompteol",
    setting: str = "english",
    languages: str | Sequence[str] = "en",
) -> list[Prompt]:
    """Return each text inside its prompt.

    Args:
        texts: n texts, none of them empty.
        template: "prompteol", "pretended_cot", "knowledge", "none" (the bare text, unchanged) or a
            string with one ``{text}`` slot.
        setting: "english" puts every text in the English template; "language-specific" uses the
            template of the text's language.
        languages: Language code of all texts, or one code per text.

    Returns:
        n prompts (`Prompt`, a ``str`` that knows where its text is).

    Raises:
        InputError: A text that is empty or holds half a surrogate pair (named by its index), what
            is no list of texts, an unknown name, a wrong count of codes.

    Source: DySem Section 3.1 and Eq. 9; sentence normalisation as in the released code.
    """
    texts = checked(texts)
    codes = names_of(languages, "language")
    if isinstance(languages, str):
        codes *= len(texts)
    if len(codes) != len(texts):
        raise InputError(
            f"{amount(len(codes), 'language code')} for {amount(len(texts), 'text')}; give one or n"
        )
    parts = {code: template_parts(template, setting, code) for code in set(codes)}
    prompts = []
    for text, code in zip(texts, codes, strict=True):
        prefix, suffix = parts[code]
        body = text if template == "none" else normalize(text)
        prompts.append(Prompt.build(prefix, body, suffix))
    return prompts
