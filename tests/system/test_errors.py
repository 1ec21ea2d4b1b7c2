"""Unknown names: the error says what there is, and what was probably meant."""

import pytest

from dysem_lab.errors import choices

COMPONENTS = ("attn", "attn_raw", "ffn", "resid", "final")


@pytest.mark.parametrize(
    ("value", "valid", "hint"),
    [
        ("atn", COMPONENTS, "did you mean 'attn'? "),
        ("ATTN", COMPONENTS, "did you mean 'attn'? "),
        ("stsb", ("STS12", "STSB"), "did you mean 'STSB'? "),
        ("01_decomposton", ("01_decomposition", "02_random"), "did you mean '01_decomposition'? "),
        ("heads", COMPONENTS, ""),
        ("", COMPONENTS, ""),
        (7, (1, 2), ""),
        (["attn"], COMPONENTS, "did you mean 'attn'? "),
        ("any strin", ("prompteol", "any string with {text}"), ""),  # no name
    ],
)
def test_an_unknown_name_is_answered_by_the_closest_and_by_all(value, valid, hint):
    listed = ", ".join(map(str, valid))
    expected = f"unknown component {value!r}; {hint}choose one of: {listed}"
    assert str(choices("component", value, valid)) == expected


def test_a_name_without_end_is_cut():
    assert len(str(choices("component", "x" * 10**6, COMPONENTS))) < 400


def test_the_names_may_come_from_an_iterator():
    assert "did you mean 'ffn'?" in str(choices("component", "ffm", iter(COMPONENTS)))
