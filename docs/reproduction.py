"""docs/reproduction.md, its pictures and the package's measured.json, from the results stored in docs/reproduction/.

python docs/reproduction.py            writes the page, a picture for each panel, and measured.json
python docs/reproduction.py --check    exits with 1 where they are not what the stored results say
python docs/reproduction.py --ledger   writes measured.json alone
python docs/reproduction.py --take DIR copies what figures ask for from `rotational reproduce --out DIR`
python docs/reproduction.py --prune    removes what no figure asks for any more
python docs/reproduction.py --asides DIR runs, with data from DIR, what is missing of the runs beside the figures
python docs/reproduction.py --tiny DIR takes what such a folder says at tiny scale, of which nothing is stored, into it
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console

import rotational.paper
from rotational.lab import ledger, reproduce, statistics
from rotational.lab.declare import Run, plain
from rotational.lab.figures import SCALES, Arm, Scale, Then
from rotational.lab.ledger import Entry, Ledger
from rotational.lab.measures import MEASURES
from rotational.lab.progress import clock
from rotational.lab.reproduce import State
from rotational.lab.shelf import COMPUTED, Shelf
from rotational.lab.store import RESULT
from rotational.lab.verdicts import WORDS, Verdict, counted, digits
from rotational.paper.asides import ASIDES
from rotational.paper.figures import FIGURES
from rotational.report import figure_panel

HERE = Path(__file__).parent
STORED, PAGE, REASONS = HERE / "reproduction", HERE / "reproduction.md", HERE / "reproduction" / "reasons.md"
MEASURED = Path(rotational.paper.__file__).with_name("measured.json")
EVERY = (*FIGURES, ASIDES)
SIGNS = {"held": "✅", "not held": "❌", "undecided": "❔", "not run": "⚪"}
NAMED: dict[Scale, str] = {"tiny": "tiny", "laptop": "laptop", "paper": "the paper's own"}

HEAD = """# The paper, reproduced

Every figure and table of Kosson, Messmer, Jaggi, "Rotational Equilibrium: How Weight Decay Balances Learning Across
Neural Networks" (ICML 2024, [arXiv 2305.17212](https://arxiv.org/abs/2305.17212)), and what came after it, as
declarations that run: [`src/rotational/paper`](../src/rotational/paper). This page is written by
`python docs/reproduction.py` from the results in [`docs/reproduction`](reproduction); running anew is

    rotational reproduce all --scale laptop --data DIR

A claim is decided by the 95% interval of its number over seeds (Student's t; of logarithms for ratios, Fieller's for
shares of a gap): **held** where all of it lies in the range, **not held** where all of it lies outside, **undecided**
between. Comparisons are paired by seed; sweeps choose their point on validation data and report test data. Expected is
what the paper or the theory says; limits are ours.

All of it but the runs of the vision transformer, which are older, ran by the command above, with five seeds but for
sweeps of Adam+L2, which have three, and the best points of warm-up, which have fifteen, on two cores of one machine,
beside other work in parts. What one core took stands below: {total} in all, half of that on two cores; {longest} the
longest with {most}. Runs on a CPU repeat bit by bit while code, torch and processor stay the same; what another
processor gave stands [at the end](#run-again). Results say which data they are of, and by which laws they were
predicted (`data` and `laws` among `versions`).

CIFAR-10 is a copy whose images went through JPEG at quality 75, here in 16x16 pixels: accuracies stand beside each
other, not beside published ones.

A claim that takes the best point of a sweep says where that lies at the edge of its grid: a better one may lie beyond.
"""

ASIDE = ("accuracy", "rotation", "layer spread", "neuron spread", "norm drift", "ratio radial", "ratio moving")
"""What the table of runs beside the figures says of each."""


def main() -> int:
    """Write the page, or check it."""
    if "--take" in sys.argv:
        return take(Path(sys.argv[sys.argv.index("--take") + 1]))
    if "--prune" in sys.argv:
        return prune()
    if "--asides" in sys.argv:
        return asides(Path(sys.argv[sys.argv.index("--asides") + 1]))
    if "--tiny" in sys.argv or "--ledger" in sys.argv:
        folder = Path(sys.argv[sys.argv.index("--tiny") + 1]) if "--tiny" in sys.argv else None
        MEASURED.write_text(measured(tiny=folder), encoding="utf-8")
        print(MEASURED)
        return 0
    files = written() | {MEASURED: measured()}
    if "--check" in sys.argv:
        stale = [p for p, text in files.items() if not p.is_file() or p.read_text(encoding="utf-8") != text]
        print("\n".join(f"{p} is not what the stored results say" for p in stale) or "All is as stored.")
        return 1 if stale else 0
    for old in STORED.glob("*.svg"):
        old.unlink()
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    print(f"{PAGE}, {len(files) - 2} pictures, {MEASURED}")
    return 0


def asides(data: Path, stored: Path = STORED) -> int:
    """Run what is missing of the runs beside the figures."""
    from rotational.lab.workers import Pool  # all else needs no torch

    with TemporaryDirectory() as folder:
        pool, shelf = Pool(reproduce.cores()), Shelf(folder, stored)
        ended = reproduce.run([ASIDES], "laptop", shelf, pool, data=data, console=Console())
        take(Path(folder), stored)
    print("\n".join(ended.failed))
    return 1 if ended.states[0].missing else 0


def take(folder: Path, stored: Path = STORED) -> int:
    """Copy what the figures ask for and the repository does not have."""
    shelf = Shelf(folder, stored)
    for figure in EVERY:
        for scale in SCALES[1:]:
            shelf.found(figure, scale)
    taken = 0
    for key in sorted(shelf.keys):
        for name in (RESULT, COMPUTED):
            source, target = folder / key / name, stored / key / name
            if source.is_file() and not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
                taken += 1
    print(f"{taken} results taken")
    return 0


def prune(stored: Path = STORED) -> int:
    """Remove what the figures no longer ask for; nothing while one may yet ask for some of it.

    What a second stage asks for is known when all runs that it takes its numbers from are there.
    """
    shelf, waiting, further = Shelf(stored), dict[tuple[str, str], set[str]](), dict[str, str]()
    for figure in EVERY:
        for scale in SCALES[1:]:
            found, _ = shelf.found(figure, scale)
            for arm in (a for a in figure.arms(scale) if isinstance(a, Arm) and found.missing[a.label]):
                further |= {run.but(seed=seed).key: figure.name for run in arm.runs for seed in arm.more}
            for arm in (a for a in figure.arms(scale) if isinstance(a, Then) and found.missing[a.source]):
                for run in arm.runs:
                    waiting.setdefault((arm.field, _but_for(plain(run), arm.field)), set()).add(figure.name)
    old = [f for f in stored.iterdir() if f.is_dir() and f.name not in shelf.keys]
    for path in (f / RESULT for f in old if (f / RESULT).is_file()):
        run = json.loads(path.read_text(encoding="utf-8"))["run"]
        for names in (
            *(waiting.get((field, _but_for(run, field))) for field in {field for field, _ in waiting}),
            {further[path.parent.name]} if path.parent.name in further else None,
        ):
            if names:
                print(
                    f"Nothing is removed: {path.parent} may be a second-stage run of {' or '.join(sorted(names))}, "
                    "whose first stage is not complete. Run that first, or remove the folder by hand."
                )
                return 1
    for folder in old:
        shutil.rmtree(folder)
    print(f"{len(old)} results removed that no figure asks for any more")
    return 0


def _but_for(run: Mapping[str, Any], field: str) -> str:
    """A run without the field that a second stage fills in."""
    part, _, name = field.partition("__")
    rest = {k: v for k, v in run[part].items() if k != name} if name else None
    return json.dumps({**run, part: rest}, sort_keys=True)


def measured(stored: Path = STORED, tiny: Path | None = None) -> str:
    """The text of measured.json: what the stored results say; at scales that are not stored, what it said before."""
    before: Ledger = ledger.read(MEASURED.read_text(encoding="utf-8")) if MEASURED.is_file() else {}
    shelves = {scale: Shelf(stored) for scale in SCALES[1:]} | ({} if tiny is None else {SCALES[0]: Shelf(tiny)})
    now: dict[str, dict[Scale, Entry]] = {}
    for figure in FIGURES:
        known = before.get(figure.name, {})
        found: dict[Scale, Entry] = {}
        for scale in SCALES:
            if scale in shelves:
                if (state := reproduce.state(figure, scale, shelves[scale])).judged:
                    found[scale] = ledger.entry(state)
            elif scale in known:
                found[scale] = replace(known[scale], date="")
        now[figure.name] = found
    return ledger.written(ledger.dated(now, before, date.today().isoformat()))


def written(stored: Path = STORED) -> dict[Path, str]:
    """Every file of the page with its text."""
    shelf = Shelf(stored)
    states = [best for figure in FIGURES if (best := _state(figure.name, shelf)) is not None]
    files: dict[Path, str] = {}
    parts = [_head(states), _summary(states)]
    for state in states:
        parts += [_section(state, files, stored), _full_size(state, shelf)]
    parts += [_asides(shelf, stored), _reasons(stored)]
    return {PAGE if stored == STORED else stored.parent / PAGE.name: "\n".join(p for p in parts if p) + "\n", **files}


def _state(name: str, shelf: Shelf) -> State | None:
    """The figure at the largest scale of which anything is stored."""
    figure = next(f for f in FIGURES if f.name == name)
    for scale in reversed(SCALES[1:]):
        state = reproduce.state(figure, scale, shelf)
        if state.judged:
            return state
    return reproduce.state(figure, "laptop", shelf)


def _head(states: list[State]) -> str:
    """The page's first words; runs that figures share took their time once."""
    longest = max(states, key=lambda s: s.seconds)
    total = clock(statistics.total({run: seconds for s in states for run, seconds in s.each.items()}.values()))
    return HEAD.format(total=total, longest=f"`{longest.figure.name}`", most=clock(longest.seconds))


def _asides(shelf: Shelf, stored: Path) -> str:
    """What reasons cite beside the figures."""
    found, _ = shelf.found(ASIDES, "laptop")
    rows: list[str] = []
    for label, points in found.arms.items():
        for point in points:
            first = next(iter(point.seeds.values()))
            numbers = (digits(mean) if math.isfinite(mean := point.mean(name)) else "" for name in ASIDE)
            assert isinstance(first.run, Run)
            link = f"[{label}]({stored.name}/{first.run.key}/{RESULT})"
            rows.append(f"| {link} | {first.run.steps:,} | {len(point.seeds)} | {' | '.join(numbers)} |")
    if not rows:
        return ""
    head = " | ".join(MEASURES[name].title if name in ASIDE[:5] else name for name in ASIDE)
    return "\n".join(
        [
            f"## {ASIDES.title}",
            "",
            f"{ASIDES.sentence} `python docs/reproduction.py --asides DIR` runs what is missing of them; a row leads "
            "to the declaration and result of its first seed. The last two columns are rotation over the formula with "
            "the measured radial part, and with that and the measured growth of norms, both of the median layer.",
            "",
            f"| run | steps | seeds | {head} |",
            "|---|--:|--:|" + "--:|" * len(ASIDE),
            *rows,
            "",
        ]
    )


def _summary(states: list[State]) -> str:
    every = [v for s in states for v in s.verdicts]
    lines = [f"**{counted(every)}** of {len(every)} claims.", "", "| figure | section | " + " | ".join(WORDS) + " |"]
    lines.append("|---|---|" + "--:|" * len(WORDS))
    for s in states:
        counts = [str(sum(v.word == w for v in s.verdicts) or "") for w in WORDS]
        lines.append(f"| [{s.figure.title}](#{_anchor(s.figure.title)}) | {s.figure.section} | {' | '.join(counts)} |")
    return "\n".join(lines) + "\n"


def _section(state: State, files: dict[Path, str], stored: Path) -> str:
    f = state.figure
    lines = [f"## {f.title}", "", f.sentence, ""]
    if not state.ran:
        return "\n".join([*lines, f"Not run. `{f.command('laptop')}`", ""])
    ran = f"{state.ran} runs, one core took {clock(state.seconds)}"
    lines += [
        f"Section {f.section}, at {NAMED[state.scale]} scale: {ran}. `{f.command(state.scale)}`",
        "",
    ]
    lines += ["| claim | | measured | holds if | expected | seeds | spread |", "|---|---|---|---|---|--:|--:|"]
    lines += [_row(v) for v in state.verdicts]
    lines += ["", *(f"{text}\n" for text in f.remarks)]
    for i, panel in enumerate(f.panels):
        names = panel.arms or tuple(state.found.arms)
        for k, svg in enumerate(drawn := figure_panel.draw(panel, state.found)):
            path = stored / f"{f.name}-{i + 1}{'abcdefgh'[k] if len(drawn) > 1 else ''}.svg"
            files[path] = svg + "\n"
            title = f"{panel.title}: {names[k]}" if len(drawn) > 1 else panel.title
            lines += [
                f"**{title}**{'. ' + panel.caption if panel.caption else ''}",
                "",
                f"![{title}]({stored.name}/{path.name})",
                "",
            ]
    return "\n".join(lines)


def _full_size(state: State, shelf: Shelf) -> str:
    """Runs at the paper's own scale that are there, while the claims above are those of a smaller one."""
    if state.scale == "paper":
        return ""
    found, _ = shelf.found(state.figure, "paper")
    lines = [
        "| run at the paper's own scale | seed | test | | rotation at rest | predicted |",
        "|---|--:|--:|---|--:|--:|",
    ]
    for label, points in found.arms.items():
        for point in points:
            for seed, m in point.seeds.items():
                score = next((name for name in ("accuracy", "bleu", "loss") if name in m.scalars), "rotation")
                numbers = (m.scalar(score), m.scalar("rotation"), m.scalar("predicted"))
                test, rotation, predicted = map(digits, numbers)
                lines.append(f"| {label} | {seed} | {test} | {score} | {rotation} | {predicted} |")
    return "\n".join([*lines, ""]) if len(lines) > 2 else ""


def _row(v: Verdict) -> str:
    e = v.estimate
    seeds, spread = ("", "") if e is None else (str(len(e.seeds)), digits(e.spread) if len(e.seeds) > 1 else "")
    said = "; ".join([v.why, *v.notes] if v.why and e is not None else v.notes)
    measured = v.measured + (f" ({said})" if said else "")
    cells = (v.claim.sentence, f"{SIGNS[v.word]} {v.word}", measured, v.holds, v.claim.expected, seeds, spread)
    return "| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |"


def _reasons(stored: Path) -> str:
    """What was found out about claims that do not hold: written by hand, beside the results."""
    path = stored / REASONS.name
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _anchor(title: str) -> str:
    """As code hosts make it of a heading."""
    return "".join(c for c in title.lower().replace(" ", "-") if c.isalnum() or c in "-_")


if __name__ == "__main__":
    sys.exit(main())
