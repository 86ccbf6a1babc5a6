"""The fixed sentences of the page: what is shown, how to read each chart, what the terms mean."""

from __future__ import annotations

WHAT = (
    "How far each neuron's weight vector turns in one optimizer step, measured during training, against the "
    "rotation at which weight decay and updates balance: the rotational equilibrium."
)

CHARTS: dict[str, tuple[str, str]] = {
    "overview": (
        "Rotation, arm by arm",
        "Each solid line is the RMS rotation over all neurons that weight decay acts on; a dashed line of the same "
        "colour is its prediction. An arm in equilibrium runs on its dashed line.",
    ),
    "loss": ("Loss", "Strong lines are validation loss where there is any, faint lines training loss."),
    "layers": (
        "Rotation of every layer",
        "One line a layer. In equilibrium they meet on the dashed prediction, whatever their norms. Click a line to "
        "see its layer below.",
    ),
    "norms": (
        "Norm of every layer",
        "RMS length of the weight vectors of each layer. Norms settle, at levels that differ from layer to layer.",
    ),
    "rotation": (
        "Rotation",
        "RMS over neurons, with the band that holds 90% of them. A narrow band means that neurons turn equally fast.",
    ),
    "norm": (
        "Norm",
        "RMS length of the weight vectors, with the band of 90% of the logged neurons. It stops moving in equilibrium.",
    ),
    "strip": (
        "Every neuron over time",
        "One row a neuron, sorted by its mean, fastest on top; the colour is its rotation over the prediction, or its "
        "rotation where nothing is predicted. Grey: no value.",
    ),
}
"""Title and caption of every chart; page.js draws them under the same names."""

TERMS: dict[str, str] = {
    "Neuron": "One output unit's weight vector: a row of a linear layer, a filter of a convolution, an embedding.",
    "Rotation": "The angle between a neuron's weight vector before and after one optimizer step, in radians.",
    "Equilibrium": "Weight decay shrinks the weights and updates grow them; where the two balance, the norm stays and "
    "the direction turns at a steady rate that the hyperparameters set.",
    "Half-life": "Steps in which the distance from equilibrium halves. It grows as 1/(lr*weight_decay).",
    "Measured, predicted": "In the table: RMS over neurons and over the last fifth of the log.",
    "Spread": "95th over 5th percentile of the neurons' own RMS rotations in the last fifth of the log; 1 means that "
    "all neurons turn equally fast.",
    "Norm": "RMS length of the weight vectors at the last logged step.",
}

MOVING = (
    "The learning rate or the weight decay changed during the run: a dashed line is the static equilibrium of the "
    "values of the moment, where a layer would settle if they stayed."
)

NOTHING_LOGGED = "This log holds no measurements: the run ended before its first logged step, or nothing was watched."

SOURCE = (
    "Theory: Kosson, Messmer, Jaggi, “Rotational Equilibrium: How Weight Decay Balances Learning Across Neural "
    "Networks”, ICML 2024 (arXiv 2305.17212). Predictions assume gradients that are random from step to step. "
    "Charts: plotly.js (MIT), inside this file; nothing is loaded from anywhere."
)
