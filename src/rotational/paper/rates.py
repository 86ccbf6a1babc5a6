"""Section 5.2: what the learning rate does beside rotation, and why warm-up is needed."""

from __future__ import annotations

from rotational.lab.declare import Optimizer, Run, Schedule, grid
from rotational.lab.figures import Arm, Claim, Figure, Panel
from rotational.lab.quantities import Difference, Of, Plateau, Ratio, Share
from rotational.paper.base import (
    FEW,
    MORE_SEEDS,
    SEEDS,
    arm,
    cifar,
    imagenet,
    rotational,
    small,
    tiny_images,
    tiny_net,
)

_LR = "optimizer__lr"

# 5.2a ---------------------------------------------------------------------------------------------------------

_FREE, _HELD, _FROZEN = "AdamW", "rotational", "rotational, gains and biases frozen"


def _product(base: Run, product: float, lrs: tuple[float, ...], seeds: tuple[int, ...]) -> tuple[Arm, ...]:
    """Every lr with the weight decay that keeps their product, and with it the rotation at equilibrium."""

    def sweep(run: Run) -> tuple[Run, ...]:
        points = [run.but(optimizer__lr=lr, optimizer__weight_decay=float(f"{product / lr:.6g}")) for lr in lrs]
        return tuple(r for point in points for r in grid(point, seed=seeds))

    held = rotational(base)
    return Arm(_FREE, sweep(base)), Arm(_HELD, sweep(held)), Arm(_FROZEN, sweep(held.but(optimizer__gains="freeze")))


_FOURTEEN = tuple(float(f"{1e-6 * (8.1e6) ** (i / 13):.3g}") for i in range(14))

RATES = Figure(
    name="lr-and-weight-decay",
    section="5.2, figure 6",
    title="Learning rate against weight decay at one product",
    sentence="lr and weight decay of one product give the same rotation; what differs is the transient, and the step "
    "of gains and biases. Without a transient the optimum is wide.",
    tiny=_product(tiny_images(16), 0.01, (1e-3, 3e-2, 1.0), FEW),
    laptop=_product(small(400), 0.01, (3e-5, 3e-4, 3e-3, 1e-2, 3e-2, 0.1, 0.4, 1.6), MORE_SEEDS),
    paper=_product(cifar(), 5e-4, _FOURTEEN, SEEDS),
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
            "With gains and biases frozen the optimum is at least 100 times wide: nothing but rotation is left",
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


def _warmed(base: Run, lrs: tuple[float, ...], warmup: float, seeds: tuple[int, ...]) -> tuple[Arm, ...]:
    cold, warm = (base.but(schedule=Schedule("cosine", warmup=w)) for w in (0.0, warmup))
    return tuple(
        arm(f"{name}, {when}", made(run), seeds, optimizer__lr=lrs)
        for name, made in (("SGDM", Run.but), ("rotational SGDM", rotational))
        for when, run in ((_WITH, warm), (_WITHOUT, cold))
    )


def _gap(name: str, at: tuple[tuple[str, float], ...] = ()) -> Difference:
    """What warm-up is worth, each side at its best lr, or at the given one."""
    return Difference(Of(f"{name}, {_WITH}", "accuracy", at=at), Of(f"{name}, {_WITHOUT}", "accuracy", at=at))


_sgd = Optimizer("sgd", lr=0.1, weight_decay=1e-4)

WARMUP = Figure(
    name="warm-up",
    section="5.2, figure 7",
    title="Warm-up at a large batch",
    sentence="Without warm-up the baseline turns far too fast at first, and needs a smaller lr at which it is worse; "
    "the rotational variant hardly needs it.",
    tiny=_warmed(tiny_net().but(optimizer=Optimizer("sgd", 0.1, 0.01), batch=32), (0.1, 3.2), 0.25, FEW),
    laptop=_warmed(
        small(300).but(batch=256, optimizer=Optimizer("sgd", lr=0.1, weight_decay=5e-4)),
        (0.2, 0.8, 3.2, 12.8),
        0.3,
        MORE_SEEDS,
    ),
    paper=_warmed(
        imagenet(batch=8192, epochs=90).but(optimizer=_sgd),
        (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2),
        5 / 90,
        (0,),
    ),
    panels=(
        Panel("Test accuracy", "sweep", "accuracy", x=_LR, log_x=True),
        Panel("Rotation at each one's best lr", "lines", "rotation", log_y=True, by="accuracy"),
        Panel("Test accuracy at each one's best lr", "bars", "accuracy"),
    ),
    claims=(
        Claim("SGDM: warm-up helps, each at its best lr", _gap("SGDM"), low=0, expected="several points"),
        Claim(
            "The rotational variant's gap is less than 0.3 of the baseline's",
            Share(_gap("rotational SGDM"), _gap("SGDM")),
            high=0.3,
            expected="nearly 0",
        ),
        Claim("SGDM: at lr 3.2 warm-up is worth more than 5 points", _gap("SGDM", _HIGH), low=5),
        Claim(
            "At that lr, too, the rotational variant's gap is less than 0.3 of the baseline's",
            Share(_gap("rotational SGDM", _HIGH), _gap("SGDM", _HIGH)),
            high=0.3,
        ),
    ),
    remarks=(
        "The paper sweeps lr over 10 epochs and trains 90 at two of them; here every point of the paper's scale has "
        "the whole length, with one seed, so that nothing is chosen on other runs than those reported.",
    ),
)
