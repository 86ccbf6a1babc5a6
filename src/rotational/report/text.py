"""The fixed sentences of the page: what is shown, how to read each chart, what the terms mean."""

from __future__ import annotations

WHAT = (
    "How far each neuron's weight vector turns in one optimizer step, measured during training, against the forecast "
    "from weight decay and learning rate, which leads to a balance of the two: the rotational equilibrium."
)

CHARTS: dict[str, tuple[str, str]] = {
    "overview": (
        "Rotation, arm by arm",
        "Each solid line is the RMS rotation over all neurons that weight decay acts on; a dashed line of the same "
        "colour is its prediction: what was held, or the forecast from the first norms along the run's own schedule.",
    ),
    "loss": ("Loss", "Strong lines are validation loss where there is any, faint lines training loss."),
    "layers": (
        "Rotation of every layer",
        "One line a layer. At rest they meet on the dotted line, whatever their norms; dashed is the forecast of the "
        "chosen one. Click a line to see its layer below.",
    ),
    "norms": (
        "Norm of every layer",
        "RMS length of the weight vectors of each layer. Norms settle, at levels that differ from layer to layer.",
    ),
    "rotation": (
        "Rotation",
        "RMS over neurons, with the band that holds 90% of them. Dashed: predicted. Dotted: at rest at the lr and "
        "weight decay of the moment.",
    ),
    "norm": (
        "Norm",
        "RMS length of the weight vectors, with the band of 90% of the logged neurons. The forecast starts at the "
        "first length that was measured.",
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
    "Forecast": "The random walk of a neuron step by step, from the norm that was measured first, along the learning "
    "rate and weight decay of the run: where it should be now, on its way to an equilibrium that may move.",
    "Half-life": "Steps in which the distance from equilibrium halves. It grows as 1/(lr*weight_decay).",
    "Measured, predicted": "In the table: RMS over neurons and over the last fifth of the log.",
    "Spread": "95th over 5th percentile of the neurons' own RMS rotations in the last fifth of the log; 1 means that "
    "all neurons turn equally fast.",
    "Norm": "RMS length of the weight vectors at the last logged step.",
}

NOTHING_LOGGED = "This log holds no measurements: the run ended before its first logged step, or nothing was watched."

SOURCE = (
    "Theory: Kosson, Messmer, Jaggi, “Rotational Equilibrium: How Weight Decay Balances Learning Across Neural "
    "Networks”, ICML 2024 (arXiv 2305.17212). "
    "Forecasts take gradients as random from step to step, and layers as followed by normalisation. "
    "Charts: plotly.js (MIT), inside this file; nothing is loaded from anywhere."
)
