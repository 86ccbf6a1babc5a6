"""The one training loop: a run and its task, from seed to result.

What a step does depends on the run and the number of the step alone: the batch, the lr, and what the model draws.
So a run that was interrupted goes on from its checkpoint and ends with the same weights, bit for bit, on a CPU.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rotational.lab import optimizers, probes, ranks, results, resume
from rotational.lab.ahead import ahead
from rotational.lab.declare import Run, plain
from rotational.lab.tasks import Split, Task
from rotational.layers import partition
from rotational.monitor import Log, watch

if TYPE_CHECKING:
    from rotational.lab.sharding import Shards

Metrics = Mapping[str, Mapping[str, float]]

AHEAD = {"cpu": 0, "cuda": 3}
"""Batches that are made in advance while a device trains: a CPU has nothing else to make them with."""

KEPT = 5_000_000
"""Neurons times logged steps up to which a log keeps every neuron; above, it keeps 128 of each layer."""


@dataclass(frozen=True)
class State:
    """How far a run is: steps taken, training loss, RMS rotation of the last logged step in radians."""

    step: int
    loss: float
    rotation: float | None


@dataclass(frozen=True)
class Outcome:
    """A run that ended, diverged or was stopped.

    step      steps taken
    metrics   of "validation" and "test"; empty for a run that was stopped and can go on
    done      whether it came to an end, its own or by diverging
    compiled  whether its training pass, or a part of it, went through torch.compile, which the result's versions name
    """

    run: Run
    step: int
    metrics: Metrics
    done: bool
    diverged: bool
    seconds: float
    log: Path
    score: str
    higher: bool
    device: str
    compiled: bool = False

    @cached_property
    def result(self) -> results.Result | None:
        """What a store keeps, read from the log; None for a run that was stopped."""
        if not self.done:
            return None
        return results.Result(
            run=self.run,
            steps=self.step,
            diverged=self.diverged,
            metrics=self.metrics,
            score=self.score,
            higher=self.higher,
            seconds=self.seconds,
            threads=torch.get_num_threads(),
            device=self.device,
            versions=results.versions() | ({"compile": "inductor"} if self.compiled else {}),
            **results.measured(self.log),
        )


def train(
    run: Run,
    task: Task,
    folder: str | Path,
    *,
    tell: Callable[[State], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
    device: str | torch.device = "cpu",
    compile: bool = False,  # noqa: A002
    shard: bool = False,
    save: float = 60.0,
    test: bool = True,
    title: str | None = None,
    notes: Mapping[str, Any] | None = None,
) -> Outcome:
    """Train the task's model as the run says; the log and a checkpoint every `save` seconds go into `folder`.

    A folder with a checkpoint of this run is gone on with. `tell` hears of every step, and `stop` is asked after
    it (of several processes, after every logged step): once it says yes, the run leaves a checkpoint and returns, or,
    with save=inf, is evaluated where it is and closed. A run whose loss or weights are no longer finite ends there,
    with infinite losses. With `compile`, the training pass goes through torch.compile, whose sums round differently.
    Under torchrun the batch is split over the processes, which all see the folder; see `ranks`. With `shard`, each of
    them holds a part of the weights and of the optimizer's state; see `sharding`. `title` and `notes` go into the log.
    Where a GPU trains, the next batches are made meanwhile.

    Raises FileExistsError for a folder with a log that is not to be gone on with, ValueError for a checkpoint that is
    damaged or of another run, what `optimizers.build` raises, and, of several processes, LostError where one ends.
    """
    with ranks.joined(device) as those, _own_randomness(those.device), ExitStack() as stack:
        with those.together():
            training = _Training(run, task, Path(folder), those, save, shard)
        begun = those.agreed(training.progress.step)
        with those.together():
            training.begin(stack, begun, title, notes)
        with those.bound(f"the run {run.key}"):
            return training.carry_out(stack, tell, stop, compile, test)


class _Training:
    """One call of `train`."""

    def __init__(self, run: Run, task: Task, folder: Path, those: ranks.Ranks, save: float, shard: bool) -> None:
        self.run, self.task, self.folder, self.ranks, self.save_every = run, task, folder, those, save
        self.shards: Shards | None = None
        # `model` evaluates and is saved, `trained` is what the optimizer drives: the same, if not in shards.
        self.model = self.trained = task.model.to(those.device)
        if those.device.type == "cpu" and not shard:  # shards are cut from weights that lie as torch makes them
            # Convolutions of few channels take three quarters of the time where channels lie together.
            nn.utils.convert_conv2d_weight_memory_format(self.model, torch.channels_last)
        those.divide(task.sizes)
        if shard:
            from rotational.lab.sharding import Shards  # torch has it from 2.6 on

            self.shards = Shards(run, self.model, those.device, those.world)
            self.trained = self.shards.model
        self.optimizer = optimizers.build(run, self.trained)
        self.progress = resume.load(folder, run.key, self.model, self.optimizer)
        if self.shards is not None:
            # A rotational optimizer centers its neurons when it is made, so that nothing may be put back unasked.
            resumed = (folder / resume.CHECKPOINT).is_file()
            self.shards.scatter(self.optimizer) if resumed else self.shards.gather()
        self.begun, self.saved = time.monotonic() - self.progress.seconds, time.monotonic()
        self.pending: list[Tensor] = []
        self.latest_loss = math.nan
        self.probes: list[probes.Probe] = []
        self.log: Log | None = None

    def begin(self, stack: ExitStack, begun: int, title: str | None, notes: Mapping[str, Any] | None) -> None:
        """Open the log where this is the first process; `begun` is the step of its checkpoint."""
        if begun != self.progress.step:
            raise ValueError(
                f"{self.folder}: expected the checkpoint of step {begun}; all processes must see one folder."
            )
        if self.ranks.first:
            self._mark()
            self._open(stack, self.folder, title, notes)
        elif self.shards is not None:
            # Measuring gathers what the others hold of a neuron's numbers, so all measure; this log is for nobody.
            self._open(stack, Path(stack.enter_context(TemporaryDirectory())) / "log", title, notes)

    def carry_out(
        self,
        stack: ExitStack,
        tell: Callable[[State], None],
        stop: Callable[[], bool],
        compiled: bool,
        test: bool,
    ) -> Outcome:
        """From the checkpoint to the end, or to the step after which it is to stop."""
        run, first = self.run, self.progress.step
        forward = self.ranks.wrap(self.model) if self.shards is None else self.trained
        if compiled:
            self.progress.compiled = True
            forward.compile()
        batches = ahead(self._batch, range(first, run.steps), AHEAD.get(self.ranks.device.type, 0))
        stack.callback(batches.close)
        evaluate_every = max(1, run.steps // run.evaluations)
        for step in range(first + 1, run.steps + 1):
            if not self._step(forward, step, batches):
                return self._outcome(step - 1, None, stack, test)
            if self.log is not None:
                tell(State(step, self.latest_loss, self.log.latest))
            asked = self._asked(stop, step)
            last = step == run.steps or (asked and math.isinf(self.save_every))
            validation = self._evaluate("validation") if last or step % evaluate_every == 0 else None
            if validation is not None and not math.isfinite(validation["loss"]):
                return self._outcome(step, None, stack, test)
            self._note(step, validation)
            self.progress.step = step
            if last:
                return self._outcome(step, validation, stack, test)
            if asked:
                self._save()
                return self._outcome(step, None, stack, test, going_on=True)
            if self._asked(self._due, step):
                self._save()
        raise AssertionError(f"a checkpoint of step {first} of {run.steps}: none is left at the end of a run")

    def _mark(self) -> None:
        """Make room for the log that follows; from here on the folder is this run's."""
        if not math.isinf(self.save_every):
            if (self.folder / resume.CHECKPOINT).is_file():
                resume.cut(self.folder, self.progress.step)
            elif not (self.folder / resume.RUN_FILE).is_file():
                # Marks the log that follows as one that may be cut and gone on with.
                self._write(self.optimizer.state_dict())

    def _open(self, stack: ExitStack, path: Path, title: str | None, notes: Mapping[str, Any] | None) -> None:
        """Open the log and attach the probes."""
        run, neurons = self.run, partition(self.trained)
        total = sum(neurons[name].count(neurons.shape(name)) for name in neurons)
        optimizers.set_step(self.optimizer, run, self.progress.step)
        log = watch(
            self.trained,
            self.optimizer,
            every=run.every,
            path=path,
            keep=None if total * run.steps / run.every <= KEPT else 128,
            title=title or f"{run.model.name} on {run.data.name}, {run.optimizer.rule}",
            notes={"run": plain(run)} if notes is None else notes,
        )
        self.log = stack.enter_context(log)
        log.steps = self.progress.step
        for name in run.probes:
            probe = probes.attach(name, run, self.model, self.optimizer, log)
            probe.load(self.progress.probes.get(name, {}))
            stack.callback(probe.remove)
            self.probes.append(probe)

    # One step ---------------------------------------------------------------------------------------------

    def _batch(self, step: int) -> tuple[Tensor, ...]:
        """This process's part of the batch of a step, counted from 0, on its way to the device."""
        made, device = self.task.part(step, self.ranks.rows), self.ranks.device
        # From pinned memory a GPU fetches while it computes.
        return tuple((x.pin_memory() if device.type == "cuda" else x).to(device, non_blocking=True) for x in made)

    def _step(self, forward: nn.Module, step: int, batches: Iterator[tuple[Tensor, ...]]) -> bool:
        """Take a step, counted from 1; False, and nothing changed, where the loss is seen not to be finite."""
        run, device = self.run, self.ranks.device
        optimizers.set_step(self.optimizer, run, step - 1)
        _seed(_mixed(run.seed, step, self.ranks.rank), device)
        batch = next(batches)
        self.optimizer.zero_grad()
        with self._precision():
            loss = self.task.loss(forward, batch)
        self.pending.append(loss.detach())
        # Reading a number makes a GPU wait, so there it is read when it is looked at.
        if device.type == "cpu" or step % run.every == 0 or step == run.steps:
            read = self.ranks.mean(torch.stack(self.pending)).tolist()
            self.pending.clear()
            self.progress.losses += read
            self.latest_loss = read[-1]
            if not all(map(math.isfinite, read)):
                return False
        loss.backward()
        self.optimizer.step()
        return True

    def _asked(self, stop: Callable[[], bool], step: int) -> bool:
        """What is asked after a step; several processes agree at logged steps, because agreeing makes a GPU wait."""
        if self.ranks.world == 1:
            return stop()
        return step % self.run.every == 0 and self.ranks.agreed(stop())

    def _due(self) -> bool:
        return time.monotonic() - self.saved >= self.save_every

    def _note(self, step: int, validation: Mapping[str, float] | None) -> None:
        if validation is None and step % self.run.every != 0:
            return
        losses, self.progress.losses = self.progress.losses, []
        if self.log is not None:
            told = {f"val_{name}": value for name, value in (validation or {}).items()}
            mean = {"loss": sum(losses) / len(losses)} if losses else {}
            self.log.note(**mean, **told)

    def _evaluate(self, split: Split) -> dict[str, float]:
        """The first process's metrics, on all of them; an infinite loss where a weight is not finite."""
        found: dict[str, float] = {}
        if self.shards is not None:
            self.shards.gather()
        if self.ranks.first:
            if not all(bool(p.isfinite().all()) for p in self.model.parameters()):
                found = {"loss": math.inf}
            else:
                with self._precision():
                    found = self.task.evaluate(self.model, split)
        return self.ranks.agreed(found)

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.ranks.device.type, torch.bfloat16, enabled=self.run.precision == "bf16")

    # The end ----------------------------------------------------------------------------------------------

    def _save(self) -> None:
        if self.shards is None:
            state = self.optimizer.state_dict()
        else:
            self.shards.gather()
            state = self.shards.state_dict(self.optimizer)
        if self.ranks.first:
            self._write(state)
        self.saved = time.monotonic()

    def _write(self, state: dict[str, Any]) -> None:
        if self.pending:
            self.progress.losses += torch.stack(self.pending).tolist()
            self.pending.clear()
        self.progress.seconds = time.monotonic() - self.begun
        self.progress.probes = {name: p.state() for name, p in zip(self.run.probes, self.probes, strict=False)}
        self.folder.mkdir(parents=True, exist_ok=True)
        resume.save(self.folder, self.progress, self.model, state)

    def _outcome(
        self, step: int, validation: dict[str, float] | None, stack: ExitStack, test: bool, *, going_on: bool = False
    ) -> Outcome:
        """Evaluate and close; without `validation` the run has diverged, or is `going_on` another time."""
        metrics: dict[str, Mapping[str, float]] = {}
        if validation is not None:
            metrics = {"validation": validation, **({"test": self._evaluate("test")} if test else {})}
        elif not going_on:
            # The worst there is, so that a sweep that compares scores passes it over.
            worst = {self.task.score: 0.0 if self.task.higher else math.inf, "loss": math.inf}
            metrics = {"validation": worst, **({"test": worst} if test else {})}
        stack.close()
        if self.ranks.first and not going_on:
            resume.join(self.folder)
        return Outcome(
            run=self.run,
            step=step,
            metrics=metrics,
            done=not going_on and (validation is None or step == self.run.steps),
            diverged=validation is None and not going_on,
            seconds=time.monotonic() - self.begun,
            log=self.folder.absolute(),
            score=self.task.score,
            higher=self.task.higher,
            device=_named(self.ranks),
            compiled=self.progress.compiled,
        )


def _mixed(seed: int, step: int, rank: int) -> int:
    """One seed of a run's, a step's and a rank's, in 63 bits; a step of one run is no step of another."""
    return (seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + rank * 0x94D049BB133111EB) % (1 << 63)


def _seed(number: int, device: torch.device) -> None:
    """As torch.manual_seed does it, which notes every call, with its stack, for GPUs that were never asked for."""
    torch.default_generator.manual_seed(number)
    if device.type != "cpu":
        torch.manual_seed(number)


def _own_randomness(device: torch.device) -> Any:
    """What the model draws leaves the generators of whoever called as they were."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


def _named(those: ranks.Ranks) -> str:
    device = those.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return name if those.world == 1 else f"{those.world} x {name}"
