"""Claims decided: held, not held, undecided or not run, by an interval over seeds."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from rotational.lab.figures import Claim, Figure
from rotational.lab.measures import Found
from rotational.lab.statistics import Estimate

Word: TypeAlias = Literal["held", "not held", "undecided", "not run"]
WORDS: tuple[Word, ...] = ("held", "not held", "undecided", "not run")
MOST_NAMED = 2
"""Arms up to which a note names them."""


@dataclass(frozen=True, eq=False)
class Verdict:
    """What became of a claim; `why` says what kept it from being decided, `notes` what to know beside its number."""

    claim: Claim
    word: Word
    estimate: Estimate | None
    why: str = ""
    notes: tuple[str, ...] = ()

    @property
    def measured(self) -> str:
        """The value with its interval, or why there is none."""
        e = self.estimate
        if e is None:
            return self.why
        if self.claim.exact or len(e.seeds) < 2 or not math.isfinite(e.value):
            return digits(e.value)
        return f"{digits(e.value)} [{digits(e.low)}, {digits(e.high)}]"

    @property
    def holds(self) -> str:
        """The range in which the claim holds.

        >>> from rotational.lab.quantities import Of
        >>> Verdict(Claim("grows", Of("a", "loss"), low=2), "not run", None).holds
        '≥ 2'
        """
        low, high = self.claim.low, self.claim.high
        if math.isinf(low):
            return f"≤ {digits(high)}"
        return f"≥ {digits(low)}" if math.isinf(high) else f"{digits(low)} to {digits(high)}"


def judge(claim: Claim, found: Found) -> Verdict:
    """Decide a claim by the results that are there.

    All runs of its arms must be there: a sweep with a hole has no best point. Where they are not for want of data,
    `why` says what is wanted.
    """
    arms = dict.fromkeys(claim.quantity.arms)
    missing = sum(found.missing.get(arm, 0) for arm in arms)
    if missing:
        lacking = dict.fromkeys(found.lacking[arm] for arm in arms if arm in found.lacking)
        return Verdict(claim, "not run", None, " ".join(lacking) or f"{missing} run{'s' * (missing > 1)} missing")
    return replace(_decided(claim, claim.quantity.estimate(found)), notes=_noted(claim, found))


def _decided(claim: Claim, estimate: Estimate) -> Verdict:
    if not math.isfinite(estimate.value):
        return Verdict(claim, "undecided", estimate, "a run of it has no finite value: diverged, or not measured")
    low, high = (estimate.value, estimate.value) if claim.exact else (estimate.low, estimate.high)
    if claim.low <= low and high <= claim.high:
        return Verdict(claim, "held", estimate)
    if high < claim.low or low > claim.high:
        return Verdict(claim, "not held", estimate)
    if len(estimate.seeds) < 2:
        return Verdict(claim, "undecided", estimate, "one seed gives no interval")
    if math.isinf(low) or math.isinf(high):
        return Verdict(claim, "undecided", estimate, "the gap it is a share of cannot be told from 0")
    return Verdict(claim, "undecided", estimate, "the interval reaches over the limit")


def _noted(claim: Claim, found: Found) -> tuple[str, ...]:
    """Its quantity's notes, each with the arms of which it is so."""
    arms: dict[str, dict[str, None]] = {}
    for said, arm in claim.quantity.notes(found):
        arms.setdefault(said, {})[arm] = None
    every = len(set(claim.quantity.arms))
    return tuple(
        said
        if every == 1
        else f"{said}: {', '.join(those) if len(those) <= MOST_NAMED else f'{len(those)} of {every} arms'}"
        for said, those in arms.items()
    )


def judged(figure: Figure, found: Found) -> tuple[Verdict, ...]:
    """All claims of a figure."""
    return tuple(judge(claim, found) for claim in figure.claims)


def counted(verdicts: Iterable[Verdict]) -> str:
    """How many have each word, as a phrase.

    >>> counted([])
    'no claims'
    """
    counts = Counter(v.word for v in verdicts)
    return ", ".join(f"{counts[word]} {word}" for word in WORDS if counts[word]) or "no claims"


def digits(x: float) -> str:
    """Four significant digits, without zeros at their end.

    >>> digits(0.01234), digits(-float("inf")), digits(1234.5)
    ('0.01234', '-∞', '1,234')
    """
    if not math.isfinite(x):
        return "none" if math.isnan(x) else "∞" if x > 0 else "-∞"
    return f"{x:,.0f}" if abs(x) >= 1000 else f"{x:.4g}"
