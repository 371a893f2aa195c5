"""The middle of several seeds, and how sure it is (Agarwal et al. 2021, arXiv:2108.13264)."""

from __future__ import annotations

import numpy as np

RESAMPLES = 2_000
CONFIDENCE = 0.95


def interquartile_mean(values: np.ndarray) -> np.ndarray:
    """The mean of K seeds [..., K, T] without the lowest and the highest quarter, rounded down: [..., T].

    Of up to three seeds all count.
    """
    count = values.shape[-2]
    cut = count // 4
    return np.sort(values, -2)[..., cut : count - cut, :].mean(-2)


def bootstrap(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The percentile interval of the interquartile mean of seeds [K, T] at each time: low [T], high [T].

    Seeds are drawn with replacement, each with its whole curve. Stratified means that seeds of different worlds are
    never drawn for each other; here a curve is of one world, and so is its one stratum. The draws are the same each
    time. Of a single seed the interval is the curve itself: nothing is known of its spread.
    """
    draws = np.random.default_rng(0).integers(0, len(values), (RESAMPLES, len(values)))
    found = np.concatenate([interquartile_mean(values[part]) for part in np.array_split(draws, 20)])
    edge = (1 - CONFIDENCE) / 2
    low, high = np.quantile(found, [edge, 1 - edge], axis=0)
    return low, high
