"""Claim: 3.0 learns from real and from imagined data, and from much more imagined than real.

`mbpo` on the pendulum, all of the preset but the share of real rows in a batch and the rollouts (of 10 steps) for each
real step. With real rows alone nothing is imagined and no model is fitted; the learner and its updates are the same.

    python -m experiments.lecture.data           # 300 real steps, 2 seeds
    python -m experiments.lecture.data --full    # 600 real steps, 10 seeds; about 35 minutes, one run is of `versions`
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from branchax.config import Config
from experiments.lecture import versions
from experiments.lecture.claim import Arms, Work, bootstrap, changed, directory, gap, main
from experiments.lecture.figures import save, whiskers
from experiments.lecture.versions import PENDULUM

STEPS, REAL, ROLLOUTS = 600, 0.05, 100  # real steps; the preset's share of real rows and rollouts for a real step
SHARES, COUNTS = (0.0, REAL, 0.5, 1.0), (1, 10, ROLLOUTS, 400)


def config_of(share: float, count: int, full: bool) -> Config:
    """`mbpo` with a share of real rows and so many rollouts for each real step."""
    config = versions.config_of("mbpo", PENDULUM, full)
    config = changed(config, env_steps=min(STEPS, config.env_steps), real_fraction=share)
    if share == 1.0:
        return changed(config, rollout__horizon=0)
    return changed(config, rollout__per_step=count, rollout__groups=5)


def measure(full: bool) -> Work:
    """From a run for each share and each count."""
    keys = [(share, ROLLOUTS) for share in SHARES] + [(REAL, count) for count in COUNTS]
    wanted = {
        (arm := f"{share:g} {count}"): (directory("data", full, arm), config_of(share, count, full))
        for share, count in keys
    }
    preset = f"{PENDULUM} mbpo"
    wanted[f"{REAL:g} {ROLLOUTS}"] = versions.arms_of(full)[preset]
    arms = Arms(wanted)

    def area(share: float = REAL, count: int = ROLLOUTS) -> np.ndarray:
        return versions.areas(arms[f"{share:g} {count}"], PENDULUM, STEPS)

    def data() -> dict[str, Any]:
        return {
            "share": {share: list(bootstrap(np.mean, area(share))) for share in SHARES},
            "count": {count: list(bootstrap(np.mean, area(REAL, count))) for count in COUNTS},
        }

    measured = {
        "imagined helps": lambda: gap((area(), area(1.0))),
        "real helps": lambda: gap((area(), area(0.0))),
        "mostly imagined": lambda: gap((area(), area(0.5))),
        "much more": lambda: gap((area(), area(REAL, 1))),
        "enough": lambda: gap((area(REAL, 400), area())),
    }
    return Work(measured, data, arms)


def draw(data: dict[str, Any], path: Path) -> None:
    """The area over the share of real rows, and over rollouts."""

    def fill(share: Axes, count: Axes) -> None:
        whiskers(share, range(len(data["share"])), list(data["share"].values()), "", 0, "o")
        share.set_xticks(range(len(data["share"])), [f"{float(s):.0%}" for s in data["share"]])
        share.set(xlabel=f"share of real rows in a batch ({ROLLOUTS} rollouts)", ylabel=f"area, {STEPS} real steps")
        whiskers(count, [int(c) for c in data["count"]], list(data["count"].values()), "", 1, "s")
        count.set(xscale="log", xlabel="rollouts for each real step (5 % real)", ylabel=f"area, {STEPS} real steps")
        count.set_xticks(ticks := [int(c) for c in data["count"]], ticks)
        count.minorticks_off()

    save(path, [1.7, 1.7], fill)


if __name__ == "__main__":
    main("data", measure, draw, compiles_much=True)
