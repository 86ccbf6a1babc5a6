"""The simulator: as torch's optimizers step, and as theory predicts; two witnesses that share no formula."""

import numpy as np
import pytest
import torch

from rotational import rules, walk
from rotational.theory import equilibrium

LAWS = {
    "sgd": rules.sgd(),
    "sgdm": rules.sgd(momentum=0.9),
    "sgdm dampened": rules.sgd(momentum=0.9, dampening=0.3),
    "nesterov": rules.sgd(momentum=0.9, nesterov=True),
    "sgdw": rules.sgd(momentum=0.9, decay="decoupled"),
    "adamw": rules.adamw(),
    "nadamw": rules.nadamw(),
    "lion": rules.lion(),
    "adam+l2": rules.adam_l2(),
    "adam+l2, b2 .95": rules.adam_l2((0.9, 0.95)),
    "adamw, b2 .95": rules.adamw((0.9, 0.95)),
    "adamw, b2 .95, kurtosis": rules.adamw((0.9, 0.95), kurtosis=3.0),
    "rmsprop": rules.rmsprop(momentum=0.9, centered=True),
}
LOOSE = {
    "lion": 0.015,
    "adam+l2": 0.015,
    "adam+l2, b2 .95": 0.015,
    "adamw, b2 .95": 0.02,
    "rmsprop": 0.015,
}  # 1% for the linear rules and AdamW


def compare(name, x, size, scale_invariant, neurons, steps, gradient_norm=1.0):
    """Simulate from the predicted norm on, and compare what is measured with what was predicted."""
    rule = LAWS[name]
    lr = 1e-3 if name.startswith(("lion", "adam+l2", "rmsprop")) else 1e-1
    weight_decay = x / lr
    given = {"size": size, "gradient_norm": gradient_norm, "scale_invariant": scale_invariant}
    state = equilibrium(rule, lr, weight_decay, **given)
    burn = 200 + int(4 * state.half_life)
    trace = walk(
        rule,
        lr=lr,
        weight_decay=weight_decay,
        norm=state.norm,
        neurons=neurons,
        steps=burn + steps,
        every=4,
        seed=1,
        **given,
    )
    tolerance = LOOSE.get(name, 0.01)
    assert trace.rms("rotation", after=burn) == pytest.approx(state.rotation, rel=tolerance)
    assert trace.rms("norm", after=burn) == pytest.approx(state.norm, rel=tolerance)
    assert trace.rms("update", after=burn) == pytest.approx(state.update, rel=tolerance)


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("size", [32, 128])
def test_theory_meets_the_walk(name, size):
    compare(name, x=1e-3, size=size, scale_invariant=True, neurons=4096 // size, steps=2000)


@pytest.mark.parametrize("name", ["sgdm", "adamw", "lion"])
def test_theory_meets_the_walk_on_isotropic_gradients(name):
    compare(name, x=1e-2, size=32, scale_invariant=False, neurons=256, steps=3000)


@pytest.mark.slow
@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("size", [32, 768])
@pytest.mark.parametrize("x", [1e-4, 1e-3])
@pytest.mark.parametrize("scale_invariant", [True, False])
def test_theory_meets_long_walks(name, size, x, scale_invariant):
    # Isotropic norms wander: their mean needs many half-lives times many neurons.
    neurons = max(8, 8192 // size)
    compare(name, x, size, scale_invariant, neurons, steps=int((2 if scale_invariant else 10) / x))


def test_adam_l2_rotation_spreads_with_the_gradients_and_adamw_does_not():
    scales = np.geomspace(0.03, 30, 64)  # 1000x, and the theory says 10x
    spreads = {}
    for name in ("adamw", "adam+l2"):
        trace = walk(
            LAWS[name],
            lr=1e-2,
            weight_decay=0.3 if name == "adamw" else 0.03,
            size=64,
            steps=3000,
            neurons=64,
            gradient_norm=scales,
            norm=[
                equilibrium(LAWS[name], 1e-2, 0.3 if name == "adamw" else 0.03, size=64, gradient_norm=float(s)).norm
                for s in scales
            ],
            every=4,
        )
        per_neuron = np.sqrt(np.mean(trace.rotation[300:] ** 2, axis=0))
        spreads[name] = per_neuron.max() / per_neuron.min()
    assert spreads["adamw"] < 1.1
    assert 8 < spreads["adam+l2"] < 12


# The walk takes torch's own steps ----------------------------------------------------------------------------

TORCH = {
    "sgd": (lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.01), rules.sgd()),
    "dampened": (
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.3, weight_decay=0.01),
        rules.sgd(momentum=0.9, dampening=0.3),
    ),
    "nesterov": (
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
        rules.sgd(momentum=0.9, nesterov=True),
    ),
    "adamw": (lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.01), rules.adamw()),
    "adam": (lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.01), rules.adam_l2()),
    "rmsprop": (
        lambda p: torch.optim.RMSprop(p, lr=0.1, momentum=0.5, centered=True, weight_decay=0.01),
        rules.rmsprop(momentum=0.5, centered=True),
    ),
}


@pytest.mark.parametrize("name", TORCH)
def test_the_walk_steps_as_torch_does(name):
    make, rule = TORCH[name]
    steps, shape, seed = 50, (3, 8), 5
    trace = walk(rule, lr=0.1, weight_decay=0.01, size=8, neurons=3, steps=steps, seed=seed, scale_invariant=False)
    rng = np.random.default_rng(seed)  # the same noise, given to torch's optimizer
    start = rng.standard_normal(shape)
    p = torch.nn.Parameter(torch.from_numpy(start / np.linalg.norm(start, axis=1, keepdims=True)))
    optimizer = make([p])
    norms = []
    for _ in range(steps):
        p.grad = torch.from_numpy(rng.standard_normal(shape) / np.sqrt(8))
        optimizer.step()
        norms.append(p.detach().norm(dim=1).numpy().copy())
    np.testing.assert_allclose(trace.norm, np.stack(norms), rtol=1e-9)


def test_schedules_and_every():
    lrs = np.linspace(0.1, 0.0, 40)
    trace = walk(rules.sgd(), lr=lrs, weight_decay=0.1, size=16, steps=40, neurons=4, every=10)
    assert trace.step.tolist() == [10, 20, 30, 40]
    assert trace.rotation.shape == (4, 4)
    assert trace.rotation[-1].max() == 0.0  # lr is 0 in the last step
    assert walk(rules.sgd(), lr=0.1, weight_decay=0.1, size=4, steps=3, every=5).rotation.shape == (0, 64)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"steps": 0}, "steps"),
        ({"size": 1}, "size"),
        ({"neurons": 0}, "neurons"),
        ({"lr": [0.1, 0.1]}, "one value for each of 5 steps"),
        ({"weight_decay": float("nan")}, "finite"),
        ({"lr": -0.1}, "0 or above"),
    ],
)
def test_wrong_arguments_are_a_sentence(change, says):
    arguments = {"lr": 0.1, "weight_decay": 0.1, "size": 8, "steps": 5, **change}
    with pytest.raises(ValueError, match=says):
        walk(rules.sgd(), **arguments)
