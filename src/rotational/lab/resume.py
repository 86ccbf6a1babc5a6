"""How a run goes on where it was interrupted: its checkpoint, and a log in one piece.

The log of an interrupted run holds steps that come after its last checkpoint. Those are cut off, what comes before
waits in `earlier`, and when the run has ended, the two are put together: the files are then those that an
uninterrupted run writes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rotational.lab.store import CHECKPOINT, write
from rotational.records import CURVES_FILE, RUN_FILE, STEPS_FILE

EARLIER = "earlier"


@dataclass
class Progress:
    """How far a run is: all that the next step depends on, beside the weights and the optimizer's state.

    losses    since the last note in the log
    seconds   of work so far
    probes    what probes have gathered since the last note
    compiled  whether any step so far was compiled
    """

    key: str
    step: int = 0
    losses: list[float] = field(default_factory=list[float])
    seconds: float = 0.0
    probes: dict[str, Any] = field(default_factory=dict[str, Any])
    compiled: bool = False


def save(folder: Path, progress: Progress, model: nn.Module, optimizer: dict[str, Any]) -> None:
    """Write the checkpoint, whole or not at all, in the place of the one before; `optimizer` is a state dict."""
    buffer = BytesIO()
    state = {"model": model.state_dict(), "optimizer": optimizer, "progress": vars(progress)}
    torch.save(state, buffer)
    write(folder / CHECKPOINT, buffer.getvalue())


def load(folder: Path, key: str, model: nn.Module, optimizer: Optimizer) -> Progress:
    """Bring model and optimizer to where the checkpoint left them; the beginning where there is none.

    Raises ValueError, naming the file, for a checkpoint that is damaged or of another run.
    """
    path = folder / CHECKPOINT
    if not path.is_file():
        return Progress(key)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        progress = Progress(**state["progress"])
        if progress.key == key:
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            _lay(optimizer)
    except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError ... for what is damaged
        raise ValueError(
            f"{path} is damaged ({type(error).__name__}: {str(error).splitlines()[0]}). Nothing was changed; "
            "remove it to begin the run anew."
        ) from None
    if progress.key != key:
        raise ValueError(f"{path}: a checkpoint of the run {progress.key}, not of {key}. Use a folder for each run.")
    return progress


def _lay(optimizer: Optimizer) -> None:
    """Lay the moments out as their weights lie: torch's fused steps take it for granted.

    They come otherwise from a run that began on a GPU or in shards, whose channels lie apart.
    """
    for p, state in optimizer.state.items():
        for name, x in state.items():
            if isinstance(x, Tensor) and x.shape == p.shape and x.stride() != p.stride():
                state[name] = torch.empty_strided(p.shape, p.stride(), dtype=x.dtype, device=x.device).copy_(x)


# The log ------------------------------------------------------------------------------------------------------


def cut(folder: Path, step: int) -> None:
    """Make room for the log of the steps after `step`: what was logged up to it moves to `earlier`.

    May be interrupted at any point and called again.
    """
    join(folder)
    old = folder / EARLIER
    if step > 0 and (folder / RUN_FILE).is_file():
        old.mkdir(exist_ok=True)
        for name in (STEPS_FILE, CURVES_FILE):
            write(old / name, b"".join(line for line, at in _lines(folder / name) if at <= step))
        os.replace(folder / RUN_FILE, old / RUN_FILE)  # last: while it is in the folder, the log is whole there
    for name in (RUN_FILE, STEPS_FILE, CURVES_FILE):
        (folder / name).unlink(missing_ok=True)


def join(folder: Path) -> None:
    """Put the log of a run that was resumed together; does nothing for one in one piece."""
    old = folder / EARLIER
    if not (old / RUN_FILE).is_file():
        return
    for name in (STEPS_FILE, CURVES_FILE):
        later = list(_lines(folder / name))
        begun = later[0][1] if later else None
        lines = [line for line, at in _lines(old / name) if begun is None or at < begun]
        if lines or later:
            write(folder / name, b"".join([*lines, *(line for line, _ in later)]))
    os.replace(old / RUN_FILE, folder / RUN_FILE)
    for name in (STEPS_FILE, CURVES_FILE):
        (old / name).unlink(missing_ok=True)
    old.rmdir()


def _lines(path: Path) -> Iterator[tuple[bytes, int]]:
    """Whole lines of a log, each with its step; a last one that was cut short is passed over."""
    if path.is_file():
        for line in path.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n"):
                yield line, json.loads(line)["step"]
