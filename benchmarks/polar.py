"""How well `rotational.polar` knows the orthogonal factors of random matrices: sampled over computed.

    OMP_NUM_THREADS=1 python benchmarks/polar.py [--shapes 8x8 512x384] [--seconds 20] [--bfloat16]

For each shape, for the exact factor ("svd") and for torch's five Newton-Schulz steps ("ns") in float64: the ratio of
E|U|^2, of f at a few rho, and of what Muon with a momentum of 0.95 sums over its lags, sum_k f(rho_k), without and with
Nesterov's look-ahead. Below stand the standard errors of the samples. With --bfloat16, torch's own iteration beside the
same in float64, for shapes that it can afford.

G2 = rho G1 + c N and -rho G1 + c N are used together: <O(G1), O(G2)> then loses the noise that f(0) = 0 has.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch.optim._muon import _zeropower_via_newtonschulz

from rotational.memory import Memory, ema, nesterov_ema
from rotational.polar import NEWTON_SCHULZ, Polarised, polar

RHO = np.array([0.1, 0.3, 0.5, 0.7, 0.9, 0.95, 0.99])
SHAPES = ["1x4", "4x4", "8x8", "8x64", "64x64", "32x128", "128x32", "256x256", "16x512", "512x384"]
METHODS: dict[str, int | None] = {"svd": None, "ns": 5}
MEMORIES = {"momentum": ema(0.95), "nesterov": nesterov_ema(0.95)}


@dataclass(frozen=True)
class Sampled:
    """Means and standard errors over batches: E|U|^2 and f at RHO, of one method."""

    power: float
    power_error: float
    f: np.ndarray
    f_error: np.ndarray


def newton_schulz(t: np.ndarray) -> np.ndarray:
    a, b, c = NEWTON_SCHULZ
    for _ in range(5):
        t = a * t + b * t**3 + c * t**5
    return t


def factors(g: np.ndarray) -> dict[str, np.ndarray]:
    u, s, v = np.linalg.svd(g, full_matrices=False)
    t = newton_schulz(s / np.sqrt((s**2).sum(-1, keepdims=True)))
    return {"svd": u @ v, "ns": (u * t[..., None, :]) @ v}


def inner(x: np.ndarray, y: np.ndarray) -> float:
    return float((x * y).sum((-1, -2)).mean())


def sample(rows: int, columns: int, seconds: float, seed: int = 0) -> dict[str, Sampled]:
    """Batches of pairs of matrices for `seconds`, but 6 at least."""
    rng = np.random.default_rng(seed)
    batch = max(1, min(4096, 200_000 // (rows * columns)))
    start, samples = time.perf_counter(), {method: [] for method in METHODS}
    while len(samples["svd"]) < 6 or time.perf_counter() - start < seconds:
        g, n = rng.standard_normal((2, batch, rows, columns))
        first, lines = factors(g), {method: [] for method in METHODS}
        for rho in RHO:
            c = (1 - rho**2) ** 0.5
            with_g, against_g = factors(rho * g + c * n), factors(c * n - rho * g)
            for method, line in lines.items():
                line.append(inner(first[method], with_g[method] - against_g[method]) / 2)
        for method, line in lines.items():
            samples[method].append([inner(first[method], first[method]), *line])
    return {method: _mean(np.array(table)) for method, table in samples.items()}


def _mean(table: np.ndarray) -> Sampled:
    mean, error = table.mean(0), table.std(0, ddof=1) / len(table) ** 0.5
    return Sampled(float(mean[0]), float(error[0]), mean[1:] / mean[0], error[1:] / mean[0])


def f(law: Polarised, rho: np.ndarray) -> np.ndarray:
    terms = zip(law.coefficients, law.exponents, strict=True)
    return sum((c * rho**n for c, n in terms), np.zeros_like(rho))


def lags(law: Polarised, memory: Memory, got: Sampled) -> float:
    """sum_k f(rho_k), sampled over computed; between the sampled rho, their difference is interpolated."""
    r0, r1 = memory.autocovariance()
    rho = r1 / r0 * memory.decay ** np.arange(400)
    missing = np.interp(rho, [0, *RHO, 1], [0, *(got.f - f(law, RHO)), 0])
    return 1 + float(missing.sum() / f(law, rho).sum())


def bfloat16(rows: int, columns: int, pairs: int, rho: float = 0.9) -> tuple[float, float]:
    """(E|U|^2, f(rho)) of torch's own iteration over those of the same iteration in float64."""
    generator, sums = torch.Generator().manual_seed(0), np.zeros((2, 2))
    for _ in range(pairs):
        g, n = torch.randn(2, rows, columns, generator=generator)
        pair = (g, rho * g + (1 - rho**2) ** 0.5 * n)
        low = [_zeropower_via_newtonschulz(x, NEWTON_SCHULZ, 5, 1e-7).double() for x in pair]
        high = [torch.from_numpy(factors(x.double().numpy())["ns"]) for x in pair]
        sums += [[float((x * y).sum()) for y in (x, other)] for x, other in (low, high)]
    (low_power, low_inner), (power, product) = sums
    return low_power / power, low_inner / low_power / (product / power)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=SHAPES, help="ROWSxCOLUMNS")
    parser.add_argument("--seconds", type=float, default=20, help="of sampling for each shape")
    parser.add_argument("--bfloat16", action="store_true", help="what torch's precision changes")
    options = parser.parse_args()
    torch.set_num_threads(1)

    heads = [
        "power",
        *(f"f({rho:g})" for rho in RHO),
        *MEMORIES,
        *(["bf16 power", "f(0.9)"] if options.bfloat16 else []),
    ]
    print(f"{'sampled/computed':>16}" + "".join(f"{head:>11}" for head in heads))
    for shape in options.shapes:
        rows, columns = (int(side) for side in shape.split("x"))
        for method, got in sample(rows, columns, options.seconds).items():
            law = polar(rows, columns, steps=METHODS[method])
            computed = law.power * rows * columns
            ratios = [got.power / computed, *(got.f / f(law, RHO)), *(lags(law, m, got) for m in MEMORIES.values())]
            if options.bfloat16 and method == "ns":
                ratios += bfloat16(rows, columns, max(4, min(2000, 3_000_000 // (rows * columns))))
            print(f"{shape:>11} {method:>4}" + "".join(f"{ratio:11.4f}" for ratio in ratios))
            errors = [got.power_error / computed, *(got.f_error / f(law, RHO))]
            print(f"{'+-':>16}" + "".join(f"{error:11.4f}" for error in errors), flush=True)


if __name__ == "__main__":
    main()
