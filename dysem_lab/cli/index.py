"""`dysem-lab index`: a corpus on disk, searched exactly."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dysem_lab.cli.compare import translator_named
from dysem_lab.cli.terminal import (
    Json,
    K,
    Languages,
    Model,
    Setting,
    Template,
    codes_of,
    number,
    print_json,
    print_table,
    settings_of,
)
from dysem_lab.data.tables import read_lines, read_table
from dysem_lab.encoders.settings import check_settings
from dysem_lab.errors import InputError, choices
from dysem_lab.inputs import checked, has_words, one_of, path_of
from dysem_lab.translation.translate import check_translator

if TYPE_CHECKING:
    from dysem_lab.encoders.base import Encoder
    from dysem_lab.retrieval.index import SemanticIndex
    from dysem_lab.translation.translate import Translator as AnyTranslator

BATCH = 4096  # texts that are encoded and added at once: a block of an index
STORED = ("float32", "float16", "int8")

Folder = Annotated[Path, typer.Argument(help="Folder of the index.")]
Texts = Annotated[
    Path, typer.Argument(help="A .txt file with a text per line, or a CSV, TSV, JSONL, parquet.")
]
Column = Annotated[
    str, typer.Option(help="Column of the texts in a table.", show_default="its only one, or text")
]
Ids = Annotated[
    str, typer.Option("--ids", help="Column of their ids.", show_default="file name:line")
]
Table = Annotated[Path | None, typer.Option(help="Parallel table of renderings.")]
Translator = Annotated[
    str, typer.Option(help="'apertium', 'nllb', or a hub id or folder of a seq2seq model.")
]
Language = Annotated[str, typer.Option(help="Language of the texts.")]

index = typer.Typer(
    help="Build, change and search a corpus on disk.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@index.command(epilog="Example:  dysem-lab index build my-index corpus.txt --languages en,es,fr")
def build(
    folder: Folder,
    texts: Annotated[
        Path | None,
        typer.Argument(help="A .txt file with a text per line, or a CSV, TSV, JSONL, parquet."),
    ] = None,
    shards: Annotated[
        str,
        typer.Option(
            help="A folder that `dysem-lab capture` wrote, instead of texts: no pass of the model."
        ),
    ] = "",
    column: Column = "",
    ids: Ids = "",
    model: Model = "gemma-3-270m",
    method: Annotated[
        str, typer.Option(help="dysem, or another method of `dysem-lab evaluate`.")
    ] = "dysem",
    languages: Languages = "",
    table: Table = None,
    translator: Translator = "",
    k: K = "0.25",
    component: Annotated[str, typer.Option(help="attn, ffn, resid, attn_raw or final.")] = "attn",
    template: Template = "prompteol",
    setting: Setting = "",
    vector: Annotated[str, typer.Option(help="mean or source.")] = "mean",
    stored: Annotated[
        str,
        typer.Option(
            "--stored",
            help="float32, float16 or int8: fewer bytes, other ranks; int8 loses most where one "
            "text has huge values.",
            show_default="float32, or what the index has",
        ),
    ] = "",
    language: Language = "en",
    as_json: Json = False,
) -> None:
    """Encode texts and put them into an index; stopped, the same command goes on where it was.

    int8 has a step for each dimension, 1/127 of its largest value among some thousand texts: where
    one text has a huge value, all others are nearly 0 there.
    """
    from dysem_lab.encoders.systems import DYSEM, NAMES, PARAPHRASED, needs_lens
    from dysem_lab.models.names import check_name

    # Whatever can be wrong is said before a model is loaded.
    kept = number(k)
    one_of(stored or STORED[0], STORED, "data type")
    one_of(method, NAMES, "method")
    check_name(model)
    of_dysem: dict[str, Any] = {"component": component, "template": template, "vector": vector}
    of_dysem["setting"] = setting or settings_of(template)[-1]
    if method != "dysem":
        usual = {"component": "attn", "template": "prompteol", "vector": "mean"}
        if setting or any(of_dysem[name] != value for name, value in usual.items()):
            raise InputError(
                "--component, --template, --setting and --vector go with --method dysem; "
                f"{method!r} names its own"
            )
        of_dysem = {**usual, **DYSEM.get(method, {})}
    codes = codes_of(languages)
    if method in DYSEM:
        check_settings(codes or ["en"], **of_dysem)
    check_translator(translator)
    if (texts is None) == (not shards):
        raise InputError("give either a file of texts or --shards")
    if shards and (column or ids or not needs_lens(method)):
        raise InputError(
            "--shards have texts and ids of their own, and vectors of a model that was captured; "
            "--column, --ids and trained methods go with a file of texts"
        )
    if method in PARAPHRASED and not shards:
        raise InputError(
            f"--method {method} needs paraphrases: capture the columns en, en-1, …, and give "
            "--shards"
        )
    there = _begun(folder, stored)
    given, names = _read(texts, column, ids) if texts else ([], [])
    if there is not None:
        _new(there, set(there.ids), names, given)
    made_by, found = translator_named(table, translator)
    dtype = "auto"
    if shards:
        from dysem_lab.cluster.shards import captured, require_different_ids

        capture = captured(shards)
        found, dtype = capture["languages"], capture["model"]["dtype"]
        require_different_ids(shards)
    codes = codes or found
    if method in DYSEM:
        check_settings(codes, **of_dysem)
        if there is not None:
            there.require_settings("DySem", {"languages": codes, "k": kept, **of_dysem})
        if shards:
            from dysem_lab.cluster.shards import require_captured

            require_captured(shards, codes, language, **of_dysem)
        else:
            _check_renderings(made_by, codes, language, given if table else given[:1])

    from dysem_lab.encoders.dysem import DySem
    from dysem_lab.encoders.systems import named_systems
    from dysem_lab.models.loading import load_model
    from dysem_lab.retrieval.index import SemanticIndex

    lens = load_model(model, dtype=dtype) if needs_lens(method) else None
    encoder: Encoder
    if method == "dysem":
        assert lens is not None
        encoder = DySem(lens, codes, made_by, kept, **of_dysem)
    else:
        (encoder,) = named_systems(lens, method, codes, made_by, kept).values()
    if there is None:
        there = SemanticIndex.create(
            folder, encoder.width, dtype=stored or STORED[0], encoder=encoder
        )
    there.require_made_by(encoder)
    if shards:
        _add_shards(there, encoder, shards, language, as_json)
    else:
        _add(there, encoder, given, names, language, as_json)


def _begun(folder: Path, stored: str) -> "SemanticIndex | None":
    """Return the index that is in a folder, if it can be gone on with in a data type."""
    from dysem_lab.retrieval.index import SemanticIndex
    from dysem_lab.retrieval.records import is_begun

    folder = path_of(folder)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; give the folder of an index, or a new one")
    if not is_begun(folder):
        return None
    there = SemanticIndex.open(folder)
    there.require_vectors()
    if there.dtype != (stored or there.dtype):
        raise InputError(
            f"{folder} stores {there.dtype}, not {stored}; build another, or leave --stored out"
        )
    return there


def _check_renderings(
    translator: "AnyTranslator | None", codes: Sequence[str], language: str, texts: list[str]
) -> None:
    """Raise an error where texts have no renderings in the languages of a consensus."""
    others = [code for code in codes if code != language]
    if others and translator is None:
        raise InputError(
            f"--languages {','.join(codes)} of texts in {language!r} needs --translator or --table"
        )
    for code in others:
        assert translator is not None
        translator.translate(texts, language, code)


@index.command(epilog="Example:  dysem-lab index add my-index more.csv --column sentence")
def add(
    folder: Folder,
    texts: Texts,
    column: Column = "",
    ids: Ids = "",
    table: Table = None,
    translator: Translator = "",
    language: Language = "en",
    as_json: Json = False,
) -> None:
    """Encode more texts, as those that are there were; known ids with the same text are left."""
    from dysem_lab.retrieval.index import SemanticIndex

    given, names = _read(texts, column, ids)
    there = SemanticIndex.open(folder)
    _new(there, set(there.ids), names, given)  # before a model is loaded
    there, encoder = opened(folder, table, translator)
    _add(there, encoder, given, names, language, as_json)


@index.command(epilog="Example:  dysem-lab index delete my-index corpus.txt:17 corpus.txt:18")
def delete(
    folder: Folder,
    ids: Annotated[
        list[str], typer.Argument(help="Ids of texts; 17 is the string, or where there is none 17.")
    ],
    as_json: Json = False,
) -> None:
    """Remove texts, all of them or none."""
    from dysem_lab.retrieval.index import SemanticIndex

    there = SemanticIndex.open(folder)
    known = there.ids
    strings = {name for name in known if isinstance(name, str)}
    numbers = {str(name): name for name in known if not isinstance(name, str)}
    there.delete([name if name in strings else numbers.get(name, name) for name in ids])
    say({"index": folder, "deleted": len(ids), "texts": len(there)}, as_json)


def _read(path: Path, column: str, ids: str) -> tuple[list[str], list[str]]:
    """Return the texts of a file, and their ids."""
    if not path_of(path).is_file():
        raise InputError(f"no file {path}; give one with a text per line, or a table")
    if path.suffix == ".txt":
        lines = [(i, line) for i, line in enumerate(read_lines(path), 1) if has_words(line)]
        return [line for _, line in lines], [f"{path.name}:{i}" for i, _ in lines]
    table = read_table(path)
    names = list(map(str, table.columns))
    column = column or (names[0] if len(names) == 1 else "text")
    for name in (column, *([ids] if ids else [])):
        if name not in names:
            raise choices(f"column of {path}", name, names)
    texts = checked(table[column].tolist())
    if ids:
        from dysem_lab.retrieval.records import checked_ids

        return texts, list(map(str, checked_ids(map(str, table[ids]))))
    return texts, [f"{path.name}:{i}" for i in range(1, len(texts) + 1)]


def opened(folder: Path, table: Path | None, translator: str) -> "tuple[SemanticIndex, Encoder]":
    """Return an index, and the encoder that it was made with."""
    from dysem_lab.encoders.saved import encoder_of
    from dysem_lab.retrieval.index import SemanticIndex

    there = SemanticIndex.open(folder)
    if not there.encoder:
        raise InputError(f"{folder} does not say what made its vectors; use SemanticIndex.search")
    there.require_vectors()
    made_by, _ = translator_named(table, translator)
    name = there.encoder.get("translator")
    if name and made_by is None:
        raise InputError(
            f"{folder} was made with the renderings of {name!r}; give the same by --translator or "
            "--table"
        )
    encoder = encoder_of(there.encoder, translator=made_by, where=folder, what="an index")
    there.require_made_by(encoder)
    return there, encoder


def encoded(
    encoder: "Encoder", texts: Sequence[str], language: str, quiet: bool
) -> Iterator[tuple[slice, Any]]:
    """Yield some texts at a time, with their vectors."""
    from dysem_lab.models.store import VectorStore

    store = VectorStore()
    for start in range(0, len(texts), BATCH):
        rows = slice(start, start + BATCH)
        yield rows, encoder.encode(texts[rows], language=language, store=store, progress=not quiet)


def _add(
    there: "SemanticIndex",
    encoder: "Encoder",
    texts: list[str],
    ids: list[str],
    language: str,
    as_json: bool,
) -> None:
    """Encode and add the texts that are not there yet, and say so."""
    new = _new(there, set(there.ids), ids, texts)
    names, added = [ids[i] for i in new], [texts[i] for i in new]
    there_already = len(ids) - len(new)
    facts: dict[str, Any] = {"index": there.path, "added": len(new), "there already": there_already}
    kept: dict[str, float] = {}
    for rows, vectors in encoded(encoder, added, language, as_json):
        there.add(names[rows], vectors, added[rows])
        kept = kept or _kept(there.dtype, vectors)
    say({**facts, **kept, "texts": len(there), "megabytes": there.n_bytes / 1e6}, as_json)


def _kept(dtype: str, vectors: Any) -> dict[str, float]:
    """Return what a data type keeps of the ranking, of the first texts that are enough to say."""
    from dysem_lab.retrieval.effect import n_lost, ranking_kept

    if dtype == "float32" or len(vectors) <= 10:
        return {}
    share = round(ranking_kept(vectors, dtype), 4)
    kept = {f"10 nearest kept by {dtype} (of {len(vectors)} texts)": share}
    lost = n_lost(vectors, dtype)
    return {**kept, **({f"texts that are zero on their set in {dtype}": lost} if lost else {})}


def _add_shards(
    there: "SemanticIndex", encoder: "Encoder", shards: str, language: str, as_json: bool
) -> None:
    """Add the texts of captured shards that are not there yet, and say so."""
    from dysem_lab.cluster.shards import encoded_shards
    from dysem_lab.encoders.base import LensEncoder

    if not isinstance(encoder, LensEncoder):
        raise InputError(f"{encoder.name} reads no model of the kind that shards are of")
    known, n_new, n = set(there.ids), 0, 0
    kept: dict[str, float] = {}
    for rows, vectors in encoded_shards(shards, encoder, language):
        texts = rows.texts[language]
        new = _new(there, known, rows.ids, texts)
        there.add([rows.ids[i] for i in new], vectors[new], [texts[i] for i in new])
        n_new, n = n_new + len(new), n + len(rows.ids)
        kept = kept or (_kept(there.dtype, vectors) if new else {})
    facts = {"index": there.path, "added": n_new, "there already": n - n_new, **kept}
    say({**facts, "texts": len(there), "megabytes": there.n_bytes / 1e6}, as_json)


def _new(
    there: "SemanticIndex", known: Collection[Any], ids: Sequence[str], texts: Sequence[str]
) -> list[int]:
    """Return the positions of texts that an index does not have; `known` are its ids."""
    here = sorted({name for name in ids if name in known})
    same = dict(zip(here, there.texts(here), strict=True))
    other = [name for name, text in zip(ids, texts, strict=True) if same.get(name, text) != text]
    if other:
        raise InputError(
            f"{there.path} has another text as {other[0]!r}; delete it first, or name other --ids"
        )
    return [i for i, name in enumerate(ids) if name not in same]


def say(facts: dict[str, Any], as_json: bool) -> None:
    """Print facts as a table, or as JSON."""
    if as_json:
        print_json(facts)
        return
    rows = (
        (name, f"{value:,.1f}" if name == "megabytes" else value) for name, value in facts.items()
    )
    print_table("", ("", ""), rows)
