"""From a run's declaration to its optimizer: groups, angles, schedules, Muon, and neurons that turn unevenly."""

from __future__ import annotations

import math
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from torch import nn

import rotational
from laboratory import RULES, RUN, Points, assert_equal, weights
from rotational import rules
from rotational.lab import named, optimizers, train
from rotational.lab.declare import Imbalance, Optimizer, Schedule
from rotational.lab.uneven import draw, turn
from rotational.neurons import ROWS, Neurons
from rotational.records import Records

# From a run to its optimizer ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RULES)
def test_decay_is_on_neurons_only_and_every_rule_trains(name, tmp_path):
    run = RUN.but(optimizer=RULES[name], steps=60, batch=64)
    task = Points(run)
    outcome = train.train(run, task, tmp_path)
    assert outcome.done
    assert not outcome.diverged
    losses = outcome.result.curves["loss"].value
    assert losses[-1] < 0.85 * losses[0]
    for group in optimizers.build(run, Points(run).model).param_groups:
        assert (group["weight_decay"] > 0) == all(p.ndim > 1 for p in group["params"])


def test_a_run_is_torchs_own_loop(tmp_path):
    run = RUN.but(optimizer=RULES["sgd"], schedule=Schedule("linear", floor=0.1))
    task, ours = Points(run, plain=True), Points(run, plain=True)
    decayed = [p for p in task.model.parameters() if p.ndim > 1]
    others = [p for p in task.model.parameters() if p.ndim == 1]
    groups = [{"params": decayed, "weight_decay": 1e-2}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9, fused=True)
    for step in range(run.steps):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * (1 - 0.9 * step / run.steps)
        optimizer.zero_grad()
        task.loss(task.model, task.batch(step)).backward()
        optimizer.step()
    train.train(run, ours, tmp_path)
    assert_equal(weights(task.model), weights(ours.model))


@pytest.mark.parametrize("shape", ["constant", "cosine", "cosine2", "linear"])
@pytest.mark.parametrize("floor", [0.0, 0.25])
def test_schedules_follow_their_formula(shape, floor):
    schedule, steps = Schedule(shape, warmup=0.1, floor=floor), 50
    x = (np.arange(50) - 5) / 45
    fall = {"constant": 1 + 0 * x, "cosine": np.cos(np.pi * x / 2) ** 2, "linear": 1 - x}
    fall["cosine2"] = fall["cosine"] ** 2
    expected = np.where(np.arange(50) < 5, (np.arange(50) + 1) / 5, floor + (1 - floor) * fall[shape])
    assert [schedule.multiple(t, steps) for t in range(50)] == pytest.approx(expected.tolist(), abs=1e-12)


def test_gains_and_biases_that_are_frozen_keep_every_bit(tmp_path):
    run = RUN.but(optimizer__gains="freeze")
    task = Points(run)
    before = weights(task.model)
    train.train(run, task, tmp_path)
    changed = {name for name, p in task.model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {"0.weight", "4.weight"}


def held(run, folder: Path) -> np.ndarray:
    train.train(run, Points(run), folder)
    return Records(folder).series("0.weight").held


def test_angles_come_from_the_rule_the_number_or_the_schedule(tmp_path):
    run = RUN.but(optimizer=RULES["rotation of adamw"], every=1)
    multiples = np.array([run.schedule.multiple(t, run.steps) for t in range(run.steps)])
    by_rule = held(run, tmp_path / "rule")
    full = math.sqrt(2 * 1e-2 * 0.1 * 0.1 / 1.9)
    assert by_rule == pytest.approx(full * np.sqrt(multiples), rel=1e-4)
    by_number = held(run.but(optimizer=RULES["an angle"]), tmp_path / "number")
    assert by_number == pytest.approx(0.02 * np.sqrt(multiples), rel=1e-4)
    falling = run.but(optimizer=RULES["an angle"], optimizer__decay="adamc")
    assert held(falling, tmp_path / "adamc") == pytest.approx(0.02 * multiples, rel=1e-4)
    told = ((0, 0.01), (10, 0.03), (20, 0.01))
    angles = Optimizer("adamw", 1e-2, 0.1, rotational=True, angles=told)
    by_schedule = held(run.but(optimizer=angles), tmp_path / "schedule")
    assert by_schedule == pytest.approx(np.interp(np.arange(24), *zip(*told, strict=True)), rel=1e-4)


def test_adamc_lets_the_decay_fall_with_lr(tmp_path):
    run = RUN.but(optimizer__decay="adamc", every=1)
    train.train(run, Points(run), tmp_path)
    series = Records(tmp_path).series("0.weight")
    assert series.weight_decay / series.lr == pytest.approx(np.full(24, 0.1 / 1e-2))
    assert series.lr == pytest.approx(np.array([1e-2 * run.schedule.multiple(t, 24) for t in range(24)]))


def test_options_of_the_control_reach_the_optimizer():
    run = RUN.but(optimizer=Optimizer("adamw", 1e-2, 0.1, rotational=True, units="tensor", center=False))
    group = optimizers.build(run.but(optimizer__update_memory=0.5), Points(run).model).param_groups[0]
    assert (group["units"], group["center"], group["update_memory"]) == ("tensor", False, 0.5)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rule": "muon", "rotational": True}, "there is no rotational Muon"),
        ({"rule": "muon", "rotation": 0.01}, "only a rotational optimizer has this option"),
        ({"rotation": 0.01}, "only a rotational optimizer has this option; write rotational=True"),
        ({"update_memory": 0.0}, "only a rotational optimizer has this option"),
        ({"rotational": True, "rotation": 0.01, "rotation_of": "sgd"}, "expected one source of the angle"),
        ({"rotational": True, "rule": "adam"}, "Pass rotation="),
        ({"rotational": True, "imbalance": Imbalance(0.7, 2.0, 0.7)}, "1 at most together"),
        ({"rotational": True, "imbalance": Imbalance(0.5, 0.5)}, "a factor of 1 or above"),
        ({"rotational": True, "units": "tensor", "imbalance": Imbalance(0.5, 2.0)}, "no slower neurons"),
    ],
)
def test_an_optimizer_that_cannot_be_is_refused_before_anything_is_written(tmp_path, options, says):
    run = RUN.but(optimizer=Optimizer(**{"rule": "adamw", "lr": 1e-2, "weight_decay": 0.1, **options}))
    with pytest.raises(ValueError, match=says):
        train.train(run, Points(run), tmp_path / "log")
    assert not (tmp_path / "log").exists()


# Muon -----------------------------------------------------------------------------------------------------------


WIDE = 64


class Deep(Points):
    """Points told apart by a net with a matrix of each kind: embedded is what the first row is looked up in."""

    def __init__(self, run):
        super().__init__(run, plain=True)
        torch.manual_seed(run.seed)
        layers = {"embed": nn.Embedding(2, 6), "first": nn.Linear(6, WIDE), "hidden": nn.Linear(WIDE, WIDE)}
        self.model = nn.ModuleDict({**layers, "conv": nn.Conv1d(1, 1, 3, padding=1), "head": nn.Linear(WIDE, 3)})

    def loss(self, model, batch):
        return nn.functional.cross_entropy(self.logits(model, batch[0]), batch[1])

    def logits(self, model, x):
        x = torch.tanh(model["first"](x + model["embed"]((x[:, 0] > 0).long())))
        return model["head"](torch.tanh(model["conv"](model["hidden"](x).unsqueeze(1)).squeeze(1)))

    def measured(self, model, split):
        x, y = self.batch(0, seed=len(split))
        return {"loss": float(self.loss(model, (x, y))), "accuracy": 0.0}


MUON = RUN.but(optimizer=Optimizer("muon", 1e-2, 0.1, momentum=0.95, nesterov=True, betas=(0.9, 0.95)))


def test_muon_takes_hidden_matrices_and_adamw_all_else_each_as_torch_does(tmp_path):
    task, ours = Deep(MUON), Deep(MUON)
    hidden = {"first.weight", "hidden.weight"}
    named = dict(task.model.named_parameters())
    muon = torch.optim.Muon(
        [named[n] for n in sorted(hidden)], weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    decayed = [p for n, p in named.items() if n not in hidden and p.ndim > 1 and p.numel() > 1]
    others = [p for n, p in named.items() if p.ndim == 1]
    adamw = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}], betas=(0.9, 0.95)
    )
    for step in range(MUON.steps):
        for optimizer in (muon, adamw):
            optimizer.zero_grad()
            for group in optimizer.param_groups:
                group["lr"] = 1e-2 * MUON.schedule.multiple(step, MUON.steps)
        task.loss(task.model, task.batch(step)).backward()
        muon.step()
        adamw.step()
    outcome = train.train(MUON, ours, tmp_path)
    assert_equal(weights(task.model), weights(ours.model))
    run = Records(tmp_path).run
    assert [rule["name"] for rule in run.rules] == ["muon", "adamw", "adamw"]
    assert [layer.name for layer in run.layers if layer.group == 0] == ["first.weight", "hidden.weight"]
    assert all(np.isfinite(layer.predicted) for layer in outcome.result.layers)


def test_muon_on_its_own_random_walk_turns_as_predicted(tmp_path):
    class Noise(Deep):
        """Gradients without a direction, of a loss that no scale of the weights changes."""

        def loss(self, model, batch):
            torch.manual_seed(round(1e6 * float(batch[0][0, 0])))
            parts = (p / p.norm(dim=1, keepdim=True) * torch.randn_like(p) for p in model.parameters() if p.ndim > 1)
            return sum(part.sum() for part in parts) + 0 * sum(p.sum() for p in model.parameters())

    run = MUON.but(steps=1500, schedule=Schedule("constant"), optimizer__weight_decay=1.0, every=5)
    layers = {x.name: x for x in train.train(run, Noise(run), tmp_path).result.layers}
    for name in ("first.weight", "hidden.weight"):
        assert layers[name].rotation == pytest.approx(layers[name].predicted, rel=0.05)


def test_a_torch_without_muon_is_a_sentence_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon")
    run = RUN.but(optimizer=RULES["muon"])
    with pytest.raises(ValueError, match=r"Optimizer\('muon'\): torch .* has no Muon; install torch>=2.9"):
        train.train(run, Points(run), tmp_path / "log")
    assert not (tmp_path / "log").exists()


def test_muon_needs_a_matrix_between_the_first_and_the_last_layer():
    with pytest.raises(ValueError, match="this model has no matrices between"):
        optimizers.build(MUON, nn.ModuleDict({"conv": nn.Conv2d(3, 4, 3), "head": nn.Linear(4, 2)}))


# Neurons that turn unevenly -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("slow", "fast"), [(0.5, 0.0), (0.25, 0.25), (0.0, 0.5)])
@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(9, 8, bias=False),
        nn.Conv2d(3, 8, 3, bias=False),
        nn.ConvTranspose2d(4, 8, 3, bias=False),
        nn.ConvTranspose1d(4, 4, 5, groups=2, bias=False),
    ],
)
def test_uneven_neurons_turn_by_exactly_their_share(layer, slow, fast):
    imbalance = Imbalance(slow, 5.0, fast)

    def stepped(uneven: bool) -> tuple[torch.Tensor, list[torch.Tensor], Neurons]:
        torch.manual_seed(0)
        nn.init.normal_(layer.weight)
        opt = rotational.AdamW(rotational.groups(layer, weight_decay=0.5), lr=0.05)
        units = opt.param_groups[0]["neurons"][0]
        if uneven:
            turn(opt, imbalance, seed=3)
        layer.weight.grad = torch.randn_like(layer.weight)
        first = layer.weight.detach().clone()
        opt.step()
        return first, [layer.weight.detach().clone()], units

    first, (even,), units = stepped(False)
    again, (uneven,), _ = stepped(True)
    assert torch.equal(first, again)
    shares = draw(imbalance, units.count(first.shape), torch.Generator().manual_seed(3))
    was, now = (units.angle(first.double(), w.double()).flatten() for w in (even, uneven))
    assert (now / was).tolist() == pytest.approx(shares.tolist(), rel=2e-5)
    lengths = [units.norm(w.double()).flatten().tolist() for w in (even, uneven)]
    assert lengths[1] == pytest.approx(lengths[0], rel=2e-7)
    same = (shares == 1).nonzero().flatten()
    assert torch.equal(units.matrix(even)[same], units.matrix(uneven)[same])
    assert (shares != 1).any()
    # On the same great circle: what is turned lies in the plane of before and after.
    a, b, c = (units.matrix(w.double()) for w in (first, even, uneven))
    for x, y, z in zip(a, b, c, strict=True):
        plane = torch.linalg.qr(torch.stack([x, y - x], dim=1)).Q
        assert (z - plane @ (plane.T @ z)).norm() < 1e-6 * z.norm()


def test_the_log_sees_what_uneven_neurons_do(tmp_path):
    run = RUN.but(optimizer=RULES["uneven"], optimizer__update_memory=0.0, every=2)
    train.train(run, Points(run), tmp_path)
    for name in ("0.weight", "4.weight"):
        series = Records(tmp_path).series(name)
        shares = np.sort(series.rotation / series.held[:, None], axis=1)
        slow = round(0.5 * series.layer.neurons)
        assert shares[:, :slow] == pytest.approx(np.full_like(shares[:, :slow], 0.25), rel=1e-3)
        assert shares[:, slow:] == pytest.approx(np.ones_like(shares[:, slow:]), rel=1e-3)


def test_a_neuron_that_did_not_turn_stays_as_it_is():
    layer = nn.Linear(4, 6, bias=False)
    nn.init.zeros_(layer.weight[:3].detach())
    before = layer.weight.detach().clone()
    opt = torch.optim.SGD([{"params": [layer.weight], "neurons": [ROWS]}], lr=0.1)
    turn(opt, Imbalance(0.5, 2.0, 0.5), seed=0)
    layer.weight.grad = torch.zeros_like(layer.weight)
    opt.step()
    assert torch.equal(layer.weight, before)


def test_rules_are_those_of_the_declaration():
    o = Optimizer("sgd", 0.1, 1e-3, betas=(0.8, 0.9), momentum=0.7, nesterov=True)
    assert named.declared(o, "sgd") == rules.sgd(0.7, nesterov=True)
    assert named.declared(o, "adamw") == rules.adamw((0.8, 0.9))
    assert named.declared(o, "lion") == rules.lion((0.8, 0.9))
    assert named.declared(o) == named.declared(o, "sgd")
    assert named.declared(o, "muon") == rules.muon(0.7, True, adjust_lr_fn="match_rms_adamw")
    assert set(named.RULES) == set(get_args(get_type_hints(Optimizer)["rule"]))
