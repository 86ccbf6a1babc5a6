"""rotational: weight-decay dynamics in deep learning, predicted, measured and controlled.

Names are loaded when they are first used, so that theory, the command line's `predict` and reports start
without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rotational.walk import walk  # at once: loaded later, the module would shadow the function of its name

if TYPE_CHECKING:
    from rotational import rules
    from rotational.angles import Angles, replay, replay_groups
    from rotational.forecasts import at_batch_sizes, forecast
    from rotational.layers import groups, partition
    from rotational.monitor import watch
    from rotational.neurons import Neurons
    from rotational.optim.named import SGD, Adam, AdamW, Lion
    from rotational.outlook import Forecast
    from rotational.prediction import predict
    from rotational.retargeting import Config, retarget
    from rotational.rule import Rule
    from rotational.theory import Equilibrium, equilibrium
    from rotational.translating import translate
    from rotational.translation import Held, Hyper, Translation

_HOME = {
    "SGD": "optim.named",
    "Adam": "optim.named",
    "AdamW": "optim.named",
    "Lion": "optim.named",
    "Angles": "angles",
    "Config": "retargeting",
    "Equilibrium": "theory",
    "Forecast": "outlook",
    "equilibrium": "theory",
    "forecast": "forecasts",
    "Neurons": "neurons",
    "Rule": "rule",
    "at_batch_sizes": "forecasts",
    "groups": "layers",
    "partition": "layers",
    "Held": "translation",
    "Hyper": "translation",
    "Translation": "translation",
    "predict": "prediction",
    "replay": "angles",
    "replay_groups": "angles",
    "retarget": "retargeting",
    "translate": "translating",
    "watch": "monitor",
}

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Angles",
    "Config",
    "Equilibrium",
    "Forecast",
    "Held",
    "Hyper",
    "Lion",
    "Neurons",
    "Rule",
    "Translation",
    "at_batch_sizes",
    "equilibrium",
    "forecast",
    "groups",
    "partition",
    "predict",
    "replay",
    "replay_groups",
    "retarget",
    "rules",
    "translate",
    "walk",
    "watch",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(import_module(f"rotational.{_HOME[name]}"), name)
    elif name in ("rules", "layers", "lab", "report", "records", "schedule", "theory", "optim"):
        value = import_module(f"rotational.{name}")
    else:
        raise AttributeError(f"module 'rotational' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
