"""The paper's algorithm in plain numpy and double precision: a witness that shares no code with the package.

Written from Kosson, Messmer, Jaggi 2024 (arXiv 2305.17212), algorithm 1 and table 1. A neuron is a list of flat
positions; nothing here knows axes. There is no epsilon beside the RMS of the update: where there is no tangent
part, nothing turns.
"""

from __future__ import annotations

import math
from collections.abc import Generator

import numpy as np

Direction = Generator[np.ndarray, np.ndarray, None]


# Rules: send a gradient, receive the update direction -----------------------------------------------------


def adam(beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8) -> Direction:
    g = yield np.zeros(())
    m, v, t = np.zeros_like(g), np.zeros_like(g), 0
    while True:
        t += 1
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        g = yield m / (1 - beta1**t) / (np.sqrt(v / (1 - beta2**t)) + eps)


def sgd(momentum: float = 0.0, dampening: float = 0.0, nesterov: bool = False) -> Direction:
    g = yield np.zeros(())
    buffer = g
    while True:
        g = yield g if momentum == 0 else g + momentum * buffer if nesterov else buffer
        buffer = momentum * buffer + (1 - dampening) * g


def lion(beta1: float = 0.9, beta2: float = 0.99) -> Direction:
    g = yield np.zeros(())
    m = np.zeros_like(g)
    while True:
        u = np.sign(beta1 * m + (1 - beta1) * g)
        m = beta2 * m + (1 - beta2) * g
        g = yield u


# The paper's rotations, table 1 -----------------------------------------------------------------------------


def adamw_rotation(lr: float, weight_decay: float, beta1: float = 0.9) -> float:
    return math.sqrt(2 * lr * weight_decay * (1 - beta1) / (1 + beta1))


def sgd_rotation(
    lr: float, weight_decay: float, momentum: float = 0.0, dampening: float = 0.0, nesterov: bool = False
) -> float:
    # Dampening is a smaller lr; Nesterov's form is the random walk's for its two-step kernel.
    shape = 1 + 2 * momentum * (1 - momentum**2) if nesterov else 1.0
    return math.sqrt(2 * lr * (1 - dampening) * weight_decay / (1 + momentum) * shape)


# Updates: send a gradient and the numbers of the step, receive the weights ----------------------------------


def rotational(
    w: np.ndarray,
    positions: list[list[int]],
    direction: Direction,
    center: bool = True,
    memory: float = 0.9,
) -> Generator[np.ndarray, tuple[np.ndarray, float], None]:
    """Send (gradient, rotation); the weights come back."""
    next(direction)
    w, at = np.array(w, dtype=np.float64), np.array(positions)
    rows = w.reshape(-1)[at]
    if center:
        rows = rows - rows.mean(axis=1, keepdims=True)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    square, t = np.zeros_like(length), 0
    while True:
        flat = np.empty(w.size)
        flat[at] = rows
        g, rotation = yield flat.reshape(w.shape)
        t += 1
        u = direction.send(np.asarray(g, dtype=np.float64)).reshape(-1)[at]
        if center:
            u = u - u.mean(axis=1, keepdims=True)
        u = u - rows * np.sum(u * rows, axis=1, keepdims=True) / np.sum(rows * rows, axis=1, keepdims=True)
        square = memory * square + (1 - memory) * np.sum(u * u, axis=1, keepdims=True)
        i = np.any(u != 0, axis=1)
        turned = rows[i] - rotation * length[i] * u[i] / np.sqrt(square[i] / (1 - memory**t))
        rows[i] = length[i] * turned / np.linalg.norm(turned, axis=1, keepdims=True)


def plain(
    w: np.ndarray, direction: Direction, coupled: bool
) -> Generator[np.ndarray, tuple[np.ndarray, float, float], None]:
    """Send (gradient, lr, weight decay); the weights come back."""
    next(direction)
    w = np.array(w, dtype=np.float64)
    while True:
        g, lr, weight_decay = yield w
        g = np.asarray(g, dtype=np.float64)
        u = direction.send(g + weight_decay * w if coupled else g)
        w = w - lr * u if coupled else (1 - lr * weight_decay) * w - lr * u


def run(process: Generator, sent: list) -> np.ndarray:
    """What a process returns after all of `sent`."""
    next(process)
    last = np.zeros(())
    for item in sent:
        last = process.send(item)
    return last
