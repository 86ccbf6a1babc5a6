"""Low precision: one step of rules x controls x layouts x threads is that of the float64 reference, rounded once."""

from __future__ import annotations

import pytest
import torch

from kernels import SHAPES, neurons, parameters, rungs
from rotational import rules
from rotational.kernels import choose, native, reference
from rotational.kernels.choose import Kernels
from rotational.kernels.work import Part, Work
from rotational.neurons import WHOLE
from rotational.scale import Rms

RULES = {
    "AdamW": rules.adamw((0.9, 0.99), eps=1e-2),
    "AdamW without memory": rules.adamw((0.0, 0.99), eps=0.5),
    "Adam with L2": rules.adam_l2(eps=0.1),
    "SGD": rules.sgd(),
    "SGD with momentum": rules.sgd(0.9, dampening=0.2),
    "SGD with Nesterov": rules.sgd(0.9, nesterov=True),
    "Lion": rules.lion(),
}
DECAY = 0.1
STORED = {
    "all in bfloat16": (torch.bfloat16, torch.bfloat16),
    "weights in bfloat16": (torch.bfloat16, torch.float32),
    "moments in bfloat16": (torch.float32, torch.bfloat16),
}
CONTROLS = {
    "as in the paper": {"ema": 0.9, "center": True, "maximize": False},
    "every step, not centred": {"ema": 0.0, "center": False, "maximize": False},
    "tensors": {"ema": 0.9, "center": True, "maximize": True},
    "plain": {"ema": 0.9, "center": True, "maximize": False},
}
NAMES = [*SHAPES, "channels last", "transposed", "padded rows", "off by one", "every second column"]
RUNGS = [pytest.param(name, marks=pytest.mark.skipif(why is not None, reason=str(why))) for name, why in rungs()]


@pytest.mark.parametrize("threads", [1, 2], indirect=True)
@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize(("weights", "moments"), STORED.values(), ids=STORED)
@pytest.mark.parametrize("rung", RUNGS)
def test_a_step_is_the_reference_rounded_once(rung, weights, moments, rule, control, threads, monkeypatch):
    monkeypatch.setattr(native, "THREAD", 1)  # so that these small steps have more than one thread
    random, kernels = torch.Generator().manual_seed(3), Kernels()
    wrong, seen = {}, 0
    for name, units, p in zip(NAMES, neurons(), parameters(weights), strict=True):
        w = p.detach()
        if not w.numel():
            continue
        units = WHOLE if control == "tensors" else units
        turning = units if control != "plain" and w.dim() >= 2 and units.size(w.shape) >= 3 else None
        like = {"dtype": moments, "memory_format": torch.preserve_format}
        m = torch.zeros_like(w, **like).copy_(torch.randn(w.shape, generator=random)) if rule.memory.old else None
        divides = isinstance(rule.scale, Rms)
        v = torch.zeros_like(w, **like).copy_(torch.rand(w.shape, generator=random) + 0.5) if divides else None
        part = made(w, m, v, turning)
        if choose.refusal(rung, part) is None:
            seen += 1
            g = torch.empty_like(w).copy_(torch.randn(w.shape, generator=random))
            if m is not None:  # nobody knows the sign of what cancels
                sign = -1 if CONTROLS[control]["maximize"] else 1
                cancels = (rule.memory.old * m + sign * rule.memory.new * g).abs() < 1e-2
                g = torch.where(cancels, sign * m.to(g.dtype), g)
                g = torch.empty_like(w).copy_(g)
            before = [None if x is None else x.double() for x in (w, m, v)]
            exact = made(*(None if x is None else x.clone() for x in before), turning)
            # Of what does not turn torch's own operations round each term, as torch's own optimizers do.
            terms = rung == "torch" and turning is None and weights is torch.bfloat16
            reference.Reference().step([asked(rule, control, exact, g.double())])
            kernels.step([(rung, asked(rule, control, part, g))])
            for key, old in zip("wmv", before, strict=True):
                # Weight decay may go into gradients.
                sizes = [old.abs(), DECAY * before[0].abs()] if terms and old is not None else None
                far = beyond(getattr(part, key), getattr(exact, key), sizes)
                if far > 0:
                    wrong[name, key] = far
    assert seen > 25
    assert not wrong


def beyond(found, exact, sizes=None):
    """By how much the worst entry is off what rounding explains: half a step of its precision, and what cancels.

    Where each term was rounded, there were three roundings of no more than these sizes and the result together.
    """
    if found is None:
        return 0.0
    rounding = 1.01 * 2**-8 if found.dtype is torch.bfloat16 else 1e-5
    size = exact.abs() if sizes is None else 3 * sum(sizes, exact.abs())
    off = (found.double() - exact).abs() - rounding * size - 5e-7 * exact.abs().max()
    return float("inf") if off.isnan().any() else off.max().item()


def test_what_is_rounded_twice_is_seen():
    exact = torch.tensor([1.0, 1 + 2**-8 + 2**-9], dtype=torch.float64)
    assert beyond(exact.to(torch.bfloat16), exact) <= 0
    assert beyond(torch.tensor([1.0, 1.0], dtype=torch.bfloat16), exact) > 0
    assert beyond(torch.tensor([1.0, float("nan")], dtype=torch.bfloat16), exact) > 0


def made(w, m, v, units):
    norm = None if units is None else units.norm(w if w.dtype is torch.float64 else w.float())
    rms, turns = (None, None) if norm is None else (torch.zeros_like(norm), torch.tensor(0.0))
    return Part(w, m, v, torch.tensor(3.0), False, units, norm, rms, turns)


def asked(rule, control, part, g):
    numbers = {"lr": 1e-3, "weight_decay": DECAY, "rotation": 0.02, **CONTROLS[control]}
    return Work(rule, **numbers, dither=False, foreach=True, parts=[part], grads=[g])
