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
from experiments.published.plan import Arm, config_of
from experiments.published.runs import train_seeds

FOLDER = Path("runs/published-check")
SEED = 0  # of development: not one of those that were published
LAST = 3  # evaluations that count
SURE = 0.95
SLACK = 0.05  # of the range of the committed mean curve, where all seeds agree
# Cheap, and their committed curves decide: without a model and with one.
CHECKS = (Arm("InvertedPendulum", "sac", 1, 3_000), Arm("InvertedPendulum", "mbpo", 1, 3_000))


class Verdict(NamedTuple):
    """How a fresh seed compares."""

    got: float
    low: float
    high: float
    untrained: float  # mean return of the committed seeds' first evaluations

    @property
    def within(self) -> bool:
        return self.low <= self.got <= self.high

    @property
    def decides(self) -> bool:
        """Whether a seed that learns nothing would be seen."""
        return not self.low <= self.untrained <= self.high


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
        raise ConfigError(
            f"check: {each.size} committed seeds of {committed.method} at {max(steps, default=0):,.0f}; needed: 3"
        )
    mean_curve = [
        np.mean(curves.all_at(committed, step)) for step in fresh.steps if curves.all_at(committed, step).size
    ]
    n, spread = each.size, each.std(ddof=1)
    half = stats.t.ppf((1 + SURE) / 2, n - 1) * spread * np.sqrt(1 + 1 / n)
    half = float(max(half, SLACK * np.ptp(mean_curve)))
    got, middle = float(np.mean(fresh.returns[-LAST:])), float(each.mean())
    return Verdict(got, middle - half, middle + half, float(np.mean([c.returns[0] for c in committed.seeds.values()])))


def as_far_as(curve: Curve, steps: int) -> Curve:
    """The evaluations of a curve within so many env steps."""
    return Curve(*(column[curve.steps <= steps] for column in curve))


def check(arms: tuple[Arm, ...] = CHECKS) -> bool:
    """Runs each arm that has a committed curve, afresh; says how it compares. Returns whether all are within.

    An arm whose preset has changed since is not within, and not run. One whose committed seeds lie so far apart that a
    seed that learns nothing would pass is not checked.

    Raises `ConfigError` when none can be checked.
    """
    good, seen = True, 0
    for arm in arms:
        path = curves.path_of(arm)
        if not path.exists():
            print(f"{arm.task} {arm.method}: not checked, {path} is not there")
            continue
        if differs := curves.differences(arm, path, config_of(arm)):
            print(f"{arm.task} {arm.method}: FAILED, {path} was made with other settings: {'; '.join(differs)}")
            good, seen = False, seen + 1
            continue
        committed = curves.collected(path)
        # The curve that a fresh run would have if it were one of the committed seeds.
        beforehand = judge(as_far_as(next(iter(committed.seeds.values())), arm.env_steps), committed)
        if not beforehand.decides:
            print(
                f"{arm.task} {arm.method}: not checked, at {arm.env_steps:,} the interval"
                f" [{beforehand.low:,.0f}, {beforehand.high:,.0f}] holds an untrained policy's return,"
                f" {beforehand.untrained:,.0f}; take other --steps, or run more seeds"
            )
            continue
        run = train_seeds(arm, SEED, folder=FOLDER / time.strftime("%Y%m%d-%H%M%S"))
        verdict = judge(curves.of_run(run)[SEED], committed)
        print(
            f"{arm.task} {arm.method} at {arm.env_steps:,}: {verdict.got:,.0f},"
            f" {'within' if verdict.within else 'OUTSIDE'} [{verdict.low:,.0f}, {verdict.high:,.0f}]"
            f" of {len(committed.seeds)} committed seeds"
        )
        good, seen = good and verdict.within, seen + 1
    if not seen:
        raise ConfigError("check: no committed curve that decides anything; `make published` makes them")
    return good
