"""Each probe against a direct computation with torch alone."""

from __future__ import annotations

import math
import time

import pytest
import torch

from laboratory import RUN, Points
from rotational.lab import optimizers, train
from rotational.lab.declare import Optimizer, Schedule
from rotational.records import Records

EVERY = RUN.every
LAYERS = ("0.weight", "4.weight")


def rms(x: torch.Tensor) -> float:
    return x.double().square().mean().sqrt().item()


def cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=1)


class Witness(Points):
    """Notes weights and gradients as training goes, where the loss is asked for: before each step."""

    def __init__(self, run) -> None:
        super().__init__(run)
        self.seen: list[dict[str, tuple[torch.Tensor, torch.Tensor]]] = []

    def loss(self, model, batch):
        weights = {n: p.detach().clone() for n, p in model.named_parameters() if n in LAYERS}
        gradients: dict[str, torch.Tensor] = {}
        loss = super().loss(model, batch)
        named = [p for n, p in model.named_parameters() if n in LAYERS]
        found = torch.autograd.grad(loss, named, retain_graph=True)
        gradients.update(zip(LAYERS, found, strict=True))
        self.seen.append({n: (weights[n], gradients[n]) for n in LAYERS})
        return loss


def probed(run, folder):
    task = Witness(run)
    train.train(run, task, folder)
    return task.seen, Records(folder).curves


@pytest.mark.parametrize("rule", ["adamw", "sgd"])
def test_alignment_is_what_torch_computes(rule, tmp_path):
    o = Optimizer(rule, 1e-2, 0.1, betas=(0.9, 0.95))
    run = RUN.but(optimizer=o, probes=("alignment",), steps=12)
    seen, curves = probed(run, tmp_path)
    for name in LAYERS:
        m, v, steps = 0.0, 0.0, []
        for t, step in enumerate(seen, start=1):
            w, g = step[name]
            before = m
            if rule == "sgd":
                # torch's first momentum is the gradient itself, its decay in it
                m = g + 0.1 * w if t == 1 else 0.9 * m + g + 0.1 * w
            else:
                m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g**2
            if t % EVERY == 0:
                expected = {"gradient_weight": rms(cosine(g, w)), "gradient_momentum": rms(cosine(g, before))}
                if rule == "adamw":
                    scaled = g / ((v / (1 - 0.95**t)).sqrt() + 1e-8)
                    expected["second_moment"] = rms(v.std(dim=1, unbiased=False) / v.mean(dim=1))
                    expected["scaled_size"] = rms(scaled)
                    expected["scaled_weight"] = rms(cosine(scaled, w))
                steps.append((t, expected))
        assert {k.split("/")[1] for k in curves if k.endswith(name)} == steps[0][1].keys()
        for quantity in steps[0][1]:
            at, values = curves[f"alignment/{quantity}/{name}"]
            assert at.tolist() == [t for t, _ in steps] == [3, 6, 9, 12]
            assert values == pytest.approx([e[quantity] for _, e in steps], rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("rule", ["adamw", "sgd"])
@pytest.mark.parametrize("rotational", [False, True])
def test_the_radial_part_is_the_mean_over_all_steps_between_notes(rule, rotational, tmp_path):
    run = RUN.but(optimizer=Optimizer(rule, 1e-2, 0.1, rotational=rotational), probes=("radial",), steps=12)
    seen, curves = probed(run, tmp_path)
    for name in LAYERS:
        v, each = 0.0, []
        for t, step in enumerate(seen, start=1):
            w, g = (x.double() for x in step[name])
            v = 0.999 * v + 0.001 * g**2
            u = g if rule == "sgd" else g / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
            each.append(((u * w).sum(1) / (w * w).sum(1)).mean().item())
        at, values = curves[f"radial/decay/{name}"]
        assert at.tolist() == [3, 6, 9, 12]
        assert values == pytest.approx([sum(each[i : i + 3]) / 3 for i in range(0, 12, 3)], rel=1e-3, abs=1e-6)


def test_the_radial_part_of_a_loss_that_pulls_is_the_decay_that_it_amounts_to(tmp_path):
    run = RUN.but(optimizer=Optimizer("sgd", 1e-2, 0.0), probes=("radial",))
    task = Points(run)
    # Half of 0.3 |w|^2 beside noise without a pull: the same as weight decay 0.3.
    task.loss = lambda model, _: 0.15 * sum((p**2).sum() for n, p in model.named_parameters() if n in LAYERS)
    train.train(run, task, tmp_path)
    for name in LAYERS:
        assert Records(tmp_path).curves[f"radial/decay/{name}"][1] == pytest.approx([0.3] * 8, rel=1e-5)


@pytest.mark.parametrize("rotational", [False, True])
def test_norms_grow_by_what_lies_between_two_notes(rotational, tmp_path):
    run = RUN.but(optimizer=Optimizer("adamw", 1e-2, 0.1, rotational=rotational), probes=("norms",), steps=12)
    task = Witness(run)
    train.train(run, task, tmp_path)
    curves = Records(tmp_path).curves
    for name in LAYERS:
        lengths = [step[name][0].double().norm(dim=1).log() for step in task.seen]
        lengths.append(dict(task.model.named_parameters())[name].detach().double().norm(dim=1).log())
        at, values = curves[f"norms/rate/{name}"]
        assert at.tolist() == [3, 6, 9, 12]
        expected = [(lengths[i + 3] - lengths[i]).mean().item() / 3 for i in range(0, 12, 3)]
        assert values == pytest.approx(expected, rel=1e-4, abs=1e-7)
        assert curves[f"norms/still/{name}"][1].tolist() == [0.0] * 4
    assert (max(map(abs, curves["norms/rate/4.weight"][1])) > 1e-4) is not rotational


def test_a_neuron_without_gradients_stands_still_and_only_decays(tmp_path):
    run = RUN.but(optimizer=Optimizer("sgd", 1e-2, 0.5), probes=("norms",))
    task = Points(run, plain=True)
    name = next(n for n, p in task.model.named_parameters() if p.ndim > 1)
    # Three of its eight neurons see no loss; the others grow as fast as weights decay, but for what it pulls.
    task.loss = lambda model, _: dict(model.named_parameters())[name][3:].sum()
    train.train(run, task, tmp_path)
    curves = Records(tmp_path).curves
    assert curves[f"norms/still/{name}"][1].tolist() == [3 / 8] * 8
    alone = RUN.but(
        optimizer=Optimizer("sgd", 1e-2, 0.5, momentum=0.0), probes=("norms",), schedule=Schedule("constant")
    )
    task = Points(alone, plain=True)
    task.loss = lambda model, _: 0.0 * dict(model.named_parameters())[name].sum()
    train.train(alone, task, tmp_path / "alone")
    rates = Records(tmp_path / "alone").curves[f"norms/rate/{name}"][1]
    assert rates == pytest.approx([math.log(1 - 5e-3)] * 8, rel=1e-4)


def test_a_step_is_timed_without_the_steps_that_are_logged(tmp_path, monkeypatch):
    run = RUN.but(probes=("time", "alignment"))
    build, clock = optimizers.build, [0.0]

    def slow(run, model):
        optimizer = build(run, model)
        # By the clock that the probe reads: each step takes 2 seconds more than the one before.
        taken = [0]

        def tick(*_: object) -> None:
            taken[0] += 1
            clock[0] += 2.0 * taken[0]

        optimizer.register_step_post_hook(tick)
        return optimizer

    monkeypatch.setattr(optimizers, "build", slow)
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    train.train(run, Points(run), tmp_path)
    at, values = Records(tmp_path).curves["time/step"]
    assert at.tolist() == [3, 6, 9, 12, 15, 18, 21, 24]
    assert values.tolist() == [2.0 * (t - 1.5) for t in at]  # steps t-2 and t-1


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"optimizer": Optimizer("lion", 1e-3, 0.1), "probes": ("radial",)}, "is not proportional to the gradient"),
        ({"every": 1, "probes": ("time",)}, "a logged step is not timed"),
    ],
)
def test_a_probe_that_has_nothing_to_measure_is_refused(tmp_path, changes, says):
    with pytest.raises(ValueError, match=says):
        train.train(RUN.but(**changes), Points(RUN.but(**changes)), tmp_path)


def test_probes_leave_training_and_the_optimizer_as_they_were(tmp_path):
    run = RUN.but(probes=("alignment", "radial", "norms", "time"))
    plain, task = Points(RUN), Points(run)
    train.train(RUN, plain, tmp_path / "plain")
    train.train(run, task, tmp_path / "probed")
    assert all(torch.equal(a, b) for a, b in zip(plain.model.parameters(), task.model.parameters(), strict=True))
    assert not any(math.isnan(v) for _, values in Records(tmp_path / "probed").curves.values() for v in values)
