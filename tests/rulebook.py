"""Every rule of the catalogue, in the variants that differ somewhere: what laws over rules are tested on."""

from __future__ import annotations

from rotational import rules
from rotational.rule import Rule

RULES: dict[str, Rule] = {
    "sgd": rules.sgd(),
    "sgdm": rules.sgd(0.9),
    "sgdm, dampened": rules.sgd(0.9, dampening=0.5),
    "nesterov": rules.sgd(0.9, nesterov=True),
    "sgdw": rules.sgd(0.9, decay="decoupled"),
    "adamw": rules.adamw((0.9, 0.95)),
    "adamw, noisy v": rules.adamw((0.9, 0.95), kurtosis=3.0),
    "adamw, independent": rules.adamw(decay="independent"),
    "adamw, adamc": rules.adamw(decay="adamc"),
    "adamw, cautious": rules.adamw(decay="cautious"),
    "adam+l2": rules.adam_l2(),
    "nadamw": rules.nadamw(),
    "nadamw, warming up": rules.nadamw(momentum_decay=4e-3),
    "nadam+l2": rules.nadam_l2(),
    "radam": rules.radam(decay="decoupled"),
    "radam+l2": rules.radam(),
    "adamax": rules.adamax(decay="decoupled"),
    "adamax+l2": rules.adamax(),
    "laprop": rules.laprop(),
    "rmsprop": rules.rmsprop(),
    "rmsprop, all options": rules.rmsprop(momentum=0.9, centered=True),
    "lion": rules.lion(),
    "lion, linearised": rules.lion(linearised=True),
    "lion, cautious": rules.lion(decay="cautious"),
    "signum": rules.signum(),
    "signum, nesterov": rules.signum(nesterov=True),
    "signum, coupled": rules.signum(decay="coupled"),
    "signsgd": rules.signum(0.0),
    "muon": rules.muon(),
    "muon, plain": rules.muon(nesterov=False, ns_steps=None, adjust_lr_fn="match_rms_adamw"),
    "muon, coupled": rules.muon(decay="coupled"),
}
