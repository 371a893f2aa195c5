"""Claim: which gradient varies less depends on horizon and noise, and samples buy back what Jacobians give.

Variance and bias of the estimators of `branchax lab gradients`, each estimate the mean over so many rollouts, over 64
independent estimates: on `classic/lqr` (half the optimal gain), whose gradient is a closed form, and on
`classic/pendulum` (a random network as the policy). A likelihood ratio that varies R times as much needs R times the
rollouts for the same error. Seconds are reported beside the numbers but decide nothing: they change from run to run.

    python -m experiments.lecture.estimators           # horizons to 50
    python -m experiments.lecture.estimators --full    # horizons to 200, more samples
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.flatten_util import ravel_pytree
from matplotlib.axes import Axes

from branchax.lab import cases
from branchax.lab import measure as lab
from experiments.lecture.claim import Claim, Found, Measured, Prediction, bootstrap, legend, main, save, whiskers

SETTINGS = lab.Settings(samples=32, estimates=64, chunk=8, limit_seconds=30.0)
LOOKS = {
    "pathwise": ("pathwise", 0, "o"),
    "pathwise_window": ("pathwise, cut every 5 steps", 5, "s"),
    "likelihood_baseline": ("likelihood ratio", 1, "^"),
    "total_propagation": ("total propagation (mixed)", 3, "D"),
    "finite_differences": ("finite differences", 2, "v"),
}
NOISES, SHORT, MIDDLE, FEW = (0.03, 0.1, 0.3), 5, 20, 8

CLAIM = Claim(
    name="estimators",
    title="What gradient estimators are worth",
    words="On short or smooth rollouts the pathwise gradient varies far less than the likelihood ratio, on long "
    "chaotic ones far more; the likelihood ratio gets worse as the policy's noise vanishes; more samples buy the "
    "difference back.",
    intervals="bootstrap over 64 independent estimates",
    predictions={
        "smooth": Prediction(
            f"{SHORT} steps: variance of the likelihood ratio is at least 50 times pathwise's (LQR)", 50.0
        ),
        "smooth pendulum": Prediction(f"the same on the pendulum, {SHORT} steps", 50.0),
        "chaotic": Prediction(
            "pendulum, longest horizon: variance of pathwise is at least 100 times the other's", 100.0
        ),
        "noise": Prediction(
            "LQR: the likelihood ratio's variance falls with noise, log-log slope at most -1", -1.0, False
        ),
        "noise, pathwise": Prediction("LQR: pathwise's does not, log-log slope at least -0.5", -0.5),
        "cut": Prediction("LQR, 50 steps: cutting the gradient every 5 steps biases it by at least 10 %", 0.1),
        "samples": Prediction(
            f"pendulum, {MIDDLE} steps: the error of pathwise with {FEW} rollouts takes the likelihood ratio at least "
            "10 times as many",
            10.0,
        ),
    },
)


def draws(
    case: cases.Case, name: str, horizon: int, samples: int, estimates: int = 64
) -> tuple[np.ndarray, float] | None:
    """Estimates [M, P] and seconds for one; None if they take too long."""
    settings = SETTINGS._replace(samples=samples, estimates=estimates)
    estimator = cases.makers(case)[name](case.problem._replace(horizon=horizon), samples)
    found = lab.draw(lab.compiled(estimator, case.params, settings), jax.random.key(0), case.params, settings)
    return None if isinstance(found, float) else (found.estimates, found.seconds)


def variance(estimates: np.ndarray) -> float:
    """The trace of their covariance."""
    return float(estimates.var(0, ddof=1).sum())


def ratio(first: np.ndarray, second: np.ndarray) -> float:
    """Of their variances."""
    return variance(first) / variance(second)


def over_horizon(case: cases.Case, names: tuple[str, ...], horizons: tuple[int, ...]) -> dict[str, dict[int, Any]]:
    """Estimates and seconds of each estimator at each horizon that it can afford."""
    found: dict[str, dict[int, Any]] = {name: {} for name in names}
    for name in names:
        for horizon in horizons:
            drawn = draws(case, name, horizon, SETTINGS.samples)
            if drawn is None:
                break
            found[name][horizon] = drawn
            print(case.about["world"], name, horizon, f"{variance(drawn[0]):.3g} {drawn[1]:.3g} s", flush=True)
    return found


def measure(full: bool) -> Found:
    """Measures everything; a few minutes."""
    horizons = (1, 5, 20, 50, 200) if full else (1, 5, 50)
    lqr, pendulum = cases.make_case("classic/lqr"), cases.make_case("classic/pendulum")
    linear = over_horizon(lqr, tuple(LOOKS), horizons)
    wild = over_horizon(pendulum, ("pathwise", "likelihood_baseline", "total_propagation"), horizons)

    noisy: dict[str, list[np.ndarray]] = {}
    for name in ("pathwise", "likelihood_baseline"):
        by_noise = [draws(cases.make_case("classic/lqr", policy_std=std), name, MIDDLE, 32) for std in NOISES]
        noisy[name] = [drawn[0] for drawn in by_noise if drawn is not None]
    counts = (8, 32, 128, 512) if full else (8, 128)
    bought = {
        name: {n: draws(pendulum, name, MIDDLE, n, 64) for n in counts} for name in ("pathwise", "likelihood_baseline")
    }

    def slope(*groups: np.ndarray) -> float:
        return float(np.polyfit(np.log(NOISES), np.log([variance(g) for g in groups]), 1)[0])

    assert lqr.exact is not None
    truths = {h: np.asarray(ravel_pytree(lqr.exact(h))[0], float) for h in horizons}

    def bias(horizon: int) -> Any:
        truth = truths[horizon]
        return lambda estimates: float(np.linalg.norm(estimates.mean(0) - truth) / np.linalg.norm(truth))

    def needed(direct: np.ndarray, *others: np.ndarray) -> float:
        """Rollouts for the likelihood ratio, over FEW; its error falls as a power of the rollouts."""
        power, at_one = np.polyfit(np.log(counts), np.log([variance(g) for g in others]), 1)
        return float(np.exp((np.log(variance(direct)) - at_one) / power)) / FEW

    def pair(found: dict[str, dict[int, Any]], horizon: int) -> tuple[np.ndarray, np.ndarray]:
        return found["pathwise"][horizon][0], found["likelihood_baseline"][horizon][0]

    ratios = [bought["likelihood_baseline"][n] for n in counts]
    direct = bought["pathwise"][FEW]
    assert direct is not None
    measured: dict[str, Measured] = {
        "smooth": bootstrap(ratio, *pair(linear, SHORT)[::-1]),
        "smooth pendulum": bootstrap(ratio, *pair(wild, SHORT)[::-1]),
        "chaotic": bootstrap(ratio, *pair(wild, horizons[-1])),
        "noise": bootstrap(slope, *noisy["likelihood_baseline"]),
        "noise, pathwise": bootstrap(slope, *noisy["pathwise"]),
        "cut": bootstrap(bias(50), linear["pathwise_window"][50][0]),
        "samples": bootstrap(needed, direct[0], *(r[0] for r in ratios if r is not None)),
    }
    size = np.linalg.norm(direct[0].mean(0))

    def error(estimates: np.ndarray) -> float:
        return float(np.sqrt(variance(estimates)) / size)

    data = {
        "variance": {
            world: {
                name: {h: list(bootstrap(lambda e: 32 * variance(e), drawn[0])) for h, drawn in by.items()}
                for name, by in found.items()
            }
            for world, found in (("LQR", linear), ("pendulum", wild))
        },
        "bias": {name: {h: bias(h)(drawn[0]) for h, drawn in by.items()} for name, by in linear.items()},
        "noise_floor": {
            name: {h: float(np.sqrt(variance(d[0]) / len(d[0])) / np.linalg.norm(truths[h])) for h, d in by.items()}
            for name, by in linear.items()
        },
        "noise": {
            name: [list(bootstrap(lambda e: 32 * variance(e), e)) for e in found] for name, found in noisy.items()
        },
        "error": {
            name: {n: list(bootstrap(error, drawn[0])) for n, drawn in by.items() if drawn is not None}
            for name, by in bought.items()
        },
        "seconds": {name: {n: drawn[1] for n, drawn in by.items() if drawn is not None} for name, by in bought.items()},
    }
    return Found(measured, data)


def draw(data: dict[str, Any], path: Path) -> None:
    """Variance over horizon in two worlds, bias, variance over noise, error over samples."""

    def fill(linear: Axes, wild: Axes, bias: Axes, noise: Axes, samples: Axes) -> None:
        for axes, world in ((linear, "LQR"), (wild, "pendulum")):
            for name, by in data["variance"][world].items():
                label, colour, mark = LOOKS[name]
                whiskers(axes, [int(h) for h in by], list(by.values()), label, colour, mark)
            axes.set(
                title=f"{world}: variance over the horizon", ylabel="variance of a rollout", xlabel="horizon [steps]"
            )
        for name, by in data["bias"].items():
            label, colour, mark = LOOKS[name]
            # Below what noise makes of it a bias is not known: drawn hollow there.
            known = np.array([b > 2 * data["noise_floor"][name][h] for h, b in by.items()])
            x, y = np.array([int(h) for h in by]), np.array(list(by.values()))
            bias.plot(x, y, "-", color=f"C{colour}", linewidth=0.8)
            bias.plot(x[known], y[known], mark, color=f"C{colour}", markersize=4)
            bias.plot(x[~known], y[~known], mark, color=f"C{colour}", markersize=4, markerfacecolor="white")
        bias.set(title="LQR: bias (hollow: noise alone)", ylabel="bias / size of gradient", xlabel="horizon [steps]")
        for name, found in data["noise"].items():
            label, colour, mark = LOOKS[name]
            whiskers(noise, NOISES, found, label, colour, mark)
        noise.set(title=f"LQR, {MIDDLE} steps: the policy's noise", ylabel="variance of a rollout")
        noise.set(xlabel="standard deviation of actions")
        for name, by in data["error"].items():
            label, colour, mark = LOOKS[name]
            whiskers(samples, [int(n) for n in by], list(by.values()), label, colour, mark)
        best = data["error"]["pathwise"][str(FEW)][0]
        samples.axhline(best, color="0.5", linewidth=0.8, linestyle=":")
        samples.set(title=f"pendulum, {MIDDLE} steps: what samples buy", xlabel="rollouts in an estimate")
        samples.set(ylabel="error / size of gradient")
        for axes in (linear, wild, bias, noise, samples):
            axes.set(xscale="log", yscale="log")
        for axes, ticks in ((noise, NOISES), (samples, [int(n) for n in data["error"]["pathwise"]])):
            axes.set_xticks(ticks, ticks)
            axes.minorticks_off()
        legend(linear, "95 % bootstrap intervals")

    save(path, [1.7, 1.7, 1.7, 1.7, 1.7], fill, above=0.95)


if __name__ == "__main__":
    main(CLAIM, measure, draw)
