"""What is printed with: a console, and a forecast in plain characters, which every terminal, log and pipe carries."""

from __future__ import annotations

import math

import numpy as np
from rich import console

from rotational.outlook import Forecast, counted

DECADES = 3.0
"""The picture shows so much below its highest: the last steps of a cosine would take all the room."""


class Console(console.Console):
    """rich's, without colours of its own choice."""

    def __init__(self) -> None:
        super().__init__(highlight=False)

    def on_broken_pipe(self) -> None:
        """A reader who leaves, as `| head` does: rich would exit with 1, `cli.main` knows that it is no mistake."""
        raise BrokenPipeError


def drawn(f: Forecast, width: int, name: str, height: int = 12) -> list[str]:
    """Rotation over the run as lines of text, on a log scale: o the forecast, - the static formula, * both.

    >>> from rotational import forecast, rules
    >>> f = forecast(rules.adamw(), lr=1e-2, weight_decay=0.1, steps=400, norm=0.3, size=64)
    >>> lines = drawn(f, 60, "a layer", height=8)
    >>> len(lines), max(map(len, lines)) <= 60, lines[-1].split()
    (11, True, ['0', '100', '200', '400', 'steps'])
    """
    columns = max(24, width - 12)
    at = np.linspace(0, len(f.step) - 1, columns).astype(int)
    series = {"-": f.static[at], "o": f.rotation[at]}
    finite = np.concatenate(list(series.values()))
    finite = finite[np.isfinite(finite) & (finite > 0)]
    if not len(finite):
        return ["Nothing moves: the learning rate is 0 throughout."]
    top = math.log10(float(finite.max()))
    low = max(math.log10(float(finite.min())), top - DECADES)
    span = max(top - low, 0.3)
    grid = [[" "] * columns for _ in range(height)]
    for mark, values in series.items():
        for column, value in enumerate(values.tolist()):
            if math.isfinite(value) and value > 0 and math.log10(value) >= low - 1e-9:
                row = min(height - 1, max(0, height - 1 - round((math.log10(value) - low) / span * (height - 1))))
                grid[row][column] = "*" if grid[row][column] == "-" and mark == "o" else mark
    key = "o forecast, - static formula, * both" if np.any(f.static > 0) else "o forecast"
    lines = [f"rotation of {name}, rad/step: {key}"]
    if len(lines[0]) > width:  # a long name must not break the picture
        lines = [f"rotation, rad/step: {key}"]
    for i, cells in enumerate(grid):
        value = 10 ** (low + span * (height - 1 - i) / (height - 1))
        label = f"{value:.1e}" if i % 3 == 0 or i == height - 1 else ""
        lines.append(f"{label:>8} |" + "".join(cells).rstrip())
    lines.append(" " * 9 + "+" + "-" * columns)
    return [*lines, " " * 10 + _axis(int(f.step[-1]), columns)]


def _axis(steps: int, columns: int) -> str:
    """0 to the last step, with the quarters between where there is room for them."""
    end = counted(steps)
    axis = list("0" + end.rjust(columns - 1))
    free = columns - len(end) - 2
    for quarter in (1, 2, 3) if steps >= 4 else ():
        label = f"{steps * quarter // 4:,}"
        start = columns * quarter // 4 - len(label) // 2
        if columns >= 48 and start + len(label) < free:
            axis[start : start + len(label)] = label
    return "".join(axis)
