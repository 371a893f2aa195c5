"""The options of `branchax lab`. Imports no JAX, so that `--help` and every refusal are instant."""

from __future__ import annotations

import contextlib
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from branchax.config import NonNegative, Positive, Range
from branchax.errors import ConfigError, nearest
from branchax.runs import rundir
from branchax.worlds.catalog import WORLDS

WINDOW = 5  # steps between the cuts of `pathwise_window` and `pathwise_critic`

# "needs a critic": the policy's exact value and Q-function, which only LQR has.
ESTIMATORS: dict[str, str] = {
    "pathwise": "derivatives through world and policy",
    "pathwise_window": f"the same, cut every {WINDOW} steps",
    "pathwise_critic": f"the same, cut every {WINDOW} steps, with a critic's slope at the cuts (needs a critic)",
    "deterministic": "the deterministic policy gradient (needs a critic)",
    "likelihood_total": "likelihood ratio weighted by the whole return: REINFORCE",
    "likelihood_to_go": "likelihood ratio weighted by the rewards to go",
    "likelihood_baseline": "the same, minus the mean of the other samples",
    "likelihood_gae": "likelihood ratio weighted by generalised advantages (needs a critic)",
    "finite_differences": "central differences, parameter by parameter",
    "evolution_strategies": "differences along random directions in parameter space",
    "inverse_variance": "pathwise and likelihood ratio, weighted once by inverse variance",
    "total_propagation": "the same, weighted at every step",
}


@dataclass(frozen=True)
class LabOptions:
    """The options of `branchax lab gradients`."""

    world: str = "classic/pendulum"
    """The environment, a name from `branchax list`."""
    dynamics: Literal["known", "oracle", "learned"] = "known"
    """`known`: the environment's own equations and initial states. `oracle`: the same equations, from replayed states.
    `learned`: the best member of an ensemble fitted to those states, from the same states."""
    horizons: str = "1,5,20,50,100,200"
    """Numbers of steps, separated by commas."""
    estimators: str = "all"
    """Names separated by commas; `all` skips those that this environment does not support."""
    samples: Annotated[int, Range(2, 1_000_000)] = 32
    """Rollouts per estimate (evolution_strategies: pairs of rollouts; finite_differences: 2 rollouts per parameter)."""
    estimates: Annotated[int, Range(8, 1_000_000)] = 64
    """Number of independent estimates, for mean and variance."""
    policy_std: NonNegative = 0.3
    """Standard deviation of the policy's noise; 0 is deterministic, which has no likelihood ratio."""
    discount: Annotated[float, Range(0, 1, above=True)] = 1.0
    """Gamma."""
    steps: Annotated[int, Range(100, 10_000_000)] = 2_000
    """Real steps with uniformly random actions, for `oracle` and `learned`."""
    seed: Annotated[int, Range(0, 2**31 - 1)] = 0
    """Seed of policy, real steps, model and samples."""
    truth_seconds: Positive = 10.0
    """Time limit for the truth at each horizon, if there is no closed form."""
    limit_seconds: Positive = 20.0
    """Skip an estimator that would take longer at a horizon, there and at longer horizons."""
    out: Path | None = None
    """Directory for the results, new or empty. Default: a new one in runs/."""


def check(options: LabOptions) -> None:
    """Raises `ConfigError` for the first option that cannot work."""
    for name, hint in typing.get_type_hints(LabOptions, include_extras=True).items():
        value, limits = getattr(options, name), [m for m in getattr(hint, "__metadata__", ()) if isinstance(m, Range)]
        if limits and value not in limits[0]:
            raise ConfigError(f"{name}: {value} is not possible; allowed: {limits[0]}")
    if options.world not in WORLDS:
        raise ConfigError(
            f"world: {options.world!r} is unknown{nearest(options.world, WORLDS)}; `branchax list` shows all"
        )
    if WORLDS[options.world].discrete:
        raise ConfigError(f"world: {options.world} has no gradients here: its actions are discrete")
    horizons_of(options)
    estimators_of(options)


def horizons_of(options: LabOptions) -> tuple[int, ...]:
    """The horizons in rising order."""
    found = set()
    for part in _split(options.horizons):
        if not part.isdecimal() or not 1 <= int(part) <= 100_000:
            raise ConfigError(
                f"horizons: {part!r} is not possible; allowed: whole numbers from 1 to 100000, separated by commas"
            )
        found.add(int(part))
    if not found:
        raise ConfigError("horizons: none is given; allowed: whole numbers separated by commas, such as 1,10,100")
    return tuple(sorted(found))


def estimators_of(options: LabOptions) -> tuple[str, ...]:
    """The names of the estimators in the table's order; all of them for `all`."""
    names = _split(options.estimators)
    if names == ["all"]:
        return tuple(ESTIMATORS)
    if not names:
        raise ConfigError(f"estimators: none is given; known: all, {', '.join(ESTIMATORS)}")
    for name in names:
        if name not in ESTIMATORS:
            raise ConfigError(f"estimators: {name!r} is unknown{nearest(name, ESTIMATORS)}; `branchax lab` shows all")
    return tuple(name for name in ESTIMATORS if name in names)


def directory_of(options: LabOptions) -> contextlib.AbstractContextManager[Path]:
    """`--out`, or `runs/lab-gradients_<world>_<dynamics>_<n>` with the first free `n`; removed if it stays empty."""
    if options.out is not None:
        return prepared(options.out)
    return rundir.claimed(Path("runs") / f"lab-gradients_{rundir.named(options.world)}_{options.dynamics}")


@contextlib.contextmanager
def prepared(directory: Path) -> Iterator[Path]:
    """Makes the directory, which must be new or empty, and removes it if it stays empty.

    Raises:
      ConfigError: when it is not empty or cannot be written.
    """
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    try:
        if directory.is_dir() and any(directory.iterdir()):
            raise ConfigError(f"out: {directory} is not empty; name another directory")
        rundir.check_writable(directory)
        directory.mkdir(parents=True, exist_ok=True)
    except ConfigError as error:
        raise ConfigError(str(error).replace("run: ", "out: ", 1)) from error
    try:
        yield directory
    finally:
        with contextlib.suppress(OSError):  # rmdir does nothing unless it is empty
            for path in missing:
                path.rmdir()


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
