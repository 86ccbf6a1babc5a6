"""All figures and tables, in the order of the paper, and what came after it."""

from __future__ import annotations

from rotational.lab.figures import Figure
from rotational.paper.adam import ADAM, STANDARDIZATION
from rotational.paper.after import ADAMC, LAG, OVERSHOOT, REPLAY
from rotational.paper.appendix import ASSUMPTIONS, SENSITIVE
from rotational.paper.computed import PREDICTIONS, TIME, WALK
from rotational.paper.control import CONTROL, OTHERS
from rotational.paper.dynamics import DYNAMICS
from rotational.paper.imbalance import IMBALANCE, SHARES
from rotational.paper.language import RATES_TEXT, WARMUP_TEXT
from rotational.paper.rates import RATES, WARMUP
from rotational.paper.sensitivity import SENSITIVITY, SENSITIVITY_TEXT
from rotational.paper.text import TEXT

FIGURES: tuple[Figure, ...] = (
    *(PREDICTIONS, DYNAMICS, CONTROL, TEXT, TIME),
    *(RATES, WARMUP, WARMUP_TEXT, ADAM, STANDARDIZATION),
    *(WALK, ASSUMPTIONS, SENSITIVE, OTHERS, RATES_TEXT, IMBALANCE, SHARES, SENSITIVITY, SENSITIVITY_TEXT),
    *(ADAMC, REPLAY, LAG, OVERSHOOT),
)
"""Every figure, each with a name of its own."""
