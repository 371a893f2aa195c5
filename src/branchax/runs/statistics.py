"""The middle of several seeds, and how sure it is (Agarwal et al. 2021, arXiv:2108.13264).

SciPy's statistics take a second to load, so they are imported where they are needed: by runs of several seeds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

RESAMPLES = 2_000
CONFIDENCE = 0.95


def interquartile_mean(values: Any, axis: int | None = 0) -> Any:
    """The mean along an axis (`None`: of all) without the lowest and the highest quarter, rounded down.

    Of up to three seeds all count.
    """
    from scipy import stats

    return stats.trim_mean(values, 0.25, axis)  # pyright: ignore[reportArgumentType]  # None is as good


def bootstrap(statistic: Callable[..., Any], *groups: np.ndarray) -> tuple[Any, Any]:
    """The percentile interval (low, high) of `statistic(*groups)`.

    Units are drawn with replacement along the first axis of each group [n, ...], each with all its values. That is
    stratified: units of different groups, such as seeds of different worlds, are never drawn for each other. The draws
    are the same each time. Of single units the interval is the statistic itself: nothing is known of their spread.

    Args:
      statistic: of arrays like the groups. One that takes an `axis` is called once for many draws, with another axis
        than the first, and then gives the groups' other axes; else it gives a number.
      groups: one array for each argument of `statistic`.
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
        confidence_level=CONFIDENCE,
        batch=100,  # draws at a time, which bounds the memory
        rng=np.random.default_rng(0),
    )
    return found.confidence_interval.low, found.confidence_interval.high
