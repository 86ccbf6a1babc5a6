"""Every rung takes the step of the reference: rules x controls x layouts x precisions x threads."""

from __future__ import annotations

import pytest
import torch

from kernels import CONTROLS, RULES, SHAPES, expected, neurons, run, rungs
from rotational.kernels import choose, native

# Two hundred steps of all of it are slow: every rule and every control has forty, and the first has them all.
SOME = {("AdamW", c) for c in CONTROLS} | {(r, "as in the paper") for r in RULES} | {("SGD with momentum", "plain")}
FEW, STEPS = 40, 200
CROSS = [
    *(pytest.param(r, c, FEW) for r in RULES for c in CONTROLS if (r, c) in SOME),
    *(
        pytest.param(r, c, STEPS, marks=() if (r, c) == ("AdamW", "as in the paper") else pytest.mark.slow)
        for r in RULES
        for c in CONTROLS
    ),
]
RUNGS = [pytest.param(name, marks=pytest.mark.skipif(why is not None, reason=str(why))) for name, why in rungs()]
ROTATION = 4e-3
"""At least what Lion turns in a step here."""


@pytest.mark.parametrize("threads", [1, 2], indirect=True)
@pytest.mark.parametrize(("rule", "control", "steps"), CROSS)
@pytest.mark.parametrize("rung", RUNGS)
def test_steps_are_those_of_the_reference(rung, rule, control, steps, threads, monkeypatch):
    if rung == "torch" and threads == 2:
        pytest.skip("torch's own operations have torch's own threads")
    # The rung takes what it can, and torch's own operations the rest: a few weights lie with gaps between them.
    monkeypatch.setattr(choose, "BEST", {"cpu": (rung,) if rung != "torch" else ()})
    monkeypatch.setattr(native, "THREAD", 1)  # so that these small steps have more than one thread
    found = run(rule, control, torch.float32, steps)
    names = [*SHAPES, "channels last", "transposed", "padded rows", "off by one", "every second column"]
    wrong = {}
    for name, units, w, other in zip(names, neurons(), found, expected(rule, control, steps), strict=True):
        if w.numel():
            lengths = units.norm(other)
            # an entry that is a neuron, and passes by zero, has no length to compare with
            far = units.norm(w.double() - other) / lengths.maximum(lengths.mean())
            beyond = far > 1e-5
            if rule == "Lion":  # single precision may take the sign of what cancels for the other one: once, here
                once = 2.5 * ROTATION / units.size(w.shape) ** 0.5
                # of so many signs, each of which may be one of them
                share = 0.05 + 1e-7 * steps * units.size(w.shape) + 1 / beyond.numel()
                beyond = (far > 1e-5 + once) | (beyond & (beyond.double().mean() > share))
            if beyond.any() or far.isnan().any():
                wrong[name] = float(far.max())
    assert not wrong
