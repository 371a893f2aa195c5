"""The interquartile mean over seeds (Agarwal et al. 2021, arXiv:2108.13264), and intervals of few seeds.

`scipy.stats` takes a second to load, so it is imported only where it is needed: for several seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

RESAMPLES = 2_000
CONFIDENCE = 0.95


def interquartile_mean(values: Any, axis: int | None = 0) -> Any:
    """The mean along an axis (`None`: of all) without the lowest and the highest quarter of the values.

    The number of dropped values is rounded down, so that up to three seeds all count.
    """
    from scipy import stats

    return stats.trim_mean(values, 0.25, axis)  # pyright: ignore[reportArgumentType]  # None is as good


def level(units: int) -> float:
    """The share of the resamples of so many units that a 95 % interval has to hold.

    A percentile interval of few units is too short by itself: resamples vary by sqrt((n - 1) / n) of what the units do,
    and their quantiles are those of the normal where Student's t has longer tails. So it goes from quantile q to 1 - q,

        q = Phi(-sqrt(n / (n - 1)) t_{n-1, 0.975})                 (Hesterberg 2015, The American Statistician 69, 5.3)
    """
    from scipy import stats

    if units < 2:
        return CONFIDENCE
    edge = stats.t.ppf((1 + CONFIDENCE) / 2, units - 1)
    return float(2 * stats.norm.cdf(math.sqrt(units / (units - 1)) * edge) - 1)


def bootstrap(statistic: Callable[..., Any], *groups: np.ndarray) -> tuple[Any, Any]:
    """The 95 % interval (low, high) of `statistic(*groups)`: quantiles of resamples, expanded for few units (`level`).

    Units are drawn with replacement along the first axis of each group [n, ...], each with all its values. This is
    stratified: a unit is only replaced by units of its own group, such as seeds of the same world; the smallest group
    decides how far the interval is expanded. The draws are the same each time. If each group has a single unit, the
    interval is the statistic itself, as the spread is unknown. `experiments.coverage` says how often such intervals
    hold the truth: of three units 63 to 75 times in a hundred.

    Raises `ValueError` for groups of a single unit beside larger ones.

    Args:
      statistic: a function of arrays like the groups. If it takes an `axis`, it is called once for many draws with
        another axis than the first, and returns the other axes of the groups; otherwise it returns a number.
      groups: one array for each argument of `statistic`.
    """
    fewest = min(len(group) for group in groups)
    if all(len(group) == 1 for group in groups):
        return statistic(*groups), statistic(*groups)
    if fewest < 2:
        raise ValueError(
            f"groups of {[len(group) for group in groups]} units have no interval; allowed: one each, or two or more"
        )
    from scipy import stats

    found = stats.bootstrap(
        groups,
        statistic,
        axis=0,
        method="percentile",
        n_resamples=RESAMPLES,
        confidence_level=level(fewest),
        batch=100,  # draws at a time, to limit the memory
        rng=np.random.default_rng(0),
    )
    return found.confidence_interval.low, found.confidence_interval.high
