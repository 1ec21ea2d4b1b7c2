"""The persistent cache that all translators share."""

import sqlite3
import warnings
from collections.abc import Sequence
from pathlib import Path

import xxhash
from tqdm.auto import tqdm

from dysem_lab import paths
from dysem_lab.database import Database
from dysem_lab.display import amount, say
from dysem_lab.errors import InputError
from dysem_lab.inputs import at_least, path_of, require_characters
from dysem_lab.translation.translate import Translator, asked, label_of, required_renderings

TABLE = (
    "CREATE TABLE IF NOT EXISTS translations (translator TEXT, source TEXT, target TEXT, text "
    "TEXT, rendering TEXT NOT NULL CHECK (trim(rendering) != ''), checksum BLOB NOT NULL, "
    "PRIMARY KEY (translator, source, target, text)) WITHOUT ROWID"
)
# Of files that were made before rows had a checksum.
OLD_COLUMNS = ["translator", "source", "target", "text", "rendering"]
SHOWN = 3  # damaged renderings that a warning names


class CachedTranslator:
    """A translator behind the persistent SQLite cache that all translators share.

    Renderings are keyed by translator, languages and text, and committed batch by batch: a killed
    run loses at most the batch in flight, and processes may share the file. Each row carries a
    checksum of all its values: a rendering that has changed on the disk is named in a warning and
    made again. Rows of a file from before there were checksums are taken as they are, once, and
    get one; that is said.

    Args:
        translator: Makes what the cache does not have.
        path: The cache file; None is the user's.
        batch_size: Renderings per commit.

    Raises:
        InputError: No translator, or a size below 1.
        DataError: The file is no such cache, or too damaged to be read.
    """

    def __init__(
        self, translator: Translator, path: str | Path | None = None, batch_size: int = 64
    ) -> None:
        """Keep the translator and create the cache file if it is absent."""
        if not isinstance(getattr(translator, "name", None), str):
            raise InputError(
                "a translator has a name and a method translate(texts, source, target); "
                f"{translator!r:.200} is none"
            )
        require_characters(translator.name, "the translator's name")
        self.translator = translator
        self.path = paths.translations_path() if path is None else path_of(path, "the cache")
        self.batch_size = at_least(batch_size, 1, "batch_size")
        self._database = Database(self.path, "translation cache", [TABLE])
        self._give_checksums()

    @property
    def name(self) -> str:
        """Identity of the translator; see `Translator`."""
        return self.translator.name

    @property
    def label(self) -> str:
        """What messages call the translator."""
        return label_of(self.translator)

    def translate(self, texts: Sequence[str], source: str, target: str) -> list[str]:
        """Return one rendering per text, made only where the cache has none; see `Translator`.

        Warns:
            UserWarning: Stored renderings are damaged, and made again.
        """
        texts = asked(texts, source, target)
        if source == target:
            raise InputError(f"source and target are both {source!r}; nothing to translate")
        key = (self.name, source, target)
        known = self._known(key, texts)
        missing = [text for text in dict.fromkeys(texts) if text not in known]
        with tqdm(
            total=len(missing),
            desc=f"translate {source}→{target}",
            unit="text",
            disable=len(missing) <= self.batch_size,
        ) as bar:
            for start in range(0, len(missing), self.batch_size):
                batch = missing[start : start + self.batch_size]
                made = required_renderings(
                    self.translator.translate(batch, source, target), batch, target, self.label
                )
                with self._database.connection() as connection:
                    connection.executemany(
                        "INSERT OR REPLACE INTO translations VALUES (?, ?, ?, ?, ?, ?)",
                        [
                            (*key, text, rendering, _checksum(key, text, rendering.encode()))
                            for text, rendering in zip(batch, made, strict=True)
                        ],
                    )
                known.update(zip(batch, made, strict=True))
                bar.update(len(batch))
        return [known[text] for text in texts]

    def _known(self, key: tuple[str, str, str], texts: Sequence[str]) -> dict[str, str]:
        """Return text → rendering of those that the cache has whole."""
        known, damaged = {}, []
        with self._database.connection() as connection:
            for text in dict.fromkeys(texts):
                row = connection.execute(
                    "SELECT CAST(rendering AS BLOB), checksum FROM translations WHERE "
                    "translator=? AND source=? AND target=? AND text=?",
                    (*key, text),
                ).fetchone()
                if row and row[0] is not None and row[1] == _checksum(key, text, row[0]):
                    known[text] = row[0].decode()
                elif row:
                    damaged.append(text)
        if damaged:
            shown = ", ".join(f"{text[:60]!r}" for text in damaged[:SHOWN])
            warnings.warn(
                f"{self.path}: damaged and made again: {amount(len(damaged), 'rendering')} in "
                f"{key[2]!r}: {shown}{', …' * (len(damaged) > SHOWN)}",
                stacklevel=3,
            )
        return known

    def _give_checksums(self) -> None:
        """Bring a file from before there were checksums to the form of today."""
        with self._database.connection() as connection:
            if _columns(connection) != OLD_COLUMNS:
                return
            connection.execute("BEGIN IMMEDIATE")
            if _columns(connection) != OLD_COLUMNS:  # another process was first
                return
            connection.execute("ALTER TABLE translations RENAME TO unchecked")
            connection.execute(TABLE)
            rows = connection.execute("SELECT * FROM unchecked").fetchall()
            whole = [row for row in rows if all(isinstance(value, str) for value in row)]
            connection.executemany(
                "INSERT INTO translations VALUES (?, ?, ?, ?, ?, ?)",
                [(*row, _checksum(row[:3], row[3], row[4].encode())) for row in whole],
            )
            connection.execute("DROP TABLE unchecked")
        say(
            f"{self.path}: {len(whole):,} renderings of before there were checksums are taken "
            "as they are, and have one from now on"
        )


def _columns(connection: sqlite3.Connection) -> list[str]:
    return [row[1] for row in connection.execute("PRAGMA table_info(translations)")]


def _checksum(key: Sequence[str], text: str, rendering: bytes) -> bytes:
    """Return the xxh3-128 of a row; the length of each value is part of it."""
    digest = xxhash.xxh3_128()
    for value in (*(part.encode() for part in (*key, text)), rendering):
        digest.update(len(value).to_bytes(8, "little"))
        digest.update(value)
    return digest.digest()
