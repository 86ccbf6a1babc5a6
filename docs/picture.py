"""Draw docs/rotation.svg, the picture of the README, from the logs of a demo run.

python docs/picture.py rotational-demo/run-1
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np

from rotational.lab import summary

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 860, 360, 62, 190, 20, 44
ARMS = {
    "adam-l2": ("Adam + L2", "#0b8457"),
    "adamw-warmup": ("AdamW, warm-up", "#1668b8"),
    "adamw": ("AdamW", "#c4570a"),
    "rotational": ("rotational.AdamW", "#8a3fa0"),
}


def main(folder: Path) -> None:
    """Draw the logs in `folder`."""
    curves = {name: summary.read(folder / name) for name in ARMS}
    steps = max(int(c.step[-1]) for c in curves.values() if c)
    low, high = 4e-3, 0.15

    def x(step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * step / steps

    def y(angle: float) -> float:
        share = math.log(max(angle, low) / low) / math.log(high / low)
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share

    def path(at: np.ndarray, angles: np.ndarray) -> str:
        return "M" + "L".join(f"{x(t):.1f} {y(a):.1f}" for t, a in zip(at, angles, strict=True) if a >= low)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="system-ui, sans-serif" '
        'font-size="13" role="img" aria-label="RMS rotation of four training runs beside the predictions">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="10" fill="#fff"/>',
    ]
    for angle in (0.005, 0.01, 0.02, 0.05, 0.1):
        parts.append(f'<path d="M{LEFT} {y(angle):.1f}H{WIDTH - RIGHT}" stroke="#e4e6ea"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(angle) + 4:.1f}" text-anchor="end" fill="#555">{angle:g}</text>')
    for step in range(0, steps + 1, 200):
        parts.append(f'<text x="{x(step):.1f}" y="{HEIGHT - 24}" text-anchor="middle" fill="#555">{step}</text>')
    parts.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle" fill="#555">step</text>'
    )
    parts.append(
        f'<text transform="translate(16 {HEIGHT / 2}) rotate(-90)" text-anchor="middle" fill="#555">'
        "RMS rotation, radians per step</text>"
    )
    taken: list[float] = []
    for name, (label, colour) in ARMS.items():
        curve = curves[name]
        if curve is None:
            continue
        # Averages over four logged steps: the eye wants the level, the report has every step.
        n = len(curve.step) // 4 * 4
        at, measured = curve.step[:n].reshape(-1, 4).mean(1), np.sqrt((curve.measured[:n].reshape(-1, 4) ** 2).mean(1))
        if name != "adam-l2":
            dash = (
                f'<path d="{path(curve.step, curve.predicted)}" fill="none" stroke="{colour}" stroke-dasharray="5 4"/>'
            )
            parts.append(dash)
        parts.append(f'<path d="{path(at, measured)}" fill="none" stroke="{colour}" stroke-width="2.2"/>')
        height = y(float(measured[-1])) + 4
        while any(abs(height - other) < 17 for other in taken):
            height += 1
        taken.append(height)
        parts.append(f'<text x="{WIDTH - RIGHT + 10}" y="{height:.1f}" fill="{colour}">{label}</text>')
    parts.append(f'<text x="{WIDTH - RIGHT + 10}" y="{HEIGHT - BOTTOM}" fill="#555">dashed: predicted</text></svg>')
    out = Path(__file__).with_name("rotation.svg")
    out.write_text("\n".join(parts) + "\n", encoding="utf-8")
    print(out)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
