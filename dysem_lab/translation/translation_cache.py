"""The persistent cache that all translators share."""

from collections.abc import Sequence
from pathlib import Path

from tqdm.auto import tqdm

from dysem_lab import paths
from dysem_lab.database import Database
from dysem_lab.errors import InputError
from dysem_lab.translation.translate import Translator, required_rendering


class CachedTranslator:
    """A translator behind the persistent SQLite cache that all translators share.

    Renderings are keyed by translator, languages and text, and committed batch by batch: a killed
    run loses at most the batch in flight, and processes may share the file.

    Args:
        translator: Makes what the cache does not have.
        path: The cache file; None is the user's.
        batch_size: Renderings per commit.
    """

    def __init__(
        self, translator: Translator, path: str | Path | None = None, batch_size: int = 64
    ) -> None:
        """Keep the translator and create the cache file if it is absent."""
        self.translator = translator
        self.name = translator.name
        self.path = Path(path) if path is not None else paths.translations_path()
        self.batch_size = batch_size
        self._database = Database(
            self.path,
            "translation cache",
            [
                "CREATE TABLE IF NOT EXISTS translations (translator TEXT, source TEXT, target "
                "TEXT, text TEXT, rendering TEXT NOT NULL CHECK (trim(rendering) != ''), "
                "PRIMARY KEY (translator, source, target, text)) WITHOUT ROWID"
            ],
        )

    def translate(self, texts: Sequence[str], source: str, target: str) -> list[str]:
        """Return one rendering per text, made only where the cache has none; see `Translator`."""
        if source == target:
            raise InputError(f"source and target are both {source!r}; nothing to translate")
        key = (self.name, source, target)
        with self._database.connection() as connection:
            known = {
                text: row[0]
                for text in dict.fromkeys(texts)
                if (
                    row := connection.execute(
                        "SELECT rendering FROM translations WHERE translator=? AND source=? "
                        "AND target=? AND text=?",
                        (*key, text),
                    ).fetchone()
                )
            }
        missing = [text for text in dict.fromkeys(texts) if text not in known]
        with tqdm(
            total=len(missing),
            desc=f"translate {source}→{target}",
            unit="text",
            disable=len(missing) <= self.batch_size,
        ) as bar:
            for start in range(0, len(missing), self.batch_size):
                batch = missing[start : start + self.batch_size]
                made = self.translator.translate(batch, source, target)
                made = [
                    required_rendering(r, t, target, self.name)
                    for r, t in zip(made, batch, strict=True)
                ]
                with self._database.connection() as connection:
                    connection.executemany(
                        "INSERT OR IGNORE INTO translations VALUES (?, ?, ?, ?, ?)",
                        [
                            (*key, text, rendering)
                            for text, rendering in zip(batch, made, strict=True)
                        ],
                    )
                known.update(zip(batch, made, strict=True))
                bar.update(len(batch))
        return [known[text] for text in texts]
