"""Claim: the states of branched rollouts are neither the data's nor the latest policy's, the less so the longer it
improves without new data; off-policy learning bears that, on-policy learning needs a limit.

On `classic/pendulum`, 200 real steps at a time are followed by few or many updates. After the last of them, three sets
of states are drawn, 500 each: stored real states, states of branched rollouts of the latest policy, and states of its
real episodes. Their distance is the squared maximum mean discrepancy (Gretton et al. 2012, JMLR 13, eq. 3: the unbiased
estimate, so that it is zero on average for equal distributions), with a Gaussian kernel of bandwidth 1 on states in
units of the data's deviations. PPO (`mbppo` without its budget) learns on the branched rollouts as if they were its own
policy's; SAC (`mbpo`) does not need them to be. With a budget, PPO stops when it has moved by so many nats since the
data came.

    python -m experiments.lecture.mismatch           # 600 real steps, 2 seeds
    python -m experiments.lecture.mismatch --full    # 800 real steps, 4 seeds
"""

from __future__ import annotations

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
from branchax.presets import preset
from branchax.rollout import rollout
from branchax.runs.restoring import restore
from branchax.types import Key
from experiments.harness import curves, run
from experiments.lecture.claim import Claim, Found, Prediction, bootstrap, changed, directory, iqm, main, save, whiskers

WORLD, COLLECT, BRANCH, DRAWN = "classic/pendulum", 200, 10, 500
PASSES, MINIBATCHES = 3, 2  # of PPO, so that an update is 6 gradient steps
UPDATES = {"ppo": (10, 40, 160), "sac": (100, 1_600)}  # between two collections
BUDGETS = (0.1, 1.0)  # nats
FEW, MANY, BUDGET = 10, 160, 1.0

CLAIM = Claim(
    name="mismatch",
    title="Whose states are those of branched rollouts?",
    words="Branched rollouts visit neither the states of the data nor those of the latest policy, the less so the more "
    "the policy is updated between collections. SAC gains from more updates all the same; PPO needs a KL budget.",
    intervals="bootstrap over seeds; distances as means, returns as interquartile means",
    predictions={
        "not the latest policy's": Prediction(
            f"PPO, {MANY} updates: MMD² of branched to latest is at least 0.01", 0.01
        ),
        "not the data's": Prediction(f"PPO, {MANY} updates: MMD² of branched to data is at least 0.01", 0.01),
        "grows": Prediction(
            f"PPO: MMD² of branched to latest after {MANY} over after {FEW} updates is at least 2", 2.0
        ),
        "SAC gains": Prediction("SAC: return with the most minus with the fewest updates is at least 100", 100.0),
        "SAC over PPO": Prediction("most updates: return of SAC minus PPO without a budget is at least 200", 200.0),
        "budget": Prediction(
            f"PPO, {MANY} updates: return with a budget of {BUDGET:g} nat minus without is at least 100", 100.0
        ),
    },
)


def config_of(kind: str, updates: int, full: bool, budget: float | None = None) -> Config:
    """PPO or SAC on branched rollouts, with so many updates after each collection."""
    config = changed(preset("mbppo" if kind == "ppo" else "mbpo", WORLD), seeds=4 if full else 2)
    config = changed(config, env_steps=800 if full else 600, explore_steps=COLLECT, epoch_steps=COLLECT)
    config = changed(config, collect_steps=COLLECT, updates_per_step=updates / COLLECT, checkpoint_every=1_000)
    light = {"members": 3, "elites": 2, "hidden": (64, 64), "max_rounds": 20, "good_error": 1e-3}
    config = changed(config, **{f"model__{key}": value for key, value in light.items()})
    if kind == "sac":
        return changed(config, rollout__horizon=BRANCH, rollout__per_step=20, rollout__groups=4)
    config = changed(config, agent__kl_budget=budget, agent__passes=PASSES, agent__minibatches=MINIBATCHES)
    return changed(config, agent__learning_rate=1e-3, rollout__horizon=BRANCH, rollout__per_update=120)


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


def measure(full: bool) -> Found:
    """Runs what is missing and compares."""
    wanted = [(kind, updates, None) for kind, all_updates in UPDATES.items() for updates in all_updates]
    wanted += [("ppo", MANY, budget) for budget in BUDGETS]
    configs, made, apart, returns = {}, {}, {}, {}
    for kind, updates, budget in wanted:
        key = f"{kind} {updates}" + ("" if budget is None else f" budget {budget:g}")
        configs[key] = config_of(kind, updates, full, budget)
        made[key] = run(configs[key], directory("mismatch", full, key.replace(" ", "_")))
        apart[key] = distances(made[key])
        returns[key] = [float(r[-2:].mean()) for _, r in curves(made[key]).values()]

    def of(key: str, what: str) -> list[float]:
        return [seed[what] for seed in apart[key]]

    def more(x: np.ndarray, y: np.ndarray) -> float:
        return float(iqm(x) - iqm(y))

    many, few = f"ppo {MANY}", f"ppo {FEW}"
    most, fewest = f"sac {UPDATES['sac'][-1]}", f"sac {UPDATES['sac'][0]}"
    measured = {
        "not the latest policy's": bootstrap(np.mean, of(many, "latest")),
        "not the data's": bootstrap(np.mean, of(many, "data")),
        "grows": bootstrap(lambda x, y: float(x.mean() / y.mean()), of(many, "latest"), of(few, "latest")),
        "SAC gains": bootstrap(more, returns[most], returns[fewest]),
        "SAC over PPO": bootstrap(more, returns[most], returns[many]),
        "budget": bootstrap(more, returns[f"{many} budget {BUDGET:g}"], returns[many]),
    }
    data = {
        "updates": {kind: list(all_updates) for kind, all_updates in UPDATES.items()},
        "distance": {key: {what: list(bootstrap(np.mean, of(key, what))) for what in apart[key][0]} for key in made},
        "return": {key: list(bootstrap(iqm, values)) for key, values in returns.items()},
    }
    return Found(measured, data, configs, list(made.values()))


def draw(data: dict[str, Any], path: Path) -> None:
    """Distances and returns over the gradient steps between collections."""

    def fill(distance: Axes, returns: Axes) -> None:
        looks = {"latest": "branched to latest policy", "data": "branched to data", "floor": "latest to latest (floor)"}
        steps = [PASSES * MINIBATCHES * u for u in data["updates"]["ppo"]]
        for i, (what, label) in enumerate(looks.items()):
            found = [data["distance"][f"ppo {u}"][what] for u in data["updates"]["ppo"]]
            whiskers(distance, steps, found, label, (1, 0, 6)[i], "os."[i])
        distance.set(
            xscale="log", ylim=(-0.02, None), xlabel="PPO's gradient steps between collections", ylabel="MMD² of states"
        )
        distance.legend(loc="lower left", bbox_to_anchor=(0, 1), title="95 % bootstrap intervals over seeds")
        for i, (kind, label) in enumerate((("ppo", "PPO, no budget"), ("sac", "SAC"))):
            updates = data["updates"][kind]
            steps = [u * (PASSES * MINIBATCHES if kind == "ppo" else 1) for u in updates]
            whiskers(returns, steps, [data["return"][f"{kind} {u}"] for u in updates], label, 1 - i, "os"[i])
        for i, budget in enumerate(BUDGETS):
            found = [data["return"][f"ppo {MANY} budget {budget:g}"]]
            at = PASSES * MINIBATCHES * MANY * (1.12 + 0.15 * i)
            whiskers(returns, [at], found, f"PPO, {budget:g} nat", 2 + i, "^v"[i])
        returns.set(xscale="log", xlabel="gradient steps between collections", ylabel="return\n(last two evaluations)")
        for axes, ticks in ((distance, (60, 240, 960)), (returns, (100, 300, 1_000))):
            axes.set_xticks(ticks, ticks)
            axes.minorticks_off()
        returns.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2)

    save(path, [2.5, 2.2], fill)


if __name__ == "__main__":
    main(CLAIM, measure, draw, compiles_much=True)
