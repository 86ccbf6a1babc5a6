"""What results predict is known by a number: as long as it stays, so do the predictions of one and the same log."""

from __future__ import annotations

import json

import pytest

import synthetic
from rotational.lab import results
from rotational.lab.declare import Optimizer
from rotational.lab.named import declared

# Radians per step that a layer of 16 neurons was predicted to turn by after 5, 100, 400 and 760 of 800 steps, by the
# laws of number 1; of a log with warm-up and cosine. Where these change by more than 0.1%, raise `results.LAWS` and
# write the new ones here: results that are stored keep the old ones, and say so by their number.
PREDICTED = {
    1: {
        "adamw": [0.0002891, 0.0031523, 0.006195, 0.00012404],
        "lion": [0.00077833, 0.012024, 0.016637, 0.0003455],
        "muon": [0.00014585, 0.0022599, 0.0035761, 8.4482e-05],
        "sgd": [0.01676, 0.065176, 0.049383, 0.0063861],
        "held": [0.0052981, 0.020504, 0.015574, 0.0020194],
    }
}


def predicted(name: str, folder) -> list[float]:
    kind = "rotational" if name == "held" else "adamw"
    layer = synthetic.layers(1, width=16)[1:2]
    log = synthetic.write(
        folder, kind, described=layer, steps=800, every=5, weight_decay=2.0, schedule=synthetic.cosine(800, 80)
    )
    if name not in ("adamw", "held"):
        path = log / "run.json"
        run = json.loads(path.read_text())
        run["rules"] = [declared(Optimizer(name, 1e-3, 0.1)).as_dict()]
        if name in ("sgd", "muon"):
            run["groups"][0]["momentum"] = 0.9
        path.write_text(json.dumps(run))
    curve = results.measured(log)["rotation"]
    return [float(curve.predicted[abs(curve.step - t).argmin()]) for t in (5, 100, 400, 760)]


@pytest.mark.parametrize("name", PREDICTED[1])
def test_predictions_are_those_of_the_laws_number(name, tmp_path):
    assert predicted(name, tmp_path) == pytest.approx(PREDICTED[results.LAWS][name], rel=1e-3)


def test_a_result_says_by_which_laws_it_was_predicted():
    assert results.versions()["laws"] == str(results.LAWS)
