"""Claim: the product of Jacobians along a rollout grows or shrinks geometrically, by the eigenvalues' size.

On 40 random linear systems (4 states, no control) the largest singular value of J_{0:t} is compared with NumPy's matrix
powers in float64, and its growth per step with the logarithm of the spectral radius. On two pendulums, the product in
the world is compared with that in a learned model, at the same states, policies and noise (`gradients/jacobians.py`,
`lab/cases.py`: a random network as the policy, 2,000 real steps of a random one as the data; fits that end by
themselves).

    python -m experiments.lecture.jacobians           # 2 policies and models a world
    python -m experiments.lecture.jacobians --full    # 24, about 15 minutes
"""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from branchax.gradients.jacobians import singular_values
from branchax.lab import cases
from branchax.presets import PRESETS
from branchax.types import Key
from branchax.worlds.base import WorldState
from branchax.worlds.lqr import LinearSystem, lqr
from experiments.lecture.claim import Measured, Work, band, bootstrap, first_seed, kept, main
from experiments.lecture.figures import legend, line, save

SYSTEMS, STATES, HORIZON, STARTS = 40, 4, 200, 64
WORLDS, AT = ("classic/pendulum", "classic/double_pendulum"), 100
SHOWN = np.r_[1, 4 : HORIZON + 1 : 4]  # the steps that are drawn

MODEL = replace(PRESETS["mbpo"].model, max_rounds=200)


def linear() -> dict[str, Any]:
    """Random systems: their spectral radii [N], logs of the largest singular values measured and exact [N, H]."""
    rng = np.random.default_rng(0)
    matrices = rng.normal(size=(SYSTEMS, STATES, STATES))
    radii = rng.uniform(0.8, 1.2, SYSTEMS)
    matrices *= (radii / np.abs(np.linalg.eigvals(matrices)).max(-1))[:, None, None]

    def logs(key: Key, a: jax.Array) -> jax.Array:
        world = lqr(LinearSystem(a, jnp.zeros((STATES, 1)), jnp.eye(STATES), jnp.eye(1)))
        start = jax.vmap(world.reset)(key[None])
        return singular_values(key, world, lambda key, obs: (jnp.zeros(1), ()), start, HORIZON)[:, 0, 0]

    keys = jax.random.split(jax.random.key(0), SYSTEMS)
    measured = np.asarray(jax.jit(jax.vmap(logs))(keys, jnp.asarray(matrices, jnp.float32)), float)
    powers = [np.linalg.matrix_power(matrices, t) for t in range(1, HORIZON + 1)]
    exact = np.log(np.linalg.svd(powers, compute_uv=False)[..., 0]).T
    return {"radius": radii, "measured": measured, "exact": exact}


def growth(world: str, seed: int) -> dict[str, np.ndarray]:
    """log10 of the largest singular value in the world and in a model of it: [STARTS, H] each."""
    found = {}
    for dynamics, kind in (("oracle", "world"), ("learned", "model")):
        problem, params, *_ = cases.make_case(world, dynamics, seed=seed, model=MODEL)
        run = jax.jit(
            lambda key, start, p=problem, theta=params: singular_values(
                key, p.world, p.policy.act(theta), start, HORIZON
            )
        )
        start: WorldState = problem.start(jax.random.key(seed), STARTS)
        found[kind] = np.asarray(run(jax.random.key(seed + 1), start)[..., 0], float).T / math.log(10)
    return found


def measure(full: bool) -> Work:
    """On linear systems and on two pendulums."""
    systems = functools.cache(linear)
    seeds = range(first_seed(full), first_seed(full) + (24 if full else 2))

    @functools.cache
    def medians(world: str) -> dict[str, np.ndarray]:
        """Of the starts, in the world and in the models: [seeds, H] each."""
        pairs = [
            kept("jacobians", full, f"{world}_{seed}", lambda seed=seed: growth(world, seed))  # type: ignore[misc]
            for seed in seeds
        ]
        return {kind: np.array([np.median(pair[kind], 0) for pair in pairs]) for kind in ("world", "model")}

    def gap(world: str) -> np.ndarray:
        return medians(world)["model"][:, AT - 1] - medians(world)["world"][:, AT - 1]

    def off() -> Measured:
        return bootstrap(np.max, np.abs(systems()["measured"] - systems()["exact"]).max(-1))

    def rate_off() -> Measured:
        logs = systems()["measured"]
        return bootstrap(np.mean, np.abs((logs[:, -1] - logs[:, 99]) / (HORIZON - 100) - np.log(systems()["radius"])))

    def data() -> dict[str, Any]:
        about = {
            world: {kind: band(m[:, SHOWN - 1], np.median) for kind, m in medians(world).items()} for world in WORLDS
        }
        logs = (systems()["measured"][:, SHOWN - 1] / math.log(10)).round(3).tolist()
        return {"radius": systems()["radius"].tolist(), "linear": logs, **about}

    measured = {
        "closed form": off,
        "eigenvalues": rate_off,
        "pendulum": lambda: bootstrap(np.median, np.abs(gap(WORLDS[0]))),
        "double pendulum": lambda: bootstrap(np.median, gap(WORLDS[1])),
    }
    return Work(measured, data)


def draw(data: dict[str, Any], path: Path) -> None:
    """Largest singular values over the horizon: linear systems, and two pendulums with their models."""

    def fill(systems: Axes, *pendulums: Axes) -> None:
        for radius, logs in zip(data["radius"], data["linear"], strict=True):
            systems.plot(SHOWN, logs, color="C1" if radius > 1 else "C0", linewidth=0.7, alpha=0.7)
        systems.text(5, 9, "eigenvalues\nabove one", color="C1", fontsize=7)
        systems.text(5, -9, "all below one", color="C0", va="top", fontsize=7)
        systems.set_title("40 linear systems")
        for axes, name in zip(pendulums, WORLDS, strict=True):
            line(axes, SHOWN, data[name]["world"], "in the world", 0)
            line(axes, SHOWN, data[name]["model"], "in a learned model", 1, "--")
            axes.set_title(name)
        about = "median start; median and 95 % band\nover policies and models"
        legend(pendulums[0], about, 2)
        for axes in (systems, *pendulums):
            axes.set(ylabel="log₁₀ largest\nsingular value", xlabel="horizon t [steps]", xlim=(0, HORIZON))

    save(path, [1.7, 1.7, 1.7], fill, above=0.55)


if __name__ == "__main__":
    main("jacobians", measure, draw)
