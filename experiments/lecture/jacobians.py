"""Claim: the product of Jacobians along a rollout grows or shrinks geometrically, by the eigenvalues' size.

On 40 random linear systems (4 states, no control) the largest singular value of J_{0:t} is compared with NumPy's matrix
powers in float64, and its growth per step with the logarithm of the spectral radius. On two pendulums, the product in
the world is compared with that in a learned model, at the same states, policies and noise (`gradients/jacobians.py`,
`lab/cases.py`: a random network as the policy, 2,000 real steps of a random one as the data).

    python -m experiments.lecture.jacobians           # 2 models a world
    python -m experiments.lecture.jacobians --full    # 5
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from branchax.gradients.jacobians import singular_values
from branchax.lab import cases
from branchax.types import Key
from branchax.worlds.base import WorldState
from branchax.worlds.lqr import LinearSystem, lqr
from experiments.lecture.claim import Claim, Found, Measured, Prediction, band, bootstrap, legend, line, main, save

SYSTEMS, STATES, HORIZON, STARTS = 40, 4, 200, 64
WORLDS, AT = ("classic/pendulum", "classic/double_pendulum"), 100
SHOWN = np.r_[1, 4 : HORIZON + 1 : 4]  # the steps that are drawn

CLAIM = Claim(
    name="jacobians",
    title="Products of Jacobians",
    words="Along a rollout the product of Jacobians explodes where eigenvalues are larger than one and vanishes where "
    "they are smaller; a model learned from data may explode where the world does not.",
    intervals="linear systems: bootstrap over systems; pendulums: bootstrap over policies and models",
    predictions={
        "closed form": Prediction(
            "largest singular value differs from matrix powers by at most 0.01 nat", 0.01, False, "nat"
        ),
        "eigenvalues": Prediction(
            "growth per step differs from log of the spectral radius by at most 0.01 nat on average", 0.01, False, "nat"
        ),
        "pendulum": Prediction(
            f"pendulum, {AT} steps: model and world differ by at most 0.5 decades (median start)", 0.5, False, "decades"
        ),
        "double pendulum": Prediction(
            f"double pendulum, {AT} steps: the model's product is at least 0.5 decades larger", 0.5, True, "decades"
        ),
    },
)


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


def growth(world: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """log10 of the largest singular value in the world and in a model of it: [STARTS, H] each."""
    found = []
    for dynamics in ("oracle", "learned"):
        problem, params, *_ = cases.make_case(world, dynamics, seed=seed)
        run = jax.jit(
            lambda key, start, p=problem, theta=params: singular_values(
                key, p.world, p.policy.act(theta), start, HORIZON
            )
        )
        start: WorldState = problem.start(jax.random.key(seed), STARTS)
        found.append(np.asarray(run(jax.random.key(seed + 1), start)[..., 0], float).T / math.log(10))
    return found[0], found[1]


def measure(full: bool) -> Found:
    """Measures everything; a minute or a few."""
    systems = linear()
    off = np.abs(systems["measured"] - systems["exact"]).max(-1)
    rate = (systems["measured"][:, -1] - systems["measured"][:, 99]) / (HORIZON - 100)
    measured: dict[str, Measured] = {
        "closed form": bootstrap(np.max, off),
        "eigenvalues": bootstrap(np.mean, np.abs(rate - np.log(systems["radius"]))),
    }
    data: dict[str, Any] = {
        "radius": systems["radius"].tolist(),
        "linear": (systems["measured"][:, SHOWN - 1] / math.log(10)).round(3).tolist(),
    }
    for world in WORLDS:
        pairs = [growth(world, seed) for seed in range(5 if full else 2)]
        true, learned = (np.array([pair[i] for pair in pairs]) for i in (0, 1))  # [seeds, starts, H]
        gap = np.median(learned[..., AT - 1], 1) - np.median(true[..., AT - 1], 1)
        name = world.partition("/")[2].replace("_", " ")
        measured[name] = bootstrap(np.mean, np.abs(gap) if name == "pendulum" else gap)
        medians = {"world": np.median(true, 1), "model": np.median(learned, 1)}  # [seeds, H]
        data[name] = {key: band(m[:, SHOWN - 1]) for key, m in medians.items()}
    return Found(measured, data)


def draw(data: dict[str, Any], path: Path) -> None:
    """Largest singular values over the horizon: linear systems, and two pendulums with their models."""

    def fill(systems: Axes, *pendulums: Axes) -> None:
        for radius, logs in zip(data["radius"], data["linear"], strict=True):
            systems.plot(SHOWN, logs, color="C1" if radius > 1 else "C0", linewidth=0.7, alpha=0.7)
        systems.text(5, 9, "eigenvalues\nabove one", color="C1", fontsize=7)
        systems.text(5, -9, "all below one", color="C0", va="top", fontsize=7)
        systems.set_title("40 linear systems")
        for axes, name in zip(pendulums, ("pendulum", "double pendulum"), strict=True):
            line(axes, SHOWN, data[name]["world"], "in the world", 0)
            line(axes, SHOWN, data[name]["model"], "in a learned model", 1, "--")
            axes.set_title(name)
        about = "median start; mean and 95 % band\nover policies and models"
        legend(pendulums[0], about, 2)
        for axes in (systems, *pendulums):
            axes.set(ylabel="log₁₀ largest\nsingular value", xlabel="horizon t [steps]", xlim=(0, HORIZON))

    save(path, [1.7, 1.7, 1.7], fill, above=0.55)


if __name__ == "__main__":
    main(CLAIM, measure, draw)
