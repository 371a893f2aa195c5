"""Claim: an open-loop rollout of a model drifts from the real one; more data and members slow it, another policy
speeds it; and the eps T^2 bound says how fast, exactly where errors are never repaired.

A random network policy with noise collects episodes of 200 steps (which nothing cuts short: a fallen hopper goes on).
Models are fitted to 500, 2,000 or 8,000 steps, until they stop by themselves. From 64 fresh starts the real world is
then rolled out for 200 steps, and the model (the mean of its elites, or one member) under the very same actions: those
of the policy that collected, or of another one. The error after k steps is the distance of the two observations, root
mean square over entries in units of the data's deviations; of the starts the median counts.

`cliff.py` derives the bound and a case in which it is tight. It says nothing of deterministic models, whose total
variation from the world is 1; what they are compared with is its additive law: if each step added the one-step error
and nothing amplified it, the sum of errors over T steps would be eps T (T + 1) / 2 (the Lipschitz constant 1 of Asadi
et al. 2018, arXiv:1804.07193, theorem 1).

    python -m experiments.lecture.compounding           # 2 models, less data
    python -m experiments.lecture.compounding --full    # 10 models, about 30 minutes
"""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from branchax import replay, worlds
from branchax.config import to_dict
from branchax.dynamics.fit import make_ensemble
from branchax.lab.cases import HIDDEN, REACTION
from branchax.policies import gaussian_policy
from branchax.presets import PRESETS
from branchax.rollout import rollout
from branchax.types import Key, Params, Row
from branchax.worlds.base import World, WorldState, never
from experiments.lecture import cliff
from experiments.lecture.claim import (
    Measured,
    Work,
    band,
    bootstrap,
    exact,
    first_seed,
    kept,
    main,
    mean_of_means,
    times,
)
from experiments.lecture.figures import legend, line, save

WORLDS = ("classic/pendulum", "brax/hopper", "classic/double_pendulum")
STEPS, STARTS, STD = 200, 64, 0.5
MODEL = replace(PRESETS["mbpo"].model, members=5, elites=5, termination="none", max_rounds=200, bound_margin=1.0)
SHOWN = np.unique(np.geomspace(1, STEPS, 45).round().astype(int))  # the steps that are drawn
EPS, ROAD = 1e-4, (10, 30, 100, 300, 1_000)


def timeless(world: World) -> World:
    """The world whose episodes nothing ends."""

    def step(key: Key, state: WorldState, action: jax.Array) -> Any:
        after, t = world.step(key, state, action)
        return after, t._replace(terminated=jnp.zeros((), bool), truncated=jnp.zeros((), bool))

    return World(world.spec._replace(termination=never), world.reset, step)


def errors(name: str, seed: int, amounts: tuple[int, ...]) -> dict[str, np.ndarray]:
    """The errors [starts, H] of every setting."""
    world = timeless(worlds.make(name))
    policy, dynamics = gaussian_policy(world.spec, HIDDEN, STD), make_ensemble(world, MODEL)
    keys = jax.random.split(jax.random.key(seed), 8)

    def drawn(key: Key) -> Params:
        params = policy.init(key)
        params["mean"][f"layer_{len(HIDDEN)}"]["kernel"] *= REACTION
        return params

    @jax.jit
    def real(key: Key, params: Params) -> Any:
        key_start, key_run = jax.random.split(key)
        start = jax.vmap(world.reset)(jax.random.split(key_start, STARTS))
        return start.obs, rollout(key_run, world, policy.act(params), start, STEPS)[1].transition

    def rows(key: Key, params: Params) -> Any:
        return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:]), real(key, params)[1])

    same, other = drawn(keys[0]), drawn(keys[1])
    data = rows(keys[2], same)  # [STARTS * STEPS, ...], episode after episode
    scale = data.obs[: max(amounts)].std(0)
    fit = jax.jit(dynamics.fit)
    tests = {"same": real(keys[3], same), "other": real(keys[3], other)}

    @jax.jit
    def imagined(model: Any, member: Any, obs: jax.Array, actions: jax.Array) -> jax.Array:
        inside = dynamics.world(model, member)
        start = jax.vmap(lambda o: WorldState((), o, jnp.zeros((), jnp.int32)))(obs)
        t = rollout(keys[4], inside, None, start, STEPS, actions=actions)[1].transition
        return t.next_obs

    found = {}
    for amount in amounts:
        ring = replay.init(Row(jax.tree.map(lambda x: x[0], data)), max(amounts))
        ring = replay.add(ring, Row(jax.tree.map(lambda x, n=amount: x[:n], data)))
        model, _ = fit(keys[5], jax.jit(dynamics.init)(keys[6]), ring)
        alone = model._replace(elites=model.elites[:1])  # the member with the lowest holdout error
        for members, ensemble in ((1, alone), (5, model)):
            for kind, (obs, t) in tests.items():
                off = (imagined(ensemble, None, obs, t.action) - t.next_obs) / scale
                found[f"{amount} {members} {kind}"] = np.sqrt(np.asarray((off**2).mean(-1), float)).T  # [starts, H]
    print(name, seed, {key: f"{np.median(e[:, 9]):.3g}" for key, e in found.items()}, flush=True)
    return found


def power(curves: np.ndarray, steps: int = 20) -> np.ndarray:
    """The power of the steps with which errors [n, H] grow at first: [n]."""
    return np.polyfit(np.log(np.arange(1, steps + 1)), np.log(curves[:, :steps]).T, 1)[0]


def law(curves: np.ndarray, steps: int = 20) -> np.ndarray:
    """Summed errors over those of the additive law: [n, H] -> [n]."""
    return curves[:, :steps].sum(1) / np.array([cliff.bound(first, steps) for first in curves[:, 0]])


def chain_off() -> float:
    """The largest difference of the chain's two computations."""
    off = [abs(cliff.by_programming(e, t) - cliff.closed_form(e, t)) for e in (1e-4, 1e-2, 0.3) for t in ROAD]
    off += [abs(cliff.by_programming(EPS, t, 10) - t / 10 * cliff.closed_form(EPS, 10)) for t in ROAD]
    return max(off)


def measure(full: bool) -> Work:
    """Of learned models, and of the chain."""
    amounts, models = ((500, 2_000, 8_000), 10) if full else ((500, 2_000), 2)
    seeds, (least, most) = range(first_seed(full), first_seed(full) + models), (min(amounts), max(amounts))
    base = f"{most} 5 same"

    @functools.cache
    def median(name: str) -> dict[str, np.ndarray]:
        """Over starts, of every setting: [seeds, H]."""
        by_seed = [
            kept("compounding", full, f"{name}_{seed}", lambda seed=seed: errors(name, seed, amounts))  # type: ignore[misc]
            for seed in seeds
        ]
        return {key: np.array([np.median(e[key], 0) for e in by_seed]) for key in by_seed[0]}

    def growth(name: str) -> Measured:
        return times((median(name)[base][:, -1], median(name)[base][:, 0]))

    def over(first: str, second: str) -> Measured:
        return times(*((median(n)[first][:, 9], median(n)[second][:, 9]) for n in WORLDS))

    def data() -> dict[str, Any]:
        laws = {n: band(np.array([law(median(n)[base], t) for t in SHOWN]).T) for n in WORLDS}
        curves = {n: {key: band(values[:, SHOWN - 1]) for key, values in median(n).items()} for n in WORLDS}
        chain = {
            "steps": list(ROAD),
            "cost": [cliff.by_programming(EPS, t) for t in ROAD],
            "branched": [cliff.by_programming(EPS, t, 10) for t in ROAD],
            "bound": [cliff.bound(EPS, t) for t in ROAD],
        }
        return {"amounts": list(amounts), "curves": curves, "law": laws, "chain": chain, "model": to_dict(MODEL)}

    measured = {
        "growth, pendulum": lambda: growth("classic/pendulum"),
        "growth, hopper": lambda: growth("brax/hopper"),
        "data": lambda: over(base, f"{least} 5 same"),
        "members": lambda: over(base, f"{most} 1 same"),
        "policy": lambda: over(f"{most} 5 other", base),
        "within the law": lambda: bootstrap(mean_of_means, *(law(median(n)[base]) for n in WORLDS)),
        "as fast as the law": lambda: bootstrap(mean_of_means, *(power(median(n)[base]) for n in WORLDS)),
        "cliff": lambda: exact(chain_off()),
        "tight": lambda: exact(cliff.by_programming(EPS, 100) / cliff.bound(EPS, 100)),
    }
    return Work(measured, data)


def draw(data: dict[str, Any], path: Path) -> None:
    """Errors over the horizon in each world, their sum against the additive law, and the chain."""
    most, least = max(data["amounts"]), min(data["amounts"])
    lines = {
        f"{least} 5 same": (f"{least:,} steps of data, 5 members", 5, "-."),
        f"{most} 1 same": (f"{most:,} steps, 1 member", 4, ":"),
        f"{most} 5 same": (f"{most:,} steps, 5 members", 0, "-"),
        f"{most} 5 other": (f"{most:,} steps, 5 members, another policy", 1, "--"),
    }

    def fill(*axes: Axes) -> None:
        for panel, (name, curves) in zip(axes, data["curves"].items(), strict=False):
            for key, (label, colour, dashes) in lines.items():
                line(panel, SHOWN, curves[key], label, colour, dashes)
            panel.set(title=name, xscale="log", yscale="log", xlabel="steps of an open-loop rollout")
            panel.set(ylabel="error [deviations\nof the data]", xlim=(1, STEPS))
        legend(axes[0], "median start; 95 % bands over models")
        law, chain = axes[-2:]
        for i, (name, curve) in enumerate(data["law"].items()):
            line(law, SHOWN, curve, name, (0, 1, 2)[i], ("-", "--", ":")[i])
        law.axhline(1, color="0.4", linewidth=0.8)
        law.text(1.1, 1.2, "εT(T+1)/2", fontsize=7, va="bottom", color="0.3")
        law.set(xscale="log", yscale="log", xlim=(1, STEPS), ylim=(0.03, 5), xlabel="horizon T [steps]")
        law.set(ylabel="summed errors\nover εT(T+1)/2", title="learned models against the additive law")
        law.legend(loc="lower left")
        c = data["chain"]
        chain.plot(c["steps"], c["bound"], "-", color="0.6", linewidth=3, label="bound εT(T+1)/2")
        chain.plot(c["steps"], c["cost"], "o--", color="C0", markersize=4, label="cost, from the start")
        chain.plot(c["steps"], c["branched"], "s:", color="C1", markersize=4, label="cost, branched every 10 steps")
        chain.set(xscale="log", yscale="log", ylim=(3e-3, 2e3), xlabel="horizon T [steps]", ylabel="cost")
        chain.set_title(f"road beside a cliff, ε = {EPS:g}: exact")
        chain.legend(loc="upper left")

    save(path, [1.7, 1.7, 1.7, 1.8, 1.8], fill, above=0.8)


if __name__ == "__main__":
    main("compounding", measure, draw)
