"""The pieces of the page, as HTML. Everything that comes from a log passes through `escape`."""

from __future__ import annotations

import html
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from rotational import expected
from rotational.report import text
from rotational.report.charts import Arm
from rotational.report.verdict import MEANING, Word

Table: TypeAlias = "tuple[Sequence[str], Sequence[Sequence[str]]]"


def escape(value: object) -> str:
    """Text for an element or a quoted attribute."""
    return html.escape(str(value), quote=True)


def header(title: str, when: str, versions: str) -> str:
    """Title, what the page shows in one sentence, date and versions."""
    meta = " · ".join(escape(x) for x in (f"Written {when}", versions) if x)
    return f'<header>\n<h1>{escape(title)}</h1>\n<p class="lead">{text.WHAT}</p>\n<p class="meta">{meta}</p>\n</header>'


def footer(version: str) -> str:
    """Who wrote the page, and the source of the theory."""
    return f"<footer><p>Written by rotational {escape(version)}. {text.SOURCE}</p></footer>"


def summary(table: Table) -> str:
    """The summary table that the caller gave: the first column names the row, the others are figures."""
    columns, rows = table
    head = "".join(f"<th{' class=n' if i else ''}>{escape(c)}</th>" for i, c in enumerate(columns))
    body = "".join(
        f"<tr><th scope=row>{escape(first)}</th>{''.join(f'<td class=n>{escape(c)}</td>' for c in rest)}</tr>"
        for first, *rest in rows
    )
    return scroll("Summary", f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")


def together(arms: Sequence[Arm]) -> str:
    """The charts that compare the arms: rotation where there are several, loss where it was noted."""
    charts = (figure("overview") if len(arms) > 1 else "") + (figure("loss") if any(a.losses for a in arms) else "")
    return f'<div id="arms-together" class="pair">{charts}</div>' if charts else ""


def tabs(arms: Sequence[Arm]) -> str:
    """The choice of an arm."""
    buttons = "".join(
        f'<button role="tab" id="tab-{i}" aria-controls="arm-{i}" aria-selected="{str(i == 0).lower()}">'
        f"{escape(a.name)}</button>"
        for i, a in enumerate(arms)
    )
    return f'<div class="tabs" role="tablist" aria-label="Arms">{buttons}</div>'


def figure(chart: str, tool: str = "", kind: str = "") -> str:
    """A chart's frame: title, caption and the element that page.js draws into."""
    title, caption = (escape(x) for x in text.CHARTS[chart])
    save = f'<button class="switch save" aria-label="Save as SVG: {title}">SVG</button>'
    return (
        f'<figure class="card"><div class="top"><h3>{title}</h3><div>{tool}{save}</div></div>'
        f"<figcaption>{caption}</figcaption>"
        f'<div class="chart {kind}" data-chart="{chart}" role="img" aria-label="{title}: {caption}"></div></figure>\n'
    )


def scroll(label: str, inner: str) -> str:
    """A box that scrolls by itself, so that a wide table never moves the page."""
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}">{inner}</div>'


def pill(word: Word, count: int | None = None) -> str:
    """A verdict with its sign, so that colour is never the only cue."""
    said = word if count is None else f"{count} {word}"
    return f'<span class="pill {word.replace(" ", "-")}" title="{escape(MEANING[word])}">{said}</span>'


def verdicts(words: Sequence[Word]) -> str:
    """How many layers have each verdict."""
    counts = Counter(words)
    return f'<ul class="chips">{"".join(f"<li>{pill(w, counts[w])}</li>" for w in MEANING if counts[w])}</ul>'


def glossary() -> str:
    """What the terms and the verdicts mean."""
    terms = "".join(f"<dt>{k}</dt><dd>{escape(v)}</dd>" for k, v in text.TERMS.items())
    meanings = "".join(f"<dt>{pill(word)}</dt><dd>{escape(v)}</dd>" for word, v in MEANING.items())
    return (
        f'<h2>How to read this page</h2>\n<div class="card"><dl>{terms}</dl></div>\n'
        f'<h3>Verdicts</h3>\n<div class="card"><dl>{meanings}</dl></div>'
    )


def ran(a: Arm) -> str:
    """Hyperparameters of each group, the run's notes and its versions."""
    keys = list(dict.fromkeys(k for g in a.run.groups for k in g))
    head = "".join(f"<th>{escape(k)}</th>" for k in ("group", "rule", *keys))
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(c)}</td>" for c in (i, expected.rule_name(r), *_cells(g, keys))) + "</tr>"
        for i, (g, r) in enumerate(zip(a.run.groups, a.run.rules, strict=True))
    )
    groups = f"<table class=hyper><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    listed = "".join(f"<dt>{escape(k)}</dt><dd>{escape(_value(v))}</dd>" for k, v in a.run.notes.items())
    versions = " · ".join(f"{library} {number}" for library, number in a.run.versions.items())
    return (
        f"<h2>What ran</h2>{scroll('Hyperparameters', groups) if body else ''}"
        f"{f'<dl>{listed}</dl>' if listed else ''}<p class=meta>{escape(versions)}</p>"
    )


def _cells(group: Mapping[str, Any], keys: Sequence[str]) -> list[str]:
    return [_value(group[k]) if k in group else "—" for k in keys]


def _value(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else json.dumps(value)
