"""What gradient estimators are worth on one problem: bias, variance, direction and cost, horizon by horizon.

Every estimator is treated alike: M independent estimates g_1 .. g_M, each the mean over the same number of samples,
from the same keys; compared with the truth g, a closed form or the mean of a very large sample of an unbiased
estimator.

    variance of an estimate   v = trace of the covariance of g_m;  per sample: samples x v
    bias                      |mean of g_m - g|, of which noise alone would make about sqrt(v / M + se(g)^2)
    cosine                    mean over m of g_m' g / (|g_m| |g|)
    signal to noise           |g|^2 / v
    seconds to 10 %           seconds per estimate x v / (0.1 |g|)^2: what a mean of many estimates takes to a relative
                              error of 10 %; infinite if a bias beyond noise exceeds that

All sums are made in float64 on the host. A chaotic problem's pathwise gradient has moments that no sample shows in
full: `tail` says how much of the variance is a single estimate's.
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

Maker = Callable[[Problem, int], Estimator]  # (problem, samples); raises EstimatorError where it cannot be had
Program = Callable[[Key, Params], jax.Array]  # a compiled estimator: keys [C], theta -> [C, P]

TARGET = 0.1  # the relative error that the cost is given for
SIGNIFICANT = 3.0  # standard errors
CLEAR = 0.25  # a truth with a larger relative standard error is none
WARM = 5  # timed calls at least, after the first
HEAVY = 0.5  # a share of the variance in one estimate that makes the variance itself unreliable


class Settings(NamedTuple):
    """How much is measured."""

    samples: int = 32  # in an estimate
    estimates: int = 64  # M
    chunk: int = 8  # estimates computed side by side
    seed: int = 0
    truth_seconds: float = 10.0  # spent on a truth at most
    truth_error: float = 0.03  # the relative standard error at which a truth is good enough
    limit_seconds: float = 60.0  # M estimates that would take longer are not made


class Truth(NamedTuple):
    """The gradient itself."""

    gradient: np.ndarray  # [P]
    error: float  # standard error of its norm's size: sqrt of the trace of the covariance of the mean
    source: str  # "closed form", or the estimator's name
    samples: int  # 0 for a closed form
    note: str = ""

    @property
    def norm(self) -> float:
        """|g|, without what noise adds to it."""
        return float(np.sqrt(max(self.gradient @ self.gradient - self.error**2, 0.0)))

    @property
    def relative_error(self) -> float:
        """The standard error over |g|."""
        return 0.0 if self.error == 0 else self.error / self.norm if self.norm else np.inf

    @property
    def known(self) -> bool:
        """Whether there is enough of it to compare with."""
        return self.relative_error <= CLEAR


class Score(NamedTuple):
    """One estimator at one horizon. NaN is unknown, infinity never."""

    variance: float  # per sample
    norm: float  # |mean of the estimates|
    bias: float
    bias_error: float  # what noise alone makes of it
    biased: bool  # the bias is more than 3 such errors
    bias_relative: float  # bias / |g|
    cosine: float  # of an estimate to the truth
    cosine_error: float  # standard error of that
    cosine_of_mean: float
    snr: float
    seconds: float  # per estimate, when many are made side by side
    seconds_to_target: float
    nonfinite: float  # share of the estimates, left out of all the rest
    tail: float  # the largest estimate's share of the variance
    estimates: int  # M


class Level(NamedTuple):
    """One horizon."""

    horizon: int
    truth: Truth
    scores: dict[str, Score]
    left_out: dict[str, str]  # estimators that take too long from here on, and how long
    seconds: float  # spent on this horizon
    compile_seconds: float  # of which compiling


class Draw(NamedTuple):
    """Independent estimates."""

    estimates: np.ndarray  # [M, P] float64
    seconds: float  # per estimate, the median over calls


def compiled(estimator: Estimator, params: Params, settings: Settings) -> Program:
    """The estimator, `settings.chunk` estimates side by side."""

    def run(keys: Key, params: Params) -> jax.Array:
        with jax.default_matmul_precision("highest"):
            return jax.vmap(lambda key: ravel_pytree(estimator(key, params))[0])(keys)

    lowered = jax.jit(run).lower(jax.random.split(jax.random.key(0), settings.chunk), params)
    return cache.compiled(lowered, 1)


def draw(program: Program, key: Key, params: Params, settings: Settings) -> Draw | float:
    """M estimates; or, after one call, how many seconds they would take where that is beyond `limit_seconds`.

    The first call is not timed. When M needs few calls, more are made for their times.
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
    """The measures of the module's docstring, of estimates that are each the mean over `samples`."""
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
    """Of each estimate [M, P] to the gradient [P]: [M], 0 for an estimate that is zero."""
    sizes = np.linalg.norm(estimates, axis=1) * np.linalg.norm(gradient)
    return estimates @ gradient / np.where(sizes > 0, sizes, 1.0)


def sampled_truth(references: dict[str, Program], key: Key, params: Params, settings: Settings) -> Truth:
    """The mean of as many estimates as it takes, of whichever unbiased estimator gets there first.

    Each gives M estimates. Of those that are finite and whose variance is not one estimate's alone, the one with the
    smallest variance times cost goes on until the standard error of its mean is `truth_error` of its norm or the time
    is up. One that differs from the last by more than 3 standard errors is not what it is thought to be (a derivative
    that does not see a jump) and is out; the last has to be the one that asks least of the world.
    """
    start = time.perf_counter()
    pilots = {name: draw(program, key, params, settings) for name, program in references.items()}
    able = {name: d for name, d in pilots.items() if isinstance(d, Draw) and np.isfinite(d.estimates).all()}
    if not able:
        size = ravel_pytree(params)[0].size
        return Truth(np.full(size, np.nan), np.inf, "none", 0, "no unbiased estimator is finite and quick enough")
    light = {name: d for name, d in able.items() if _tail(d.estimates) < HEAVY} or able
    last = next(reversed(light))
    off = [n for n in light if n != last and _differ(light[n].estimates, light[last].estimates)]
    note = "".join(f"{n} and {last} differ by more than {SIGNIFICANT:g} standard errors" for n in off)
    name = min(light.keys() - off, key=lambda n: spread(light[n].estimates) * light[n].seconds)
    chunks = [light[name].estimates]
    total, squares, count = chunks[0].sum(0), (chunks[0] ** 2).sum(0), len(chunks[0])
    call = settings.estimates  # beyond the pilot's
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
    """Scores all estimators at each horizon, shortest first, and yields a horizon when it is done.

    Args:
      problem: its own horizon is not used.
      params: theta, at which gradients are taken.
      makers: the estimators by name.
      horizons: in rising order.
      settings: see there.
      exact: horizon -> the gradient (a pytree like theta), where there is a closed form.
      references: without `exact`, the unbiased estimators that the truth may come from; the last one is the most
        trusted. One that is also in `makers` under the same name is compiled once.

    Raises:
      EstimatorError: when the problem cannot give one of the estimators, before anything is compiled.
    """
    references = {} if exact is not None else references or {}
    if exact is None and not references:
        raise EstimatorError(f"{problem.world.spec.name}: without a closed form a truth needs an unbiased estimator")
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
        # Compiled side by side, but nothing is timed meanwhile.
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
    """The horizon at which the variance of `first` passes that of `second`, between the horizons measured; or None.

    Between two horizons the logarithm of their ratio is taken to be linear in the logarithm of the horizon.
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
    """Bytes of temporary memory that the pathwise gradient's program needs: {"horizon", "plain", "remat"} of each.

    Raises:
      EstimatorError: when the world is not differentiable.
    """

    def needed(horizon: int, remat: bool) -> int:
        estimator = pathwise(problem._replace(horizon=horizon), samples, remat=remat)
        analysis = jax.jit(estimator).lower(jax.random.key(0), params).compile().memory_analysis()
        assert analysis is not None, "this backend does not say what memory its programs need"
        return int(analysis.temp_size_in_bytes)

    return [{"horizon": h, "plain": needed(h, False), "remat": needed(h, True)} for h in horizons]


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
