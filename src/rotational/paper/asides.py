"""Runs that no claim asks for, at laptop scale: what docs/reproduction/reasons.md cites beside the figures.

Most say how claims depend on a run's length, and have one seed. `python docs/reproduction.py --asides DIR` runs those
that are missing.
"""

from __future__ import annotations

from rotational.lab.declare import Imbalance, Model, Run, grid
from rotational.lab.figures import Arm, Figure
from rotational.paper.adam import ADAM, STANDARDIZATION
from rotational.paper.after import ADAMC
from rotational.paper.appendix import SENSITIVE
from rotational.paper.base import MORE_SEEDS, WARM, rotational, small, words
from rotational.paper.control import CONTROL
from rotational.paper.language import WARMUP_TEXT
from rotational.paper.rates import WARMUP
from rotational.paper.sensitivity import SENSITIVITY, SENSITIVITY_TEXT, WAYS


def _of(figure: Figure, label: str, **changes: float) -> Run:
    """A run of an arm with seed 0, changed."""
    return next(arm for arm in figure.laptop if arm.label == label).runs[0].but(seed=0, **changes)  # pyright: ignore


def _uneven(steps: int, decay: float) -> tuple[Run, Run]:
    """As in the figure on imbalance: balanced, and with half of the neurons slowed tenfold."""
    held = rotational(small(steps, width=1.0).but(optimizer__weight_decay=decay))
    return held, held.but(optimizer__imbalance=Imbalance(0.5, 10.0))


def _adam(steps: int) -> dict[str, Run]:
    """The three ways of the figure on Adam+L2, each where it was best when its sweep did not reach as far."""
    best = {"AdamW": {"lr": 2e-2, "decay": 0.1}, "Adam+L2": {"lr": 1.6e-2, "decay": 2e-4}}
    runs = {
        name: _of(ADAM, name, steps=steps, optimizer__lr=at["lr"], optimizer__weight_decay=at["decay"])
        for name, at in best.items()
    }
    return {**runs, "Adam+L2, balanced": _of(ADAM, "Adam+L2, balanced", steps=steps)}


def _rates() -> dict[str, Run]:
    """lr times weight decay is 2e-3, as lr is small, at its best, and large."""
    runs: dict[str, Run] = {}
    for lr in (1e-3, 2e-2, 0.2):
        free = small(2400).but(optimizer__lr=lr, optimizer__weight_decay=float(f"{2e-3 / lr:.6g}"))
        runs |= {f"AdamW, lr {lr:g}": free, f"rotational, lr {lr:g}": rotational(free)}
    return runs


def _frozen() -> dict[str, Run]:
    """The rotational GPT whose gains, and all else that is not held, stay, at the lrs where warm-up matters."""
    return {
        f"lr {lr:g}, {when}": _of(WARMUP_TEXT, f"rotational, {when}", optimizer__lr=lr).but(optimizer__gains="freeze")
        for lr in (0.0768, 0.3072)
        for when in ("with warm-up", "without warm-up")
    }


def _sensitive() -> dict[str, Run]:
    """The default and the two that cost most, 2,400 steps instead of 450."""
    ways = ("default: EMA 0.9, neurons, centred", "not centred", "whole tensors")
    return {way: _of(SENSITIVITY, way, steps=2400, optimizer__weight_decay=0.25) for way in ways}


def _transformers() -> dict[str, tuple[Run, ...]]:
    """Other weight decays than in the figure, and weights that begin larger than with the usual spread of 0.02.

    At 0.1 and a weight decay of 0.125 AdamW is best: there are five seeds, and so is the rotational variant with that
    and with a quarter of it. All have the lr of the figure's baseline.
    """
    runs: dict[str, tuple[Run, ...]] = {}
    several = (("baseline", 0.125), ("rotational, zero-shot", 0.125), ("rotational, zero-shot", 0.03125))
    for std, decays in ((0.1, (0.03125, 0.125, 0.5, 2.0)), (0.02, (0.03125, 0.125, 0.5))):
        for way in ("baseline", "rotational, zero-shot"):
            run = _of(CONTROL, f"Vision transformer: {way}")
            options = dict(run.model.options) | ({} if std == 0.02 else {"std": std})
            for decay in decays:
                changed = run.but(model=Model(run.model.name, **options), optimizer__weight_decay=decay)
                seeds = MORE_SEEDS if std == 0.1 and (way, decay) in several else (0,)
                if (std, way, decay) != (0.1, "baseline", 0.03125):
                    runs[f"spread {std:g}, weight decay {decay:g}: {way}"] = grid(changed, seed=seeds)
    few = _of(CONTROL, "Vision transformer: rotational, few-shot", optimizer__weight_decay=0.0625)
    return {**runs, "few-shot, half the rotation": (few,)}


def _sensitive_text() -> dict[str, Run]:
    """Half and twice the figure's weight decay."""
    return {
        f"weight decay {decay:g}: {way}": _of(SENSITIVITY_TEXT, way, optimizer__weight_decay=decay)
        for way in WAYS
        for decay in (0.75, 3.0)
    }


def _warmed() -> dict[str, Run]:
    """SGDM over 1,200 steps, 120 of them warm-up, instead of 300 and 90."""
    run = _of(WARMUP, "SGDM, with warm-up", steps=1200)
    return {
        f"lr {lr:g}, {when}": run.but(optimizer__lr=lr, schedule__warmup=warm)
        for lr in (0.4, 0.8, 1.6)
        for when, warm in (("with warm-up", 0.1), ("without warm-up", 0.0))
    }


def _adam_text() -> dict[str, Run]:
    """A GPT on characters, over 1,500 steps."""
    free = words(1500).but(schedule=WARM)
    coupled = free.but(optimizer__rule="adam")
    return {
        f"AdamW, weight decay {decay:g}": free.but(optimizer__weight_decay=decay) for decay in (0.01, 0.4, 0.8, 1.6)
    } | {f"Adam+L2, coefficient {l2:g}": coupled.but(optimizer__weight_decay=l2) for l2 in (1e-5, 1e-4, 1e-3, 1e-2)}


_RUNS: dict[str, dict[str, Run]] = {
    "Adam+L2, shorter": _adam(450),
    "Adam+L2, longer": _adam(2400),
    "Imbalance": {
        f"{steps} steps, weight decay {decay:g}: {name}": run
        for steps, decay in ((400, 0.5), (1200, 0.5), (1200, 0.1), (1200, 0.025))
        for name, run in zip(("balanced", "half slowed 10-fold"), _uneven(steps, decay), strict=True)
    },
    "Weight standardization, shorter": {
        arm.label: _of(STANDARDIZATION, arm.label, steps=450, optimizer__lr=0.1) for arm in STANDARDIZATION.laptop
    },
    "lr and weight decay, longer": _rates(),
    "Warm-up, longer": _warmed(),
    "Warm-up of a GPT, gains frozen": _frozen(),
    "Sensitivity, longer": _sensitive(),
    "Sensitivity on text": _sensitive_text(),
    "Adam+L2 on text": _adam_text(),
    "AdamC, shorter": {name: _of(ADAMC, name, steps=800, optimizer__weight_decay=0.5) for name in ("AdamW", "AdamC")},
}
# With all that stands beside weight decay measured, which the figure's own runs have in part.
_VGG = _of(SENSITIVE, "plain", optimizer__lr=0.05, optimizer__weight_decay=5e-3).but(probes=("radial", "norms"))
_ARMS = (
    *(Arm(f"{group}: {name}", (run,)) for group, runs in _RUNS.items() for name, run in runs.items()),
    *(Arm(f"Vision transformer: {name}", runs) for name, runs in _transformers().items()),
    Arm("Plain VGG, norms measured", grid(_VGG, seed=MORE_SEEDS)),
    Arm("Plain VGG, norms measured, longer", (_VGG.but(steps=4000),)),
)

ASIDES = Figure(
    name="asides",
    section="none",
    title="Runs beside the figures",
    sentence="At laptop scale, most with one seed: what the reasons below cite and no claim asks for.",
    tiny=_ARMS,
    laptop=_ARMS,
    paper=_ARMS,
    panels=(),
    claims=(),
)
"""Not among the figures of the paper: `rotational reproduce` does not run it."""
