"""SQLite files of the user's cache: made once, shared by processes, named when they are damaged."""

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from filelock import FileLock

from dysem_lab.errors import DataError

# What to do about an error of SQLite, by its code; with any other the file is damaged.
BUSY = "another process holds it; try again"
PROTECTED = "check that you may write to its folder and to it"
REMEDIES = {
    sqlite3.SQLITE_BUSY: BUSY,
    sqlite3.SQLITE_LOCKED: BUSY,
    sqlite3.SQLITE_FULL: "free some disk and try again; what was stored before is whole",
    sqlite3.SQLITE_IOERR: "see whether the disk, or your share of it, is full, and try again; what "
    "was stored before is whole",
    sqlite3.SQLITE_READONLY: PROTECTED,
    sqlite3.SQLITE_CANTOPEN: PROTECTED,
    sqlite3.SQLITE_PERM: PROTECTED,
    sqlite3.SQLITE_READONLY_ROLLBACK: "a run that was killed left it half-written; open it once "
    "where you may write to its folder, which mends it",
}


class Database:
    """One SQLite file with a schema, written by one process at a time and read by many.

    SQLite's rollback journal survives a kill: what was committed is there, what was not is gone.
    New rows go to the disk once, where a write-ahead log would write them twice. Writers wait their
    turn, and readers while a commit goes to the disk.

    Opening and reading a file that is there write nothing, so both work on a full disk and where
    the file, its folder or the mount is read-only: SQLite then opens it for reading by itself. The
    one thing that such a reader cannot do is to undo what a killed writer left half-written; it
    gets an error, since `immutable=1`, which reads on, would take the half-written pages for whole.

    Args:
        path: The file; it and its folder are created if absent.
        what: What it is, for messages: "vector store".
        schema: Statements that create the tables, each harmless where they exist.
        application_id: Marks the file as ours, its last digit in hex the format; 0 for files
            without a mark.
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
            if path.is_file() and self._is_whole(schema, application_id):
                return
            path.parent.mkdir(parents=True, exist_ok=True)
            # The settings of a new file cannot be part of a transaction, hence the lock.
            with FileLock(f"{path}.lock"), self._opened("rwc") as connection:
                if _is_empty(connection):
                    for pragma in (*pragmas, f"application_id={application_id}"):
                        connection.execute(f"PRAGMA {pragma}")
                self._check_mark(connection, application_id)
                for statement in schema:
                    connection.execute(statement)
        except (OSError, NotImplementedError) as error:  # or a file system without locks
            raise DataError(
                f"no {what} can be made at {path} ({error}); give another path"
            ) from error

    def _is_whole(self, schema: Sequence[str], application_id: int) -> bool:
        """Return whether the file has its tables: no lock is taken and nothing is written."""
        with self.connection() as connection:
            connection.execute("PRAGMA query_only=1")
            if _is_empty(connection):
                return False
            self._check_mark(connection, application_id)
            try:
                for statement in schema:
                    connection.execute(statement)
            except sqlite3.OperationalError:  # a table is still to be made
                return False
        return True

    def _check_mark(self, connection: sqlite3.Connection, application_id: int) -> None:
        """Raise an error unless the file carries our mark."""
        found = connection.execute("PRAGMA application_id").fetchone()[0]
        if found == application_id:
            return
        if application_id and found >> 8 == application_id >> 8:
            raise DataError(
                f"{self.path} is a {self.what} of another format ({found & 0xF}; this version of "
                f"dysem-lab reads {application_id & 0xF}); it needs another version of dysem-lab, "
                "or move it away"
            )
        raise DataError(
            f"{self.path} is a SQLite file of something else, not a {self.what}; give another path"
        )

    def connection(self, begin: str = "") -> contextlib.AbstractContextManager[sqlite3.Connection]:
        """Return a connection whose changes are committed together when the block ends well.

        Args:
            begin: "BEGIN" to see one state of the file, whatever others write meanwhile; "BEGIN
                IMMEDIATE" to be the one who writes.
        """
        return self._opened("rw", begin)

    @contextlib.contextmanager
    def _opened(self, mode: str, begin: str = "") -> Iterator[sqlite3.Connection]:
        """Yield a connection: "rw" writes if the file may be written, "rwc" makes it as well."""
        address = f"{self.path.absolute().as_uri()}?mode={mode}"
        try:
            with (
                contextlib.closing(
                    sqlite3.connect(address, timeout=60, check_same_thread=False, uri=True)
                ) as connection,
                connection,
            ):
                connection.execute(begin)
                yield connection
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # also in SQLite's messages
            code = getattr(error, "sqlite_errorcode", 0)
            remedy = REMEDIES.get(code) or REMEDIES.get(code & 0xFF)
            if remedy is None:
                raise DataError(
                    f"{self.path} is not a usable {self.what} ({error}); move it away"
                ) from error
            with contextlib.suppress(OSError):
                remedy = remedy if self.path.exists() else "it is gone: open it anew"
            raise DataError(
                f"the {self.what} {self.path} cannot be used now ({error}); {remedy}"
            ) from error


def _is_empty(connection: sqlite3.Connection) -> bool:
    return not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
