"""Compares gradient estimators on one problem: bias, variance, direction and cost at each horizon.

Every estimator gives M independent estimates g_1 .. g_M, each the mean over the same number of samples, from the same
keys. They are compared with the truth g: a closed form, or the mean of a very large sample of an unbiased estimator.

    variance of an estimate   v = trace of the covariance of g_m;  per sample: samples x v
    bias                      |mean of g_m - g|; without bias, noise makes it about sqrt(v / M + se(g)^2)
    cosine                    mean over m of g_m' g / (|g_m| |g|)
    signal to noise           |g|^2 / v
    seconds to 10 %           seconds per estimate x v / (0.1 |g|)^2: the time until the mean of many estimates has a
                              relative error of 10 %; infinite if a significant bias exceeds that

Sums use float64 on the host. In a chaotic problem, pathwise gradients are so heavy-tailed that a sample underestimates
their moments: `tail` is the share of the variance due to the largest estimate.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.flatten_util import ravel_pytree

from branchax.devices import cache
from branchax.gradients.base import Estimator, EstimatorError, Problem
from branchax.gradients.pathwise import pathwise
from branchax.types import Key, Params

Maker = Callable[[Problem, int], Estimator]  # (problem, samples); raises EstimatorError if it is not supported
Program = Callable[[Key, Params], jax.Array]  # a compiled estimator: keys [C], theta -> [C, P]

TARGET = 0.1  # the relative error for which the cost is reported
SIGNIFICANT = 3.0  # standard errors
CLEAR = 0.25  # largest relative standard error of a truth; above it, the truth is unknown
WARM = 5  # smallest number of timed calls, after the first
HEAVY = 0.5  # if one estimate has this share of the variance, the variance is unreliable


class Settings(NamedTuple):
    """The amount of sampling, and limits of time."""

    samples: int = 32  # per estimate
    estimates: int = 64  # M
    chunk: int = 8  # estimates computed in parallel
    seed: int = 0
    truth_seconds: float = 10.0  # time limit of a truth
    truth_error: float = 0.03  # target relative standard error of a truth
    limit_seconds: float = 60.0  # an estimator is skipped if M estimates would take longer


class Truth(NamedTuple):
    """The true gradient."""

    gradient: np.ndarray  # [P]
    error: float  # its standard error: sqrt of the trace of the covariance of the mean
    source: str  # "closed form", or the estimator's name
    samples: int  # 0 for a closed form
    note: str = ""

    @property
    def norm(self) -> float:
        """|g|, corrected for noise."""
        return float(np.sqrt(max(self.gradient @ self.gradient - self.error**2, 0.0)))

    @property
    def relative_error(self) -> float:
        """The standard error over |g|."""
        return 0.0 if self.error == 0 else self.error / self.norm if self.norm else np.inf

    @property
    def known(self) -> bool:
        """Whether it is accurate enough for comparisons."""
        return self.relative_error <= CLEAR


class Score(NamedTuple):
    """One estimator at one horizon. NaN means unknown, infinity means never."""

    variance: float  # per sample
    norm: float  # |mean of the estimates|
    bias: float
    bias_error: float  # the bias expected from noise alone
    biased: bool  # whether the bias exceeds 3 such errors
    bias_relative: float  # bias / |g|
    cosine: float  # mean cosine between an estimate and the truth
    cosine_error: float  # its standard error
    cosine_of_mean: float
    snr: float
    seconds: float  # per estimate, with many computed in parallel
    seconds_to_target: float
    nonfinite: float  # share of non-finite estimates; all other fields ignore them
    tail: float  # the largest estimate's share of the variance
    estimates: int  # M


class Level(NamedTuple):
    """One horizon."""

    horizon: int
    truth: Truth
    scores: dict[str, Score]
    left_out: dict[str, str]  # estimators that take too long from this horizon on, and how long
    seconds: float  # spent on this horizon
    compile_seconds: float  # part of `seconds` spent compiling


class Draw(NamedTuple):
    """Independent estimates."""

    estimates: np.ndarray  # [M, P] float64
    seconds: float  # per estimate, the median over calls


def compiled(estimator: Estimator, params: Params, settings: Settings) -> Program:
    """Compiles the estimator, for `settings.chunk` estimates in parallel."""

    def run(keys: Key, params: Params) -> jax.Array:
        with jax.default_matmul_precision("highest"):
            return jax.vmap(lambda key: ravel_pytree(estimator(key, params))[0])(keys)

    lowered = jax.jit(run).lower(jax.random.split(jax.random.key(0), settings.chunk), params)
    return cache.compiled(lowered, 1)


def draw(program: Program, key: Key, params: Params, settings: Settings) -> Draw | float:
    """M estimates; or, if they would take longer than `limit_seconds`, the predicted seconds, after one call.

    The first call is not timed. If M needs only few calls, there are more for the timing.
    """
    calls = -(-settings.estimates // settings.chunk)
    estimates, times = [], []
    for i in range(max(calls, WARM + 1)):
        keys = jax.random.split(jax.random.fold_in(key, i), settings.chunk)
        start = time.perf_counter()
        estimates.append(np.asarray(program(keys, params), np.float64))
        times.append(time.perf_counter() - start)
        if i == 0 and times[0] * max(calls, WARM + 1) > settings.limit_seconds:
            return times[0] * max(calls, WARM + 1)
    return Draw(np.concatenate(estimates[:calls])[: settings.estimates], float(np.median(times[1:])) / settings.chunk)


def spread(estimates: np.ndarray) -> float:
    """The trace of the covariance of estimates [M, P]."""
    return float(estimates.var(0, ddof=1).sum()) if len(estimates) > 1 else np.nan


def score(found: Draw, truth: Truth, samples: int) -> Score:
    """The measures in the module's docstring, for estimates that are means over `samples` each."""
    finite = np.asarray(np.isfinite(found.estimates).all(1))
    kept = found.estimates[finite]
    if len(kept) < 2:
        blank = dict.fromkeys(Score._fields, np.nan)
        never = {"seconds_to_target": np.inf, "biased": False, "estimates": len(finite)}
        return Score(**{**blank, **never, "seconds": found.seconds, "nonfinite": 1.0 - float(finite.mean())})
    mean, variance = kept.mean(0), spread(kept)
    known, size = truth.known and truth.norm > 0, truth.norm
    bias = float(np.linalg.norm(mean - truth.gradient)) if truth.known else np.nan
    bias_error = float(np.sqrt(variance / len(kept) + truth.error**2))
    biased = bias > SIGNIFICANT * bias_error
    too_biased = biased and bias > TARGET * size
    to_target = found.seconds * variance / (TARGET * size) ** 2 if known else np.nan
    each = cosines(kept, truth.gradient) if known else np.full(2, np.nan)
    return Score(
        variance=samples * variance,
        norm=float(np.linalg.norm(mean)),
        bias=bias,
        bias_error=bias_error,
        biased=bool(biased),
        bias_relative=bias / size if known else np.nan,
        cosine=float(each.mean()),
        cosine_error=float(each.std(ddof=1) / np.sqrt(len(each))),
        cosine_of_mean=float(cosines(mean[None], truth.gradient)[0]) if known else np.nan,
        snr=(size**2 / variance if variance else np.inf) if known else np.nan,
        seconds=found.seconds,
        seconds_to_target=np.inf if too_biased else to_target,
        nonfinite=1.0 - float(finite.mean()),
        tail=_tail(kept),
        estimates=len(finite),
    )


def cosines(estimates: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """Cosine of each estimate [M, P] with the gradient [P]: [M]; 0 for a zero estimate."""
    sizes = np.linalg.norm(estimates, axis=1) * np.linalg.norm(gradient)
    return estimates @ gradient / np.where(sizes > 0, sizes, 1.0)


def sampled_truth(references: dict[str, Program], key: Key, params: Params, settings: Settings) -> Truth:
    """The truth as the mean of many estimates, from the cheapest unbiased estimator.

    Each estimator first gives M estimates. Candidates are those with only finite estimates and no dominating estimate
    (`HEAVY`). The candidate with the smallest variance times cost continues until the standard error of its mean is
    `truth_error` of its norm, or the time is up. An estimator that differs from the last one by more than 3 standard
    errors is excluded: it is biased after all, such as a derivative that misses a jump. The last one must be the one
    with the weakest assumptions about the world.
    """
    start = time.perf_counter()
    pilots = {name: draw(program, key, params, settings) for name, program in references.items()}
    able = {name: d for name, d in pilots.items() if isinstance(d, Draw) and np.isfinite(d.estimates).all()}
    if not able:
        size = ravel_pytree(params)[0].size
        return Truth(np.full(size, np.nan), np.inf, "none", 0, "no unbiased estimator is finite and fast enough")
    light = {name: d for name, d in able.items() if _tail(d.estimates) < HEAVY} or able
    last = next(reversed(light))
    off = [n for n in light if n != last and _differ(light[n].estimates, light[last].estimates)]
    note = "".join(f"{n} and {last} differ by more than {SIGNIFICANT:g} standard errors" for n in off)
    name = min(light.keys() - off, key=lambda n: spread(light[n].estimates) * light[n].seconds)
    chunks = [light[name].estimates]
    total, squares, count = chunks[0].sum(0), (chunks[0] ** 2).sum(0), len(chunks[0])
    call = settings.estimates  # keys after those of the pilot
    while True:
        mean = total / count
        error = float(np.sqrt(max((squares - count * mean**2).sum(), 0.0) / (count - 1) / count))
        truth = Truth(mean, error, name, count * settings.samples, note)
        if truth.relative_error <= settings.truth_error or time.perf_counter() - start > settings.truth_seconds:
            return truth
        call += 1
        keys = jax.random.split(jax.random.fold_in(key, call), settings.chunk)
        more = np.asarray(references[name](keys, params), np.float64)
        more = more[np.isfinite(more).all(1)]
        total, squares, count = total + more.sum(0), squares + (more**2).sum(0), count + len(more)


def _tail(estimates: np.ndarray) -> float:
    deviations = ((estimates - estimates.mean(0)) ** 2).sum(1)
    return float(deviations.max() / deviations.sum()) if deviations.any() else 0.0


def _differ(first: np.ndarray, second: np.ndarray) -> bool:
    error = np.sqrt(spread(first) / len(first) + spread(second) / len(second))
    return bool(np.linalg.norm(first.mean(0) - second.mean(0)) > SIGNIFICANT * error)


def survey(
    problem: Problem,
    params: Params,
    makers: dict[str, Maker],
    horizons: tuple[int, ...],
    settings: Settings,
    *,
    exact: Callable[[int], Any] | None = None,
    references: dict[str, Maker] | None = None,
) -> Iterator[Level]:
    """Scores all estimators at each horizon, shortest first, and yields each horizon when it is done.

    Args:
      problem: its own horizon is not used.
      params: theta, at which gradients are taken.
      makers: the estimators by name.
      horizons: in rising order.
      settings: samples and time limits.
      exact: horizon -> the gradient (a pytree like theta), if there is a closed form.
      references: without `exact`, the unbiased estimators for the truth; the last one is the most trusted. If one is
        also in `makers` under the same name, it is compiled once.

    Raises:
      EstimatorError: when the problem does not support one of the estimators, before anything is compiled.
    """
    references = {} if exact is not None else references or {}
    if exact is None and not references:
        raise EstimatorError(f"{problem.world.spec.name}: without a closed form, the truth needs an unbiased estimator")
    all_makers = {**references, **makers}
    for make in all_makers.values():
        make(problem._replace(horizon=horizons[-1]), settings.samples)
    return _levels(problem, params, makers, all_makers, horizons, settings, exact, tuple(references))


def _levels(
    problem: Problem,
    params: Params,
    makers: dict[str, Maker],
    all_makers: dict[str, Maker],
    horizons: tuple[int, ...],
    settings: Settings,
    exact: Callable[[int], Any] | None,
    references: tuple[str, ...],
) -> Iterator[Level]:
    key_measure, key_truth = jax.random.split(jax.random.key(settings.seed))
    out: set[str] = set()
    for horizon in horizons:
        start = time.perf_counter()
        here = problem._replace(horizon=horizon)
        wanted = {name: make for name, make in all_makers.items() if name not in out or name in references}
        # Compile in parallel; nothing is timed meanwhile.
        with ThreadPoolExecutor(cores()) as pool:
            estimators = [make(here, settings.samples) for make in wanted.values()]
            made = pool.map(lambda estimator: compiled(estimator, params, settings), estimators)
            programs = dict(zip(wanted, made, strict=True))
        compile_seconds = time.perf_counter() - start
        if exact is not None:
            gradient = np.asarray(ravel_pytree(exact(horizon))[0], np.float64)
            truth = Truth(gradient, 0.0, "closed form", 0)
        else:
            truth = sampled_truth({name: programs[name] for name in references}, key_truth, params, settings)
        scores, left_out = {}, {}
        for name in makers:
            if name in out:
                continue
            found = draw(programs[name], key_measure, params, settings)
            if isinstance(found, Draw):
                scores[name] = score(found, truth, settings.samples)
            else:
                out.add(name)
                left_out[name] = f"its estimates would take {found:.0f} s (the limit is {settings.limit_seconds:g} s)"
        yield Level(horizon, truth, scores, left_out, time.perf_counter() - start, compile_seconds)


def crossing(levels: Sequence[Level], first: str, second: str) -> float | None:
    """The horizon at which the variance of `first` exceeds that of `second`, interpolated; None if it does not.

    The logarithm of their ratio is interpolated linearly in the logarithm of the horizon.
    """
    ratios = [
        (level.horizon, level.scores[first].variance / level.scores[second].variance)
        for level in levels
        if first in level.scores and second in level.scores
    ]
    ratios = [(h, np.log(r)) for h, r in ratios if np.isfinite(r) and r > 0]
    for (h0, r0), (h1, r1) in itertools.pairwise(ratios):
        if r0 < 0 <= r1:
            return float(np.exp(np.log(h0) + (np.log(h1) - np.log(h0)) * r0 / (r0 - r1)))
    return None


def memory(problem: Problem, params: Params, horizons: tuple[int, ...], samples: int) -> list[dict[str, int]]:
    """Bytes of temporary memory of the pathwise gradient's program: {"horizon", "plain", "remat"} per horizon.

    Raises:
      EstimatorError: when the world is not differentiable.
    """

    def needed(horizon: int, remat: bool) -> int:
        estimator = pathwise(problem._replace(horizon=horizon), samples, remat=remat)
        analysis = jax.jit(estimator).lower(jax.random.key(0), params).compile().memory_analysis()
        assert analysis is not None, "this backend does not report the memory of its programs"
        return int(analysis.temp_size_in_bytes)

    return [{"horizon": h, "plain": needed(h, False), "remat": needed(h, True)} for h in horizons]


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
