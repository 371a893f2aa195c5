"""A short fresh run against the committed curve: does today's code still learn as published?"""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import stats

from branchax.errors import ConfigError
from experiments.published import curves
from experiments.published.curves import Curve, Ours
from experiments.published.plan import Arm
from experiments.published.runs import train_seeds

FOLDER = Path("runs/published-check")
SEED = 0  # of development: not one of those that were published
LAST = 3  # evaluations that count
SURE = 0.95
SLACK = 0.05  # of the range of the committed mean curve, where all seeds agree
CHECKS = (Arm("InvertedPendulum", "sac", 1, 2_500), Arm("InvertedPendulum", "dhmbpo_small", 1, 8_000))


class Verdict(NamedTuple):
    """How a fresh seed compares."""

    got: float
    low: float
    high: float

    @property
    def within(self) -> bool:
        return self.low <= self.got <= self.high


def judge(fresh: Curve, committed: Ours) -> Verdict:
    """Whether a fresh seed's last evaluations lie where one more seed of the committed ones would, 95 times of 100.

    The interval is mean ± t s √(1 + 1/n) of the committed seeds' means at the same steps (a prediction interval),
    and at least 5 % of their curve's range to either side.

    Raises:
      ConfigError: with fewer than three committed seeds, or none that has got as far.
    """
    steps = fresh.steps[-LAST:]
    each = np.array([np.mean([curves.at(c, step) for step in steps]) for c in committed.seeds.values()])
    each = each[~np.isnan(each)]
    if each.size < 3:
        raise ConfigError(f"check: {each.size} committed seeds of {committed.method} at {steps[-1]:,.0f}; needed: 3")
    mean_curve = [
        np.mean(curves.all_at(committed, step)) for step in fresh.steps if curves.all_at(committed, step).size
    ]
    n, spread = each.size, each.std(ddof=1)
    half = stats.t.ppf((1 + SURE) / 2, n - 1) * spread * np.sqrt(1 + 1 / n)
    half = max(half, SLACK * float(np.ptp(mean_curve)))
    return Verdict(float(np.mean(fresh.returns[-LAST:])), float(each.mean() - half), float(each.mean() + half))


def check(arms: tuple[Arm, ...] = CHECKS) -> bool:
    """Runs each arm that has a committed curve, afresh; says how it compares. Returns whether all are within.

    Raises `ConfigError` when none has one.
    """
    good, seen = True, 0
    for arm in arms:
        path = curves.path_of(arm)
        if not path.exists():
            print(f"{arm.task} {arm.method}: not checked, {path} is not there")
            continue
        committed = curves.collected(path)
        run = train_seeds(arm, SEED, folder=FOLDER / time.strftime("%Y%m%d-%H%M%S"))
        verdict = judge(curves.of_run(run)[SEED], committed)
        print(
            f"{arm.task} {arm.method} at {arm.env_steps:,}: {verdict.got:,.0f},"
            f" {'within' if verdict.within else 'OUTSIDE'} [{verdict.low:,.0f}, {verdict.high:,.0f}]"
            f" of {len(committed.seeds)} committed seeds"
        )
        good, seen = good and verdict.within, seen + 1
    if not seen:
        raise ConfigError("check: no committed curve to compare with; `make published` makes them")
    return good
