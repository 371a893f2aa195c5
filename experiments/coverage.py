"""What an interval of few seeds is worth: how often 95 % intervals of the middle of K seeds hold the true one.

Returns of seeds are drawn from three shapes (normal; skewed: a lognormal turned round, as where most seeds reach a
ceiling and a few fall behind; bimodal: seven seeds in ten learn, three do not), and for 3, 5, 8 and 16 seeds each kind
of interval is made many times. An interval covers if it holds what it estimates at this number of seeds, which for the
interquartile mean of few seeds of a skewed shape is not that of many. Widths are medians, in deviations of a seed.

    percentile     the 2.5 % and 97.5 % quantiles over resamples of the seeds
    bca            corrected for bias and skew (Efron 1987, J. Amer. Statist. Assoc. 82)
    studentised    each resample's error over its own standard error (bootstrap-t: Efron and Tibshirani 1993, ch. 12)
    expanded       the library's own (`runs/statistics.py`): percentile, at quantiles of Student's t in place of the
                   normal's, widened by sqrt(K / (K - 1)) (Hesterberg 2015, The American Statistician 69, section 5.3)
    t              mean +- t_{K-1} std / sqrt(K): of the mean, not of the interquartile mean
    trimmed_t      the same of the interquartile mean, by the winsorised deviation (Tukey and McLaughlin 1963)

    python -m experiments.coverage                        # a minute or two on one core
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import stats

from branchax.runs.statistics import CONFIDENCE, bootstrap, interquartile_mean
from experiments.harness import RESULTS, publish

SEEDS = (3, 5, 8, 16)
TRIALS, RESAMPLES, TRUTH = 4_000, 1_000, 1_000_000
EDGE = (1 - CONFIDENCE) / 2
COLOURS = {"percentile": "#D55E00", "bca": "#E69F00", "studentised": "#56B4E9", "expanded": "#009E73"}
COLOURS |= {"t": "#000000", "trimmed_t": "#0072B2"}

Interval = tuple[np.ndarray, np.ndarray]  # low [N], high [N]


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.normal(size=shape)


def skewed(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return -np.exp(rng.normal(size=shape))


def bimodal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return np.where(rng.random(shape) < 0.7, 1.0, 0.0) + 0.1 * rng.normal(size=shape)


SHAPES = {"normal": normal, "skewed": skewed, "bimodal": bimodal}


def middle(x: np.ndarray) -> np.ndarray:
    """The interquartile mean of seeds [..., K] -> [...], as the library has it."""
    return interquartile_mean(x, axis=-1)


def resampled(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """[N, K] -> [N, RESAMPLES, K], drawn with replacement; the same draws for each of the N."""
    return x[:, rng.integers(0, x.shape[1], (RESAMPLES, x.shape[1]))]


def winsorised_error(x: np.ndarray) -> np.ndarray:
    """The standard error of the interquartile mean of seeds [..., K]: winsorised deviation / ((1 - 2 share) sqrt K)."""
    count = x.shape[-1]
    cut = count // 4
    ordered = np.sort(x, -1)
    held = np.clip(ordered, ordered[..., cut : cut + 1], ordered[..., count - cut - 1 : count - cut])
    return held.std(-1, ddof=1) / ((1 - 2 * cut / count) * np.sqrt(count))


def percentile(x: np.ndarray, rng: np.random.Generator) -> Interval:
    low, high = np.quantile(middle(resampled(x, rng)), [EDGE, 1 - EDGE], axis=1)
    return low, high


def bca(x: np.ndarray, rng: np.random.Generator) -> Interval:
    found, here = np.sort(middle(resampled(x, rng)), -1), middle(x)
    share = ((found < here[:, None]).mean(-1) + (found <= here[:, None]).mean(-1)) / 2
    bias = stats.norm.ppf(np.clip(share, 1 / RESAMPLES, 1 - 1 / RESAMPLES))
    left_out = np.stack([middle(np.delete(x, k, 1)) for k in range(x.shape[1])], -1)
    apart = left_out.mean(-1, keepdims=True) - left_out
    skew = (apart**3).sum(-1) / (6 * np.maximum((apart**2).sum(-1), 1e-300) ** 1.5)
    ends = []
    for z in stats.norm.ppf([EDGE, 1 - EDGE]):
        at = stats.norm.cdf(bias + (bias + z) / (1 - skew * (bias + z)))
        place = np.clip((at * RESAMPLES).astype(int), 0, RESAMPLES - 1)
        ends.append(np.take_along_axis(found, place[:, None], 1)[:, 0])
    return ends[0], ends[1]


def studentised(x: np.ndarray, rng: np.random.Generator) -> Interval:
    """A resample of one seed alone has no error of its own and is left out."""
    again, here, error = resampled(x, rng), middle(x), winsorised_error(x)
    own = winsorised_error(again)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(own > 1e-12 * error[:, None], (middle(again) - here[:, None]) / own, np.nan)
    low, high = np.nanquantile(t, [EDGE, 1 - EDGE], axis=1)
    return here - high * error, here - low * error


def expanded(x: np.ndarray, rng: np.random.Generator) -> Interval:
    """`bootstrap` itself: each of the N columns is a time of the curve, so all are drawn alike."""
    return bootstrap(interquartile_mean, x.T)


def t(x: np.ndarray, rng: np.random.Generator) -> Interval:
    count = x.shape[1]
    half = stats.t.ppf(1 - EDGE, count - 1) * x.std(-1, ddof=1) / np.sqrt(count)
    return x.mean(-1) - half, x.mean(-1) + half


def trimmed_t(x: np.ndarray, rng: np.random.Generator) -> Interval:
    count = x.shape[1]
    half = stats.t.ppf(1 - EDGE, count - 2 * (count // 4) - 1) * winsorised_error(x)
    return middle(x) - half, middle(x) + half


KINDS: dict[str, Callable[[np.ndarray, np.random.Generator], Interval]] = {
    "percentile": percentile,
    "bca": bca,
    "studentised": studentised,
    "expanded": expanded,
    "t": t,
    "trimmed_t": trimmed_t,
}


def truth(kind: str, draw: Callable[..., np.ndarray], count: int, draws: int = TRUTH) -> float:
    """What an interval of `count` seeds estimates: the expectation of its own middle, by `draws` groups of seeds."""
    x = draw(np.random.default_rng(1), (draws // count, count))
    return float((x.mean(-1) if kind == "t" else middle(x)).mean())


def measure(trials: int = TRIALS, draws: int = TRUTH, seeds: tuple[int, ...] = SEEDS) -> list[dict[str, Any]]:
    """A row for each shape, number of seeds and kind of interval."""
    rows = []
    for shape, draw in SHAPES.items():
        spread = float(draw(np.random.default_rng(1), (draws,)).std())
        for count in seeds:
            x = draw(np.random.default_rng(2), (trials, count))
            for kind, interval in KINDS.items():
                # In parts: all resamples at once are gigabytes.
                parts = [interval(part, np.random.default_rng(3)) for part in np.array_split(x, max(trials // 200, 1))]
                low, high = (np.concatenate(ends) for ends in zip(*parts, strict=True))
                true = truth(kind, draw, count, draws)
                covered = float(((low <= true) & (true <= high)).mean())
                error = float(np.sqrt(covered * (1 - covered) / trials))
                width = float(np.median(high - low) / spread)
                rows.append(
                    {
                        "shape": shape,
                        "seeds": count,
                        "interval": kind,
                        "covered": covered,
                        "error": error,
                        "width": width,
                    }
                )
    return rows


def draw_figure(rows: list[dict[str, Any]], path: Path) -> None:
    """Coverage over the number of seeds, a panel for each shape."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 3.2), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(SHAPES), sharey=True)
    for axes, shape in zip(panels, SHAPES, strict=True):
        for kind, colour in COLOURS.items():
            mine = [r for r in rows if r["shape"] == shape and r["interval"] == kind]
            axes.plot(
                [r["seeds"] for r in mine], [r["covered"] for r in mine], "o-", color=colour, label=kind, markersize=3
            )
        axes.axhline(CONFIDENCE, color="#888888", linewidth=0.8)
        axes.set_xscale("log", base=2)
        axes.set_xticks(SEEDS, [str(s) for s in SEEDS])
        axes.set_title(f"{shape} returns", loc="left", fontsize=9)
        axes.set_xlabel("seeds", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("share of 95 % intervals that hold the truth", fontsize=8)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", fontsize=7, frameon=False)
    figure.savefig(path)


def main() -> None:
    """Measures, prints, publishes."""
    rows = measure()
    table = Table("returns", "seeds", *KINDS, title="coverage of 95 % intervals (median width in deviations of a seed)")
    for shape in SHAPES:
        for count in SEEDS:
            mine = [r for r in rows if r["shape"] == shape and r["seeds"] == count]
            table.add_row(shape, str(count), *(f"{r['covered']:.1%} ({r['width']:.2f})" for r in mine))
    Console(width=140).print(table)
    path = publish("coverage", {"trials": TRIALS, "confidence": CONFIDENCE, "rows": rows}, {}, [])
    draw_figure(rows, RESULTS / "coverage.png")
    print("written to", path)


if __name__ == "__main__":
    main()
