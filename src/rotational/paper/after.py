"""What came after the paper, as claims of their own: AdamC, replay, the lag of a schedule, warm-up in the overshoot."""

from __future__ import annotations

from rotational.lab.declare import Run, Schedule
from rotational.lab.figures import Arm, Claim, Figure, Panel, Then
from rotational.lab.quantities import Difference, Of, Ratio
from rotational.paper.base import FEW, MORE_SEEDS, SEEDS, arm, cifar, rotational, small, then, tiny_net

_COSINE = Schedule("cosine", warmup=0.05)
_ACC = "accuracy"


def _base(scale: str) -> Run:
    """AdamW along a cosine to 0 on images: the one run that all figures here vary."""
    runs = {"tiny": tiny_net(), "laptop": small(800), "paper": cifar()}
    return runs[scale].but(schedule=_COSINE)


# AdamC --------------------------------------------------------------------------------------------------------

_W, _C = "AdamW", "AdamC"


def _corrected(base: Run, seeds: tuple[int, ...]) -> tuple[Arm, ...]:
    return arm(_W, base, seeds), arm(_C, base.but(optimizer__decay="adamc"), seeds)


ADAMC = Figure(
    name="adamc",
    section="later: Defazio 2025, arXiv 2506.02285",
    title="AdamC keeps norms flat",
    sentence="With weight decay that falls with lr, norms stay where they are along a schedule, and rotation is at "
    "rest all the way; with a constant one, norms lag behind.",
    tiny=_corrected(_base("tiny"), FEW),
    laptop=_corrected(_base("laptop").but(steps=1600, optimizer__weight_decay=1.0), MORE_SEEDS),
    paper=_corrected(_base("paper"), SEEDS),
    panels=(
        Panel("Norm", "lines", "norm"),
        Panel("Rotation", "lines", "rotation", dashed="at rest", log_y=True),
        Panel("Largest over smallest norm in the second half", "bars", "norm drift"),
        Panel("Test accuracy", "bars", _ACC),
    ),
    claims=(
        Claim(
            "AdamC: the model's norm moves by less than 5% in the second half of the run",
            Of(_C, "norm drift"),
            high=1.05,
            expected="1",
        ),
        Claim("AdamW's moves at least 3 times as much", Ratio(Of(_W, "norm travel"), Of(_C, "norm travel")), low=3),
        Claim(
            "AdamC: at 90% of the run rotation is within 10% of the static formula",
            Of(_C, "lag at 90%"),
            low=0.9,
            high=1.1,
            expected="1",
        ),
        Claim("AdamC is no more than half a point behind AdamW", Difference(Of(_C, _ACC), Of(_W, _ACC)), low=-0.5),
    ),
)

# Replay -------------------------------------------------------------------------------------------------------

_HELD, _REPLAYED = "rotational", "rotational, replaying AdamW's angles"


def _replayed(base: Run, seeds: tuple[int, ...]) -> tuple[Arm | Then, ...]:
    held = rotational(base)
    return (
        arm(_W, base, seeds),
        arm(_HELD, held, seeds),
        then(_REPLAYED, held.but(optimizer__update_memory=0.0), "optimizer__angles", _W, "rotation", seeds),
    )


REPLAY = Figure(
    name="replay",
    section="later",
    title="Decayed and fixed norms coincide when their angles do",
    sentence="A network whose norms are held, turned by the angles that were measured in a run with weight decay, "
    "learns like that run: what decay does to a normalised network is the angle.",
    tiny=_replayed(_base("tiny"), FEW),
    laptop=_replayed(_base("laptop"), MORE_SEEDS),
    paper=_replayed(_base("paper"), SEEDS),
    panels=(
        Panel("Rotation", "lines", "rotation", log_y=True),
        Panel("Validation loss", "lines", "validation loss"),
        Panel("Training loss", "lines", "loss"),
        Panel("Test accuracy", "bars", _ACC),
    ),
    claims=(
        Claim(
            "The replaying run ends within 1 point of the run that it replays",
            Difference(Of(_REPLAYED, _ACC), Of(_W, _ACC)),
            low=-1,
            high=1,
            expected="0",
        ),
        Claim(
            "Their test losses are within 3%", Ratio(Of(_REPLAYED, "loss"), Of(_W, "loss")), 0.97, 1.03, expected="1"
        ),
    ),
    remarks=("One angle is held for all layers, their RMS: early on, layers of the replayed run differ.",),
)

# Lag ----------------------------------------------------------------------------------------------------------

_FORECAST = "rotational, following AdamW's forecast"


def _lagging(base: Run, seeds: tuple[int, ...]) -> tuple[Arm | Then, ...]:
    held = rotational(base)
    return (
        arm(_W, base, seeds),
        arm(_HELD, held, seeds),
        then(_FORECAST, held.but(optimizer__update_memory=0.0), "optimizer__angles", _W, "predicted", seeds),
    )


LAG = Figure(
    name="lag",
    section="later",
    title="Rotation lags behind a cosine, as forecast",
    sentence="Norms cannot follow lr as it falls to 0, so that rotation late in a run lies far below the static "
    "formula. The forecast knows; a rotational variant that follows it turns as its baseline does.",
    tiny=_lagging(_base("tiny"), FEW),
    laptop=_lagging(_base("laptop"), MORE_SEEDS),
    paper=_lagging(_base("paper"), SEEDS),
    panels=(
        Panel(
            "Rotation of AdamW; dashed: the static formula",
            "lines",
            "rotation",
            arms=(_W,),
            dashed="at rest",
            log_y=True,
        ),
        Panel("Rotation; dashed: forecast, or held", "lines", "rotation", dashed="predicted", log_y=True),
        Panel("Rotation over the static formula at 90% of the run", "bars", "lag at 90%"),
        Panel("Test accuracy", "bars", _ACC),
    ),
    claims=(
        Claim(
            "AdamW at 90% of a cosine turns less than 0.6 of what the static formula says",
            Of(_W, "lag at 90%"),
            high=0.6,
            expected="0.28 for long runs",
        ),
        Claim("It is within 15% of the forecast there", Of(_W, "forecast at 90%"), low=0.85, high=1.15, expected="1"),
        Claim(
            "The forecast-following variant is no more than half a point behind AdamW",
            Difference(Of(_FORECAST, _ACC), Of(_W, _ACC)),
            low=-0.5,
        ),
    ),
)

# Overshoot ----------------------------------------------------------------------------------------------------

_COLD, _WARM, _HELD_COLD, _SHOT = (
    "AdamW without warm-up",
    "AdamW with warm-up",
    "rotational without warm-up",
    "rotational, replaying the overshoot",
)


def _overshot(base: Run, warmup: float, seeds: tuple[int, ...]) -> tuple[Arm | Then, ...]:
    cold, warm = (base.but(schedule=Schedule("cosine", warmup=w)) for w in (0.0, warmup))
    held = rotational(cold)
    return (
        arm(_COLD, cold, seeds),
        arm(_WARM, warm, seeds),
        arm(_HELD_COLD, held, seeds),
        then(_SHOT, held.but(optimizer__update_memory=0.0), "optimizer__angles", _COLD, "rotation", seeds),
    )


OVERSHOOT = Figure(
    name="overshoot",
    section="later",
    title="Warm-up, hidden in the overshoot",
    sentence="Without warm-up, neurons whose initial length is below that at rest turn too fast at first; that "
    "overshoot is what warm-up takes away, and what a run with held norms needs no warm-up for.",
    tiny=_overshot(_base("tiny").but(optimizer__lr=0.1, optimizer__weight_decay=0.1), 0.25, FEW),
    # The overshoot is over in ten steps: every one is logged.
    laptop=_overshot(
        _base("laptop").but(steps=600, every=1, optimizer__lr=0.1, optimizer__weight_decay=0.1), 0.25, MORE_SEEDS
    ),
    paper=_overshot(_base("paper"), 0.025, SEEDS),
    panels=(
        Panel("Rotation", "lines", "rotation", log_y=True),
        Panel("Norm", "lines", "norm", log_y=True),
        Panel("Training loss", "lines", "loss"),
        Panel("Test accuracy", "bars", _ACC),
    ),
    claims=(
        Claim(
            "Without warm-up AdamW's rotation peaks at least 1.5 times above that at rest",
            Of(_COLD, "overshoot"),
            low=1.5,
        ),
        Claim(
            "Warm-up at least halves that peak",
            Ratio(Of(_COLD, "overshoot"), Of(_WARM, "overshoot")),
            low=2,
        ),
        Claim(
            "The rotational variant without warm-up is no more than half a point behind AdamW with it",
            Difference(Of(_HELD_COLD, _ACC), Of(_WARM, _ACC)),
            low=-0.5,
        ),
        Claim(
            "Replaying the overshoot makes the rotational variant no better",
            Difference(Of(_SHOT, _ACC), Of(_HELD_COLD, _ACC)),
            high=0.5,
        ),
    ),
)
