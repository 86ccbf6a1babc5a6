"""What a run measures beside rotation, through the optimizer's step hooks; notes in the log, `probe/quantity/layer`.

    alignment   which assumptions of the random walk hold (paper, appendix G), each the RMS over a layer's neurons:
                  gradient_weight     cosine of gradient and weights
                  gradient_momentum   cosine of gradient and momentum before the step
                  second_moment       standard deviation over mean of v inside a neuron (rules with v)
                  scaled_size         RMS of an entry of g/(sqrt(v') + eps)               (rules with v)
                  scaled_weight       cosine of g/(sqrt(v') + eps) and weights            (rules with v)
    radial      decay: k = <u, w>/|w|^2, what the loss adds to the weight decay of scale-sensitive weights (appendix H),
                  mean over neurons and all steps since the note before; u = g under SGD, g/(sqrt(v') + eps) under Adam
    norms       rate: growth of ln|w| per step since the note before, mean over neurons: 0 at rest
                still: share of neurons that had no gradient at all since then
    time        step: median seconds of the optimizer's steps since the note before, those that are logged left out

g is the gradient of the loss, w the weights before the step, v' the second moment after it, bias taken out. The
momentum is left out of u on purpose: past updates are in w already, so <m, w> is negative without any radial force,
while a gradient is new. As the momentum's filter passes a constant on in full, k stands beside weight_decay as it is.
"""

from __future__ import annotations

import math
import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rotational._hooks import StepHooks
from rotational.lab.declare import Run
from rotational.layers import partition
from rotational.monitor import Log
from rotational.neurons import Neurons


def attach(name: str, run: Run, model: nn.Module, optimizer: Optimizer, log: Log) -> Probe:
    """Attach a probe to an optimizer that `log` watches already, until `remove()`.

    Raises ValueError for a probe that this optimizer or run has nothing for.
    """
    made: Mapping[str, Callable[[Run, nn.Module, Optimizer, Log], Probe]] = {
        "alignment": Alignment,
        "radial": Radial,
        "norms": Norms,
        "time": Time,
    }
    return made[name](run, model, optimizer, log)


class Probe(ABC):
    """Measures around every real step and notes into the log at the logged ones."""

    def __init__(self, run: Run, model: nn.Module, optimizer: Optimizer, log: Log) -> None:
        neurons, driven = partition(model), {p for group in optimizer.param_groups for p in group["params"]}
        self.log = log
        self.device = next(model.parameters()).device
        self.layers = {n: (p, neurons[n]) for n, p in model.named_parameters() if n in neurons and p in driven}
        self._hooks = StepHooks(optimizer, self.before, self.after)

    @property
    def logging(self) -> bool:
        """Before a step: whether it will be logged."""
        return (self.log.steps + 1) % self.log.every == 0

    @abstractmethod
    def before(self, optimizer: Optimizer) -> None:
        """Called before each step."""

    @abstractmethod
    def after(self, optimizer: Optimizer) -> None:
        """Called after each step, when the log has counted it."""

    def state(self) -> dict[str, Any]:
        """What has been gathered since the last note: numbers and lists of them."""
        return {}

    def load(self, state: Mapping[str, Any]) -> None:  # noqa: B027  most gather nothing
        """Go on with what `state` gave."""

    def remove(self) -> None:
        """Take the hooks off."""
        self._hooks.remove()

    def with_gradient(self) -> Iterator[tuple[str, Tensor, Tensor, Neurons]]:
        """Name, weights, gradient and neurons of the layers that have a gradient."""
        for name, (p, units) in self.layers.items():
            if p.grad is not None:
                yield name, p.detach(), p.grad, units


class Alignment(Probe):
    """Angles among gradient, weights and momentum, and how even the second moment is."""

    def __init__(self, run: Run, model: nn.Module, optimizer: Optimizer, log: Log) -> None:
        super().__init__(run, model, optimizer, log)
        self._found: dict[str, Tensor] = {}
        self._weights: dict[str, Tensor] = {}

    @torch.no_grad()
    def before(self, optimizer: Optimizer) -> None:
        """Note what is of before the step."""
        self._found, self._weights = {}, {}
        if not self.logging:
            return
        for name, w, g, units in self.with_gradient():
            self._keep("gradient_weight", name, _cosine(units, g, w))
            state = optimizer.state.get(self.layers[name][0], {})
            momentum = state.get("exp_avg", state.get("momentum_buffer"))
            if momentum is not None:
                self._keep("gradient_momentum", name, _cosine(units, g, momentum))
            self._weights[name] = w.clone()

    @torch.no_grad()
    def after(self, optimizer: Optimizer) -> None:
        """Add what needs the second moment of this step, and write."""
        if not self._weights:
            return
        for name, _, g, units in self.with_gradient():
            p = self.layers[name][0]
            if "exp_avg_sq" in optimizer.state[p]:
                v, scaled = optimizer.state[p]["exp_avg_sq"], _scaled(optimizer, p, g)
                self._keep("second_moment", name, _spread(units, v))
                self._keep("scaled_size", name, units.norm(scaled) / math.sqrt(units.size(g.shape)))
                self._keep("scaled_weight", name, _cosine(units, scaled, self._weights[name]))
        # One transfer for all, so that a GPU waits once.
        values = torch.stack(list(self._found.values())).tolist()
        self.log.note(**dict(zip(self._found, values, strict=True)))
        self._found, self._weights = {}, {}

    def _keep(self, quantity: str, layer: str, values: Tensor) -> None:
        self._found[f"alignment/{quantity}/{layer}"] = values.float().square().mean().sqrt()


class Radial(Probe):
    """The radial part of the update direction, as the weight decay that it amounts to."""

    def __init__(self, run: Run, model: nn.Module, optimizer: Optimizer, log: Log) -> None:
        if run.optimizer.rule not in ("sgd", "adamw", "adam"):
            raise ValueError(
                f"Run(probes=('radial',)): the update of {run.optimizer.rule!r} is not proportional to the gradient, "
                "and so has no radial part that stands beside weight decay. Use 'sgd', 'adamw' or 'adam'."
            )
        super().__init__(run, model, optimizer, log)
        self._sums = {name: torch.zeros((), dtype=torch.float32, device=self.device) for name in self.layers}
        self._steps = 0
        self._weights: dict[str, Tensor] = {}

    @torch.no_grad()
    def before(self, optimizer: Optimizer) -> None:
        """SGD: measure; Adam divides by what it knows after the step only."""
        self._weights = {}
        for name, w, g, units in self.with_gradient():
            if _divides(optimizer):
                self._weights[name] = w.clone()
            else:
                self._add(name, units, g, w)

    @torch.no_grad()
    def after(self, optimizer: Optimizer) -> None:
        """Adam: measure. Write at the logged steps."""
        for name, _, g, units in self.with_gradient():
            if name in self._weights:
                self._add(name, units, _scaled(optimizer, self.layers[name][0], g), self._weights[name])
        self._weights = {}
        self._steps += 1
        if self.log.steps % self.log.every == 0:
            values = (torch.stack(list(self._sums.values())) / self._steps).tolist()
            self.log.note(**{f"radial/decay/{name}": k for name, k in zip(self._sums, values, strict=True)})
            self._steps = 0
            for total in self._sums.values():
                total.zero_()

    def _add(self, name: str, units: Neurons, u: Tensor, w: Tensor) -> None:
        square = units.dot(w, w)
        self._sums[name] += (units.dot(u, w) / square.where(square > 0, 1)).mean()

    def state(self) -> dict[str, Any]:
        """Sums and the steps in them."""
        return {"steps": self._steps, "sums": {name: float(total) for name, total in self._sums.items()}}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on with the sums."""
        self._steps = state.get("steps", 0)
        for name, total in state.get("sums", {}).items():
            self._sums[name].fill_(total)


class Norms(Probe):
    """How fast norms change, and which neurons learn nothing: a layer is at rest once all of its neurons are.

    A neuron without gradients only decays, and one with few does so for long.
    """

    def __init__(self, run: Run, model: nn.Module, optimizer: Optimizer, log: Log) -> None:
        super().__init__(run, model, optimizer, log)
        self._begin()

    @torch.no_grad()
    def _begin(self) -> None:
        self._steps = 0
        self._logs = {name: self._log(name) for name in self.layers}
        self._heard = {name: torch.zeros_like(logs, dtype=torch.bool) for name, logs in self._logs.items()}

    def _log(self, name: str) -> Tensor:
        p, units = self.layers[name]
        lengths = units.norm(p.detach()).double()
        return lengths.clamp(min=torch.finfo(lengths.dtype).tiny).log()

    @torch.no_grad()
    def before(self, optimizer: Optimizer) -> None:
        """See who has a gradient."""
        for name, _, g, units in self.with_gradient():
            self._heard[name] |= units.norm(g) > 0

    @torch.no_grad()
    def after(self, optimizer: Optimizer) -> None:
        """Write at the logged steps."""
        self._steps += 1
        if self.log.steps % self.log.every == 0:
            rates = [(self._log(name) - logs).mean() / self._steps for name, logs in self._logs.items()]
            still = [1 - heard.double().mean() for heard in self._heard.values()]
            values = torch.stack([*rates, *still]).tolist()
            names = [f"norms/{what}/{name}" for what in ("rate", "still") for name in self.layers]
            self.log.note(**dict(zip(names, values, strict=True)))
            self._begin()

    def state(self) -> dict[str, Any]:
        """What the next note compares with."""
        lists = {key: {name: t.flatten().tolist() for name, t in of.items()} for key, of in self._kept().items()}
        return {"steps": self._steps, **lists}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on with it."""
        self._steps = state.get("steps", 0)
        for key, of in self._kept().items():
            for name, values in state.get(key, {}).items():
                of[name].copy_(torch.tensor(values, dtype=of[name].dtype).view_as(of[name]))

    def _kept(self) -> dict[str, dict[str, Tensor]]:
        return {"logs": self._logs, "heard": self._heard}


class Time(Probe):
    """Seconds of an optimizer step."""

    def __init__(self, run: Run, model: nn.Module, optimizer: Optimizer, log: Log) -> None:
        if run.every == 1:
            raise ValueError("Run(probes=('time',), every=1): a logged step is not timed; expected every=2 or more.")
        super().__init__(run, model, optimizer, log)
        self._taken: list[float] = []
        self._begun: float | None = None

    def before(self, optimizer: Optimizer) -> None:
        """Look at the clock, last of all hooks: this one was registered last."""
        self._begun = None if self.logging else self._now()

    def after(self, optimizer: Optimizer) -> None:
        """Look again, after the log's hook, which only counts at these steps."""
        if self._begun is not None:
            self._taken.append(self._now() - self._begun)
        elif self._taken:
            self.log.note(**{"time/step": statistics.median(self._taken)})
            self._taken = []

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def state(self) -> dict[str, Any]:
        """The times since the last note."""
        return {"taken": list(self._taken)}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on with them."""
        self._taken = list(state.get("taken", ()))


def _cosine(units: Neurons, a: Tensor, b: Tensor) -> Tensor:
    """Of each neuron; 0 where one of the two is 0."""
    lengths = units.norm(a) * units.norm(b)
    return units.dot(a, b) / lengths.where(lengths > 0, 1)


def _spread(units: Neurons, v: Tensor) -> Tensor:
    """Standard deviation over mean inside each neuron; divided first, because squares of v underflow."""
    mean, flat = units.mean(v), Neurons(units.axes)
    even = units.view(v).float() / mean.where(mean > 0, 1)
    return flat.norm(even - flat.mean(even)) / math.sqrt(units.size(v.shape))


def _divides(optimizer: Optimizer) -> bool:
    return "betas" in optimizer.param_groups[0]


def _scaled(optimizer: Optimizer, p: Tensor, g: Tensor) -> Tensor:
    """The gradient as Adam scales it, with this step's second moment: g/(sqrt(v/(1 - b2^t)) + eps)."""
    state, group = optimizer.state[p], next(x for x in optimizer.param_groups if any(q is p for q in x["params"]))
    bias = 1 - float(group["betas"][1]) ** float(state["step"])
    return g.float() / ((state["exp_avg_sq"].float() / bias).sqrt() + group["eps"])
