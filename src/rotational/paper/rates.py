"""Section 5.2: what the learning rate does beside rotation, and why warm-up is needed."""

from __future__ import annotations

from dataclasses import replace

from rotational.lab.declare import Optimizer, Run, Schedule
from rotational.lab.figures import Arm, Claim, Figure, Panel, Then
from rotational.lab.quantities import Difference, Of, Plateau, Ratio, Share
from rotational.paper.base import (
    FEW,
    MORE_SEEDS,
    SEEDS,
    TUNED,
    arm,
    at_product,
    cifar,
    ends,
    imagenet,
    rotational,
    small,
    tiny_images,
    tiny_net,
)

_LR = "optimizer__lr"

# 5.2a ---------------------------------------------------------------------------------------------------------

_FREE, _HELD, _FROZEN = "AdamW", "rotational", "rotational, gains and biases frozen"


def _product(
    base: Run,
    product: float,
    lrs: tuple[float, ...],
    seeds: tuple[int, ...],
    frozen: tuple[float, ...] = (),
) -> tuple[Arm, ...]:
    """Every lr with the weight decay that keeps their product, and with it the rotation at equilibrium.

    `frozen` are the lrs of the arm without gains and biases, where they are fewer.
    """
    held = rotational(base)
    return (
        at_product(_FREE, base, product, lrs, seeds),
        at_product(_HELD, held, product, lrs, seeds),
        at_product(_FROZEN, held.but(optimizer__gains="freeze"), product, frozen or lrs, seeds),
    )


_FOURTEEN = (1e-6, 1e-5, 1e-4, 3e-4, 9e-4, 2.7e-3, 8.3e-3, 0.025, 0.05, 0.1, 0.3, 0.9, 2.7, 8.1)

RATES = Figure(
    name="lr-and-weight-decay",
    section="5.2, figure 6",
    title="Learning rate against weight decay at one product",
    sentence="lr and weight decay of one product give the same rotation; what differs is the transient, and the step "
    "of gains and biases. Without a transient the optimum is wide.",
    tiny=_product(tiny_images(16), 0.01, (1e-3, 3e-2, 1.0), FEW),
    laptop=_product(small(400), 0.01, (3e-5, 3e-4, 3e-3, 1e-2, 3e-2, 0.1, 0.4, 1.6), MORE_SEEDS),
    # The lrs go down to 1e-6, so that this cosine ends at 0. The paper has one frozen point, a line in its figure:
    # three of them show that the line is straight.
    paper=_product(cifar(images=TUNED), 5e-4, _FOURTEEN, SEEDS, frozen=(1e-6, 0.05, 8.1)),
    panels=(
        Panel("Test accuracy", "sweep", "accuracy", x=_LR, log_x=True, caption="lr times weight decay is the same."),
        Panel("Rotation at the end", "sweep", "rotation", x=_LR, log_x=True, log_y=True),
        Panel("Rotation at each one's best lr", "lines", "rotation", dashed="predicted", log_y=True, by="accuracy"),
    ),
    claims=(
        Claim(
            "The rotational variant's optimum, within 1 point of its best, is at least 10 times wider in lr than "
            "AdamW's",
            Ratio(Plateau(_HELD, _LR, "accuracy", 1.0), Plateau(_FREE, _LR, "accuracy", 1.0)),
            low=10,
        ),
        Claim(
            "Within 3 points, which seeds do not blur, it is at least 10 times wider, too",
            Ratio(Plateau(_HELD, _LR, "accuracy", 3.0), Plateau(_FREE, _LR, "accuracy", 3.0)),
            low=10,
        ),
        Claim(
            "At its best lr the rotational variant is no more than 1 point behind AdamW at its own",
            Difference(Of(_HELD, "accuracy"), Of(_FREE, "accuracy")),
            low=-1,
            expected="0",
        ),
        Claim(
            "With gains and biases frozen nothing but rotation is left, and all points are one run: the optimum is at "
            "least 100 times wide, by construction",
            Plateau(_FROZEN, _LR, "accuracy", 1.0),
            low=100,
        ),
    ),
    remarks=(
        "A plateau that reaches an end of the sweep is cut there, and so measured too narrow: for the rotational "
        "variants the factors are lower bounds then.",
        "With gains and biases frozen all points are one run, but for rounding, since lr times weight decay stays: "
        "that plateau is as wide as the sweep by construction, and shows that the angle is all that is left.",
    ),
)

# 5.2b ---------------------------------------------------------------------------------------------------------

_WITH, _WITHOUT = "with warm-up", "without warm-up"
_HIGH = ((_LR, 3.2),)
"""An lr that SGDM takes with warm-up alone, in the paper as at laptop scale."""


_BASE, _RV = "SGDM", "rotational SGDM"
_WAYS = tuple((name, when) for name in (_BASE, _RV) for when in (_WITH, _WITHOUT))
_SWEPT = tuple(f"{name}, {when}" for name, when in _WAYS)
_WHOLE = "whole length, "


def _warmed(
    base: Run,
    lrs: tuple[float, ...],
    warm: int,
    seeds: tuple[int, ...],
    chosen: tuple[float, float, float, float],
    whole: int = 0,
    held_lrs: tuple[float, ...] = (),
    more: tuple[int, ...] = (),
) -> tuple[Arm | Then, ...]:
    """A sweep for each way, lr rising over `warm` steps or at once; then each at its `chosen` lr over `whole` steps.

    Where no whole length is given, the latter are runs of the sweep. The rotational variant is swept over `held_lrs`
    where they are others; each way's best point has `more` seeds besides.
    """

    def made(name: str, when: str, steps: int) -> Run:
        warmup = warm / steps if when == _WITH else 0.0
        run = base.but(steps=steps, schedule=Schedule("cosine", warmup=warmup))
        return run if name == _BASE else rotational(run)

    def swept(name: str, when: str) -> Arm:
        found = held_lrs if name == _RV and held_lrs else lrs
        way = arm(f"{name}, {when}", made(name, when, base.steps), seeds, optimizer__lr=found)
        return replace(way, more=more, by="accuracy" if more else "")

    long = (
        arm(f"{_WHOLE}{name}, {when}", made(name, when, whole or base.steps).but(optimizer__lr=lr), seeds)
        for (name, when), lr in zip(_WAYS, chosen, strict=True)
    )
    return (*(swept(name, when) for name, when in _WAYS), *long)


def _gap(name: str, at: tuple[tuple[str, float], ...] = ()) -> Difference:
    """What warm-up is worth, each side at its best lr, or at the given one."""
    return Difference(Of(f"{name}, {_WITH}", "accuracy", at=at), Of(f"{name}, {_WITHOUT}", "accuracy", at=at))


_LARGE = imagenet(batch=8192, epochs=10).but(optimizer=Optimizer("sgd", lr=0.1, weight_decay=1e-4), every=20)
_EPOCH = 1_281_167 // 8192


WARMUP = Figure(
    name="warm-up",
    section="5.2, figure 7",
    title="Warm-up at a large batch",
    sentence="Without warm-up the baseline turns far too fast at first, and needs a smaller lr at which it is worse; "
    "the rotational variant hardly needs it.",
    tiny=_warmed(
        tiny_net().but(optimizer=Optimizer("sgd", 0.1, 0.01), batch=32), (0.1, 3.2), 3, FEW, (3.2, 0.1, 3.2, 3.2)
    ),
    laptop=_warmed(
        small(300).but(batch=256, optimizer=Optimizer("sgd", lr=0.1, weight_decay=5e-4)),
        (0.2, 0.4, 0.8, 1.6, 3.2),
        90,
        MORE_SEEDS,
        (0.8, 0.8, 3.2, 3.2),
        held_lrs=(0.2, 0.8, 3.2, 12.8),
        # What warm-up is worth at a best point scatters between seeds by more than it is.
        more=tuple(range(5, 15)),
    ),
    # One seed in the paper, which decides nothing.
    paper=ends(
        _warmed(
            _LARGE,
            (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2),
            _EPOCH,
            SEEDS,
            (3.2, 0.2, 6.4, 6.4),
            90 * 1_281_167 // 8192,
        )
    ),
    panels=(
        Panel("Test accuracy", "sweep", "accuracy", x=_LR, arms=_SWEPT, log_x=True),
        Panel("Rotation at each one's best lr", "lines", "rotation", arms=_SWEPT, log_y=True, by="accuracy"),
        Panel("Test accuracy at each one's best lr", "bars", "accuracy", arms=_SWEPT),
        Panel(
            *("Test accuracy over the whole length", "bars", "accuracy"),
            arms=tuple(f"{_WHOLE}{x}" for x in _SWEPT),
            scales=("paper",),
        ),
    ),
    claims=(
        Claim("SGDM: warm-up helps, each at its best lr", _gap(_BASE), low=0, expected="several points"),
        Claim(
            "The rotational variant's gap is less than 0.3 of the baseline's",
            Share(_gap(_RV), _gap(_BASE)),
            high=0.3,
            expected="nearly 0",
        ),
        Claim("SGDM: at lr 3.2 warm-up is worth more than 5 points", _gap(_BASE, _HIGH), low=5),
        Claim(
            "At that lr, too, the rotational variant's gap is less than 0.3 of the baseline's",
            Share(_gap(_RV, _HIGH), _gap(_BASE, _HIGH)),
            high=0.3,
        ),
        Claim(
            "Over the whole length, each way at the lr that a sweep chose for it, warm-up helps SGDM",
            _gap(f"{_WHOLE}{_BASE}"),
            low=0,
            expected="several points",
            scales=("paper",),
        ),
        Claim(
            "There, too, the rotational variant's gap is less than 0.3 of the baseline's",
            Share(_gap(f"{_WHOLE}{_RV}"), _gap(f"{_WHOLE}{_BASE}")),
            high=0.3,
            expected="nearly 0",
            scales=("paper",),
        ),
    ),
    remarks=(
        "The paper sweeps lr over 10 epochs, one of them warm-up, and trains 90 at what it chose: 3.2 and 0.2 for "
        "SGDM, 6.4 for the rotational variant. At smaller scales runs of the sweep stand for the long ones, which "
        "have no claims of their own there.",
        "At laptop scale each way's best point has fifteen seeds, ten of them added when five had left the first claim "
        "undecided (1.3, -0.7 to 3.4): its interval is a little narrower than one that was fixed beforehand.",
        "The paper adds up 32 batches of 256, each with statistics of its own in batch norm; here these are of as many "
        "images of the 8,192 as a process has, so that 32 processes are as in the paper.",
    ),
)
