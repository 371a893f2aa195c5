"""Claim: in a model, samples are bought with compute, and enough of them buy a return.

2.5 of `versions` on the pendulum with 2 to 32 rollouts of the model for each update, at the same real steps and
updates; beside it 2.0, whose gradient needs few samples and is no better for them.

    python -m experiments.lecture.compute           # 400 real steps, 2 seeds
    python -m experiments.lecture.compute --full    # 1,000 real steps, 10 seeds; about 25 minutes after `versions`
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from branchax.runs import rundir, runlog
from experiments.lecture import versions
from experiments.lecture.claim import Arms, Work, bootstrap, changed, directory, gap, main
from experiments.lecture.figures import legend, save, whiskers
from experiments.lecture.versions import PENDULUM

COUNTS = (2, 8, 32)  # rollouts for an update; `versions` has 24


def measure(full: bool) -> Work:
    """From a run for each number of rollouts."""
    base = versions.config_of("v2.5", PENDULUM, full)
    base = changed(base, seeds=min(base.seeds, 10))
    wanted = {
        f"v2.5 {n}": (directory("compute", full, f"v2.5 {n}"), changed(base, rollout__per_update=n)) for n in COUNTS
    }
    shared = versions.arms_of(full)
    wanted["v2.5 24"], wanted["v2.0"] = shared[f"{PENDULUM} v2.5"], shared[f"{PENDULUM} v2.0"]
    arms = Arms(wanted)

    def last(name: str) -> np.ndarray:
        return versions.last(arms[name], PENDULUM)

    def imagined(name: str) -> float:
        return float(runlog.read(arms[name] / rundir.METRICS)[-1]["model_steps"])

    def data() -> dict[str, Any]:
        names = sorted(wanted, key=lambda name: wanted[name][1].rollout.per_update)
        return {
            name: {"steps": imagined(name), "score": list(bootstrap(np.mean, last(name)[: base.seeds]))}
            for name in names
        }

    measured = {
        "more samples": lambda: gap((last("v2.5 32"), last("v2.5 2"))),
        "over 2.0": lambda: gap((last("v2.5 32"), last("v2.0"))),
        "saturates": lambda: gap((last("v2.5 32"), last("v2.5 8"))),
    }
    return Work(measured, data, arms)


def draw(data: dict[str, Any], path: Path) -> None:
    """The last score over imagined steps."""

    def fill(axes: Axes) -> None:
        for i, (name, label) in enumerate((("v2.5", "2.5, 2 to 32 rollouts an update"), ("v2.0", "2.0, 24 rollouts"))):
            found = [d for key, d in data.items() if key.startswith(name)]
            whiskers(axes, [d["steps"] for d in found], [d["score"] for d in found], label, i, "os"[i])
        axes.set(xscale="log", xlabel="imagined steps of a seed", ylabel="last score\n(0: random, 1: solved)")
        legend(axes, "mean, 95 % interval")

    save(path, [2.2], fill, above=0.6)


if __name__ == "__main__":
    main("compute", measure, draw, compiles_much=True)
