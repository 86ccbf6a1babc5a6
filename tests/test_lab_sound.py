"""Names in a declaration that do not exist are found where it is written, not after hours of training."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rotational.lab.declare import Data, Model, Optimizer, Run, grid
from rotational.lab.figures import Arm, Claim, Figure, Panel, Then
from rotational.lab.quantities import Difference, Of, Plateau

RUN = Run(Model("mlp"), Data("blobs"), Optimizer("adamw", 1e-2, 0.1), steps=4, batch=8)
SWEEP = Arm("sweep", grid(RUN, optimizer__lr=(1e-2, 1e-1)))
PANEL, OF = Panel("Accuracy", "bars", "accuracy"), Of("sweep", "accuracy")

THEN = Then("then", (RUN,), "optimizer__rotation", "sweep", "rotation", "accuracy")


def figure(*parts: Panel | Claim, then: Then | None = None) -> Figure:
    panels, claims = (tuple(p for p in parts if isinstance(p, kind)) for kind in (Panel, Claim))
    arms = (SWEEP,) if then is None else (SWEEP, then)
    return Figure("one", "1", "One", "One.", arms, arms, arms, panels, claims)  # pyright: ignore[reportArgumentType]


def claim(quantity, **rest) -> Claim:
    return Claim("It holds", quantity, low=0, **rest)


def test_what_exists_is_accepted():
    figure(PANEL, claim(OF), claim(Plateau("sweep", "optimizer__lr", "accuracy", 1.0)))
    figure(Panel("Loss", "lines", "validation loss"), claim(Of("sweep", "rotation", by="accuracy")))


WRONG = [
    (lambda: figure(claim(Of("sweep", "accurracy"))), r"'accurracy'\): no such measure. Did you mean 'accuracy'"),
    (lambda: figure(claim(Difference(OF, Of("sweep", "rotation", by="los")))), r"by='los'.*Did you mean 'loss'"),
    (lambda: figure(claim(Of("sweep", "accuracy", at=(("optimizer__lrs", 1e-2),)))), "at='optimizer__lrs'"),
    (lambda: figure(claim(Plateau("sweep", "optimizer__lear", "accuracy", 1.0))), "axis='optimizer__lear'"),
    (lambda: figure(replace(PANEL, measure="acuracy")), "measure='acuracy'.*'accuracy'"),
    (lambda: figure(Panel("Rotation", "lines", "rotatoin")), "measure='rotatoin'.*'rotation'"),
    (lambda: figure(Panel("A", "sweep", "accuracy", x="optimizer__lrr")), "x or y='optimizer__lrr'"),
    (lambda: figure(replace(PANEL, scales=("lptop",))), r"scales=\('lptop',\)"),
    (lambda: figure(claim(OF, scales=("lptop",))), r"scales=\('lptop',\)"),
    (lambda: figure(then=replace(THEN, field="optimizer__rotatoin")), "field='optimizer__rotatoin'"),
    (lambda: figure(then=replace(THEN, measure="rotatio")), "measure='rotatio'"),
    (lambda: Optimizer("adamw", 1e-2, 0.1, gains="freez"), r"gains='freez'\): expected one of 'train', 'freeze'"),
    (lambda: Optimizer("adamw", 1e-2, 0.1, units="neurons"), "units='neurons'"),
    (lambda: Optimizer("adamw", 1e-2, 0.1, rotation_of="adamm"), "rotation_of='adamm'.*'adamw'"),
    (lambda: Optimizer("sgd", 1e-2, 0.1, momentum=2.0), "momentum=2.0"),
    (lambda: Optimizer("adamw", 1e-2, 0.1, betas=(0.9, 1.0)), r"betas\[1\]=1.0"),
    (lambda: Optimizer("adamw", 1e-2, 0.1, update_memory=1.0), "update_memory=1.0"),
    (lambda: Optimizer("adamw", 1e-2, 0.1, rotation=-0.1), "rotation=-0.1"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "says"), WRONG)
def test_what_does_not_is_a_sentence(make, says):
    with pytest.raises(ValueError, match=says):
        make()
