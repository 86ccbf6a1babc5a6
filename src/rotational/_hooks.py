"""torch's step hooks, made into two calls around every step that an optimizer really takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
from torch.optim import Optimizer


class StepHooks:
    """Calls `before(optimizer)` and `after(optimizer)` around every step of an optimizer, until `remove()`.

    torch hooks the `step` of every class, so that one which calls `super().step()` runs the hooks twice: the
    outer step is the one that counts. A step that raises has no `after`. A wrapper without hooks of its own
    (accelerate's) that holds its optimizer as `.optimizer` is looked through.

    Raises TypeError for what is not an optimizer; if hooking fails half-way, nothing stays hooked.

    >>> opt = torch.optim.SGD([torch.ones(1)])
    >>> hooks = StepHooks(opt, lambda opt: print("before"), lambda opt: print("after"))
    >>> opt.step()
    before
    after
    >>> hooks.remove()
    >>> opt.step()
    """

    def __init__(self, optimizer: Any, before: Callable[[Optimizer], None], after: Callable[[Optimizer], None]) -> None:
        optimizer = hooked(optimizer)
        self._before, self._after = before, after
        self._step: FrameType | None = None
        self._depth = 0
        # Under torch.compile(optimizer.step) the hooks stay plain Python.
        self._handles = [optimizer.register_step_pre_hook(torch.compiler.disable(self._pre))]
        try:
            self._handles.append(optimizer.register_step_post_hook(torch.compiler.disable(self._post)))
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        """Take the hooks off; doing so twice does nothing more."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._step = [], None

    def _pre(self, optimizer: Optimizer, *_: Any) -> None:
        # While the frame of a step is on the stack, this one runs inside it. A frame that has left the stack
        # without a post hook belongs to a step that raised.
        if _on_stack(self._step):
            self._depth += 1
        else:
            self._step, self._depth = _step_frame(), 1
            self._before(optimizer)

    def _post(self, optimizer: Optimizer, *_: Any) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._step = None
            self._after(optimizer)


def hooked(optimizer: Any) -> Optimizer:
    """The optimizer whose step hooks run."""
    inner = optimizer
    while not hasattr(inner, "_optimizer_step_pre_hooks"):
        if not hasattr(inner, "optimizer"):
            raise TypeError(
                f"watch(optimizer={type(optimizer).__name__}): expected a torch.optim.Optimizer. The model comes "
                "first, then one optimizer; open one log for each of several."
            )
        inner = inner.optimizer
    return inner


def _step_frame() -> FrameType | None:
    """The frame of torch's step from which the hook was called."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_code.co_filename != _TORCH:
        frame = frame.f_back
    return frame


_TORCH = inspect.getfile(Optimizer)


def _on_stack(frame: FrameType | None) -> bool:
    above = inspect.currentframe() if frame is not None else None
    while above is not None and above is not frame:
        above = above.f_back
    return above is not None
