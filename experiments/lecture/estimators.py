"""Claim: which gradient varies less depends on horizon and noise, and samples buy back what Jacobians give.

Variance and bias of the estimators of `branchax lab gradients`, each estimate the mean over so many rollouts, over 64
independent estimates: on `classic/lqr` (half the optimal gain), whose gradient is a closed form, and on
`classic/pendulum` (a random network as the policy). A likelihood ratio that varies R times as much needs R times the
rollouts for the same error. Finite differences take two rollouts for each parameter, so there the likelihood ratio gets
as many. Where tails are heavy, the variance is that of the middle one of 32 blocks of 32 estimates. Seconds are
reported beside the numbers but decide nothing: they change from run to run.

    python -m experiments.lecture.estimators           # horizons to 50
    python -m experiments.lecture.estimators --full    # horizons to 200, more samples; about 10 minutes
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.flatten_util import ravel_pytree
from matplotlib.axes import Axes

from branchax.lab import cases
from branchax.lab import measure as lab
from experiments.lecture.claim import Measured, Work, bootstrap, first_seed, kept, main
from experiments.lecture.figures import legend, save, whiskers

SETTINGS = lab.Settings(samples=32, estimates=64, chunk=8, limit_seconds=300.0)
LOOKS = {
    "pathwise": ("pathwise", 0, "o"),
    "pathwise_window": ("pathwise, cut every 5 steps", 5, "s"),
    "likelihood_baseline": ("likelihood ratio", 1, "^"),
    "total_propagation": ("total propagation (mixed)", 3, "D"),
    "finite_differences": ("finite differences", 2, "v"),
}
NOISES, SHORT, MIDDLE, FEW, BLOCK = (0.03, 0.1, 0.3), 5, 20, 8, 32

Drawn = tuple[np.ndarray, float]  # estimates [M, P], seconds for one


class Laboratory:
    """Estimates, each kept in a file."""

    def __init__(self, full: bool) -> None:
        self.full, self.horizons = full, (1, 5, 20, 50, 200) if full else (1, 5, 20, 50)
        self.counts = (8, 32, 128, 512) if full else (8, 128)
        self.blocks = 32 if full else 4

    def draws(self, world: str, name: str, horizon: int, samples: int, estimates: int = 64, std: float = 0.3) -> Drawn:
        """Of one estimator; raises `TimeoutError` if it takes too long."""

        def compute() -> dict[str, np.ndarray]:
            case = cases.make_case(f"classic/{world}", policy_std=std, seed=first_seed(self.full))
            settings = SETTINGS._replace(samples=samples, estimates=estimates)
            estimator = cases.makers(case)[name](case.problem._replace(horizon=horizon), samples)
            key = jax.random.key(first_seed(self.full))
            found = lab.draw(lab.compiled(estimator, case.params, settings), key, case.params, settings)
            if isinstance(found, float):
                raise TimeoutError(f"{world} {name} {horizon}: would take {found:.0f} s")
            print(world, name, horizon, samples, f"{variance(found.estimates):.3g}", flush=True)
            return {"estimates": found.estimates, "seconds": np.array(found.seconds)}

        label = f"{world}_{name}_{horizon}_{samples}_{estimates}_{std:g}"
        found = kept("estimators", self.full, label, compute)
        return found["estimates"], float(found["seconds"])

    def many(self, world: str, name: str, horizon: int, samples: int) -> np.ndarray:
        """The variances of blocks of estimates [N]."""
        estimates = self.draws(world, name, horizon, samples, BLOCK * self.blocks)[0]
        return np.array([variance(block) for block in estimates.reshape(self.blocks, BLOCK, -1)])

    def equal(self, name: str, horizon: int, many: bool = False) -> np.ndarray:
        """With as many rollouts as finite differences take for one sample, on the pendulum: estimates [M, P], or the
        variances of many blocks [N]."""
        samples = 1 if name == "finite_differences" else 2 * self.parameters
        return (self.many if many else lambda *of: self.draws(*of)[0])("pendulum", name, horizon, samples)

    @functools.cached_property
    def parameters(self) -> int:
        """Of the pendulum's policy."""
        return ravel_pytree(cases.make_case("classic/pendulum").params)[0].size

    @functools.cached_property
    def truths(self) -> dict[int, np.ndarray]:
        """The gradient of the linear system at each horizon."""
        case = cases.make_case("classic/lqr", seed=first_seed(self.full))
        assert case.exact is not None
        return {h: np.asarray(ravel_pytree(case.exact(h))[0], float) for h in self.horizons}


def variance(estimates: np.ndarray) -> float:
    """The trace of their covariance."""
    return float(estimates.var(0, ddof=1).sum())


def ratio(first: np.ndarray, second: np.ndarray) -> float:
    """Of their variances."""
    return variance(first) / variance(second)


def middles(first: np.ndarray, second: np.ndarray) -> float:
    """The ratio of the medians of variances."""
    return float(np.median(first) / np.median(second))


def slope(*groups: np.ndarray) -> float:
    """Of the variance over the policy's noise, both as logarithms."""
    return float(np.polyfit(np.log(NOISES), np.log([variance(g) for g in groups]), 1)[0])


def measure(full: bool) -> Work:
    """Everything from kept estimates."""
    found = Laboratory(full)
    last, both = found.horizons[-1], ("likelihood_baseline", "pathwise")

    def of(world: str, name: str, horizon: int, samples: int = SETTINGS.samples, **more: Any) -> np.ndarray:
        return found.draws(world, name, horizon, samples, **more)[0]

    def noisy(name: str) -> list[np.ndarray]:
        return [of("lqr", name, MIDDLE, std=std) for std in NOISES]

    def bought(name: str) -> list[np.ndarray]:
        return [of("pendulum", name, MIDDLE, n) for n in found.counts]

    def bias(horizon: int) -> Any:
        truth = found.truths[horizon]
        return lambda estimates: float(np.linalg.norm(estimates.mean(0) - truth) / np.linalg.norm(truth))

    def needed(direct: np.ndarray, *others: np.ndarray) -> float:
        """Rollouts for the likelihood ratio, over FEW; its error falls as a power of the rollouts."""
        power, at_one = np.polyfit(np.log(found.counts), np.log([variance(g) for g in others]), 1)
        return float(np.exp((np.log(variance(direct)) - at_one) / power)) / FEW

    lr, fd = "likelihood_baseline", "finite_differences"
    measured: dict[str, Callable[[], Measured]] = {
        "smooth": lambda: bootstrap(ratio, *(of("lqr", n, SHORT) for n in both)),
        "smooth pendulum": lambda: bootstrap(ratio, *(of("pendulum", n, SHORT) for n in both)),
        "chaotic": lambda: bootstrap(
            middles, *(found.many("pendulum", n, last, SETTINGS.samples) for n in reversed(both))
        ),
        "noise": lambda: bootstrap(slope, *noisy(lr)),
        "noise, pathwise": lambda: bootstrap(slope, *noisy("pathwise")),
        "cut": lambda: bootstrap(bias(50), of("lqr", "pathwise_window", 50)),
        "samples": lambda: bootstrap(needed, of("pendulum", "pathwise", MIDDLE, FEW), *bought(lr)),
        "differences, short": lambda: bootstrap(ratio, found.equal(lr, SHORT), found.equal(fd, SHORT)),
        "differences, chaotic": lambda: bootstrap(middles, found.equal(fd, last, True), found.equal(lr, last, True)),
    }
    return Work(measured, lambda: shown(found, bias))


def shown(found: Laboratory, bias: Callable[[int], Any]) -> dict[str, Any]:
    """What the figure shows."""
    linear = {name: {h: found.draws("lqr", name, h, SETTINGS.samples)[0] for h in found.horizons} for name in LOOKS}
    wild = {
        name: {h: found.draws("pendulum", name, h, SETTINGS.samples)[0] for h in found.horizons}
        for name in ("pathwise", "likelihood_baseline", "total_propagation")
    }
    bought = {
        name: {n: found.draws("pendulum", name, MIDDLE, n) for n in found.counts}
        for name in ("pathwise", "likelihood_baseline")
    }
    size = np.linalg.norm(bought["pathwise"][FEW][0].mean(0))

    def per_rollout(estimates: np.ndarray) -> list[float]:
        return list(bootstrap(lambda e: SETTINGS.samples * variance(e), estimates))

    def error(estimates: np.ndarray) -> float:
        return float(np.sqrt(variance(estimates)) / size)

    def floor(estimates: np.ndarray, horizon: int) -> float:
        return float(np.sqrt(variance(estimates) / len(estimates)) / np.linalg.norm(found.truths[horizon]))

    return {
        "variance": {
            world: {name: {h: per_rollout(e) for h, e in by.items()} for name, by in of.items()}
            for world, of in (("LQR", linear), ("pendulum", wild))
        },
        "equal": {
            name: {h: list(bootstrap(variance, found.equal(name, h))) for h in found.horizons}
            for name in ("finite_differences", "likelihood_baseline")
        },
        "rollouts": 2 * found.parameters,
        "bias": {name: {h: bias(h)(e) for h, e in by.items()} for name, by in linear.items()},
        "noise_floor": {name: {h: floor(e, h) for h, e in by.items()} for name, by in linear.items()},
        "noise": {
            name: [per_rollout(found.draws("lqr", name, MIDDLE, SETTINGS.samples, std=std)[0]) for std in NOISES]
            for name in ("pathwise", "likelihood_baseline")
        },
        "error": {name: {n: list(bootstrap(error, e)) for n, (e, _) in by.items()} for name, by in bought.items()},
        "seconds": {name: {n: seconds for n, (_, seconds) in by.items()} for name, by in bought.items()},
    }


def draw(data: dict[str, Any], path: Path) -> None:
    """Variance over horizon in two worlds and at equal rollouts, bias, variance over noise, error over samples."""

    def fill(linear: Axes, wild: Axes, equal: Axes, bias: Axes, noise: Axes, samples: Axes) -> None:
        for axes, world in ((linear, "LQR"), (wild, "pendulum")):
            for name, by in data["variance"][world].items():
                label, colour, mark = LOOKS[name]
                whiskers(axes, [int(h) for h in by], list(by.values()), label, colour, mark)
            axes.set(
                title=f"{world}: variance over the horizon", ylabel="variance of a rollout", xlabel="horizon [steps]"
            )
        for name, by in data["equal"].items():
            label, colour, mark = LOOKS[name]
            whiskers(equal, [int(h) for h in by], list(by.values()), label, colour, mark)
        equal.set(title=f"pendulum, {data['rollouts']} rollouts each", xlabel="horizon [steps]")
        equal.set(ylabel="variance of an estimate")
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
        for axes in (linear, wild, equal, bias, noise, samples):
            axes.set(xscale="log", yscale="log")
        for axes, ticks in ((noise, NOISES), (samples, [int(n) for n in data["error"]["pathwise"]])):
            axes.set_xticks(ticks, ticks)
            axes.minorticks_off()
        legend(linear, "95 % bootstrap intervals")

    save(path, [1.7] * 6, fill, above=0.95)


if __name__ == "__main__":
    main("estimators", measure, draw)
