"""Which rule an optimizer follows: torch's, ours, wrapped, subclassed, or not known."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest
import torch

import rotational
from rotational import rules
from rotational.optim.recognise import recognise

PARAMETERS = [torch.nn.Parameter(torch.ones(3, 4))]
KNOWN = {
    "SGD": (torch.optim.SGD, {}, rules.sgd()),
    "SGD without momentum damps nothing": (torch.optim.SGD, {"dampening": 1.0}, rules.sgd()),
    "SGDM": (torch.optim.SGD, {"momentum": 0.9}, rules.sgd(0.9)),
    "SGD with dampening": (torch.optim.SGD, {"momentum": 0.9, "dampening": 0.1}, rules.sgd(0.9, 0.1)),
    "Nesterov": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}, rules.sgd(0.9, nesterov=True)),
    "Adam": (torch.optim.Adam, {"betas": (0.8, 0.9)}, rules.adam_l2((0.8, 0.9))),
    "Adam with tensors": (
        torch.optim.Adam,
        {"lr": torch.tensor(0.1), "betas": (torch.tensor(0.5), torch.tensor(0.75)), "foreach": False},
        rules.adam_l2((0.5, 0.75)),
    ),
    "AdamW": (torch.optim.AdamW, {"betas": (0.8, 0.9), "eps": 1e-6}, rules.adamw((0.8, 0.9), 1e-6)),
    "NAdam": (torch.optim.NAdam, {}, rules.nadam_l2(momentum_decay=4e-3)),
    "NAdam, decoupled": (torch.optim.NAdam, {"decoupled_weight_decay": True}, rules.nadamw(momentum_decay=4e-3)),
    "RAdam": (torch.optim.RAdam, {}, rules.radam()),
    "RAdam, decoupled": (torch.optim.RAdam, {"decoupled_weight_decay": True}, rules.radam(decay="decoupled")),
    "Adamax": (torch.optim.Adamax, {"betas": (0.8, 0.99)}, rules.adamax((0.8, 0.99))),
    "Muon": (
        torch.optim.Muon,
        {"momentum": 0.9, "nesterov": False, "adjust_lr_fn": "match_rms_adamw"},
        rules.muon(0.9, False, adjust_lr_fn="match_rms_adamw"),
    ),
    "RMSprop": (torch.optim.RMSprop, {}, rules.rmsprop()),
    "RMSprop, all options": (
        torch.optim.RMSprop,
        {"alpha": 0.9, "eps": 1e-6, "momentum": 0.5, "centered": True},
        rules.rmsprop(0.9, 1e-6, 0.5, True),
    ),
    "our SGD": (rotational.SGD, {"momentum": 0.9, "weight_decay": 0.1}, rules.sgd(0.9)),
    "our AdamW": (rotational.AdamW, {"betas": (0.8, 0.9)}, rules.adamw((0.8, 0.9))),
    "our Adam": (rotational.Adam, {"rotation": 0.1}, rules.adam_l2()),
    "our Lion": (rotational.Lion, {"weight_decay": 0.1}, rules.lion()),
}
if "decoupled_weight_decay" in inspect.signature(torch.optim.Adam).parameters:  # since torch 2.7
    KNOWN["Adam, decoupled"] = (torch.optim.Adam, {"decoupled_weight_decay": True}, rules.adamw())


class Kept(torch.optim.AdamW):
    """Adds a method, and keeps the step."""

    def described(self):
        return "AdamW"


class Changed(torch.optim.AdamW):
    def step(self, closure=None):
        return super().step(closure)


class Named(Changed):
    def rule(self, group):
        return rules.lion(group["betas"])


class Misnamed(Changed):
    def rule(self, group):
        return "lion"


class SGD(torch.optim.Optimizer):
    """Has torch's name, and another step."""

    def __init__(self, params):
        super().__init__(params, {"lr": 0.1, "momentum": 0.0, "dampening": 0.0, "nesterov": False})

    def step(self, closure=None):
        return None


class Wrapper:
    """What gradient scaling, sharding and look-ahead libraries do."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    @property
    def param_groups(self):
        return self.optimizer.param_groups

    def step(self):
        self.optimizer.step()


@pytest.mark.parametrize(("make", "options", "rule"), KNOWN.values(), ids=KNOWN)
def test_known_optimizers_and_their_options(make, options, rule):
    opt = make([{"params": PARAMETERS, **options}], **({} if make is not torch.optim.SGD else {"lr": 0.1}), **options)
    assert recognise(opt) == (rule,)


def test_each_group_has_its_own_rule():
    groups = [{"params": [torch.nn.Parameter(torch.ones(2))], "betas": (b, 0.9)} for b in (0.5, 0.7)]
    assert recognise(torch.optim.AdamW(groups)) == (rules.adamw((0.5, 0.9)), rules.adamw((0.7, 0.9)))
    assert recognise(rotational.AdamW(groups, rotation=0.1)) == (rules.adamw((0.5, 0.9)), rules.adamw((0.7, 0.9)))


def test_a_subclass_that_keeps_the_step_is_known():
    assert recognise(Kept(PARAMETERS, betas=(0.5, 0.9))) == (rules.adamw((0.5, 0.9)),)


def test_a_subclass_is_known_whichever_class_is_made_first():
    """torch wraps `step` on the class of the first instance, which may be the subclass."""
    script = """
import torch, rotational
from rotational.optim.recognise import recognise
class Kept(torch.optim.AdamW): pass
class Ours(rotational.AdamW): pass
p = [torch.nn.Parameter(torch.ones(3, 4))]
print([recognise(make(p))[0].name for make in (Kept, torch.optim.AdamW, torch.optim.Adam, Ours)])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=600)
    assert done.stdout.strip() == "['adamw', 'adamw', 'adam_l2', 'adamw']"


def test_a_wrapper_is_looked_through():
    opt = Wrapper(Wrapper(torch.optim.SGD(PARAMETERS, lr=0.1, momentum=0.5)))
    assert recognise(opt) == (rules.sgd(0.5),)
    assert recognise(Wrapper(Named(PARAMETERS))) == (rules.lion((0.9, 0.999)),)


def test_a_wrapper_of_itself_is_unknown():
    opt = Changed(PARAMETERS)
    opt.optimizer = opt
    with pytest.raises(ValueError, match="not known"):
        recognise(opt)


def test_a_scheduler_changes_nothing():
    """Schedulers put a `step` of their own into the instance."""
    opt = torch.optim.SGD(PARAMETERS, lr=0.1)
    torch.optim.lr_scheduler.StepLR(opt, 2)
    assert recognise(opt) == (rules.sgd(),)


def test_a_method_names_the_rule():
    assert recognise(Named(PARAMETERS, betas=(0.5, 0.9))) == (rules.lion((0.5, 0.9)),)
    with pytest.raises(TypeError, match=r"Misnamed.rule\(group\) returned str, not a rotational Rule"):
        recognise(Misnamed(PARAMETERS))


def test_a_word_given_beats_the_class():
    assert recognise(torch.optim.AdamW(PARAMETERS), rules.lion()) == (rules.lion(),)
    assert recognise(Changed(PARAMETERS), rules.lion()) == (rules.lion(),)


@pytest.mark.parametrize(
    "opt",
    [
        Changed(PARAMETERS),
        SGD(PARAMETERS),
        Wrapper(Changed(PARAMETERS)),
    ],
    ids=lambda opt: type(opt).__name__,
)
def test_what_is_not_known_is_told_how_to_name_its_rule(opt):
    with pytest.raises(
        ValueError, match=rf"look\({type(opt).__name__}\): .* not known. Name it, as in look\("
    ) as error:
        recognise(opt, call="look")
    assert "rule=rotational.rules.adamw(betas=(0.9, 0.999))" in str(error.value)
    assert "SGD, Adam, AdamW, NAdam, RAdam, Adamax, Muon, RMSprop" in str(error.value)


LAWLESS = {
    "Adagrad": "never forgets",
    "Adadelta": "its own past steps",
    "Adafactor": "a share of the weight's own size",
    "ASGD": "averaged weights",
    "Rprop": "a step size for each weight",
    "LBFGS": "no fixed filter",
    "SparseAdam": "no weight decay",
}


@pytest.mark.parametrize("name", LAWLESS)
def test_what_admits_no_law_is_refused_with_the_reason(name):
    opt = getattr(torch.optim, name)([torch.nn.Parameter(torch.ones(3, 4))])
    with pytest.raises(ValueError, match=rf"look\({name}\): no law is known for it, because .*{LAWLESS[name]}"):
        recognise(opt, call="look")


def test_muon_with_other_coefficients_is_refused():
    opt = torch.optim.Muon([torch.nn.Parameter(torch.ones(3, 4))], ns_coefficients=(3.0, -4.0, 2.0))
    with pytest.raises(ValueError, match=r"Muon\(ns_coefficients=\(3.0, -4.0, 2.0\)\)"):
        recognise(opt)


def test_radam_that_never_leaves_its_first_phase_is_refused():
    with pytest.raises(ValueError, match=r"look\(RAdam\): .*never leaves its unrectified phase"):
        recognise(torch.optim.RAdam(PARAMETERS, betas=(0.9, 0.6)), call="look")


def test_nadam_without_its_momentum_decay_looks_half_as_far_ahead():
    """mu = beta/2 throughout: c = (1-mu) g + mu m."""
    opt = torch.optim.NAdam(PARAMETERS, betas=(0.8, 0.9), momentum_decay=0.0, decoupled_weight_decay=True)
    memory = recognise(opt)[0].memory
    assert (memory.new, memory.old) == pytest.approx((0.6 + 0.4 * 0.2, 0.4 * 0.8))
    assert (memory.decay, memory.inflow, memory.ramp) == pytest.approx((0.8, 0.2, 0.0))


@pytest.mark.parametrize("flags", [{"maximize": True}, {"foreach": True}, {"capturable": True}, {"fused": True}])
@pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam, torch.optim.Adamax])
def test_how_a_step_is_computed_does_not_matter(make, flags):
    if not flags.keys() <= inspect.signature(make).parameters.keys():
        pytest.skip("this optimizer has no such flag")
    assert recognise(make(PARAMETERS, **flags)) == recognise(make(PARAMETERS))


def test_options_out_of_a_rules_range_name_the_call():
    with pytest.raises(ValueError, match=r"look\(SGD\): sgd\(dampening=1"):
        recognise(torch.optim.SGD(PARAMETERS, lr=0.1, momentum=0.9, dampening=1.0), call="look")


@pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.AdamW])
def test_amsgrad_has_no_law(make):
    with pytest.raises(ValueError, match=f"predict.{make.__name__}.: no law is known for amsgrad=True"):
        rotational.predict(make(PARAMETERS, amsgrad=True))


@pytest.mark.parametrize("module", ["rotational.optim.recognise", "rotational.prediction", "rotational.control"])
def test_torch_is_not_imported(module):
    """Reports and the command line's predictions run without it."""
    script = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=600)
