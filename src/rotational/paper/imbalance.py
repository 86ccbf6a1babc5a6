"""J.6 and J.7: what imbalance costs, and what the rotational variant is sensitive to."""

from __future__ import annotations

from rotational.lab.declare import Imbalance, Model, Run, grid
from rotational.lab.figures import Arm, Claim, Figure, Panel
from rotational.lab.quantities import Difference, Largest, Of, Rank
from rotational.paper.base import FEW, MORE_SEEDS, SEEDS, arm, cifar, rotational, small, tiny_images

_ACC, _F = "accuracy", "optimizer__imbalance__factor"
_EVEN, _HALF, _BOTH, _TENTH, _NARROW = (
    "balanced",
    "half slowed",
    "half slowed, half sped up",
    "a tenth slowed 10-fold",
    "half the width",
)


def _imbalanced(base: Run, factors: tuple[float, ...], narrow: float, seeds: tuple[int, ...]) -> tuple[Arm, ...]:
    held = rotational(base)
    name, options = base.model.name, dict(base.model.options)

    def uneven(slow: float, fast: float) -> tuple[Run, ...]:
        runs = (held.but(optimizer__imbalance=Imbalance(slow, factor, fast)) for factor in factors)
        return tuple(r for run in runs for r in grid(run, seed=seeds))

    return (
        arm(_EVEN, held, seeds),
        Arm(_HALF, uneven(0.5, 0.0)),
        Arm(_BOTH, uneven(0.5, 0.5)),
        arm(_TENTH, held.but(optimizer__imbalance=Imbalance(0.1, 10.0)), seeds),
        arm(_NARROW, held.but(model=Model(name, **{**options, "width": narrow})), seeds),
    )


_MOST = (("optimizer__imbalance__factor", 10.0),)

IMBALANCE = Figure(
    name="imbalance",
    section="J.6",
    title="Imbalanced rotation hurts",
    sentence="Slowing a share of the neurons, with all else as it was, costs accuracy: as much as leaving those "
    "neurons out.",
    tiny=_imbalanced(tiny_images(16), (2.0, 10.0), 4, FEW),
    laptop=_imbalanced(small(1000, width=1.0).but(optimizer__weight_decay=0.1), (2.0, 4.0, 10.0), 0.5, MORE_SEEDS),
    paper=_imbalanced(cifar(Model("resnet18"), 256).but(optimizer__lr=0.1), (2.0, 3.0, 5.0, 10.0), 0.5, SEEDS),
    panels=(
        Panel("Test accuracy over the factor", "sweep", _ACC, x=_F, arms=(_HALF, _BOTH), log_x=True),
        Panel("Test accuracy", "bars", _ACC, arms=(_EVEN, _TENTH, _NARROW)),
        Panel("Training loss at the end", "sweep", "training loss", x=_F, arms=(_HALF, _BOTH), log_x=True),
    ),
    claims=(
        Claim(
            "With half of the neurons slowed, accuracy falls as the factor grows (rank correlation)",
            Rank(_HALF, _F, _ACC),
            high=-0.5,
            expected="-1",
        ),
        Claim(
            "With half of the neurons slowed 10-fold, accuracy is lower than balanced",
            Difference(Of(_EVEN, _ACC), Of(_HALF, _ACC, at=_MOST)),
            low=0,
        ),
        Claim(
            "It is no higher than that of a network of half the width",
            Difference(Of(_HALF, _ACC, at=_MOST), Of(_NARROW, _ACC)),
            high=0,
        ),
        Claim(
            "Even a tenth of the neurons, slowed 10-fold, costs accuracy",
            Difference(Of(_EVEN, _ACC), Of(_TENTH, _ACC)),
            low=0,
        ),
    ),
)

# J.7 ----------------------------------------------------------------------------------------------------------

_DEFAULT = "default: EMA 0.9, neurons, centred"
_WD = "optimizer__weight_decay"


def _sensitive(base: Run, decays: tuple[float, ...], seeds: tuple[int, ...]) -> tuple[Arm, ...]:
    held = rotational(base)
    ways = {
        _DEFAULT: held,
        "EMA 0: exactly every step": held.but(optimizer__update_memory=0.0),
        "EMA 0.99": held.but(optimizer__update_memory=0.99),
        "EMA 0.999": held.but(optimizer__update_memory=0.999),
        "whole tensors": held.but(optimizer__units="tensor"),
        "not centred": held.but(optimizer__center=False),
    }
    return tuple(arm(name, run, seeds, optimizer__weight_decay=decays) for name, run in ways.items())


_tiny = _sensitive(tiny_images(12), (0.2, 0.8), FEW)
_WAYS = tuple(a.label for a in _tiny)

SENSITIVITY = Figure(
    name="sensitivity",
    section="J.7",
    title="What the rotational variant is sensitive to",
    sentence="The EMA of the update's size, the unit that turns, and centring hardly matter in a well-normalised "
    "network.",
    tiny=_tiny,
    laptop=_sensitive(small(450), (0.25, 1.0), MORE_SEEDS),
    paper=_sensitive(cifar(), (2.5e-3, 5e-3, 1e-2, 2e-2, 4e-2), SEEDS),
    panels=(
        Panel("Test accuracy at each one's best weight decay", "bars", _ACC),
        Panel("Test accuracy", "sweep", _ACC, x=_WD, log_x=True),
    ),
    claims=(
        Claim(
            "No other choice is more than 1 point better than the default, each at its best weight decay",
            Largest(tuple(Difference(Of(name, _ACC), Of(_DEFAULT, _ACC)) for name in _WAYS[1:])),
            high=1,
        ),
        Claim(
            "None is more than 1 point worse",
            Largest(tuple(Difference(Of(_DEFAULT, _ACC), Of(name, _ACC)) for name in _WAYS[1:])),
            high=1,
            expected="within 1",
        ),
    ),
)
