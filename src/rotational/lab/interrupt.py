"""Ctrl-C as a flag that long work looks at, so that it ends where it can be gone on with."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Protocol, TypeVar


class Flag(Protocol):
    """An event of threads or of processes."""

    def set(self) -> None:
        """Raise it."""
        ...


_F = TypeVar("_F", bound=Flag)


@contextmanager
def interruptible(asked: _F) -> Generator[_F]:
    """`asked`, which the first Ctrl-C sets; the second raises KeyboardInterrupt, as ever.

    An exception could strike within an optimizer's step or half of a line of the log; an event waits for
    the end of the step. Signals reach only the main thread: elsewhere the event is never set.
    """
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.getsignal(signal.SIGINT)

    def ask(*_: object) -> None:
        asked.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, ask)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)
