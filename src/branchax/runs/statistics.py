"""The interquartile mean over seeds and its confidence interval (Agarwal et al. 2021, arXiv:2108.13264).

`scipy.stats` takes a second to load, so it is imported only where it is needed: for several seeds.
"""

from __future__ import annotations

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


def bootstrap(statistic: Callable[..., Any], *groups: np.ndarray, confidence: float = CONFIDENCE) -> tuple[Any, Any]:
    """The percentile interval (low, high) of `statistic(*groups)`.

    Units are drawn with replacement along the first axis of each group [n, ...], each with all its values. This is
    stratified: a unit is only replaced by units of its own group, such as seeds of the same world. The draws are the
    same each time. If each group has a single unit, the interval is the statistic itself, as the spread is unknown.

    Args:
      statistic: a function of arrays like the groups. If it takes an `axis`, it is called once for many draws with
        another axis than the first, and returns the other axes of the groups; otherwise it returns a number.
      groups: one array for each argument of `statistic`.
      confidence: the share of the resamples that lies inside.
    """
    if all(len(group) == 1 for group in groups):
        return statistic(*groups), statistic(*groups)
    from scipy import stats

    found = stats.bootstrap(
        groups,
        statistic,
        axis=0,
        method="percentile",
        n_resamples=RESAMPLES,
        confidence_level=confidence,
        batch=100,  # draws at a time, to limit the memory
        rng=np.random.default_rng(0),
    )
    return found.confidence_interval.low, found.confidence_interval.high
