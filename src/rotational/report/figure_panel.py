"""A panel of a figure, drawn from what was found of it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rotational.lab.figures import Panel
from rotational.lab.measures import CURVES, MEASURES, Found, Point, at, best, middle, named, peaks
from rotational.report import figure_svg as svg
from rotational.report.figure_svg import Axes, Line

MOST_LAYERS = 40


def draw(panel: Panel, found: Found) -> list[str]:
    """Its pictures: one, but for heat maps, of which each arm has its own."""
    arms = panel.arms or tuple(found.arms)
    order = {name: i for i, name in enumerate(found.arms)}
    match panel.kind:
        case "lines":
            return [_over_steps(panel, found, arms, order)]
        case "layers":
            return [_layers(panel, found, arms)]
        case "sweep":
            return [_sweep(panel, found, arms, order)]
        case "bars":
            return [_bars(panel, found, arms, order)]
        case "heat":
            return [_heat(panel, found, arm) for arm in arms]


def _over_steps(panel: Panel, found: Found, arms: Sequence[str], order: dict[str, int]) -> str:
    drawn: list[Line] = []
    told = False
    for arm in arms:
        points = found.points(arm)
        if not points:
            continue
        point = _chosen(points, panel.by)
        for name, dashed in ((panel.measure, False), (panel.dashed, True)):
            curves = [m.curves[name] for m in point.seeds.values() if name in m.curves] if name else []
            if not curves:
                continue
            x, y, low, high = middle(curves)
            ends = ((), ()) if dashed else (low, high)
            told = told or dashed
            drawn.append(Line(arm, x, y, svg.colour(order[arm]), *ends, dashed=dashed, listed=not dashed))
    if told:
        drawn.append(Line(_dashed(panel.dashed), (), (), svg.SOFT, dashed=True))
    axes = Axes("step", CURVES.get(panel.measure, panel.measure), panel.log_x, panel.log_y)
    return svg.lines(panel.title, axes, drawn)


def _layers(panel: Panel, found: Found, arms: Sequence[str]) -> str:
    """One line for each layer of one run, the first seed's; predictions dashed."""
    points = found.points(arms[0])
    if not points:
        return svg.nothing(panel.title)
    m = next(iter(_chosen(points, panel.by).seeds.values()))
    step = max(1, math.ceil(len(m.layers) / MOST_LAYERS))
    names = [name for name in m.layers if f"{panel.measure}: {name}" in m.curves][::step]
    drawn: list[Line] = []
    for i, name in enumerate(names):
        hue = svg.shade(i / max(1, len(names) - 1))
        x, y = m.curves[f"{panel.measure}: {name}"]
        drawn.append(Line(name, x, y, hue, thin=True, listed=i in (0, len(names) - 1)))
    if panel.dashed:
        for i, name in enumerate(names):
            x, y = m.curves.get(f"{panel.dashed}: {name}", ((), ()))
            drawn.append(Line(_dashed(panel.dashed), x, y, svg.INK, dashed=True, listed=i == 0))
    axes = Axes("step", CURVES.get(panel.measure, panel.measure), panel.log_x, panel.log_y)
    return svg.lines(panel.title, axes, drawn)


def _sweep(panel: Panel, found: Found, arms: Sequence[str], order: dict[str, int]) -> str:
    drawn: list[Line] = []
    for arm in arms:
        points = peaks(found.points(arm), panel.x, panel.by or panel.measure)
        if not points:
            continue
        each = [[m.scalar(panel.measure) for m in p.seeds.values()] for p in points]
        drawn.append(
            Line(
                arm,
                [at(p.run, panel.x) for p in points],
                [p.mean(panel.measure) for p in points],
                svg.colour(order[arm]),
                [min(values) for values in each],
                [max(values) for values in each],
                marked=True,
            )
        )
    return svg.lines(panel.title, Axes(named(panel.x), _measure(panel.measure), panel.log_x, panel.log_y), drawn)


def _bars(panel: Panel, found: Found, arms: Sequence[str], order: dict[str, int]) -> str:
    drawn: list[tuple[str, float, float, float, str]] = []
    for arm in arms:
        if not (points := found.points(arm)):
            continue
        point = _chosen(points, panel.by or panel.measure)
        values = [m.scalar(panel.measure) for m in point.seeds.values()]
        drawn.append((arm, point.mean(panel.measure), min(values), max(values), svg.colour(order[arm])))
    axes = Axes("", _measure(panel.measure), log_y=panel.log_y)
    return svg.bars(panel.title, axes, drawn) if drawn else svg.nothing(panel.title)


def _heat(panel: Panel, found: Found, arm: str) -> str:
    points = {(at(p.run, panel.x), at(p.run, panel.y)): p.mean(panel.measure) for p in found.points(arm)}
    columns, rows = (sorted({place[i] for place in points}) for i in (0, 1))
    values = [[points.get((c, r), math.nan) for c in columns] for r in rows]
    axes = Axes(named(panel.x), named(panel.y), log_y=panel.log_y)
    return svg.heat(f"{panel.title}: {arm}", axes, columns, rows, values)


def _chosen(points: Sequence[Point], by: str | None) -> Point:
    """The best point by a measure, or the first where nothing says which."""
    able = by is not None and by in MEASURES and MEASURES[by].better is not None
    return best(points, by) if able and by else points[0]


def _dashed(curve: str) -> str:
    return "static formula" if curve == "at rest" else "predicted"


def _measure(name: str) -> str:
    return MEASURES[name].title if name in MEASURES else name
