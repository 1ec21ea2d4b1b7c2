"""DySem's settings by name, checked before torch and a model are loaded, which takes seconds."""

from collections.abc import Sequence

from dysem_lab.errors import InputError
from dysem_lab.inputs import names_of, one_of
from dysem_lab.models.places import VECTOR_COMPONENTS
from dysem_lab.prompts import template_parts

VECTORS = ("source", "mean")
RANKINGS = ("mean", "vector")


def check_settings(
    languages: str | Sequence[str],
    component: str = "attn",
    template: str = "prompteol",
    setting: str = "english",
    vector: str = "mean",
    rank_by: str = "mean",
) -> tuple[str, ...]:
    """Return the languages, once every name is one that `dysem_lab.DySem` takes.

    Raises:
        InputError: A name that does not exist; no languages, or one twice.
    """
    codes = tuple(names_of(languages, "language"))
    if not codes or len(set(codes)) != len(codes):
        raise InputError(f"languages must be one or more different codes, got {codes}")
    for kind, value, valid in (
        ("component", component, VECTOR_COMPONENTS),
        ("vector", vector, VECTORS),
        ("rank_by", rank_by, RANKINGS),
    ):
        one_of(value, valid, kind)
    for code in codes:
        template_parts(template, setting, code)
    return codes
