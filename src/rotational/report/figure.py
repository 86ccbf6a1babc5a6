"""A page for one figure of the paper: its pictures, its claims beside them, and what exactly ran."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rotational.lab.declare import plain
from rotational.lab.figures import Arm, Panel, Then
from rotational.lab.reproduce import State
from rotational.lab.verdicts import Verdict, counted, digits
from rotational.records import versions
from rotational.report import figure_panel
from rotational.report.document import document, place, put
from rotational.report.figure_svg import COLOURS
from rotational.report.parts import escape, scroll

DARK = ("#62b5f5", "#ff9f5a", "#4fd0a6", "#d69fe6", "#ff8a93", "#c3d25a", "#5fd0da", "#d9b48c")
SIGNS = {"held": "●", "not held": "▲", "undecided": "◐", "not run": "○"}
STYLE = f"""
:root {{ {" ".join(f"--a{i}: {c};" for i, c in enumerate(COLOURS))} }}
@media (prefers-color-scheme: dark) {{ :root {{ {" ".join(f"--a{i}: {c};" for i, c in enumerate(DARK))} }} }}
.word {{ white-space: nowrap; font-weight: 600; font-size: .86rem; }}
.word.held {{ color: var(--good); }} .word.not-held {{ color: var(--bad); }}
.word.undecided {{ color: var(--wait); }} .word.not-run {{ color: var(--none); }}
.claims td {{ font-size: .86rem; }} .claims tbody th, .claims .says {{ min-width: min(16rem, 44vw); width: 40%; }}
.claims td small {{ color: var(--soft); }} .claims .of {{ min-width: 11rem; width: 18%; }}
.claims .n, .claims .k {{ white-space: nowrap; }}
.whole .scroll, .scroll[aria-label="Claims"] {{ max-height: none; }}
.panels {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr));
  gap: 14px; margin: 14px 0; }}
.panels .card {{ margin: 0; }} .panels svg {{ display: block; width: 100%; height: auto; margin-top: 8px; }}
.back {{ font-size: .9rem; margin: 0 0 1rem; }} a {{ color: var(--measured); }}
pre {{ overflow: auto; background: var(--wash); border-radius: 8px; padding: 10px 14px; font-size: .86rem; }}
.config dl {{ font-size: .86rem; }} .config dt {{ font-weight: 500; color: var(--soft); }}
"""


def write(state: State, path: str | Path) -> Path:
    """Write the page of a figure, whole or not at all; raises OSError with a sentence for a path no file can have."""
    call = f"figure.write({str(path)!r})"
    return put(call, place(call, path, "dynamics.html"), page(state))


def page(state: State) -> str:
    """The page as text."""
    f = state.figure
    remarks = "".join(f"<p>{escape(text)}</p>" for text in f.remarks)
    left = f"<p>{state.missing} of its runs have not ended; pictures show those that have.</p>" if state.missing else ""
    left += "".join(f"<p>{escape(said)}</p>" for said in dict.fromkeys(state.found.lacking.values()))
    body = f"""<header><p class="back"><a href="index.html">All figures</a></p>
<h1>{escape(f.title)}</h1><p class="lead">{escape(f.sentence)}</p>
<p class="meta">Section {escape(f.section)}, {escape(state.scale)} scale · {counted(state.verdicts)}</p></header>
<main>
{left}
<h2>Claims</h2>
{claims(state.verdicts)}
<p class="meta">Measured: mean over seeds with its 95% t-interval (ratios: of logarithms; shares: Fieller's). A claim is
held or not where all of the interval lies inside or outside its range. Sweeps choose their point on validation data;
numbers are of test data.</p>
{remarks}
<h2>Pictures</h2>
<div class="panels">
{"".join(_panel(state, panel) for panel in f.panels)}</div>
<h2>What ran</h2>
<p>Runs this figure, or what is missing of it:</p>
<pre>{escape(f.command(state.scale))}</pre>
{configuration(state)}
</main>
<footer><p>Written by rotational {escape(versions()["rotational"])}. Paper: Kosson, Messmer, Jaggi, “Rotational
Equilibrium: How Weight Decay Balances Learning Across Neural Networks”, ICML 2024 (arXiv 2305.17212). Claims and their
limits are ours.</p></footer>"""
    return document(f.title, body, STYLE)


def word(v: Verdict | str) -> str:
    """A verdict's word with its sign, so that colour is never the only cue."""
    said = v if isinstance(v, str) else v.word
    return f'<span class="word {said.replace(" ", "-")}">{SIGNS[said]} {said}</span>'


def claims(verdicts: Sequence[Verdict]) -> str:
    """The table of claims: what was measured, what was to be expected, and how many seeds say so."""
    head = "".join(f"<th>{name}</th>" for name in ("claim", "", "measured", "holds if", "expected", "seeds", "spread"))
    return scroll(
        "Claims",
        f'<table class="claims"><thead><tr>{head}</tr></thead><tbody>{"".join(map(_claim, verdicts))}</tbody></table>',
    )


def _claim(v: Verdict) -> str:
    e = v.estimate
    said = [v.why, *v.notes] if v.why and e is not None else v.notes
    why = "".join(f"<br><small>{escape(text)}</small>" for text in said)
    return f"<tr><th scope=row>{escape(v.claim.sentence)}</th>{cells(v, why)}</tr>"


def cells(v: Verdict, why: str = "") -> str:
    """The verdict's cells after the sentence: word, measured, range, expected, seeds, spread."""
    e = v.estimate
    seeds = "" if e is None else str(len(e.seeds))
    spread = "" if e is None or len(e.seeds) < 2 else digits(e.spread)
    parts = (word(v), escape(v.measured) + why, escape(v.holds), escape(v.claim.expected), seeds, spread)
    return "".join(
        f"<td{(' class=k' if i == 2 else ' class=n') if i in (2, 4, 5) else ''}>{part}</td>"
        for i, part in enumerate(parts)
    )


def _panel(state: State, panel: Panel) -> str:
    drawn = figure_panel.draw(panel, state.found)
    names = panel.arms or tuple(state.found.arms)
    made: list[str] = []
    for i, svg in enumerate(drawn):
        title = f"{panel.title}: {names[i]}" if len(drawn) > 1 else panel.title
        caption = f"<figcaption>{escape(panel.caption)}</figcaption>" if panel.caption else ""
        made.append(f'<figure class="card"><h3>{escape(title)}</h3>{caption}{svg}</figure>\n')
    return "".join(made)


# What ran -----------------------------------------------------------------------------------------------------


def configuration(state: State) -> str:
    """Every arm with all fields of its runs: those that are the same, and those that vary with their values."""
    return "".join(f"<details>{_arm(arm)}</details>\n" for arm in state.figure.arms(state.scale))


def _arm(arm: Arm | Then) -> str:
    rows = [dict(_flat(plain(run))) for run in arm.runs]
    names = dict.fromkeys(name for row in rows for name in row)
    values = {name: list(dict.fromkeys(str(row.get(name, "—")) for row in rows)) for name in names}
    listed = "".join(f"<dt>{escape(k)}</dt><dd>{escape(', '.join(v))}</dd>" for k, v in values.items())
    stage = (
        f"<p>{escape(arm.field.replace('__', '.'))} is the {escape(arm.measure)} that was measured in the arm "
        f"“{escape(arm.source)}”, seed by seed.</p>"
        if isinstance(arm, Then)
        else f"<p>The point with the best {escape(arm.by)} on validation data, over these seeds, has the seeds "
        f"{', '.join(map(str, arm.more))} besides.</p>"
        if arm.more
        else ""
    )
    count = f"{arm.count} run{'s' * (arm.count > 1)}"
    return (
        f'<summary>{escape(arm.label)} <span class="soft">({count})</span></summary>'
        f'<div class="config">{stage}<dl>{listed}</dl></div>'
    )


def _flat(value: Any, path: str = "") -> Iterable[tuple[str, Any]]:
    """Leaves of a declaration with dotted names; a model's name and options stand under "model"."""
    if isinstance(value, Mapping):
        if set(value) == {"name", "options"}:
            yield path or "name", value["name"]
            value = value["options"]
        for key, inner in value.items():
            yield from _flat(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, value
