"""The field's scaling rules, each as exponents of what changes, with its assumption and its source.

    batch b       batch size, new over old      width m         width of the model
    data d        tokens of the whole run       parameters n    number of parameters
    epoch e       tokens of one epoch           P               lr*weight_decay, or an independent weight_decay

A rule multiplies lr and P by powers of these ratios, and weight_decay follows from the two. P alone sets the timescale
1/P and, with the memory, the rotation sqrt(2 P/tau): a rule that holds one of them says what P is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Any

from rotational.memory import NONE, ema
from rotational.rule import Rule
from rotational.scale import Polar, Raw, Rms

SGD, ADAM, ENTRYWISE, MUON, L2 = "SGD", "Adam", "sign", "Muon", "L2"
NOBODY = "no source"


@dataclass(frozen=True)
class Law:
    """One rule of the field.

    lr, product   exponents of the ratios, for lr and for P
    assumption    one sentence            source   who says so
    kinds         the optimizers it is for (`kind`); of the others, `elsewhere` says why it is silent
    holds         whether it is about the timescale or the rotation, where others leave weight_decay alone
    betas         whether `with_betas` applies too

    >>> LINEAR.factors({"batch": 4.0})
    (4.0, 4.0)
    """

    name: str
    lr: Mapping[str, float]
    product: Mapping[str, float]
    assumption: str
    source: str
    kinds: tuple[str, ...] = (SGD, ADAM, ENTRYWISE, MUON, L2)
    elsewhere: str = ""
    holds: bool = False
    betas: bool = False

    def factors(self, ratios: Mapping[str, float]) -> tuple[float, float]:
        """What lr and P are multiplied by; a ratio that is not given is 1."""
        return _product(self.lr, ratios), _product(self.product, ratios)

    def with_width(self, width: Law) -> Law:
        """Both at once: a law of the run and one of the width are powers of different ratios."""
        name, assumption = f"{self.name} + {width.name}", f"{self.assumption} {width.assumption}"
        source = (
            "; ".join(sorted({self.source, width.source} - {NOBODY}, key=[self.source, width.source].index)) or NOBODY
        )
        lr, product = {**self.lr, **width.lr}, {**self.product, **width.product}
        return replace(self, name=name, lr=lr, product=product, assumption=assumption, source=source)


def _product(powers: Mapping[str, float], ratios: Mapping[str, float]) -> float:
    return math.prod(ratios.get(name, 1.0) ** power for name, power in powers.items())


def kind(rule: Rule) -> str:
    """Which optimizers a rule scales like; L2 where the decay is divided by the gradient's size too.

    >>> from rotational import rules
    >>> [kind(rule) for rule in (rules.sgd(), rules.nadamw(), rules.lion(), rules.muon(), rules.adam_l2())]
    ['SGD', 'Adam', 'sign', 'Muon', 'L2']
    """
    match rule.scale:
        case Raw():
            return SGD
        case _ if rule.decay == "coupled":
            return L2
        case Rms():
            return ADAM
        case Polar():
            return MUON
        case _:
            return ENTRYWISE


def with_betas(rule: Rule, batch: float) -> tuple[Rule, dict[str, Any]]:
    """A rule with the betas and eps of the square-root rule, and what changed, in torch's names.

    1-beta' = b (1-beta),  eps' = eps/sqrt(b): memories as long in tokens as before, and eps as small beside gradients
    whose noise falls as 1/sqrt(b). Raises ValueError for a beta that would fall below 0, and for other rules than Adam
    and RMSprop without momentum.

    >>> from rotational import rules
    >>> with_betas(rules.adamw(betas=(0.9, 0.999)), batch=4.0)[1]
    {'betas': (0.6, 0.996), 'eps': 5e-09}

    Source: Malladi et al. 2022 (arXiv 2205.10287), the square-root scaling rules of RMSprop and Adam.
    """
    scale, memory = rule.scale, rule.memory
    adam = memory != NONE
    plain = isinstance(scale, Rms) and not (scale.rectified or scale.centered or (adam and scale.first))
    if not isinstance(scale, Rms) or not plain or memory not in (NONE, ema(memory.decay)):
        raise ValueError(f"it is derived for Adam, and RMSprop without momentum, not for {rule.title}.")
    if batch == 1:
        return rule, {}  # not even the last bit moves
    # Twelve digits, so that 0.9 at 4 times the batch size is 0.6.
    b1, b2 = (round(1 - batch * (1 - beta), 12) for beta in (memory.decay, scale.beta))
    if (low := min(b1 if adam else b2, b2)) < 0:
        raise ValueError(f"at {batch:g} times the batch size a beta would be {low:g}, which is below 0.")
    scale = replace(scale, beta=b2, eps=scale.eps / math.sqrt(batch))
    changes: dict[str, Any] = {"betas": (b1, b2)} if adam else {"alpha": b2}
    return replace(rule, memory=ema(b1) if adam else NONE, scale=scale), {**changes, "eps": scale.eps}


def signal(noise_scale: float | None, batch_size: float, before: float) -> tuple[float, float]:
    """(drift, factor of gradient_norm) at a batch size, from a gradient measured at the batch size `before`.

        drift^2 = B/(B + noise_scale),    E|g|^2 = |G|^2 (1 + noise_scale/B)

    G is the mean and `noise_scale` the batch size at which noise is as large as it; None stands for noise alone.

    >>> signal(768, batch_size=256, before=64)
    (0.5, 0.5547001962252291)
    >>> signal(None, batch_size=256, before=64)
    (0.0, 0.5)

    Source: McCandlish et al. 2018 (arXiv 1812.06162), section 2.2.
    """
    if noise_scale is None:
        return 0.0, math.sqrt(before / batch_size)
    squares = (1 + noise_scale / batch_size) / (1 + noise_scale / before)
    return math.sqrt(batch_size / (batch_size + noise_scale)), math.sqrt(squares)


GOYAL = "Goyal et al. 2017 (arXiv 1706.02677)"
KOSSON = "Kosson, Messmer, Jaggi 2024 (arXiv 2305.17212)"
MALLADI = "Malladi et al. 2022 (arXiv 2205.10287)"
WANG = "Wang and Aitchison 2024 (arXiv 2405.13698)"
BERGSMA = "Bergsma et al. 2025 (arXiv 2505.13738)"
MUP, MUP_LATER = "Yang et al. 2022 (arXiv 2203.03466)", "Kosson et al. 2025 (arXiv 2510.19093)"
ROOT, SHARE, NARROWER = {"batch": 0.5}, {"batch": 1.0, "data": -1.0}, {"width": -1.0}
HELD = (SGD, ADAM, ENTRYWISE, MUON)
NO_L2 = (
    "with L2 the decay is divided by the gradient's size too, so lr*weight_decay is not what is forgotten in a step."
)

TPP_FACTOR, TPP_EXPONENT = 1.084, -0.527
"""B/(lr wd D), the timescale as a share of the run, is 1.084 (tokens per parameter)^-0.527: fit of Bergsma et al."""

UNCHANGED = Law(
    "unchanged", {}, {},
    "lr and weight_decay stay, and the equilibrium with them, unless it depends on the gradient's size (L2).",
    NOBODY,
)  # fmt: skip
LINEAR = Law(
    "linear", {"batch": 1.0}, {"batch": 1.0},
    "Gradients hardly change from step to step, so that one step can do the work of several; weight_decay stays, and "
    "with it the timescale in epochs and the net angle of an epoch, sqrt(2 lr weight_decay steps).",
    GOYAL, (SGD,), "it is for SGD: the step of this optimizer does not grow with the gradient.",
)  # fmt: skip

# The batch size: SGD's lr follows it, Adam's follows its root.
BATCH = (
    LINEAR,
    Law("square root", ROOT, ROOT,
        "Noise dominates the gradient: SGD keeps the variance of a step, and a normalised update goes as far over the "
        "same data; weight_decay stays.",
        f"Krizhevsky 2014 (arXiv 1404.5997) for SGD, {MALLADI} for Adam, carried over to others"),
    Law("square root with betas", ROOT, ROOT,
        "As 'square root', and the memories last as many tokens; weight_decay, which the derivation leaves out, stays.",
        MALLADI, (ADAM, L2), "it is derived for Adam and RMSprop.", betas=True),
    Law("square root, timescale as share of run", ROOT, SHARE,
        "lr as in 'square root', and weights remember a fixed share of the run.",
        f"the practice of karpathy/nanochat, after {MALLADI} and {WANG}", HELD, NO_L2, holds=True),
    Law("timescale in steps", ROOT, {},
        "lr as in 'square root', and weight_decay against it: weights turn as before in each step.",
        f"{NOBODY} prescribes it; the equilibrium of {KOSSON}", HELD, NO_L2, holds=True),
)  # fmt: skip

# The length of the run, or the batch size at a fixed lr.
DATA = (
    Law("timescale in tokens", {}, {"batch": 1.0},
        "Weights remember a fixed number of tokens: at a fixed lr, weight_decay grows with the batch size.",
        f"{WANG} and {BERGSMA}, both for AdamW", HELD, NO_L2, holds=True),
    Law("timescale in epochs", {}, {"batch": 1.0, "epoch": -1.0},
        "Weights remember a fixed number of epochs; the whole run is one where dataset_size is not given.",
        f"{WANG}, for AdamW", HELD, NO_L2, holds=True),
    Law("timescale as share of run", {}, SHARE,
        "Weights remember a fixed share of the run: what fixed epochs are for data that are seen once.",
        f"{WANG} and {BERGSMA}, both for AdamW", HELD, NO_L2, holds=True),
    Law("rotation per epoch", {}, {"batch": 2.0, "epoch": -2.0},
        "Signal dominates, so that angles add up: rotation times the steps of an epoch is kept.",
        f"{NOBODY} prescribes it; the rotation of {KOSSON}", HELD, NO_L2, holds=True),
)  # fmt: skip
POWER = Law(
    "tokens-per-parameter power law", {},
    {"batch": 1.0, "data": -1 - TPP_EXPONENT, "parameters": TPP_EXPONENT},
    "The best share of the run to remember falls as (tokens per parameter)^-0.527, at the lr that muP gives.",
    BERGSMA, (ADAM,), "it was fitted to AdamW.", holds=True,
)  # fmt: skip

# The width, for hidden matrices: microsoft/mup keeps SGD's lr and divides that of entry-wise updates by the width.
STANDARD = Law("standard parametrisation", {}, {}, "lr and weight_decay serve every width.", NOBODY)
NO_MUP = "muP divides the lr of entry-wise normalised updates; it keeps SGD's, and has no row for Muon's."
WIDTH = (
    Law("muP, standard decay", NARROWER, NARROWER,
        "Updates of hidden matrices align with their inputs as at the start of training; weight_decay stays, so "
        "that lr*weight_decay falls with the width and rotation with its root.",
        f"the lr of {MUP} beside AdamW's usual decay; compared in {MUP_LATER}", (ADAM, ENTRYWISE, L2), NO_MUP),
    Law("muP, independent decay", NARROWER, {},
        "lr as in muP, and lr*weight_decay stays, so that hidden matrices turn as fast at every width.",
        f"MuAdam of microsoft/mup; Wortsman et al. 2023 (arXiv 2309.14322); {MUP_LATER}",
        (ADAM, ENTRYWISE, L2), NO_MUP),
    Law("muP, decay with sqrt(width)", NARROWER, {"width": -0.5},
        "lr as in muP, and top singular values, seen to go as sqrt(lr/weight_decay) width^0.75, keep a layer's gain.",
        "Fan et al. 2025 (arXiv 2510.15262)", (ADAM,), "it was observed for AdamW."),
)  # fmt: skip


def laws(new: AbstractSet[str]) -> tuple[tuple[Law, ...], tuple[Law, ...]]:
    """The laws that speak of what is new: those of the run and those of the width, each empty where it stays.

    `new` names the arguments of `retarget`. The power law speaks of all of them, and stands with those of the run.

    >>> [law.name for law in laws({"width"})[1]][:2]
    ['standard parametrisation', 'muP, standard decay']
    """
    run = (*(BATCH if "batch_size" in new else ()), *(DATA if new & {"batch_size", "steps", "tokens"} else ()), POWER)
    return (run if run == (POWER,) else (UNCHANGED, *run)), ((STANDARD, *WIDTH) if "width" in new else ())


def pairs(run: Sequence[Law], width: Sequence[Law]) -> list[Law]:
    """Laws of the run with those of the width; laws of the width alone where the run stays.

    One that leaves weight_decay alone goes with every law of the width; one that holds something only with those that
    leave P to it; and the power law, whose lr is muP's, with muP.
    """
    if not width:
        return list(run)
    alone = list(width) if not any(law is UNCHANGED for law in run) else []
    fits = [(a, b) for a in run for b in width if not (a.holds and b.product) and (a is not POWER or b.lr)]
    return alone + [a.with_width(b) for a, b in fits]
