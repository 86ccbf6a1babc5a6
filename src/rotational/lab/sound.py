"""Whether what a figure draws and claims is there to be drawn and claimed: measures, fields and scales by name.

A name that is mistyped would otherwise be found out after hours of training, as "not measured".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from rotational.lab.measures import CURVES, MEASURES, at
from rotational.lab.quantities import Quantity

if TYPE_CHECKING:
    from rotational.lab.figures import Figure


def check(figure: Figure, scales: Sequence[str]) -> None:
    """Raise ValueError, with the nearest name, for what does not exist; `scales` are those that there are."""
    for panel in figure.panels:
        where = f"Panel({panel.title!r}"
        curves = panel.kind in ("lines", "layers")
        _known(f"{where}, measure", panel.measure, CURVES if curves else MEASURES)
        _known(f"{where}, dashed", panel.dashed or "loss", CURVES)
        _known(f"{where}, by", panel.by or "loss", MEASURES)
        _scales(where, panel.scales, scales)
        for axis in filter(None, (panel.x, panel.y)):
            _field(f"{where}, x or y", axis, _runs(figure, panel.arms))
    for claim in figure.claims:
        where = f"Claim({claim.sentence!r}"
        _scales(where, claim.scales, scales)
        for q in _quantities(claim.quantity):
            told = vars(q)
            for name in ("measure", "by"):
                _known(f"{where}, {name}", told.get(name) or "loss", MEASURES)
            for path in (told["axis"],) if "axis" in told else ():
                _field(f"{where}, axis", path, _runs(figure, q.arms))
            for path, _ in told.get("at", ()):
                _field(f"{where}, at", path, _runs(figure, q.arms))
    for arm in (arm for arm in figure.tiny if hasattr(arm, "source")):
        _field(f"Then({arm.label!r}, field", arm.field, arm.runs)  # pyright: ignore[reportAttributeAccessIssue]
        _known(f"Then({arm.label!r}, measure", arm.measure, (*MEASURES, *CURVES))  # pyright: ignore[reportAttributeAccessIssue]


def _quantities(q: Quantity) -> Iterator[Quantity]:
    yield q
    for part in q.parts:
        yield from _quantities(part)


def _runs(figure: Figure, labels: Iterable[str]) -> list[Any]:
    """A run of each of these arms; of all for none."""
    wanted = set(labels)
    return [arm.runs[0] for arm in figure.tiny if arm.runs and (not wanted or arm.label in wanted)]


def _known(where: str, name: str, names: Iterable[str]) -> None:
    known, plain = list(names), name.removeprefix("validation ").partition(":")[0]
    if name not in known and plain not in known:
        near = get_close_matches(name, known, n=3, cutoff=0.4)
        hint = f"Did you mean {' or '.join(map(repr, near))}?" if near else f"There are {', '.join(known)}."
        raise ValueError(f"{where}={name!r}): no such measure. {hint}")


def _field(where: str, path: str, runs: Iterable[Any]) -> None:
    """Of one run at least: an arm that is compared with a sweep need not have what varies there."""
    if not any(_has(run, path) for run in runs):
        raise ValueError(f"{where}={path!r}): no run of it has such a field; expected one such as 'optimizer__lr'.")


def _has(run: Any, path: str) -> bool:
    try:
        at(run, path)
    except (AttributeError, KeyError):
        return False
    return True


def _scales(where: str, scales: Sequence[str], known: Sequence[str]) -> None:
    if not set(scales) <= set(known):
        raise ValueError(f"{where}, scales={tuple(scales)!r}): expected some of {', '.join(map(repr, known))}.")
