"""SQLite files of the user's cache: made once, shared by processes, named when they are damaged."""

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from filelock import FileLock

from dysem_lab.errors import DataError

# What to do about an error of SQLite, by words of its message; otherwise the file is damaged.
REMEDIES = {
    "lock": "another process holds it; try again",
    "disk is full": "free some disk and try again",
    "unable to open": "check that you may write to its folder",
    "readonly": "check that you may write to its folder",
}


class Database:
    """One SQLite file with a schema, written by one process at a time and read by many.

    SQLite's rollback journal survives a kill: what was committed is there, what was not is gone.
    New rows go to the disk once, where a write-ahead log would write them twice. Writers wait their
    turn, and readers while a commit goes to the disk.

    Args:
        path: The file; it and its folder are created if absent.
        what: What it is, for messages: "vector store".
        schema: Statements that create the tables, each harmless where they exist.
        application_id: Marks the file as ours, its last byte the format; 0 for files without a
            mark.
        pragmas: Settings of a new file, before its tables are made.

    Raises:
        DataError: The file is none of ours, of another format, or damaged.
    """

    def __init__(
        self,
        path: Path,
        what: str,
        schema: Sequence[str],
        *,
        application_id: int = 0,
        pragmas: Sequence[str] = (),
    ) -> None:
        """Create the file if it is absent, and check that it is ours."""
        self.path = path
        self.what = what
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # The settings of a new file cannot be part of a transaction, hence the lock.
            with FileLock(f"{path}.lock"), self.connection() as connection:
                is_new = not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
                if is_new:
                    for pragma in (*pragmas, f"application_id={application_id}"):
                        connection.execute(f"PRAGMA {pragma}")
                self._check_mark(connection, application_id)
                for statement in schema:
                    connection.execute(statement)
        except OSError as error:
            raise DataError(
                f"no {what} can be made at {path} ({error}); give another path"
            ) from error

    def _check_mark(self, connection: sqlite3.Connection, application_id: int) -> None:
        """Raise an error unless the file carries our mark."""
        found = connection.execute("PRAGMA application_id").fetchone()[0]
        if found == application_id:
            return
        if application_id and found >> 8 == application_id >> 8:
            raise DataError(
                f"{self.path} is a {self.what} of another format; it needs another version of "
                "dysem-lab, or move it away"
            )
        raise DataError(
            f"{self.path} is a SQLite file of something else, not a {self.what}; give another path"
        )

    @contextlib.contextmanager
    def connection(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection whose changes are committed together when the block ends well."""
        try:
            with (
                contextlib.closing(
                    sqlite3.connect(self.path, timeout=60, check_same_thread=False)
                ) as connection,
                connection,
            ):
                yield connection
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # also in SQLite's messages
            remedy = next(
                (REMEDIES[words] for words in REMEDIES if words in str(error)), "move it away"
            )
            raise DataError(
                f"{self.path} is not a usable {self.what} ({error}); {remedy}"
            ) from error
