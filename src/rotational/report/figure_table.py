"""One page over all figures: every claim, with a link to its figure's page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rotational.lab.reproduce import State
from rotational.lab.verdicts import counted
from rotational.records import versions
from rotational.report import figure
from rotational.report.document import document, place, put
from rotational.report.parts import escape, scroll

HEAD = "".join(
    f"<th>{name}</th>" for name in ("figure", "claim", "", "measured", "holds if", "expected", "seeds", "spread")
)


def write_all(states: Sequence[State], folder: str | Path, left_out: Mapping[str, str] | None = None) -> Path:
    """Write a page for each figure and index.html over all of them; returns the latter's path."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for state in states:
        figure.write(state, folder / f"{state.figure.name}.html")
    path = place("figure_table.write_all", folder / "index.html", "index.html")
    return put("figure_table.write_all", path, page(states, left_out or {}))


def page(states: Sequence[State], left_out: Mapping[str, str]) -> str:
    """The page as text."""
    scale = states[0].scale if states else "no"
    rows = "".join(map(_rows, states))
    out = "".join(f"<li><b>{escape(name)}</b>: {escape(why)}</li>" for name, why in left_out.items())
    body = f"""<header><h1>Rotational equilibrium, figure by figure</h1>
<p class="lead">Every figure and table of the paper, run at {escape(scale)} scale, and each of its claims decided by
what was measured.</p><p class="meta">{counted([v for s in states for v in s.verdicts])}</p></header>
<main class="whole">
{scroll("Claims", f'<table class="claims"><thead><tr>{HEAD}</tr></thead><tbody>{rows}</tbody></table>')}
<p class="meta">Measured: mean over seeds with its 95% interval. Held: all of the interval lies in the range; not held:
all of it lies outside; undecided: between.</p>
{f"<h2>Left out</h2><ul>{out}</ul>" if out else ""}
</main>
<footer><p>Written by rotational {escape(versions()["rotational"])}. Paper: Kosson, Messmer, Jaggi, ICML 2024 (arXiv
2305.17212). Claims and their limits are ours.</p></footer>"""
    return document("Rotational equilibrium, figure by figure", body, figure.STYLE)


def _rows(s: State) -> str:
    made: list[str] = []
    for i, v in enumerate(s.verdicts):
        link = (
            f'<th scope=rowgroup class=of rowspan={len(s.verdicts)}><a href="{escape(s.figure.name)}.html">'
            f"{escape(s.figure.title)}</a></th>"
        )
        said = f"<td class=says>{escape(v.claim.sentence)}</td>"
        made.append(f"<tr>{link if i == 0 else ''}{said}{figure.cells(v)}</tr>")
    return "".join(made)
