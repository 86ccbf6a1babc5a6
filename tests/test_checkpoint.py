"""Resume is exact: through files of plain data, in a new process, from torch's own optimizers too.

Run as a script, this file is the new process: it goes on from what the test has saved.
"""

from __future__ import annotations

import copy
import io
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import rotational
from compare import assert_same
from rotational import rules
from rotational.neurons import ROWS, WHOLE, Neurons


def half(step):
    return 0.01 / (1 + step)


CASES = {
    "AdamW": lambda g: rotational.AdamW(g, lr=0.01),
    "AdamW one by one": lambda g: rotational.AdamW(g, lr=0.01, foreach=False, units="tensor"),
    "SGD": lambda g: rotational.SGD(g, lr=0.1, momentum=0.9, dampening=0.1, update_memory=0.99),
    "SGD without memory": lambda g: rotational.SGD(g, lr=torch.tensor(0.1), center=False),
    "Adam": lambda g: rotational.Adam(g, rotation=half),
    "Adam as a rule": lambda g: rotational.Adam(g, rotation=rules.lion((0.9, 0.95))),
    "Lion": lambda g: rotational.Lion(g, lr=0.01, maximize=True),
    "not rotational": lambda g: rotational.AdamW(g, lr=0.01, rotational=False),
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


def build(case, dtype):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ConvTranspose2d(6, 4, 3, groups=2), nn.Flatten(), nn.Linear(100, 5))
    model.to(dtype)
    opt = CASES[case](rotational.groups(model, weight_decay=0.1))
    return model, opt, torch.optim.lr_scheduler.CosineAnnealingLR(opt, 20)


def train(model, opt, scheduler, start, stop):
    generator = torch.Generator()
    for t in range(start, stop):
        x = torch.randn(3, 2, 5, 5, generator=generator.manual_seed(t)).to(next(model.parameters()).dtype)
        opt.zero_grad()
        model(x).square().mean().backward()
        opt.step()
        scheduler.step()


def go_on(folder):
    """Resume every case from its file, and save where it gets to."""
    for file in sorted(folder.glob("*.half")):
        case, dtype = file.stem.split(", ")
        model, opt, scheduler = build(case, DTYPES[dtype])
        saved = torch.load(file, weights_only=True)
        for each, state in zip((model, opt, scheduler), saved, strict=True):
            each.load_state_dict(state)
        train(model, opt, scheduler, 10, 20)
        torch.save([model.state_dict(), opt.state_dict()], file.with_suffix(".end"))


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    """All cases, trained half the way here, saved, and to the end in another process."""
    folder = tmp_path_factory.mktemp("resume")
    for case in CASES:
        for dtype in DTYPES:
            model, opt, scheduler = build(case, DTYPES[dtype])
            train(model, opt, scheduler, 0, 10)
            torch.save([x.state_dict() for x in (model, opt, scheduler)], folder / f"{case}, {dtype}.half")
    subprocess.run([sys.executable, "-W", "error", __file__, str(folder)], check=True, timeout=120)
    return folder


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_a_resumed_run_is_the_run_bit_for_bit(case, dtype, resumed):
    model, opt, scheduler = build(case, DTYPES[dtype])
    train(model, opt, scheduler, 0, 20)
    there = torch.load(resumed / f"{case}, {dtype}.end", weights_only=True)
    here = [dict(model.state_dict()), opt.state_dict()]
    assert_same([dict(there[0]), there[1]], here)


@pytest.mark.parametrize("case", CASES)
def test_lengths_and_their_ema_stay_in_single_precision(case):
    model, opt, scheduler = build(case, torch.bfloat16)
    train(model, opt, scheduler, 0, 3)
    other = build(case, torch.bfloat16)[1]
    other.load_state_dict(opt.state_dict())
    for each in (opt, other):
        held = [s for p, s in each.state.items() if "norm" in s]
        assert len(held) == (0 if case == "not rotational" else 3)
        assert all(s[key].dtype == torch.float32 for s in held for key in ("norm", "update_rms"))


def test_state_dicts_share_nothing_with_what_loads_them():
    model, opt, scheduler = build("AdamW", torch.float32)
    train(model, opt, scheduler, 0, 3)
    saved = opt.state_dict()
    kept = copy.deepcopy(saved)
    model2, opt2, scheduler2 = build("AdamW", torch.float32)
    opt2.load_state_dict(saved)
    train(model2, opt2, scheduler2, 3, 6)
    assert_same(saved, kept)


@pytest.mark.parametrize("saved", DTYPES)
@pytest.mark.parametrize("live", DTYPES)
def test_a_checkpoint_goes_on_in_another_precision(saved, live):
    model, opt, scheduler = build("AdamW", DTYPES[saved])
    train(model, opt, scheduler, 0, 3)
    other, opt2, scheduler2 = build("AdamW", DTYPES[live])
    other.load_state_dict(model.state_dict())
    opt2.load_state_dict(opt.state_dict())
    train(other, opt2, scheduler2, 3, 6)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        state, state2 = opt.state[p], opt2.state[q]
        assert state2["step"] == 6
        assert state2["exp_avg"].dtype == DTYPES[live]
        if "norm" in state:
            assert_same(state2["norm"], state["norm"], 1e-6)
            assert state2["norm"].dtype == (torch.float64 if live == "float64" else torch.float32)


def test_steps_that_old_checkpoints_count_in_numbers():
    p = nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    opt = rotational.AdamW([p])
    opt.step()
    saved = opt.state_dict()
    saved["state"][0]["step"] = 7
    opt.load_state_dict(saved)
    opt.step()
    assert opt.state[p]["step"] == 8


# torch's own checkpoints ------------------------------------------------------------------------------------

TORCHS = {
    "AdamW": (torch.optim.AdamW, rotational.AdamW, {"lr": 0.01, "weight_decay": 0.1}),
    "Adam": (torch.optim.Adam, rotational.Adam, {"lr": 0.01, "weight_decay": 0.1}),
    "SGD": (torch.optim.SGD, rotational.SGD, {"lr": 0.01, "weight_decay": 0.1, "momentum": 0.9}),
    "SGD without momentum": (torch.optim.SGD, rotational.SGD, {"lr": 0.01, "weight_decay": 0.1}),
}


@pytest.mark.parametrize(("theirs", "ours", "options"), TORCHS.values(), ids=TORCHS)
@pytest.mark.parametrize("rotates", [False, True])
def test_torchs_own_checkpoint_goes_on(theirs, ours, options, rotates):
    model, _, _ = build("AdamW", torch.float64)
    other = theirs(model.parameters(), **options)
    train(model, other, torch.optim.lr_scheduler.ConstantLR(other), 0, 5)
    copied = copy.deepcopy(model)
    opt = ours(copied.parameters(), rotational=rotates, center=False, rotation=0.02, **options)
    opt.load_state_dict(other.state_dict())
    assert opt.param_groups[0]["rotational"] is rotates
    norms = [ROWS.norm(p.detach()) for p in copied.parameters()]
    for each, m in ((other, model), (opt, copied)):
        train(m, each, torch.optim.lr_scheduler.ConstantLR(each), 5, 8)
    if rotates:
        for p, norm in zip(copied.parameters(), norms, strict=True):
            assert torch.allclose(ROWS.norm(p.detach()), norm, rtol=1e-12) == (p.dim() > 1)
    else:
        assert_same(dict(copied.state_dict()), dict(model.state_dict()), 1e-12)


def test_amsgrad_in_a_checkpoint_is_refused():
    p = nn.Parameter(torch.ones(3, 4))
    saved = torch.optim.AdamW([p], amsgrad=True).state_dict()
    with pytest.raises(ValueError, match=r"AdamW.load_state_dict: group 0 was saved with amsgrad=True"):
        rotational.AdamW([p]).load_state_dict(saved)


# What a checkpoint holds, and what it must fit --------------------------------------------------------------


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def make(units="neuron", neurons=None, rotation=None):
    p = nn.Parameter(torch.randn(4, 4, generator=torch.Generator().manual_seed(0)))
    group = {"params": [p]} | ({} if neurons is None else {"neurons": [neurons]})
    opt = rotational.AdamW([group], units=units, rotation=rotation)
    p.grad = torch.randn(4, 4, generator=torch.Generator().manual_seed(1))
    opt.step()
    return opt


COLUMNS = Neurons((1,))


@pytest.mark.parametrize(
    ("saved", "live"),
    [
        ({"neurons": ROWS}, {"neurons": COLUMNS}),
        ({"neurons": COLUMNS}, {}),
        ({}, {"neurons": COLUMNS}),
        ({"neurons": ROWS}, {"neurons": Neurons((0,), split=2)}),
        ({"units": "tensor"}, {}),
        ({}, {"units": "tensor"}),
        ({"units": COLUMNS}, {"units": ROWS}),
        ({"units": WHOLE}, {"units": COLUMNS}),
    ],
    ids=str,
)
def test_other_neurons_are_refused_and_nothing_changes(saved, live):
    state, opt = through_a_file(make(**saved).state_dict()), make(**live)
    p = opt.param_groups[0]["params"][0]
    group, kept = dict(opt.param_groups[0]), copy.deepcopy(opt.state[p])
    with pytest.raises(
        ValueError, match=r"AdamW.load_state_dict: group 0 .* other neurons or units.*rotational.groups"
    ):
        opt.load_state_dict(state)
    assert opt.param_groups[0] == group
    assert_same(opt.state[p], kept)


@pytest.mark.parametrize(
    ("saved", "live"),
    [
        ({"neurons": ROWS}, {}),
        ({}, {"neurons": ROWS}),
        ({"neurons": Neurons(parts=(("q", 2), ("k", 2)))}, {"neurons": ROWS}),
        ({"units": "tensor", "neurons": ROWS}, {"units": "tensor", "neurons": COLUMNS}),
        ({"units": COLUMNS}, {"units": COLUMNS}),
    ],
    ids=str,
)
def test_the_same_neurons_in_other_words_are_welcome(saved, live):
    first, opt = make(**saved), make(**live)
    opt.load_state_dict(through_a_file(first.state_dict()))
    assert opt.param_groups[0]["units"] == first.param_groups[0]["units"]
    assert opt.param_groups[0].get("neurons") == ([live["neurons"]] if "neurons" in live else None)
    assert_same([*opt.state.values()], [*first.state.values()])


@pytest.mark.parametrize("rotation", [0.02, rules.lion(), rules.sgd(momentum=0.9), None])
def test_a_rotation_that_is_data_comes_back(rotation):
    opt = make(rotation=0.5)
    opt.load_state_dict(through_a_file(make(rotation=rotation).state_dict()))
    assert opt.param_groups[0]["rotation"] == rotation


def test_a_rotation_that_is_a_function_must_be_given_again():
    state = through_a_file(make(rotation=half).state_dict())
    with pytest.raises(ValueError, match=r"rotation= a function, which no file holds\. Pass it"):
        make().load_state_dict(state)
    opt = make(rotation=half)
    opt.load_state_dict(state)
    assert opt.param_groups[0]["rotation"] is half


def test_other_groups_are_refused_as_torch_refuses_them():
    p, q = nn.Parameter(torch.ones(3, 4)), nn.Parameter(torch.ones(3, 4))
    opt = rotational.AdamW([p], rotation=0.1)
    with pytest.raises(ValueError, match="different number of parameter groups"):
        opt.load_state_dict(rotational.AdamW([{"params": [p]}, {"params": [q]}], rotation=0.1).state_dict())
    with pytest.raises(ValueError, match="size of optimizer's group"):
        opt.load_state_dict(rotational.AdamW([p, q], rotation=0.1).state_dict())


if __name__ == "__main__":
    go_on(Path(sys.argv[1]))


def test_the_state_of_another_optimizer_is_refused():
    p, q = (torch.nn.Parameter(torch.randn(3, 4)) for _ in "pq")
    saved = rotational.SGD([p], weight_decay=0.1).state_dict()
    opt = rotational.AdamW([q])
    with pytest.raises(ValueError, match="no betas: it is of another optimizer"):
        opt.load_state_dict(saved)
    assert "momentum" not in opt.param_groups[0]
