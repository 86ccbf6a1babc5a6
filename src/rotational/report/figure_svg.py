"""Pictures of figures as SVG: lines over an axis, heat maps and bars.

The same picture stands on a page, where CSS variables give its colours, and alone in a repository, where the
colours written beside them hold. Nothing runs in it, and every point says its value when pointed at.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, BOTTOM = 74, 16, 46
ROW, LETTER = 19, 6.9
"""Height of a row of the legend, and the width of a letter in it."""

COLOURS = ("#1668b8", "#c4570a", "#0b8457", "#8a3fa0", "#b3263c", "#5d6b00", "#007c89", "#7a5230")
INK, SOFT, GRID, CARD = "var(--ink,#1c2127)", "var(--soft,#59626d)", "var(--grid,#e4e6ea)", "var(--card,#ffffff)"


def colour(index: int) -> str:
    """Of the arm with this number, the same in all panels of a figure."""
    i = index % len(COLOURS)
    return f"var(--a{i},{COLOURS[i]})"


def shade(share: float) -> str:
    """From the first layer (0, blue) to the last (1, orange)."""
    first, last = (22, 104, 184), (222, 120, 20)
    return "rgb(" + ",".join(f"{a + (b - a) * share:.0f}" for a, b in zip(first, last, strict=True)) + ")"


@dataclass(frozen=True)
class Line:
    """A curve; `low` and `high` are the range over seeds. Points that are not finite are left out."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    colour: str
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    dashed: bool = False
    marked: bool = False
    thin: bool = False
    listed: bool = True


@dataclass(frozen=True)
class Axes:
    """Titles and kinds of two axes."""

    x: str
    y: str
    log_x: bool = False
    log_y: bool = False


@dataclass(frozen=True)
class Scale:
    """From values to pixels, along one axis."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """Pixel of a value, kept within the axis."""
        a, b, v = (math.log(max(x, 1e-300)) if self.log else x for x in (self.low, self.high, value))
        share = (v - a) / (b - a) if b > a else 0.5
        return self.start + (self.end - self.start) * min(1.0, max(0.0, share))

    def ticks(self, most: int = 7) -> list[tuple[float, str]]:
        """Round values along it, as they are written: digits enough to tell them apart."""
        found = _log_ticks(self.low, self.high, most) if self.log else _ticks(self.low, self.high, most)
        written = [number(t) for t in found]
        if len(set(written)) < len(written):
            written = [f"{t:.6g}" for t in found]
        return list(zip(found, written, strict=True))


@dataclass
class _Sheet:
    parts: list[str] = field(default_factory=list[str])

    def add(self, text: str) -> None:
        self.parts.append(text)

    def text(self, x: float, y: float, said: str, anchor: str = "middle", fill: str = SOFT, more: str = "") -> None:
        self.add(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}"{more}>{html.escape(said)}</text>')

    def whole(self, label: str, height: float = HEIGHT) -> str:
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img" '
            f'aria-label="{html.escape(label, quote=True)}" font-family="system-ui, sans-serif" font-size="12">'
        )
        return "\n".join((head, f'<rect width="{WIDTH}" height="{height:.0f}" fill="{CARD}"/>', *self.parts, "</svg>"))


def lines(label: str, axes: Axes, drawn: Sequence[Line]) -> str:
    """Curves over a common axis, with a legend above."""
    sheet = _Sheet()
    top = 14 + ROW * _legend(sheet, [(d.label, d.colour, d.dashed) for d in drawn if d.listed])
    xs = [x for d in drawn for x in d.x if _fits(x, axes.log_x)]
    ys = [y for d in drawn for part in (d.y, d.low, d.high) for y in part if _fits(y, axes.log_y)]
    if not xs or not ys:
        return nothing(label)
    x = Scale(*_range(xs, axes.log_x, 0.0), LEFT, WIDTH - RIGHT, axes.log_x)
    y = Scale(*_range(ys, axes.log_y, 0.06), HEIGHT - BOTTOM, top, axes.log_y)
    _frame(sheet, axes, x, y, top)
    for d in drawn:
        _curve(sheet, d, axes, x, y)
    return sheet.whole(label)


def bars(label: str, axes: Axes, drawn: Sequence[tuple[str, float, float, float, str]]) -> str:
    """A bar for each (label, value, low, high, colour); its line is the range over seeds.

    Bars begin at 0. Where values are so alike that nothing would be seen then, and on logarithmic axes, they are
    points.
    """
    sheet = _Sheet()
    known = [d for d in drawn if math.isfinite(d[1])]
    if not known:
        return nothing(label)
    values = [v for d in known for v in d[1:4] if _fits(v, axes.log_y)]
    low, high = _range(values, axes.log_y, 0.12)
    spread = max(values) - min(values)
    whole = not axes.log_y and (min(values) < 2 * spread or min(values) <= 0)
    if whole:
        low, high = min(0.0, low), max(0.0, high)
    rows = len(drawn)
    height = max(120.0, 34.0 * rows + 60)
    left = min(330.0, 30 + LETTER * max(len(d[0]) for d in drawn))
    x = Scale(low, high, left, WIDTH - 86, axes.log_y)
    for t, said in x.ticks(6):
        sheet.add(f'<path d="M{x.at(t):.1f} 10V{height - 44:.1f}" stroke="{GRID}"/>')
        sheet.text(x.at(t), height - 28, said)
    sheet.text((left + WIDTH - 86) / 2, height - 8, axes.y)
    for i, (name, value, least, most, hue) in enumerate(drawn):
        middle = 27 + 34.0 * i
        sheet.text(left - 8, middle + 4, name, "end", INK)
        if not math.isfinite(value):
            sheet.text(left + 6, middle + 4, "no finite value", "start")
            continue
        end, zero = x.at(value), x.at(0.0) if whole else left
        if whole:
            sheet.add(
                f'<rect x="{min(zero, end):.1f}" y="{middle - 9:.1f}" width="{max(1.0, abs(end - zero)):.1f}" '
                f'height="18" rx="2" fill="{hue}" opacity=".8"/>'
            )
        if most > least:
            line = INK if whole else hue
            sheet.add(
                f'<path d="M{x.at(least):.1f} {middle:.1f}H{x.at(most):.1f}" stroke="{line}" stroke-width="1.8"/>'
            )
        if not whole:
            sheet.add(f'<circle cx="{end:.1f}" cy="{middle:.1f}" r="5" fill="{hue}"/>')
        sheet.text(max(end, x.at(most)) + 9, middle + 4, number(value), "start", INK)
    return sheet.whole(label, height)


def heat(
    label: str, axes: Axes, columns: Sequence[float], rows: Sequence[float], values: Sequence[Sequence[float]]
) -> str:
    """A map with `values[row][column]`, its numbers written in; the lightest is the largest."""
    known = [v for row in values for v in row if math.isfinite(v)]
    if not known:
        return nothing(label)
    sheet = _Sheet()
    low, high = min(known), max(known)
    if not axes.log_y:  # the best part of a map is what one wants to see
        low = max(low, sorted(known)[len(known) // 4] - (high - sorted(known)[len(known) // 4]))
    height = min(HEIGHT, 40.0 * len(rows) + 70)
    wide, tall = (WIDTH - RIGHT - LEFT) / len(columns), (height - 16 - BOTTOM) / len(rows)
    tone = Scale(low, high, 0, 1, axes.log_y)
    for r, row in enumerate(values):
        y = height - BOTTOM - tall * (r + 1)
        sheet.text(LEFT - 8, y + tall / 2 + 4, number(rows[r]), "end")
        for c, value in enumerate(row):
            x = LEFT + wide * c
            share = tone.at(value) if math.isfinite(value) else 0.0
            fill, ink = (_tone(share), "#fff" if share < 0.6 else "#111") if math.isfinite(value) else (GRID, SOFT)
            sheet.add(
                f'<rect x="{x + 1:.1f}" y="{y + 1:.1f}" width="{wide - 2:.1f}" height="{tall - 2:.1f}" rx="2" '
                f'fill="{fill}"/>'
            )
            sheet.text(x + wide / 2, y + tall / 2 + 4, number(value) if math.isfinite(value) else "n/a", fill=ink)
    for c, value in enumerate(columns):
        sheet.text(LEFT + wide * (c + 0.5), height - BOTTOM + 17, number(value))
    _titles(sheet, axes.x, axes.y, 16, height)
    return sheet.whole(label, height)


def nothing(label: str) -> str:
    """The frame of a picture of which no run has ended."""
    sheet = _Sheet()
    sheet.add(f'<rect x="8" y="8" width="{WIDTH - 16}" height="84" rx="8" fill="none" stroke="{GRID}"/>')
    sheet.text(WIDTH / 2, 54, "not run")
    return sheet.whole(label, 100)


def number(x: float) -> str:
    """As short as an axis wants it.

    >>> number(0.001), number(2e-5), number(1200), number(0.5), number(92.41)
    ('0.001', '2e-5', '1200', '0.5', '92.41')
    """
    if x == 0 or not math.isfinite(x):
        return "0" if x == 0 else "∞" if x > 0 else "n/a"
    size = abs(x)
    if 1e-3 <= size < 1e5:
        return f"{x:.0f}" if size >= 1000 else f"{x:.4g}"
    mantissa, _, exponent = f"{x:.1e}".partition("e")
    return f"{float(mantissa):g}e{int(exponent)}"


# Parts --------------------------------------------------------------------------------------------------------


def _legend(sheet: _Sheet, entries: Sequence[tuple[str, str, bool]]) -> int:
    x, row = float(LEFT), 0
    for label, hue, dashed in dict.fromkeys(entries):
        wide = 40 + LETTER * len(label)
        if x > LEFT and x + wide > WIDTH - RIGHT:
            x, row = float(LEFT), row + 1
        y = 18 + ROW * row
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        sheet.add(f'<path d="M{x:.1f} {y - 4}h18" stroke="{hue}" stroke-width="2.4"{dash}/>')
        sheet.text(x + 23, y, label, "start", INK)
        x += wide
    return row + 1 if entries else 0


def _frame(sheet: _Sheet, axes: Axes, x: Scale, y: Scale, top: float) -> None:
    for t, said in y.ticks():
        sheet.add(f'<path d="M{LEFT} {y.at(t):.1f}H{WIDTH - RIGHT}" stroke="{GRID}"/>')
        sheet.text(LEFT - 8, y.at(t) + 4, said, "end")
    for t, said in x.ticks():
        sheet.add(f'<path d="M{x.at(t):.1f} {HEIGHT - BOTTOM}v4" stroke="{SOFT}"/>')
        sheet.text(x.at(t), HEIGHT - BOTTOM + 17, said)
    _titles(sheet, axes.x, axes.y, top, HEIGHT)


def _titles(sheet: _Sheet, x: str, y: str, top: float, height: float) -> None:
    sheet.text((LEFT + WIDTH - RIGHT) / 2, height - 8, x)
    middle = (top + height - BOTTOM) / 2
    sheet.text(0, 0, y, more=f' transform="translate(15 {middle:.1f}) rotate(-90)"')


def _curve(sheet: _Sheet, d: Line, axes: Axes, x: Scale, y: Scale) -> None:
    good = [i for i in range(len(d.x)) if _fits(d.x[i], axes.log_x) and _fits(d.y[i], axes.log_y)]
    if not good:
        return
    points = [(x.at(d.x[i]), y.at(d.y[i])) for i in good]
    if d.low and d.high:
        band = [i for i in good if _fits(d.low[i], axes.log_y) and _fits(d.high[i], axes.log_y)]
        around = [(x.at(d.x[i]), y.at(d.high[i])) for i in band] + [
            (x.at(d.x[i]), y.at(d.low[i])) for i in reversed(band)
        ]
        if len(band) > 1 and any(d.low[i] != d.high[i] for i in band):
            sheet.add(f'<path d="{_path(around)}Z" fill="{d.colour}" opacity=".16"/>')
    style = f'fill="none" stroke="{d.colour}" stroke-width="{1.3 if d.thin or d.dashed else 2.1}"'
    dash = ' stroke-dasharray="5 4"' if d.dashed else ""
    title = f"<title>{html.escape(d.label)}</title>"
    sheet.add(f'<path d="{_path(points)}" {style}{dash} stroke-linejoin="round">{title}</path>')
    if d.marked:
        for i, (px, py) in zip(good, points, strict=True):
            said = html.escape(f"{d.label}: {number(d.y[i])} at {number(d.x[i])}")
            sheet.add(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3.2" fill="{d.colour}"><title>{said}</title></circle>')


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{px:.1f} {py:.1f}" for px, py in points)


def _fits(value: float, log: bool) -> bool:
    return math.isfinite(value) and (value > 0 or not log)


def _range(values: Sequence[float], log: bool, margin: float) -> tuple[float, float]:
    low, high = min(values), max(values)
    if log:
        low, high = math.log(low), math.log(high)
    pad = (high - low) * margin if high > low else max(abs(high) * 0.1, 0.05)
    low, high = low - pad, high + pad
    return (math.exp(low), math.exp(high)) if log else (low, high)


def _ticks(low: float, high: float, most: int) -> list[float]:
    span = high - low
    if span <= 0:
        return [low]
    raw = span / most
    power = 10 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [float(f"{k * step:.12g}") for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    for digits in ((1, 2, 3, 4, 5, 6, 7, 8, 9), (1, 2, 5), (1, 3), (1,)):
        found = [float(f"{m}e{k}") for k in decades for m in digits if low <= float(f"{m}e{k}") <= high * 1.0000001]
        if len(found) <= most:
            # Within less than a decade round values of the plain kind say more than one or two of these.
            return found if len(found) > 2 else _ticks(low, high, 5)
    return found[:: math.ceil(len(found) / most)]


def _tone(share: float) -> str:
    """Dark blue, teal, yellow: a ramp whose lightness rises evenly."""
    stops = ((40, 30, 92), (38, 110, 142), (84, 180, 130), (250, 228, 90))
    place = share * (len(stops) - 1)
    i = min(int(place), len(stops) - 2)
    mixed = (a + (b - a) * (place - i) for a, b in zip(stops[i], stops[i + 1], strict=True))
    return "rgb(" + ",".join(f"{v:.0f}" for v in mixed) + ")"
