"""Claim: what 3.0 lacks is not the model's fault, what 2.5 lacks is, and what 2.0 lacks is not.

The runs of `versions` again with the simulator itself in place of the learned model, all else alike. What the score
gains is what the model's errors cost; what is still missing to 1 is the method's own.

    python -m experiments.lecture.oracle           # with the settings of `versions`, whose runs it shares
    python -m experiments.lecture.oracle --full    # about 10 minutes where those are done
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from experiments.lecture import versions
from experiments.lecture.claim import Arms, Work, bootstrap, directory, gap, main
from experiments.lecture.figures import legend, save, whiskers
from experiments.lecture.versions import PENDULUM

KINDS = {"model": "learned model", "simulator": "the simulator itself"}


def measure(full: bool) -> Work:
    """From the runs of `versions`, and those with the simulator."""
    pairs = [(PENDULUM, name) for name in ("v2.0", "v2.5", "mbpo")]
    shared, wanted = versions.arms_of(full), {}
    for world, name in pairs:
        config = versions.config_of(name, world, full, model__kind="oracle")
        arm = f"{world} {name} simulator"
        wanted[arm] = directory("oracle", full, arm), config
        wanted[f"{world} {name}"] = shared[f"{world} {name}"]
    arms = Arms(wanted)

    def both(name: str, world: str = PENDULUM) -> tuple[np.ndarray, np.ndarray]:
        """The areas of 3.0, the last scores of others: with the simulator, and with the model."""
        of = versions.areas if name == "mbpo" else versions.last
        return of(arms[f"{world} {name} simulator"], world), of(arms[f"{world} {name}"], world)

    def data() -> dict[str, Any]:
        return {
            f"{world} {name}": {
                kind: list(bootstrap(np.mean, s))
                for kind, s in zip(("simulator", "model"), both(name, world))  # noqa: B905
            }
            for world, name in pairs
        }

    measured = {
        "3.0": lambda: gap(both("mbpo")),
        "2.5": lambda: gap(both("v2.5")),
        "2.0": lambda: bootstrap(np.mean, both("v2.0")[0]),
    }
    return Work(measured, data, arms)


def draw(data: dict[str, Any], path: Path) -> None:
    """Scores with the learned model and with the simulator, side by side."""

    def fill(axes: Axes) -> None:
        for i, (kind, label) in enumerate(KINDS.items()):
            places = [x + 0.2 * i - 0.1 for x in range(len(data))]
            whiskers(axes, places, [s[kind] for s in data.values()], label, i, "os"[i])
        for drawn in axes.get_lines():
            drawn.set_linestyle("none")
        names = [key.rsplit(" ", 1) for key in data]
        labels = [f"{versions.METHODS[n].partition(' ')[0]}, {w.partition('/')[2]}" for w, n in names]
        axes.set_xticks(range(len(data)), labels, rotation=35, ha="right")
        axes.axhline(1, color="0.6", linewidth=0.8, linestyle=":")
        axes.set(ylabel="score (0: random, 1: solved)\n3.0: area, others: last")
        legend(axes, "mean, 95 % interval", 2)
        axes.grid(axis="x", visible=False)

    save(path, [2.4], fill, above=0.4)


if __name__ == "__main__":
    main("oracle", measure, draw, compiles_much=True)
