"""What centred RMSprop takes off its v: the square of a running mean of what it is given, h = g + wd w.

    e  the mean: e <- b e + (1-b) h     I = wd^2 |w|^2     q = |g|^2     d  share of w that a step takes back
    Y  wd <e, w> after the step

h is what weights are moved by, w' = (1-d) w - (d/wd) g, so that where they stay in place the mean of h does, too: noise
and decay cancel in it. With h and w as above,

    |e|^2 <- b^2 |e|^2 + (1-b)^2 (q + I) + 2 b (1-b) Y,      Y <- (1-d) (b Y + (1-b) I) - d (1-b) q

A momentum is taken as if it moved weights at once: it is shorter than the mean, or |e|^2 next to nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rotational.dynamics.setting import Number, Setting


def share(setting: Setting, second: Number, lr: Number, coupled: Number) -> Number:
    """d, where the gradient is divided by the root of `second`, summed over entries."""
    return -np.expm1(-_pull(setting, second, lr, coupled))


def _pull(setting: Setting, second: Number, lr: Number, coupled: Number) -> Number:
    return lr * coupled * setting.rule.memory.total / ((second / setting.size) ** 0.5 + setting.eps + 1e-300)


def crossed(beta: float, q: Number, inside: Number, share: Number, before: Number) -> Number:
    """Y after a step from Y = `before`."""
    return (1 - share) * (beta * before + (1 - beta) * inside) - share * (1 - beta) * q


def mean_square(beta: float, q: Number, inside: Number, cross: Number, before: Number) -> Number:
    """|e|^2 after a step from |e|^2 = `before` and Y = `cross`."""
    fresh = 1 - beta
    return np.maximum(beta**2 * before + fresh**2 * (q + inside) + 2 * beta * fresh * cross, 0.0)


def at_rest(beta: float, q: Number, inside: Number, share: Number) -> tuple[Number, Number]:
    """(|e|^2, Y) after many steps like this one."""
    cross = (1 - beta) * ((1 - share) * inside - share * q) / (1 - beta * (1 - share))
    return mean_square(beta, q, inside, cross, 0.0) / (1 - beta**2), cross


def second_at_rest(setting: Setting, beta: float, q: Number, lr: Number, coupled: Number, square: Number) -> Number:
    """v less |e|^2, where |w|^2 = `square` and steps are divided by its root: smaller steps have a larger |e|^2."""
    inside = coupled**2 * square
    low, high = q * 2 * beta / (1 + beta) + 0.0 * inside, q + inside
    falls, second = 2 * beta * (1 - beta) / (1 + beta) * (inside + (1 - beta) * q), np.sqrt(low * high)
    moving: Any = True  # each for itself: one does not depend on those beside it
    for _ in range(20):
        pull = _pull(setting, second, lr, coupled)
        kept = np.exp(-pull)
        off = high - at_rest(beta, q, inside, 1 - kept)[0] - second
        # The share that is taken falls with `second`, and |e|^2 with that share.
        slope = falls / (1 - beta * kept) ** 2 * kept * pull / (2 * second + 1e-300)
        after = np.clip(second + off / (1 + slope), low, high)
        now, second = np.abs(after - second) > 1e-10 * second, np.where(moving, after, second)
        moving = moving & now
        if not np.any(moving):
            break
    return second
