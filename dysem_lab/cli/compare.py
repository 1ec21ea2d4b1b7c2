"""`dysem-lab similarity`: two texts."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dysem_lab.cli.terminal import (
    Dtype,
    Json,
    K,
    Languages,
    Model,
    Setting,
    Template,
    codes_of,
    err,
    number,
    print_json,
    print_table,
    settings_of,
)
from dysem_lab.data.languages import LANGUAGES
from dysem_lab.errors import InputError, MissingTranslationError
from dysem_lab.inputs import checked, has_words
from dysem_lab.translation.translate import check_translator

if TYPE_CHECKING:
    from dysem_lab.translation.translate import Translator

BY_APERTIUM = ("es", "fr", "pt")  # from English, with the packages that its error names


def similarity(
    a: Annotated[str, typer.Argument(help="A text in English.")],
    b: Annotated[str, typer.Argument(help="Another.")],
    model: Model = "gemma-3-270m",
    languages: Languages = "",
    table: Annotated[
        Path | None,
        typer.Option(
            help="Parallel table: a file with a column, or a folder with a file, per language."
        ),
    ] = None,
    translator: Annotated[
        str,
        typer.Option(
            help="'apertium' (offline), 'nllb', or the hub id or folder of a seq2seq model.",
            show_default="Apertium where it is installed; --languages en takes none",
        ),
    ] = "",
    k: K = "0.25",
    component: Annotated[str, typer.Option(help="attn, ffn, resid, attn_raw or final.")] = "attn",
    template: Template = "prompteol",
    setting: Setting = "",
    vector: Annotated[str, typer.Option(help="mean or source.")] = "mean",
    with_scale: Annotated[
        bool | None,
        typer.Option(
            "--scale/--no-scale",
            help="Say where the similarity stands among those of the demo pairs.",
            show_default="where they were read before",
        ),
    ] = None,
    dtype: Dtype = "auto",
    as_json: Json = False,
) -> None:
    """Compare two texts with DySem, and with the plain cosine beside it.

    Renderings in other languages come from a table or a translator; where there is neither, only
    English is used.
    """
    from dysem_lab.encoders.settings import check_settings
    from dysem_lab.models.names import check_name

    # Whatever can be wrong is said before a model is loaded; names, before torch is imported.
    for which, text in (("first", a), ("second", b)):
        if not has_words(text):
            raise InputError(f"the {which} text is empty; give it words")
    checked([a, b])
    kept = number(k)
    check_name(model)
    setting = setting or settings_of(template)[-1]
    codes = codes_of(languages)
    check_settings(codes or ["en"], component, template, setting, vector)
    check_translator(translator)
    if set(codes) - {"en"} and not translator and table is None:
        raise InputError(f"--languages {','.join(codes)} needs --translator or --table")
    made_by, usual = translator_named(table, translator or _installed(table, codes))
    codes = list(check_settings(codes or usual, component, template, setting, vector))
    texts = {"en": [a, b]}
    asked = bool(translator or table)
    for code in list(codes):
        if made_by is not None and code != "en":
            try:
                texts[code] = made_by.translate([a, b], "en", code)
            except MissingTranslationError as error:
                if asked:
                    raise
                codes.remove(code)
                err.print(f"Without {code}: {error}", highlight=False, markup=False)

    from dysem_lab.models.loading import load_model
    from dysem_lab.models.store import VectorStore
    from dysem_lab.questions.pair import UNDEFINED
    from dysem_lab.questions.pair_view import Captures, pair_view
    from dysem_lab.questions.scale import scale, seconds_needed, unread

    lens = load_model(model, dtype=dtype)
    store = VectorStore()
    view = pair_view(
        lens,
        {code: pair[0] for code, pair in texts.items()},
        {code: pair[1] for code, pair in texts.items()},
        codes,
        k=kept,
        component=component,
        template=template,
        setting=setting,
        vector=vector,
        captures=Captures(lens, store),
    )
    dysem, place, to_read = view.encoder, None, 0
    has_scale = set(codes) <= set(LANGUAGES)  # the demo set is in these
    if with_scale is None and has_scale:
        to_read = unread(dysem, store)
    if with_scale or (with_scale is None and has_scale and not to_read):
        place = scale(dysem, store=store).place(view.similarity)
    result = {
        "similarity": view.similarity,
        "scale": place,
        "n_dims": float(view.n_dims),
        "plain_cosine": view.plain,
        "d_model": lens.d_model,
        "translator": made_by.name if made_by else None,
        **dysem.config,
        "weights": lens.weights,
        "renderings": texts,
    }
    if not view.n_dims:
        err.print(f"{UNDEFINED[0].upper()}{UNDEFINED[1:]}.")
    if as_json:
        print_json(result)
        return
    rows = [
        ("DySem similarity", f"{result['similarity']:.4f}"),
        *([("", place)] if place else []),
        ("on dimensions (#Dim.)", f"{view.n_dims} of {lens.d_model}"),
        (f"plain cosine of {component}, English", f"{result['plain_cosine']:.4f}"),
        ("languages", "/".join(codes)),
        ("renderings", made_by.name if made_by else "none"),
        ("model", lens.label),
    ]
    print_table("", ("", ""), rows)
    if made_by is not None:
        shown = ((code, *texts[code]) for code in codes)
        print_table("What was compared", ("language", "first", "second"), shown)
    else:
        err.print("English only: give --translator or --table for a consensus over languages.")
    if to_read:
        seconds = seconds_needed(dysem, store)
        err.print(
            f"--scale says where the number stands among the demo pairs: {to_read:,} forward "
            f"passes once, about {max(1, round(seconds / 60))} min here."
        )


def _installed(table: Path | None, codes: list[str]) -> str:
    """Return "apertium" where nothing else was asked for and it is there to be used."""
    from dysem_lab.translation.apertium import reached

    return "apertium" if table is None and not codes and reached() else ""


def translator_named(table: Path | None, name: str) -> "tuple[Translator | None, list[str]]":
    """Return the translator, and the languages to take when none are named."""
    if table is not None and name:
        raise InputError("give either --table or --translator, not both")
    from dysem_lab.translation.apertium import installed_directions, routes
    from dysem_lab.translation.named import translator_of
    from dysem_lab.translation.parallel_table import ParallelTable
    from dysem_lab.translation.translation_cache import CachedTranslator

    if name == "apertium":
        apertium = translator_of(name)
        reached = routes("en", installed_directions())
        # Spanish where there is none: its error says what to install.
        others = [code for code in BY_APERTIUM if code in reached] or ["es"]
        return apertium, ["en", *others]
    if table is not None:
        parallel = ParallelTable.read(table)
        codes = [code for code in parallel.columns if code != "en"]
        return CachedTranslator(parallel), ["en", *codes]
    if name:
        return translator_of(name), ["en", "ja", "ru"]
    return None, ["en"]
