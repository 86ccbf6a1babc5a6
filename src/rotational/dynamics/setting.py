"""What is propagated: a rule, a neuron, its gradients, and how they enter the mean-field equations.

C       number of weights            W   E|w|^2            q   E|g|^2
gamma   RMS norm of the gradient: at |w| = 1 (scale-invariant, q = gamma^2/W), or at any w (q = gamma^2)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np

from rotational.correlation import Correlation, Shape, correlation, fading_maximum
from rotational.dynamics.entry import noise_since
from rotational.polar import polar
from rotational.rule import Rule
from rotational.scale import Max, Polar, Raw, Rms, Sign

Number = Any
"""A float, or an array with one entry for each neuron that is propagated side by side."""


class Push(NamedTuple):
    """What the optimizer is told at a step: lr, decay beside the gradient, and decay through it.

    `rises` is the share by which lr has grown in a step of late: past updates, still in the weights, were smaller.
    """

    lr: Number
    shrink: Number
    coupled: Number
    rises: Number = 0.0


class Divided(NamedTuple):
    """The gradient as the memory takes it (divided, if that comes first), and what becomes of the filtered one.

    power, coupled, mean     E|g|^2 of its noise, decay in it, length of its mean
    amplitude                RMS length of the update over that of the filtered noise, a noisy v left out
    spread                   what the noise of v multiplies E|u|^2 by
    response                 what a part of the filtered gradient that hardly changes is multiplied by
    bend                     what the mean is multiplied by besides: entries of a larger mean are divided by more
    late                     what remembered decay and means are multiplied by besides: v has faded since
    """

    power: Number
    coupled: Number
    mean: Number
    amplitude: Number = 1.0
    spread: Number = 1.0
    response: Number = 1.0
    bend: Number = 1.0
    late: Number = 1.0


NODES, UNDER_A_MAXIMUM = 8, 6
"""Classes of weights by their initial size, where each is decayed by a share of its own (see `Setting.nodes`). Adamax's
take the most time; six of them are within 0.8% of twenty from norms ten times too large, as eight are."""


@dataclass(frozen=True, eq=False)
class Setting:
    """A rule at work on neurons of one kind; numbers may be arrays, one entry for each of several neurons.

    size            C; 1 where it is not known, and then all squares are in units of C
    known           whether `size` is the neuron's: only then are effects of order 1/C counted
    gradient        gamma; 1 where it is not known, and then all is in its units
    drift           |E g|/gamma: the share of the gradient that is its mean
    radial          <u, w>/|w|^2 of the loss: decay beside the rule's
    target          norm towards which decay pulls
    shape           of the matrix that is orthogonalised
    eps             of the rule, where gradients are known; 0 where they are not
    merged          weights that began large are like those that began small by now: no classes
    """

    rule: Rule
    size: Number = 1.0
    known: bool = False
    gradient: Number = 1.0
    scale_invariant: bool = True
    drift: float = 0.0
    radial: Number = 0.0
    target: Number = 0.0
    shape: Shape | None = None
    eps: float = 0.0
    merged: bool = False

    def of_one(self) -> Setting:
        """The same with plain numbers, for a single neuron: an order of magnitude faster than arrays of one."""
        fields = ("size", "gradient", "radial", "target")
        return replace(self, **{name: float(np.ravel(getattr(self, name))[0]) for name in fields})

    @cached_property
    def law(self) -> Correlation:
        """How the update correlates with itself."""
        return correlation(self.rule, self.shape)

    @cached_property
    def coupled(self) -> bool:
        """Whether the decay passes through the rule's memory and scale."""
        return self.rule.decay == "coupled"

    @cached_property
    def small(self) -> Number:
        """1/C, the weight of what only a finite neuron shows."""
        return 1 / self.size if self.known else 0.0 * self.size

    @cached_property
    def nodes(self) -> tuple[np.ndarray, np.ndarray] | None:
        """(z^2, weights) of classes of weights that begin at w_i^2 = z^2 W/C; None where one mean serves all.

        A coupled decay under Adam or a sign takes less, for its size, of a large weight than of a small one. While
        it outweighs the gradient, weights do not shrink in proportion, and a mean over all of them is wrong: each
        class has second moments of its own.
        """
        if self.merged or not self.coupled or isinstance(self.rule.scale, Raw):
            return None
        z, weights = half_normal(UNDER_A_MAXIMUM if isinstance(self.rule.scale, Max) else NODES)
        shape = (len(z),) + (1,) * np.ndim(self.gradient * self.size)
        return z.reshape(shape) ** 2, weights.reshape(shape)

    def total(self, x: Number) -> Number:
        """The mean over classes, where there are classes."""
        if self.nodes is None:
            return x
        if x.shape[0] == 1:  # classes that have become one
            return x[0]
        weights = self.nodes[1]
        return (weights.reshape((len(weights),) + (1,) * (x.ndim - 1)) * x).sum(0)

    def mean(self, x: Number) -> Number:
        """`total` for what becomes one class: a plain number for a plain neuron."""
        if self.nodes is None or not isinstance(x, np.ndarray) or len(x) != len(self.nodes[0]):
            return x
        one = self.total(x)
        return float(one) if np.ndim(one) == 0 else one

    def power(self, square: Number) -> Number:
        """q = E|g|^2 at E|w|^2 = `square`."""
        return self.gradient**2 / square if self.scale_invariant else self.gradient**2 + 0.0 * square

    def power_of(self, square: Number, total: Number) -> Number:
        """`power` at E|w|^2 = `total`, in each class of weights: orthogonal to w, a gradient has little to give where
        w is large."""
        q = self.power(total)
        if self.nodes is None or not (self.scale_invariant and self.known):
            return q
        return q * at_least(1 - self.small * square / total, 0.1) / (1 - self.small)

    def shrink(self, push: Push, square: Number) -> Number:
        """D: the decay beside the gradient, the loss's own counted in; less of it where it pulls towards a norm."""
        shrink = push.shrink + push.lr * self.radial
        return shrink - push.shrink * self.target / square**0.5 if self.aims else shrink

    def favours(self, fresh: Number, forgets: Number) -> Number:
        """What scale-invariance multiplies a coupled decay under Adam by.

        Weights that are large get gradients that are small, and so are decayed a little more, as far as v, which
        renews the share `fresh` in a step, follows the squares of weights, which forget the share `forgets` = 2 D.
        """
        return 1 + fresh / (fresh + forgets) * self.small if self.scale_invariant else 1.0

    @cached_property
    def unit(self) -> Number:
        """The squared amplitude of a step whose length does not depend on the gradient's."""
        if isinstance(self.rule.scale, Polar):
            assert self.shape is not None
            return self.rule.scale.multiplier(*self.shape) ** 2 * self.law_power * self.size
        return self.size

    @cached_property
    def law_power(self) -> float:
        """Mean square entry of an orthogonal factor."""
        assert isinstance(self.rule.scale, Polar)
        assert self.shape is not None
        return polar(*self.shape, steps=self.rule.scale.steps).power

    @cached_property
    def fading(self) -> tuple[float, float]:
        """(E 1/v', E c^2/v^2 over E c^2) of Adamax's maximum, for gradients of unit variance (see `fading_maximum`)."""
        assert isinstance(self.rule.scale, Max)
        inverse, share = fading_maximum(self.rule.scale)
        return inverse, share * noise_since(self.rule.scale.beta, self.rule.memory)

    @cached_property
    def fades_faster(self) -> float:
        """The power of the speed at which Adamax's maximum fades that E g^2/v^2 goes as."""
        assert isinstance(self.rule.scale, Max)
        beta = self.rule.scale.beta
        faster = fading_maximum(replace(self.rule.scale, beta=beta**1.1))[1]
        return math.log(faster / fading_maximum(self.rule.scale)[1]) / math.log(1.1) if 0 < beta < 1 else 0.0

    @cached_property
    def divides(self) -> bool:
        """Whether the gradient is divided by a running size of itself."""
        return isinstance(self.rule.scale, Rms | Max)

    @cached_property
    def aims(self) -> bool:
        """Whether decay pulls towards a norm."""
        return bool(np.any(self.target))

    @cached_property
    def scatters(self) -> bool:
        """Whether lengths scatter over neurons enough to be followed."""
        return self.known and (not self.scale_invariant or isinstance(self.rule.scale, Raw))

    @cached_property
    def bounded(self) -> bool:
        """Whether the update has one length, whatever the gradient's."""
        return isinstance(self.rule.scale, Sign | Polar)


@lru_cache(maxsize=4)
def half_normal(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss quadrature for |z| of a normal z: exact for polynomials in |z|, odd powers too, of degree < 2 count.

    What a decay outweighing its gradient does has a kink at 0, which quadrature over the whole line resolves badly.
    Nodes are the eigenvalues of the recurrence of the orthogonal polynomials, by Lanczos on a fine grid.
    """
    z, mass = np.polynomial.legendre.leggauss(20)  # on each of twenty pieces of [0, 10]
    z, mass = (np.arange(20)[:, None] + (z + 1) / 2).ravel() / 2, np.tile(mass, 20) / 4
    mass = mass * np.exp(-(z**2) / 2) * math.sqrt(2 / math.pi)
    vector = np.sqrt(mass / mass.sum())
    basis, diagonal, beside = [vector], list[float](), list[float]()
    for _ in range(count):
        new = z * basis[-1]
        diagonal.append(float(new @ basis[-1]))
        for other in basis:  # orthogonal to all, twice: Lanczos forgets
            new = new - (new @ other) * other
        for other in basis:
            new = new - (new @ other) * other
        beside.append(float(np.linalg.norm(new)))
        basis.append(new / beside[-1])
    values, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(beside[:-1], 1) + np.diag(beside[:-1], -1))
    return values, vectors[0] ** 2


def mean_sign(setting: Setting, steady: Number, noise: Number) -> Number:
    """E sign(noise + c) over c, where c is what hardly changes: its square and the noise's, summed over entries.

    For normal c this is sqrt(2/pi) over the RMS of both. In a class of weights of one size it is erf(x/sqrt(2))/x at
    x^2 = steady/noise, here as sqrt(2/pi) (1 + 2x^2/3 + 4x^4/pi^2)^(-1/4), which is at most 2.6% off.
    """
    if setting.nodes is None:
        return (2 / math.pi * setting.size / (noise + steady)) ** 0.5
    x2 = steady / noise
    return (2 / math.pi * setting.size / noise / (1 + x2 * (2 / 3 + 4 / math.pi**2 * x2)) ** 0.5) ** 0.5


def at_least(x: Number, low: Number) -> Number:
    """The larger of two, for floats and for arrays."""
    return (x + low + abs(x - low)) / 2


def alike(classes: Number) -> bool:
    """Whether weights that began large are like those that began small by now."""
    return bool(np.ptp(classes, axis=0).max() <= 1e-3 * np.min(classes))
