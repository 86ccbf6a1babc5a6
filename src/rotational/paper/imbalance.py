"""J.6: what imbalance costs."""

from __future__ import annotations

from collections.abc import Iterable

from rotational.lab.declare import Imbalance, Model, Run, grid
from rotational.lab.figures import Arm, Claim, Figure, Panel
from rotational.lab.quantities import Difference, Of, Rank
from rotational.paper.base import (
    FEW,
    MORE_SEEDS,
    SEEDS,
    TUNED,
    cifar,
    ends,
    rotational,
    small,
    tiny_images,
)

_ACC, _WD, _W = "accuracy", "optimizer__weight_decay", "model__width"
_F, _S = "optimizer__imbalance__factor", "optimizer__imbalance__slow"
_MOST = 10.0

# Each point of the paper is the best of 13 weight decays, for imbalance may ask for another average rotation; a
# narrower network's is the best of 7.
_DECAYS = tuple(0.01 * 2.0**k for k in range(-5, 8))
_FEWER_DECAYS = _DECAYS[2:9]


def _sweep(label: str, runs: Iterable[Run], seeds: tuple[int, ...], decays: tuple[float, ...]) -> Arm:
    """Each run at all weight decays, or at its own where none are given."""
    points = (p for run in runs for p in grid(run, **{_WD: decays or (run.optimizer.weight_decay,)}))
    return Arm(label, tuple(r for point in points for r in grid(point, seed=seeds)))


def _uneven(held: Run, imbalances: Iterable[Imbalance]) -> list[Run]:
    return [held.but(optimizer__imbalance=imbalance) for imbalance in imbalances]


def _narrowed(run: Run, widths: Iterable[float]) -> list[Run]:
    options = dict(run.model.options)
    return [run.but(model=Model(run.model.name, **{**options, "width": width})) for width in widths]


_paper = rotational(cifar(Model("resnet18"), 256, TUNED).but(optimizer__lr=0.1))
_small = rotational(small(1000, width=1.0).but(optimizer__weight_decay=0.1))

# Over the factor ----------------------------------------------------------------------------------------------

_EVEN, _HALF, _BOTH, _TENTH, _NARROW = (
    "balanced",
    "half slowed",
    "some slowed, as many sped up",
    "a tenth slowed 10-fold",
    "half the width",
)


def _imbalanced(
    held: Run,
    factors: tuple[float, ...],
    both: float,
    narrow: float,
    seeds: tuple[int, ...],
    decays: tuple[float, ...] = (),
    fewer: tuple[float, ...] = (),
) -> tuple[Arm, ...]:
    """`both` is the share that is slowed, and that which is sped up, in the arm that has both."""
    return (
        _sweep(_EVEN, [held], seeds, decays),
        _sweep(_HALF, _uneven(held, (Imbalance(0.5, f) for f in factors)), seeds, decays),
        _sweep(_BOTH, _uneven(held, (Imbalance(both, f, both) for f in factors)), seeds, decays),
        _sweep(_TENTH, _uneven(held, [Imbalance(0.1, _MOST)]), seeds, decays),
        _sweep(_NARROW, _narrowed(held, [narrow]), seeds, fewer),
    )


_AT_MOST = ((_F, _MOST),)

IMBALANCE = Figure(
    name="imbalance",
    section="J.6",
    title="Imbalanced rotation hurts",
    sentence="Slowing a share of the neurons, with all else as it was, costs accuracy: as much as leaving those "
    "neurons out.",
    tiny=_imbalanced(rotational(tiny_images(16)), (2.0, _MOST), 0.5, 4, FEW),
    laptop=_imbalanced(_small, (2.0, 4.0, _MOST), 0.5, 0.5, MORE_SEEDS),
    paper=ends(
        _imbalanced(_paper, (2.0, 3.0, 5.0, 8.0, _MOST), 0.25, 0.5, SEEDS, _DECAYS, _FEWER_DECAYS),
    ),
    panels=(
        Panel("Test accuracy over the factor", "sweep", _ACC, x=_F, arms=(_HALF, _BOTH), log_x=True),
        Panel("Test accuracy", "bars", _ACC, arms=(_EVEN, _TENTH, _NARROW)),
        Panel("Training loss at the end", "sweep", "training loss", x=_F, arms=(_HALF, _BOTH), log_x=True, by=_ACC),
    ),
    claims=(
        Claim(
            "With half of the neurons slowed, accuracy falls as the factor grows from 1, balanced (rank correlation)",
            Rank(_HALF, _F, _ACC, also=(_EVEN, 1.0)),
            high=-0.5,
            expected="-1",
        ),
        Claim(
            "With half of the neurons slowed 10-fold, accuracy is lower than balanced",
            Difference(Of(_EVEN, _ACC), Of(_HALF, _ACC, at=_AT_MOST)),
            low=0,
        ),
        Claim(
            "It is no higher than that of a network of half the width",
            Difference(Of(_HALF, _ACC, at=_AT_MOST), Of(_NARROW, _ACC)),
            high=0,
        ),
        Claim(
            "Even a tenth of the neurons, slowed 10-fold, costs accuracy",
            Difference(Of(_EVEN, _ACC), Of(_TENTH, _ACC)),
            low=0,
        ),
    ),
    remarks=(
        "Where some are slowed and as many sped up, that is a quarter each in the paper, and half and half at laptop "
        "scale. The paper takes the best of 13 weight decays at each point, and draws the first neurons "
        "of each layer; here they are drawn at random.",
    ),
)

# Over the share -----------------------------------------------------------------------------------------------

_SLOWED, _MIXED, _NARROWER = (
    "a share slowed 10-fold",
    "a share, half of it slowed and half sped up 10-fold",
    "narrower networks",
)


def _shared(
    held: Run,
    shares: tuple[float, ...],
    seeds: tuple[int, ...],
    decays: tuple[float, ...] = (),
    fewer: tuple[float, ...] = (),
) -> tuple[Arm, ...]:
    """Every share at the largest factor, and networks without as many neurons."""
    widths = [round(1 - share, 6) for share in shares]
    return (
        _sweep(_EVEN, [held], seeds, decays),
        _sweep(_SLOWED, _uneven(held, (Imbalance(p, _MOST) for p in shares)), seeds, decays),
        _sweep(_MIXED, _uneven(held, (Imbalance(p / 2, _MOST, p / 2) for p in shares)), seeds, decays),
        _sweep(_NARROWER, _narrowed(held, widths), seeds, fewer),
    )


def _beside(share: float, width: float) -> Difference:
    return Difference(Of(_SLOWED, _ACC, at=((_S, share),)), Of(_NARROWER, _ACC, at=((_W, width),)))


SHARES = Figure(
    name="imbalance-shares",
    section="J.6",
    title="The more neurons are out of balance, the worse",
    sentence="Slowing more of the neurons costs more accuracy, and so does turning them both too slowly and too fast.",
    tiny=_shared(
        rotational(tiny_images(16).but(model=Model("resnet20", width=1.0, blocks=1), steps=8)), (0.1, 0.3, 0.5), FEW
    ),
    laptop=_shared(_small, (0.1, 0.3, 0.5), MORE_SEEDS),
    # The narrowest network is half the width, one more than the paper has, so that each share has its own.
    paper=ends(_shared(_paper, (0.1, 0.2, 0.3, 0.4, 0.5), SEEDS, _DECAYS, _FEWER_DECAYS)),
    panels=(
        Panel("Test accuracy over the share that is slowed", "sweep", _ACC, x=_S, arms=(_SLOWED,)),
        Panel("Test accuracy over the share that is slowed, as many sped up", "sweep", _ACC, x=_S, arms=(_MIXED,)),
        Panel("Test accuracy over the width", "sweep", _ACC, x=_W, arms=(_NARROWER,)),
    ),
    claims=(
        *(
            Claim(
                f"{how}, accuracy falls as their share grows from none (rank correlation)",
                Rank(label, _S, _ACC, also=(_EVEN, 0.0)),
                high=-0.5,
                expected="-1",
            )
            for label, how in ((_SLOWED, "With neurons slowed 10-fold"), (_MIXED, "With neurons slowed and sped up"))
        ),
        *(
            Claim(
                f"With {share:.0%} of the neurons slowed 10-fold, accuracy is no higher than that of a network of "
                f"{width:g} of the width",
                _beside(share, width),
                high=0,
            )
            for share, width in ((0.1, 0.9), (0.3, 0.7))
        ),
    ),
    remarks=("Half of the neurons beside half the width is a claim of the figure before, whose runs these are.",),
)
