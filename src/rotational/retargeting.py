"""Another batch size, length or width: what each scaling rule of the field makes of a run, side by side.

The rules stand in scaling.py; here they are applied, and theory says what rotation and transient they give.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from rotational import _check, scaling, theory
from rotational.rule import Rule
from rotational.scaling import Law


@dataclass(frozen=True)
class Config:
    """A run, as far as scaling rules read it; lr and weight_decay are those of hidden matrices, at their peak.

    batch_size        samples in a step; tokens of the whole run, batch_size*steps*sequence_length if not given
    sequence_length   tokens in a sample; without it and `tokens`, samples are counted in place of tokens
    dataset_size      tokens (or samples) of an epoch; without it the run is one epoch
    width, parameters of the model; shape, (rows, columns), of the matrix that Muon's rotation depends on
    noise_scale       batch size, in samples, at which a gradient is half mean and half noise; noise alone without it
    size              weights of a neuron, gradient_norm the RMS norm of its gradient at |w| = 1 and at this batch size:
                      what the rotation of L2 under Adam depends on

    Raises TypeError or ValueError for numbers out of range or that contradict each other.

    >>> from rotational import rules
    >>> Config(rules.adamw(), lr=1e-3, weight_decay=0.1, batch_size=256, steps=10_000, sequence_length=1024).data
    2621440000.0
    """

    rule: Rule
    lr: float
    weight_decay: float
    batch_size: int
    steps: int
    width: int | None = None
    tokens: float | None = None
    sequence_length: int | None = None
    parameters: float | None = None
    dataset_size: float | None = None
    shape: tuple[int, int] | None = None
    noise_scale: float | None = None
    size: int | None = None
    gradient_norm: float | None = None

    def __post_init__(self) -> None:
        for name in ("lr", "weight_decay", "batch_size", "steps"):
            object.__setattr__(self, name, _checked("Config", name, getattr(self, name)))
        for name in _OPTIONAL:
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, _checked("Config", name, value))
        self.equilibrium  # noqa: B018  refuses what can have none
        step = self.batch_size * (self.sequence_length or math.inf)
        if self.tokens is not None and abs(self.tokens - self.steps * step) >= step < math.inf:
            raise ValueError(
                f"Config(tokens={self.tokens:g}, sequence_length={self.sequence_length}): {self.steps} steps of "
                f"{self.batch_size} samples are {self.steps * step:g} tokens; leave out tokens= or sequence_length=."
            )

    @property
    def unit(self) -> str:
        """What data are counted in: tokens, or samples."""
        return "samples" if self.tokens is None and self.sequence_length is None else "tokens"

    @property
    def equilibrium(self) -> theory.Equilibrium:
        """What these hyperparameters come to, of noise alone."""
        return theory.equilibrium(
            self.rule, self.lr, self.weight_decay, size=self.size, gradient_norm=self.gradient_norm, shape=self.shape
        )

    @property
    def data(self) -> float:
        """Tokens (or samples) of the whole run."""
        return self.tokens or float(self.batch_size * self.steps * (self.sequence_length or 1))


_OPTIONAL = ("width", "tokens", "sequence_length", "parameters", "dataset_size", "noise_scale", "size", "gradient_norm")


@dataclass(frozen=True)
class Scaled(Config):
    """The run as one rule would have it (a Config, to be retargeted again), and the equilibrium that it gives.

    changes      betas and eps, where the rule moves them
    drift        |E g|/|g|, the share of the gradient that is its mean; None without a noise_scale
    rotation     radians per step at rest, of noise alone: what a mean adds, forecast(drift=row.drift) follows
    timescale    steps that the weights remember, 1/D, which is 1/(lr*weight_decay) where decay is decoupled; also in
                 tokens (or samples) and in epochs, and as a share of the run
    transient    steps from far below to within 5% of the norm at rest; also as a share of the run

    None stands where theory would need more: size and gradient_norm for L2 with Adam, the shape for Muon.
    """

    rule_name: str = "now"
    assumption: str = ""
    source: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict[str, Any])
    drift: float | None = None
    rotation: float | None = None
    timescale: float | None = None
    timescale_tokens: float | None = None
    timescale_epochs: float | None = None
    timescale_share: float | None = None
    transient: float | None = None
    transient_share: float | None = None


class Retargeting(Sequence[Scaled]):
    """The rules side by side: a sequence of `Scaled` that takes their names too, and prints as a table.

    `now` is the run as it was; `left_out` says of each rule without a row why it has none.
    """

    def __init__(self, now: Scaled, rows: Sequence[Scaled], left_out: Mapping[str, str], notes: Sequence[str]) -> None:
        self.now, self.rows, self.left_out, self.notes = now, {row.rule_name: row for row in rows}, left_out, notes

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, str) and index not in self.rows:
            raise KeyError(
                f"{index!r}: {self.left_out.get(index, 'expected one of ' + ', '.join(map(repr, self.rows)))}"
            )
        return self.rows[index] if isinstance(index, str) else list(self.rows.values())[index]

    def __len__(self) -> int:
        return len(self.rows)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        now, *rows = ({**asdict(row), "rule": row.rule.as_dict()} for row in (self.now, *self))
        return {"unit": self.now.unit, "now": now, "rows": rows, "left_out": dict(self.left_out)}

    def __str__(self) -> str:
        heads = ("rule", "lr", "weight_decay", "changed", "rad/step")
        table: list[tuple[str, ...]] = [
            (*heads, "timescale: steps", self.now.unit, "epochs", "of run", "transient", "of run")
        ]
        for r in (self.now, *self):
            run = (_shown(r.lr), _shown(r.weight_decay), ", ".join(f"{k} {_shown(x)}" for k, x in r.changes.items()))
            lasts = (r.rotation, r.timescale, r.timescale_tokens, r.timescale_epochs)
            arrival = (_percent(r.timescale_share), _shown(r.transient), _percent(r.transient_share))
            table.append((r.rule_name, *run, *map(_shown, lasts), *arrival))
        columns = [column for column in zip(*table, strict=True) if any(column[1:])]
        widths = [max(map(len, column)) for column in columns]
        padded = [[cell.rjust(w) for cell in column] for column, w in zip(columns, widths, strict=True)]
        padded[0] = [cell.ljust(widths[0]) for cell in columns[0]]
        lines = ["  ".join(row).rstrip() for row in zip(*padded, strict=True)]
        missing = [f"{name}: left out; {why}" for name, why in self.left_out.items()]
        return "\n".join([*self._runs(), "", *lines, "", *self.notes, *missing])

    def _runs(self) -> list[str]:
        """The run as it was and as it is to be, which is the same in every row."""
        words = (
            *(("batch_size", "batch"), ("steps", "steps"), ("width", "width"), ("parameters", "parameters")),
            *(("data", self.now.unit), ("drift", "signal"), ("gradient_norm", "gradient")),
        )
        return [
            f"{name}: "
            + ", ".join(f"{word} {_shown(x)}" for key, word in words if (x := getattr(run, key)) is not None)
            for name, run in (("now", self.now), *(("then", row) for row in self[:1]))
        ]

    __repr__ = __str__


def retarget(
    config: Config,
    *,
    batch_size: int | None = None,
    width: int | None = None,
    steps: int | None = None,
    tokens: float | None = None,
    parameters: float | None = None,
) -> Retargeting:
    """What the field's scaling rules make of a run at another batch size, length or width.

    A new batch size alone holds the tokens, and steps go as 1/batch_size; with `steps` or `tokens` (samples, where
    those are counted) it is they that are given, and the other follows. Each of them alone holds the batch size; both
    must agree. `parameters` go as the width squared unless given.

    A rule multiplies lr and lr*weight_decay by powers of what changes (scaling.py). Where the width changes too, rules
    are paired: one that leaves weight_decay alone with every rule of the width, one that holds a timescale or a
    rotation with those that hold lr*weight_decay, so that it does hold.

    What is given and stays as it was changes nothing: every rule then returns the run as it is.

    Raises TypeError for what is no `Config`; ValueError where nothing is given, a number is out of range, numbers
    contradict each other, or the config lacks what they refer to.

    >>> from rotational import rules
    >>> run = Config(rules.adamw(), lr=1e-3, weight_decay=0.1, batch_size=256, steps=10_000)
    >>> row = retarget(run, batch_size=1024)["timescale in tokens"]
    >>> row.lr, row.weight_decay, row.steps, row.timescale
    (0.001, 0.4, 2500, 2500.0)

    Source: of each rule in its row; `theory.equilibrium` for what they give.
    """
    if not isinstance(config, Config):  # pyright: ignore[reportUnnecessaryIsInstance]  an optimizer, say
        given = f"{config.__name__}, a class" if isinstance(config, type) else type(config).__name__
        raise TypeError(
            f"retarget({given}): expected a rotational.Config, such as Config(rotational.rules.adamw(), lr=1e-3, "
            "weight_decay=0.1, batch_size=256, steps=10_000)."
        )
    told = {"batch_size": batch_size, "width": width, "steps": steps, "tokens": tokens, "parameters": parameters}
    new = {name: _checked("retarget", name, value) for name, value in told.items() if value is not None}
    if not new:
        raise ValueError("retarget(): expected what changes, such as batch_size=, width=, steps= or tokens=.")
    for name in ("width", "parameters"):
        if name in new and getattr(config, name) is None:
            raise ValueError(f"retarget({name}={new[name]:g}): the config does not say its own; give Config({name}=).")
    target, ratios = _target(config, new)
    kind, left_out, rows = scaling.kind(config.rule), dict[str, str](), list[Scaled]()
    both = scaling.laws(frozenset(new))
    left_out |= {law.name: law.elsewhere for laws in both for law in laws if kind not in law.kinds}
    run, wide = ([law for law in laws if kind in law.kinds] for laws in both)
    for law in scaling.pairs(run, wide):
        try:
            rows.append(_scaled(config, target, law, ratios))
        except ValueError as error:  # a beta below 0, or a step that would take off the whole weight
            left_out[law.name.partition(" + ")[0] if law.betas else law.name] = str(error)
    now = _scaled(config, {}, None, {})
    notes = _notes([law for law in (*run, *wide) if law.name not in left_out], now, rows)
    return Retargeting(now, rows, left_out, notes)


def _target(config: Config, new: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, float]]:
    """What is given of the new run, and the ratios that rules raise to powers."""
    batch_size = new.get("batch_size", config.batch_size)
    b, m = batch_size / config.batch_size, new["width"] / config.width if "width" in new and config.width else 1.0
    n = new["parameters"] / config.parameters if "parameters" in new and config.parameters else m * m
    d = new["tokens"] / config.data if "tokens" in new else new["steps"] / config.steps * b if "steps" in new else 1.0
    steps = d / b * config.steps
    told = f"retarget({', '.join(f'{name}={value:g}' for name, value in new.items())})"
    if abs(steps - new.get("steps", steps)) >= 1:
        raise ValueError(
            f"{told}: at batch size {batch_size} that many {config.unit} are {steps:g} steps; leave one out."
        )
    if steps < 1:
        raise ValueError(f"{told}: one step would take more {config.unit} than the whole run has, {d * config.data:g}.")
    target = {
        "batch_size": batch_size,
        "steps": new.get("steps", round(steps)),
        "width": new.get("width", config.width),
    }
    # With a sequence length, tokens follow from the steps; they would differ by what rounding those leaves over.
    target["tokens"] = None if config.sequence_length or not config.tokens else d * config.tokens
    target["parameters"] = config.parameters and n * config.parameters
    target["shape"] = config.shape and tuple(round(m * size) for size in config.shape)
    target["size"] = config.size and round(m * config.size)
    _, gradient = scaling.signal(config.noise_scale, batch_size, config.batch_size)
    target["gradient_norm"] = config.gradient_norm and gradient * config.gradient_norm
    # An epoch is as long as before, or it is the run.
    e = d if config.dataset_size is None else 1.0
    return target, {"batch": b, "data": d, "width": m, "parameters": n, "epoch": e}


def _scaled(config: Config, target: Mapping[str, Any], law: Law | None, ratios: Mapping[str, float]) -> Scaled:
    """A row: the law applied, and the equilibrium there."""
    told: dict[str, Any] = {f.name: getattr(config, f.name) for f in fields(Config)}
    told.update(target)
    if law is not None:
        by, product = law.factors(ratios)
        rule, changes = scaling.with_betas(config.rule, ratios["batch"]) if law.betas else (config.rule, {})
        # P is lr*weight_decay, but for an independent decay, which lr does not multiply.
        decay = config.weight_decay * (product if rule.decay == "independent" else product / by)
        told.update(rule=rule, lr=config.lr * by, weight_decay=decay, changes=changes)
        told.update(rule_name=law.name, assumption=law.assumption, source=law.source)
    run = Config(**{name: told[name] for name in (f.name for f in fields(Config))})
    state = run.equilibrium
    told.update(rotation=state.rotation)
    if run.noise_scale is not None:
        told.update(drift=scaling.signal(run.noise_scale, run.batch_size, run.batch_size)[0])
    if (steps := state.timescale) is not None:
        tokens = steps * run.data / run.steps
        told.update(timescale=steps, timescale_tokens=tokens, timescale_share=steps / run.steps)
        told.update(timescale_epochs=tokens / run.dataset_size if run.dataset_size else None)
    if state.half_life is not None:
        arrival = theory.arrival(state.half_life, theory.relaxation(run.rule))
        told.update(transient=arrival, transient_share=arrival / run.steps)
    return Scaled(**told)


def _notes(laws: Sequence[Law], before: Scaled, rows: Sequence[Scaled]) -> list[str]:
    """What is said below the table: assumptions and sources, and what the numbers leave open."""
    notes = [f"{law.name}: {law.assumption} [{law.source}]" for law in laws]
    now, then = (row.drift for row in (before, rows[-1])) if rows else (None, None)
    if now is not None and then is not None and now != then:
        notes.append(
            f"Signal: the mean is {now:.2g} of the gradient's RMS norm at batch size {before.batch_size:,}, and "
            f"{then:.2g} at {rows[-1].batch_size:,} [McCandlish et al. 2018 (arXiv 1812.06162)]; rotation and "
            "transient are those of noise alone, and forecast(..., drift=row.drift) follows the mean too."
        )
    if now is None and before.gradient_norm and any(row.gradient_norm != before.gradient_norm for row in rows):
        notes.append(
            "gradient_norm: it falls as 1/sqrt(batch size), as noise does; Config(noise_scale=) counts the mean."
        )
    if any(row.rule.decay == "independent" for row in rows):
        notes.append("weight_decay is not multiplied by lr here: it moves as lr*weight_decay does in these sentences.")
    for row in rows[-1:]:
        if scaling.POWER in laws and row.parameters and row.unit == "tokens":
            ratio = row.data / row.parameters
            share = scaling.TPP_FACTOR * ratio**scaling.TPP_EXPONENT
            notes.append(
                f"The power law itself, at {ratio:.3g} tokens per parameter, remembers {share:.0%} of the run."
            )
    if any(row.transient_share and row.transient_share > 1 for row in rows):
        notes.append("A transient of more than the run means that weights never come to rest in it.")
    return notes


def _checked(call: str, name: str, value: Any) -> float:
    if name in ("batch_size", "steps", "width", "sequence_length", "size"):
        return _check.whole(call, name, value)
    hint = "Without weight decay there is no equilibrium to keep." if name == "weight_decay" else ""
    return _check.number(call, name, value, low=0, above=True, hint=hint)


def _shown(number: float | Sequence[float] | None) -> str:
    if isinstance(number, Sequence):
        return f"({', '.join(map(_shown, number))})"
    return "" if number is None else f"{number:,.0f}" if 100 <= number < 1e7 else f"{number:.4g}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}" if share >= 0.1 else f"{share:.1%}"
