"""What users call a schedule, as a number or an array: tests/test_schedule.py reads schedulers."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler as lrs

from compare import assert_same
from rotational.schedule import values


@pytest.mark.parametrize("number", [0.25, np.float32(0.25), np.array(0.25), torch.tensor(0.25)])
def test_a_number_stays_a_number(number: Any) -> None:
    found = values("f", "lr", number, 10)
    assert (type(found), found) == (float, 0.25)


ARRAYS: dict[str, Any] = {
    "list": [0, 0.25, 0.5, 9.0],
    "tuple": (0, 0.25, 0.5),
    "of numpy's": [np.float32(0), np.float64(0.25), 0.5],
    "of tensors": [torch.tensor(x) for x in (0.0, 0.25, 0.5)],
    "float64": np.array([0, 0.25, 0.5, math.nan]),
    "float32": np.array([0, 0.25, 0.5], dtype=np.float32),
    "tensor": torch.tensor([0, 0.25, 0.5, 1], requires_grad=True),
    "bfloat16": torch.tensor([0, 0.25, 0.5], dtype=torch.bfloat16),
    "function": lambda t: t / 4,
    "function of tensors": lambda t: torch.tensor(t / 4),
    "function of numpy's": lambda t: np.float64(t / 4),
}


@pytest.mark.parametrize("case", ARRAYS)
def test_one_number_for_each_step(case: str) -> None:
    assert_same(values("f", "lr", ARRAYS[case], 3), np.array([0, 0.25, 0.5]))


def test_integers_and_ranges() -> None:
    for x in (range(5), np.arange(5), torch.arange(5), [0, 1, 2]):
        assert_same(values("f", "lr", x, 3), np.array([0.0, 1.0, 2.0]))


def test_the_array_is_not_the_users() -> None:
    mine = np.ones(3)
    found = values("f", "lr", mine, 3)
    mine[:] = 2
    assert_same(found, np.ones(3))


def test_a_scheduler_of_one_way_is_a_schedule() -> None:
    opt = torch.optim.SGD([{"params": [torch.ones(1)], "weight_decay": w} for w in (0, 0.1)], lr=0.1)
    assert_same(values("f", "lr", lrs.ExponentialLR(opt, 0.5), 3), np.array([0.1, 0.05, 0.025]))
    opt.add_param_group({"params": [torch.ones(1)], "lr": 0.2})
    with pytest.raises(ValueError, match=r"^f\(lr=ExponentialLR\): its 3 param groups go different ways"):
        values("f", "lr", lrs.ExponentialLR(opt, 0.5), 3)
    with pytest.raises(TypeError, match=r"^f\(weight_decay=ExponentialLR\): a scheduler sets the learning rate"):
        values("f", "weight_decay", lrs.ExponentialLR(opt, 0.5), 3)
    with pytest.raises(ValueError, match=r"^f\(ReduceLROnPlateau\): its learning rate waits"):
        values("f", "lr", lrs.ReduceLROnPlateau(opt), 3)


REFUSED: dict[str, tuple[Any, type[Exception], str]] = {
    "negative": (-0.1, ValueError, r"f\(lr=-0.1\): expected a finite number with lr >= 0"),
    "nan": (math.nan, ValueError, r"f\(lr=nan\): expected a finite number"),
    "bool": (True, TypeError, r"f\(lr=True\): expected a number, got bool"),
    "tensor of bool": (torch.tensor(True), TypeError, "expected a number, got bool"),
    "string": ("cosine", TypeError, r"f\(lr='cosine'\): expected a number, got str"),
    "nothing": (None, TypeError, r"f\(lr=None\): expected a number, got NoneType.* function of the step"),
    "dict": ({0: 0.1}, TypeError, "expected a number, got dict"),
    "short": ([0.1, 0.2], ValueError, r"f\(lr=list of 2\): expected a number for each of 3 steps, got 2 numbers"),
    "short tensor": (torch.ones(1), ValueError, r"f\(lr=Tensor of 1\): expected a number for each of 3 steps"),
    "square": (np.ones((3, 3)), ValueError, r"f\(lr=ndarray of 2 axes\): expected one axis"),
    "nan in a list": ([0.1, math.nan, -1.0], ValueError, r"f\(lr\[1\]=nan\): expected a finite number with lr\[1\] >="),
    "infinite": (torch.tensor([1, 1, math.inf]), ValueError, r"f\(lr\[2\]=.*inf"),
    "negative in an array": (np.array([0, 1, -2]), ValueError, r"f\(lr\[2\]=.*-2"),
    "bool in a list": ([0.1, True, 0.1], TypeError, r"f\(lr\[1\]=True\): expected a number, got bool"),
    "bools": (np.array([False, True, True]), TypeError, r"f\(lr\[0\]=False\): expected a number, got bool"),
    "string in a list": ([0.1, 0.1, "0.1"], TypeError, r"f\(lr\[2\]='0.1'\): expected a number, got str"),
    "strings": (np.array(["0.1"] * 3), TypeError, r"f\(lr\[0\]='0.1'\): expected a number, got str"),
    "complex": (torch.ones(3, dtype=torch.complex64), TypeError, r"f\(lr\[0\]=.*expected a number, got complex"),
    "function": (lambda t: 1 - t, ValueError, r"f\(lr\(2\)=-1\): expected a finite number with lr\(2\) >= 0"),
    "function of nothing": (lambda t: None, TypeError, r"f\(lr\(0\)=None\): expected a number, got NoneType"),
    "function that raises": (lambda t: 1 / (1 - t), ValueError, r"f\(lr\): lr\(1\) raised ZeroDivisionError: "),
    "no steps": (lambda t: 1.0, ValueError, r"f\(steps=0\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_schedule_is_refused_with_its_step(case: str) -> None:
    schedule, kind, sentence = REFUSED[case]
    with pytest.raises(kind, match="^" + sentence if sentence[0] == "f" else sentence) as raised:
        values("f", "lr", schedule, 0 if case == "no steps" else 3)
    assert "\n" not in str(raised.value)
    assert (raised.value.__cause__ is not None) == (case == "function that raises")


def test_torch_is_not_loaded() -> None:
    used = "from rotational.schedule import values; values('f', 'lr', [1, 2], 2)"
    check = f"import sys; {used}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", check], check=True)
