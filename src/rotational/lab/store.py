"""Results on disk, each under the content hash of its run.

    root/3f9c0b1d5a7e2468/
        run.json      what was declared, written when the run begins
        result.json   what came of it, written once, when it has ended
        log/          the log and the checkpoint of a run that is not finished, or was made here
        lock          held, by the operating system, while a process works at the run
        failed.txt    the traceback of an error that nobody expected, of the last attempt that had one

A result.json stands by itself: folders that hold nothing else are how results come with a repository.
Nothing here deletes a result or writes over one.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from rotational.lab import declare
from rotational.lab.declare import Run, plain
from rotational.lab.results import Result, from_json, to_json
from rotational.records import RUN_FILE

RUN, RESULT, LOG, LOCK, CHECKPOINT = "run.json", "result.json", "log", "lock", "checkpoint.pt"
FAILED = "failed.txt"
FORMAT = 1


class Taken(RuntimeError):  # noqa: N818  it is no error: someone else does the work
    """Another process works at this run."""


class Store:
    """Results under `root`, and read-only under the other folders.

    >>> import tempfile
    >>> from rotational.lab.declare import Data, Model, Optimizer
    >>> run = Run(Model("mlp"), Data("digits"), Optimizer("adamw", 1e-3, 0.1), steps=10, batch=8)
    >>> store = Store(tempfile.mkdtemp())
    >>> print(store.result(run))
    None
    """

    def __init__(self, root: str | Path, *others: str | Path) -> None:
        self.root = Path(root)
        self.roots = (self.root, *map(Path, others))

    def folder(self, run: Run) -> Path:
        """Where this run is at work, or would be."""
        return self.root / run.key

    def log(self, run: Run) -> Path | None:
        """The run's full log, if one of the roots has it."""
        return next((f for root in self.roots if (f := root / run.key / LOG).is_dir()), None)

    def result(self, run: Run) -> Result | None:
        """What came of the run, from the first root that has it; None if it has not ended anywhere.

        Raises ValueError, naming the file, for one that is damaged, was changed by hand, or is of another run.
        """
        for root in self.roots:
            path = root / run.key / RESULT
            if path.is_file():
                data = _result(path)
                _same(path, data["run"], run)
                try:
                    return from_json(run, data)
                except (KeyError, TypeError, ValueError, AttributeError) as error:
                    raise damaged(path, f"{type(error).__name__}: {error}") from None
        return None

    def faults(self) -> list[str]:
        """A sentence for every result in any root that is damaged or lies under a key that is not its own."""
        found: list[str] = []
        for path in sorted(path for root in self.roots for path in root.glob(f"*/{RESULT}")):
            try:
                _result(path)
            except ValueError as error:
                found.append(str(error))
        return found

    @contextmanager
    def claim(self, run: Run) -> Generator[Path]:
        """The folder for the run's log and checkpoint, for this process alone as long as the block lasts.

        A run that was interrupted goes on with what it left there.
        The operating system holds the lock, and lets go of it when the process ends, however it ends.
        Raises Taken if another has it, ValueError for a folder begun by another declaration, or with a log of a run
        that ended and has no result any more.
        """
        folder = self.folder(run)
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / LOCK, "a", encoding="utf-8") as file:
            if not _lock(file):
                raise Taken(f"{folder}: another process works at this run. Wait for it, or end it.")
            declared = folder / RUN
            if declared.is_file():
                _same(declared, _read(declared).get("run"), run)
            else:
                write(declared, json.dumps({"format": declare.FORMAT, "run": plain(run)}, indent=1))
            log = folder / LOG
            if (log / RUN_FILE).is_file() and not any(p.is_file() for p in (log / CHECKPOINT, folder / RESULT)):
                raise ValueError(
                    f"{folder}: the log of a run that ended, without its {RESULT}. "
                    f"Move the folder {run.key} away to run it again."
                )
            yield log

    def keep(self, result: Result) -> Path:
        """Write a result, whole or not at all; raises FileExistsError where the run has one in `root`."""
        path = self.folder(result.run) / RESULT
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, sealed({"format": FORMAT, "declared": declare.FORMAT, **to_json(result)}), new=True)
        (path.parent / LOG / CHECKPOINT).unlink(missing_ok=True)  # nothing is left to go on with
        return path


# Files --------------------------------------------------------------------------------------------------------


def write(path: Path, data: str | bytes, *, new: bool = False) -> None:
    """Write a file so that whatever happens leaves the old one or the new one; `new` refuses to replace one."""
    part = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        with open(part, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        if new:
            os.link(part, path)  # fails where the name is taken; os.replace would not
        else:
            os.replace(part, path)
    except FileExistsError:
        raise FileExistsError(f"{path}: this run has a result already, and none is written over.") from None
    finally:
        part.unlink(missing_ok=True)


def sealed(body: Mapping[str, Any]) -> str:
    """A file's text with the digest of what it holds, which `unsealed` looks at.

    >>> sealed({"format": 1})
    '{"digest":"5e5fbf8b2105e97e","format":1}\\n'
    """
    return json.dumps({"digest": digest(body), **body}, allow_nan=False, separators=(",", ":")) + "\n"


def unsealed(path: Path) -> dict[str, Any]:
    """What a file of `sealed` holds; raises ValueError, naming it, where it is damaged or was changed by hand."""
    data = _read(path)
    if data.get("format") != FORMAT:
        raise ValueError(
            f"{path}: a result in format {data.get('format')!r}, where this version reads {FORMAT}. "
            "Move its folder away to run it again."
        )
    if digest({k: v for k, v in data.items() if k != "digest"}) != data.get("digest"):
        raise damaged(path, "its contents do not fit its digest")
    return data


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # also what is not UTF-8
        raise damaged(path, f"it does not read as JSON, {error}") from None
    if not isinstance(data, dict):
        raise damaged(path, "it does not hold what is written here")
    return data  # pyright: ignore[reportUnknownVariableType]


def _result(path: Path) -> dict[str, Any]:
    """What a result file holds, once it is seen to be whole and under its own key."""
    data = unsealed(path)
    key = hashlib.sha256(json.dumps([data.get("declared"), data.get("run")], sort_keys=True).encode()).hexdigest()
    if not key.startswith(path.parent.name) or len(path.parent.name) != 16:
        raise ValueError(
            f"{path}: this result is of the run {key[:16]}, not of the folder that it lies in. "
            f"Move it to {path.parent.with_name(key[:16])}, or away."
        )
    return data


def digest(body: Mapping[str, Any]) -> str:
    """Of what a file holds, 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(body, sort_keys=True, allow_nan=False).encode()).hexdigest()[:16]


def _same(path: Path, stored: Any, run: Run) -> None:
    if stored != json.loads(json.dumps(plain(run))):
        raise ValueError(
            f"{path}: declared here is another run than the one asked for, {run.key}. Move the folder away; "
            "a changed declaration has a folder of its own."
        )


def damaged(path: Path, why: str) -> ValueError:
    """The error for a file that is not as it was written."""
    return ValueError(f"{path} is damaged ({why}). Nothing was changed; move its folder away to run it again.")


# Locks --------------------------------------------------------------------------------------------------------

if sys.platform == "win32":
    import msvcrt

    def _lock(file: IO[str]) -> bool:
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
else:
    import fcntl

    def _lock(file: IO[str]) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
