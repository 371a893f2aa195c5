"""Claim: the states of branched rollouts are neither the data's nor the latest policy's, the less so the longer it
improves without new data; off-policy learning bears that, on-policy learning needs a limit.

On `classic/pendulum`. Distances: 200 random real steps, a model of them, 200 steps of the first policy, then 10, 40 or
160 updates of PPO on branched rollouts of 10 steps. A seed has the same data, model and first policy, however many
updates follow. Then three sets of states are drawn, 500 each: stored real states, states of branched rollouts of the
latest policy, and states of its real episodes. Their distance is the squared maximum mean discrepancy (Gretton et al.
2012, JMLR 13, eq. 3: the unbiased estimate, so that it is zero on average for equal distributions), with a Gaussian
kernel of bandwidth 1 on states in units of the data's deviations.

Returns: real steps are collected 50 at a time. PPO takes 20 updates after each (400 gradient steps) on branched
rollouts of 50 steps, as if they were its own policy's; with a budget it stops when it has moved by so many nats since
the data came. SAC (`mbpo`) does not need them to be its own.

    python -m experiments.lecture.mismatch           # 2 seeds, 300 real steps
    python -m experiments.lecture.mismatch --full    # 16 and 10 seeds, 1,000 real steps; about half an hour
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from branchax import replay, worlds
from branchax.build import build_agent, build_dynamics
from branchax.config import Config
from branchax.epoch.state import TrainState
from branchax.presets import PRESETS, preset
from branchax.rollout import rollout
from branchax.runs.restoring import restore
from branchax.types import Key
from experiments.harness import curves
from experiments.lecture.claim import Arms, Work, bootstrap, changed, directory, first_seed, gap, main
from experiments.lecture.figures import save, whiskers

WORLD, BRANCH, DRAWN = "classic/pendulum", 10, 500
UPDATES = (10, 40, 160)  # of PPO after the one collection that distances are of
PASSES, MINIBATCHES = 3, 2  # of PPO there, so that an update is 6 gradient steps
BUDGETS = (0.1, None)  # nats, of PPO's longer runs
PER_STEP = (1, 8)  # updates of SAC for a real step


def snapshot(updates: int, full: bool) -> Config:
    """One collection and so many updates of PPO after it."""
    config = changed(preset("mbppo", WORLD), seed=first_seed(full), seeds=16 if full else 2, env_steps=400)
    config = changed(config, explore_steps=200, epoch_steps=200, collect_steps=200, updates_per_step=updates / 200)
    config = changed(config, agent__kl_budget=None, agent__passes=PASSES, agent__minibatches=MINIBATCHES)
    return changed(config, agent__learning_rate=1e-3, rollout__horizon=BRANCH, rollout__per_update=120)


def learning(kind: str, amount: float | None, full: bool) -> Config:
    """PPO with a budget, or SAC with so many updates for a real step, in collections of 50 real steps."""
    config = changed(preset("v2.5" if kind == "ppo" else "mbpo", WORLD), seed=first_seed(full))
    config = changed(config, seeds=10 if full else 2, env_steps=1_000 if full else 300)
    config = changed(config, explore_steps=100 if full else 200)
    config = changed(config, epoch_steps=50, collect_steps=50, eval_every=2, checkpoint_every=1_000)
    if kind == "sac":
        return changed(config, updates_per_step=float(amount or 1))
    config = changed(
        config, model=PRESETS["mbpo"].model, updates_per_step=20 / 50, agent__kl_budget=amount, agent__passes=5
    )
    return changed(config, rollout__start="replay", rollout__horizon=50, rollout__per_update=24)


def mmd2(x: Any, y: Any, bandwidth: float = 1.0) -> jax.Array:
    """The unbiased estimate of MMD^2 between samples x [n, D] and y [m, D] with k = exp(-|x - y|^2 / (2 b^2)): []."""

    def kernel(x: jax.Array, y: jax.Array) -> jax.Array:
        square = ((x[:, None] - y[None]) ** 2).sum(-1)
        return jnp.exp(-square / (2 * bandwidth**2))

    def within(x: jax.Array) -> jax.Array:
        n = x.shape[0]
        return (kernel(x, x).sum() - n) / (n * (n - 1))

    return within(x) + within(y) - 2 * kernel(x, y).mean()


def distances(where: Path) -> list[dict[str, float]]:
    """MMD^2 between data, branched and latest states at the end of a run, for each seed; `floor` is that of two
    independent draws of the latest."""
    config, state = restore(where)
    world = worlds.make(config.world)
    agent, dynamics = build_agent(config, world), build_dynamics(config, world)
    assert dynamics is not None
    length = world.spec.episode_length

    @jax.jit
    def compare(key: Key, state: TrainState) -> dict[str, jax.Array]:
        key_data, key_start, key_branch, key_time, *keys = jax.random.split(key, 6)
        act = lambda key, obs: agent.act(key, state.agent, obs)  # noqa: E731

        def latest(key: Key) -> jax.Array:
            key_start, key_run, key_time = jax.random.split(key, 3)
            start = jax.vmap(world.reset)(jax.random.split(key_start, DRAWN))
            obs = rollout(key_run, world, act, start, length)[1].transition.obs
            return obs[jax.random.randint(key_time, (DRAWN,), 0, length), jnp.arange(DRAWN)]

        rows = replay.sample(key_start, state.real, DRAWN)
        imagined = dynamics.world(state.model, dynamics.elites(state.model)[0])
        start = jax.vmap(dynamics.branch)(rows)
        obs = rollout(key_branch, imagined, act, start, BRANCH)[1].transition.next_obs
        branched = obs[jax.random.randint(key_time, (DRAWN,), 0, BRANCH), jnp.arange(DRAWN)]
        data = replay.sample(key_data, state.real, DRAWN).transition.obs
        scale = data.std(0)
        first, second = (latest(k) / scale for k in keys)
        data, branched = data / scale, branched / scale
        return {
            "latest": mmd2(branched, first),
            "data": mmd2(branched, data),
            "apart": mmd2(data, first),
            "floor": mmd2(first, second),
        }

    key, found = jax.random.key(2), []
    for i in range(config.seeds):
        one = compare(jax.random.fold_in(key, i), jax.tree.map(lambda x, i=i: x[i], state))
        found.append({name: float(value) for name, value in one.items()})
    return found


def measure(full: bool) -> Work:
    """Distances after one collection, and returns of longer runs."""
    configs = {f"snapshot {n}": snapshot(n, full) for n in UPDATES}
    configs |= {f"ppo {budget}": learning("ppo", budget, full) for budget in BUDGETS}
    configs |= {f"sac {n}": learning("sac", n, full) for n in PER_STEP}
    arms = Arms({name: (directory("mismatch", full, name), config) for name, config in configs.items()})
    look = functools.cache(lambda updates: distances(arms[f"snapshot {updates}"]))

    def apart(updates: int, what: str) -> list[float]:
        return [seed[what] for seed in look(updates)]

    def returns(name: str) -> list[float]:
        """The mean over the second half of a run, by seed."""
        return [float(r[len(r) // 2 :].mean()) for _, r in curves(arms[name]).values()]

    def growth(pairs: np.ndarray) -> float:
        return float(pairs[:, 0].mean() / pairs[:, 1].mean())

    most, fewest = UPDATES[-1], UPDATES[0]

    def data() -> dict[str, Any]:
        found = {n: {what: list(bootstrap(np.mean, apart(n, what))) for what in look(n)[0]} for n in UPDATES}
        learned = {name: list(bootstrap(np.mean, returns(name))) for name in configs if "snapshot" not in name}
        return {"distance": found, "return": learned}

    measured = {
        "not the latest policy's": lambda: bootstrap(np.mean, apart(most, "latest")),
        "not the data's": lambda: bootstrap(np.mean, apart(most, "data")),
        "grows": lambda: bootstrap(growth, np.transpose([apart(most, "latest"), apart(fewest, "latest")])),
        "SAC gains": lambda: gap((returns("sac 8"), returns("sac 1"))),
        "SAC over PPO": lambda: gap((returns("sac 8"), returns("ppo None"))),
        "budget": lambda: gap((returns("ppo 0.1"), returns("ppo None"))),
    }
    return Work(measured, data, arms)


def draw(data: dict[str, Any], path: Path) -> None:
    """Distances over the updates since the data came, and returns."""

    def fill(distance: Axes, returns: Axes) -> None:
        looks = {"latest": "branched to latest policy", "data": "branched to data", "floor": "latest to latest (floor)"}
        steps = [PASSES * MINIBATCHES * int(n) for n in data["distance"]]
        for i, (what, label) in enumerate(looks.items()):
            found = [of[what] for of in data["distance"].values()]
            whiskers(distance, steps, found, label, (1, 0, 6)[i], "os."[i])
        distance.set(xscale="log", ylim=(-0.02, None), xlabel="PPO's gradient steps since the data", ylabel="MMD²")
        distance.set_xticks(steps, steps)
        distance.minorticks_off()
        distance.legend(loc="lower left", bbox_to_anchor=(0, 1), title="95 % intervals over seeds")
        for i, (name, found) in enumerate(data["return"].items()):
            whiskers(returns, [i], [found], name, name.startswith("ppo"), "o")
        names = [f"PPO, {n[4:]} nat" if n[:3] == "ppo" else f"SAC, updates: {n[4:]}" for n in data["return"]]
        labels = [name.replace("None nat", "no budget") for name in names]
        returns.set_xticks(range(len(names)), labels, rotation=35, ha="right")
        returns.set(ylabel="return\n(second half)")

    save(path, [2.5, 2.2], fill)


if __name__ == "__main__":
    main("mismatch", measure, draw, compiles_much=True)
