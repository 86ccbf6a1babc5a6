"""What torch wraps around the step of every optimizer, hooks and a name for profilers, where there is any use for it.

Opening and closing a name that nobody records takes 0.01 ms, a tenth of a small model's step; `torch.no_grad()`, which
makes three objects to set one flag, takes 0.001 ms.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch

# What torch has no public question for; where one of these goes, its own wrapper is always entered.
# pyright: reportPrivateUsage=false, reportPrivateImportUsage=false
try:
    from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

    _profiled: Callable[[], bool] = torch.autograd._profiler_enabled
    _of_all: tuple[Any, ...] = (_global_optimizer_pre_hooks, _global_optimizer_post_hooks)
except (ImportError, AttributeError):
    _of_all = ()

    def _profiled() -> bool:
        return True


track: Callable[[bool], Any] = getattr(torch._C, "_set_grad_enabled", torch.set_grad_enabled)
"""From here on, whether autograd records what is done."""


def where_used(step: Callable[..., Any], wrapped: Callable[..., Any]) -> Callable[..., Any]:
    """The step itself, or as torch wraps it: for hooks, for profilers, and for closures, which might see to either."""

    @wraps(step)
    def taken(self: Any, *args: Any, **kwargs: Any) -> Any:
        used = args or kwargs or _profiled() or any(_of_all)
        used = (
            used
            or getattr(self, "_optimizer_step_pre_hooks", True)
            or getattr(self, "_optimizer_step_post_hooks", True)
        )
        return (wrapped if used else step)(self, *args, **kwargs)

    return taken
