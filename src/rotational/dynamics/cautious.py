"""Decay of the entries where update and weight agree in sign, as a linear rule sees it."""

from __future__ import annotations

import math

import numpy as np

from rotational.dynamics.setting import Number, Setting
from rotational.scale import Sign


def lasting(tail: Number) -> Number:
    """What remembering multiplies the growth from that noise by; `tail` is the sum of correlations of c.

    The masked w is (w + |w| sign(u))/2, so its noise is what a sign has beside its linear part: covariance
    asin(rho)/(2 pi) - rho/pi^2 in units of W, which is 1/4 - 1/pi^2 at once and near 0.058 rho later.
    """
    return 1 + 2 * (0.5 / math.pi - 1 / math.pi**2) / (0.25 - 1 / math.pi**2) * tail


def cautious(
    setting: Setting, shrink: Number, lr: Number, square: Number, cross: Number, power: Number
) -> tuple[Number, Number, Number]:
    """The cautious step as (decay of w, step along u, noise): the regression of the masked w on w and u.

    With w_i and u_i normal of correlation r, E[w^2; uw > 0] = (1/2 + (asin r + r sqrt(1-r^2))/pi) W/C and
    E[wu; uw > 0] = (sqrt(1-r^2) + r (pi/2 + asin r))/pi times both RMS. For a sign u the same holds of what it is
    the sign of, whose correlation with w is larger by sqrt(pi/2).

    `square` = E|w|^2, `cross` = E<w,u>, `power` = E|u|^2.
    """
    ratio = (square / power) ** 0.5
    r = cross / (square * power) ** 0.5
    if isinstance(setting.rule.scale, Sign):
        z = np.clip(r * math.sqrt(math.pi / 2), -0.999, 0.999)
        agree = math.sqrt(2 / math.pi) * (1 + z) / 2
    else:
        z = np.clip(r, -0.999, 0.999)
        agree = (np.sqrt(1 - z * z) + z * (math.pi / 2 + np.arcsin(z))) / math.pi
    part = 0.5 + (np.arcsin(z) + z * np.sqrt(1 - z * z)) / math.pi
    of_u = (agree - r * part) / (1 - r * r)
    of_w = part - r * of_u
    rest = shrink**2 * square * (part - of_w * part - of_u * agree)
    return shrink * of_w, lr + shrink * ratio * of_u, rest
