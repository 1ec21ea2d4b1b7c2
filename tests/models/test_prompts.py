"""Prompts: exact strings, normalisation, the span of the text, and wrap's errors."""

import copy
import pickle
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dysem_lab.data.languages import LANGUAGES, language
from dysem_lab.errors import InputError
from dysem_lab.inputs import has_words
from dysem_lab.prompts import SETTINGS, TEMPLATES, Prompt, normalize, templates, wrap

NAMED = ("prompteol", "pretended_cot", "knowledge")
CODES = ("en", "zh", "fr", "de", "es", "ru", "ar", "ja", "ko", "it", "pt", "hi")
# PromptEOL around "A cat sleeps." as the released code of DySem builds it (arXiv 2605.29751).
PROMPTEOL = {
    "en": 'This sentence : "A cat sleeps." means in one word:"',
    "zh": "这句话：“A cat sleeps.”用一个词来表达就是：“",
    "fr": 'Cette phrase : "A cat sleeps." signifie en un mot :"',
    "de": 'Dieser Satz : "A cat sleeps." bedeutet in einem Wort :"',
    "es": 'Esta oración : "A cat sleeps." significa en una palabra :"',
    "ru": 'Это предложение : "A cat sleeps." означает одним словом :"',
    "ar": 'هذه الجملة : "A cat sleeps." تعني بكلمة واحدة :"',
    "ja": "この文 : 「A cat sleeps.」を一言で表すと :「",
    "ko": '이 문장 : "A cat sleeps."을 한 단어로 표현하면 :"',
    "it": 'Questa frase : "A cat sleeps." significa in una parola :"',
    "pt": 'Esta frase : "A cat sleeps." significa em uma palavra :"',
    "hi": 'यह वाक्य : "A cat sleeps." का एक शब्द में अर्थ है :"',
}
PRETENDED_COT = 'After thinking step by step , this sentence : "A cat sleeps." means in one word:"'
KNOWLEDGE = (
    "The essence of a sentence is often captured by its main subjects and actions, while "
    "descriptive terms provide additional but less central details. With this in mind , this "
    'sentence : "A cat sleeps." means in one word:"'
)
# Texts that hold at least one visible character.
texts = st.text(min_size=1).filter(has_words)


def naive_normalize(text: str) -> str:
    """Normalise a sentence step by step as spec/baselines.md section 1 lists it."""
    text = re.sub(r"^\s+|\s+$", "", text)
    if not re.search(r"[.?\"']\Z", text):
        text = text + "."
    text = "".join("'" if char == '"' else char for char in text)
    return re.sub(r"\?\Z", ".", text)


@pytest.mark.parametrize("code", CODES)
def test_prompteol_is_exactly_the_released_prompt_in_every_language(code):
    assert wrap(["A cat sleeps."], "prompteol", "language-specific", code) == [PROMPTEOL[code]]


@pytest.mark.parametrize("setting", ["english", "language-specific"])
def test_chain_of_thought_and_knowledge_are_exactly_the_published_english_prompts(setting):
    assert wrap(["A cat sleeps"], "pretended_cot", setting) == [PRETENDED_COT]
    assert wrap(["A cat sleeps"], "knowledge", setting) == [KNOWLEDGE]


def test_the_default_is_prompteol_in_english():
    assert wrap(["A cat sleeps"]) == [PROMPTEOL["en"]]


@pytest.mark.parametrize("template", NAMED)
@pytest.mark.parametrize("code", CODES)
def test_the_english_setting_ignores_the_language(template, code):
    assert wrap(["Hola"], template, "english", code) == wrap(["Hola"], template, "english", "en")


@pytest.mark.parametrize("template", NAMED)
def test_language_specific_prompts_differ_in_all_twelve_languages(template):
    assert len({wrap(["x"], template, "language-specific", code)[0] for code in CODES}) == 12


@pytest.mark.parametrize("template", NAMED)
def test_every_template_has_one_slot_in_quotes_and_ends_in_an_opening_quote(template):
    closing = {'"': '"', "“": "”", "「": "」"}
    assert set(templates()[template]) == set(CODES)
    for code, text in templates()[template].items():
        assert text.count("{text}") == 1, code
        assert text.count("{") == text.count("}") == 1, code
        assert text == text.strip()
        before, after = text.split("{text}")
        assert text[-1] in closing
        assert before[-1] == text[-1]
        assert after[0] == closing[before[-1]]


def test_the_names_are_those_of_the_contract():
    assert set(TEMPLATES) == {*NAMED, "none"}
    assert set(SETTINGS) == {"english", "language-specific"}
    assert set(LANGUAGES) == set(CODES)


def test_languages_carry_the_codes_of_nllb():
    codes = (
        "eng_Latn zho_Hans fra_Latn deu_Latn spa_Latn rus_Cyrl arb_Arab jpn_Jpan kor_Hang "
        "ita_Latn por_Latn hin_Deva"
    )
    assert " ".join(language(code).nllb for code in CODES) == codes


# --- normalisation ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("A cat sleeps", "A cat sleeps."),
        ("A cat sleeps.", "A cat sleeps."),
        ("  A cat sleeps \n", "A cat sleeps."),
        ("Is it a cat?", "Is it a cat."),
        ("Is it??", "Is it?."),
        ("Run!", "Run!."),
        ("Wait...", "Wait..."),
        ('He said "no"', "He said 'no'"),
        ('"No" he said', "'No' he said."),
        ('He asked "why?"', "He asked 'why?'"),
        ("the cats'", "the cats'"),
        ("a list:", "a list:."),
        ("一只猫在睡觉。", "一只猫在睡觉。."),
        ("你好吗？", "你好吗？."),
        ("बिल्ली सोती है।", "बिल्ली सोती है।."),
        ("هل تنام القطة؟", "هل تنام القطة؟."),
        ("ネコ\u3000", "ネコ."),
        ("“no”", "“no”."),
        ("?", "."),
    ],
)
def test_normalisation_by_hand(text, normalized):
    assert normalize(text) == normalized
    assert wrap([text]) == [f'This sentence : "{normalized}" means in one word:"']


@settings(deadline=None)
@given(st.text())
def test_normalisation_follows_the_four_steps(text):
    if text.strip():
        assert normalize(text) == naive_normalize(text)
    else:
        assert normalize(text) == ""


@settings(deadline=None)
@given(texts)
def test_normalised_texts_have_no_double_quote_and_no_final_question_mark(text):
    result = normalize(text)
    assert '"' not in result
    assert result.endswith((".", "'"))


# --- wrap ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["{text}", "{", "}", "{0}", "{text!r:>10}", "a {text} b", "%s \\1"]
)
def test_braces_and_other_format_marks_in_a_text_are_literal(text):
    assert wrap([text]) == ['This sentence : "' + text + '." means in one word:"']
    assert wrap([text], "<{text}>") == ["<" + text + ".>"]


def test_languages_may_differ_from_text_to_text():
    prompts = wrap(
        ["A cat sleeps."] * 4, "prompteol", "language-specific", ["ja", "en", "hi", "ja"]
    )
    assert prompts == [PROMPTEOL[code] for code in ("ja", "en", "hi", "ja")]


@pytest.mark.parametrize("setting", ["english", "language-specific"])
def test_template_none_leaves_the_text_unchanged(setting):
    bare = ['  "Is it?"\n', "one", "{text}"]
    assert wrap(bare, "none", setting) == bare


def test_a_free_template_takes_the_normalised_text():
    assert wrap(['Say "hi"?'], "In a word, {text} is") == ["In a word, Say 'hi'. is"]
    assert wrap(["x"], "  about {text}  ") == ["about x."]


def test_no_texts_give_no_prompts():
    assert wrap([]) == []


@pytest.mark.parametrize("empty", ["", "  ", "\n\t", None, 3])
def test_an_empty_text_is_named_by_its_index(empty):
    with pytest.raises(InputError, match=rf"text 2 is empty.*{re.escape(repr(empty))}"):
        wrap(["a", "b", empty, ""])


def test_a_bare_string_is_not_taken_for_a_list_of_letters():
    with pytest.raises(InputError, match=r"list of strings.*\['A cat'\]"):
        wrap("A cat")


def test_an_unknown_template_lists_the_names():
    with pytest.raises(
        InputError, match=r"unknown template 'promptEOL'.*prompteol, pretended_cot, knowledge, none"
    ):
        wrap(["a"], "promptEOL")


def test_an_unknown_setting_lists_the_names():
    with pytest.raises(InputError, match=r"setting 'English'.*english, language-specific"):
        wrap(["a"], setting="English")


@pytest.mark.parametrize("languages", ["xx", ["en", "xx"]])
def test_an_unknown_language_lists_the_codes(languages):
    with pytest.raises(InputError, match=r"unknown language 'xx'.*en, zh, fr"):
        wrap(["a", "b"], setting="language-specific", languages=languages)


def test_a_free_template_without_a_slot_is_an_unknown_template():
    with pytest.raises(InputError, match=r"'In one word:'.*any string with \{text\}"):
        wrap(["a"], "In one word:")


def test_a_free_template_with_two_slots_is_refused():
    with pytest.raises(InputError, match=r"more than one \{text\} slot; give it one"):
        wrap(["a"], "{text} is {text}")


def test_a_free_template_is_in_one_language_only():
    with pytest.raises(InputError, match=r"'<\{text\}>' .*setting='english'.*prompteol"):
        wrap(["a"], "<{text}>", "language-specific")


@pytest.mark.parametrize("codes", [["en"], ["en", "fr", "de"], []])
def test_the_count_of_codes_must_be_the_count_of_texts(codes):
    with pytest.raises(InputError, match=rf"^{len(codes)} language codes? for 2 texts"):
        wrap(["a", "b"], languages=codes)


# --- the span of the text --------------------------------------------------------------------


@settings(deadline=None)
@given(text=texts, code=st.sampled_from(CODES), template=st.sampled_from((*NAMED, "<{text}>")))
def test_a_prompt_knows_where_its_normalised_text_is(text, code, template):
    setting = "english" if "{" in template else "language-specific"
    (prompt,) = wrap([text], template, setting, code)
    assert prompt[prompt.start : prompt.stop] == naive_normalize(text)
    before, after = (templates()[template][code] if template in NAMED else template).split("{text}")
    assert prompt[: prompt.start] == before
    assert prompt[prompt.stop :] == after


@settings(deadline=None)
@given(texts)
def test_without_a_template_the_text_is_the_whole_prompt(text):
    (prompt,) = wrap([text], "none")
    assert (prompt.start, prompt.stop, str(prompt)) == (0, len(text), text)


@pytest.mark.parametrize(
    "twin",
    [
        *(
            lambda prompt, protocol=protocol: pickle.loads(pickle.dumps(prompt, protocol))
            for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1)
        ),
        copy.copy,
        copy.deepcopy,
    ],
)
def test_a_prompt_survives_pickle_and_copy(twin):
    (prompt,) = wrap(["Un chat dort"], "knowledge", "language-specific", "fr")
    again = twin(prompt)
    assert type(again) is Prompt
    assert again == prompt
    assert (again.start, again.stop) == (prompt.start, prompt.stop)
    assert again[again.start : again.stop] == "Un chat dort."


def test_a_prompt_is_an_ordinary_string():
    (prompt,) = wrap(["A cat sleeps"])
    assert isinstance(prompt, str)
    assert prompt == PROMPTEOL["en"]
    assert {prompt: 1}[PROMPTEOL["en"]] == 1


@settings(deadline=None)
@given(text=texts, n=st.integers(0, 40), code=st.sampled_from(CODES))
def test_a_shortened_prompt_keeps_its_template_and_the_beginning_of_its_text(text, n, code):
    (prompt,) = wrap([text], "prompteol", "language-specific", code)
    short = prompt.shortened(n)
    before, after = templates()["prompteol"][code].split("{text}")
    kept = naive_normalize(text)[:n]
    assert short == before + kept + after
    assert short[short.start : short.stop] == kept
    assert prompt[prompt.start : prompt.stop] == naive_normalize(text)


def test_a_prompt_can_be_shortened_again():
    (prompt,) = wrap(["A cat sleeps"])
    twice = prompt.shortened(8).shortened(5)
    assert twice == 'This sentence : "A cat" means in one word:"'
    assert twice[twice.start : twice.stop] == "A cat"
