"""Claim: from the start an imagined rollout has to be long, from replayed states it may be short.

`mbpo` on a pendulum that always starts hanging still, so that the upright is a late state; 100 imagined steps for each
real one, cut into rollouts of 1, 5 or 50 steps that start where episodes do (as 2.5 does) or at replayed real states
(3.0). Late states are those that the policy of the 5-step replayed runs visits from step 100 on, in cells of 15 degrees
by 1 rad/s; a cell is covered if the model buffer of a run holds a state in it. The value error is the distance of the
critics' value of starts from the return that follows (discounted, 400 steps; the entropy bonus is in the one and not in
the other, at most a few units).

    python -m experiments.lecture.horizon           # 600 real steps, 2 seeds, rollouts of 5 and 50 steps
    python -m experiments.lecture.horizon --full    # 3,000 real steps, 4 seeds
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from branchax import replay, worlds
from branchax.agents.critic import make_critic
from branchax.build import build_agent
from branchax.config import Config, SACConfig
from branchax.presets import preset
from branchax.rollout import rollout
from branchax.runs.restoring import restore
from branchax.types import Key
from branchax.worlds.base import World, WorldState, endless
from branchax.worlds.classic import pendulum
from experiments.harness import curves, run
from experiments.lecture.claim import (
    Claim,
    Found,
    Prediction,
    bootstrap,
    changed,
    directory,
    iqm,
    legend,
    main,
    save,
    whiskers,
)

WORLD = "experiments.lecture.horizon:hanging"
STARTS = {"initial": "initial states (2.5)", "replay": "replayed states (3.0)"}
MODEL_STEPS, EPISODES, LATE = 100, 64, 100
SHORT, LONG = 5, 50

CLAIM = Claim(
    name="horizon",
    title="Where rollouts start, and how long they are",
    words="Short rollouts from initial states never see what happens late in an episode; the same short rollouts from "
    "replayed states do, and learn at equal numbers of model steps what the others cannot.",
    intervals="bootstrap over seeds; returns and errors as interquartile means, coverage as means",
    note="Four seeds. They were given 3,000 real steps after a first run of 1,000, in which no arm learned anything. "
    "Late states are those of the policy at the end, and a buffer holds one epoch.",
    predictions={
        "start": Prediction("5 steps: return from replayed minus from initial states is at least 200", 200.0),
        "longer from the start": Prediction(
            "from initial states: return with 50 steps minus with 5 is at least 200", 200.0
        ),
        "short is enough": Prediction(
            "from replayed states: return with 5 steps minus with 50 is at least -100", -100.0
        ),
        "covered from the start": Prediction(
            "5 steps from initial states cover at most 20 % of late states", 0.2, False
        ),
        "covered from replay": Prediction("5 steps from replayed states cover at least 80 % of late states", 0.8),
        "value error": Prediction("5 steps: value error from replayed over from initial is at most 0.5", 0.5, False),
    },
)


def hanging(episode_length: int = 200) -> World:
    """`classic/pendulum` from within 0.1 rad and 0.1 rad/s of hanging still."""
    world = pendulum(episode_length)

    def reset(key: Key) -> WorldState:
        off = jax.random.uniform(key, (2,), minval=-0.1, maxval=0.1)
        state = jnp.stack([jnp.mod(off[0], 2 * jnp.pi) - jnp.pi, off[1]])
        obs = jnp.stack([jnp.cos(state[0]), jnp.sin(state[0]), state[1]])
        return WorldState(state, obs, jnp.zeros((), jnp.int32))

    return world._replace(reset=reset)


def config_of(start: str, horizon: int, full: bool) -> Config:
    """`mbpo` with one length and start of rollouts."""
    config = changed(preset("mbpo"), world=WORLD, seeds=4 if full else 2, env_steps=3_000 if full else 600)
    config = changed(config, explore_steps=200, epoch_steps=200, updates_per_step=5.0, checkpoint_every=1_000)
    light = {"members": 3, "elites": 2, "hidden": (64, 64), "max_rounds": 20, "good_error": 1e-3}
    config = changed(config, **{f"model__{key}": value for key, value in light.items()})
    rollouts = {"start": start, "horizon": horizon, "per_step": MODEL_STEPS // horizon, "groups": 5}
    return changed(config, **{f"rollout__{key}": value for key, value in rollouts.items()})


def cells(obs: np.ndarray) -> np.ndarray:
    """The cell of each state [..., 3] -> [...] int: 15 degrees by 1 rad/s."""
    angle = (np.degrees(np.arctan2(obs[..., 1], obs[..., 0])) // 15).astype(int) + 12
    return angle * 100 + np.floor(obs[..., 2]).astype(int) + 10


def looked_at(where: Path) -> list[dict[str, Any]]:
    """For each seed of a run: cells of late states and of imagined ones, and the value error at starts."""
    config, state = restore(where)
    world = worlds.make(config.world)
    agent, settings = build_agent(config, world), config.agent
    assert isinstance(settings, SACConfig)
    critic = make_critic(world.spec.obs_size + world.spec.action_size, settings.hidden, settings.critic)

    @jax.jit
    def episodes(params: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        key_start, key_run = jax.random.split(jax.random.key(1))
        start = jax.vmap(world.reset)(jax.random.split(key_start, EPISODES))
        act = lambda key, obs: agent.act(key, params, obs)  # noqa: E731
        t = rollout(key_run, endless(world), act, start, 400)[1].transition
        gained = (settings.discount ** jnp.arange(400)[:, None] * t.reward).sum(0)
        value = critic.values(params.critics.params, t.obs[0], t.action[0]).min(0)
        return t.obs, gained, value

    found = []
    for i in range(config.seeds):
        one = jax.tree.map(lambda x, i=i: x[i], state)
        obs, gained, value = (np.asarray(x) for x in episodes(one.agent))
        stored = np.asarray(replay.take(one.imagined, jnp.arange(int(one.imagined.size))).obs)
        error = float(np.abs(value - gained).mean())
        found.append({"late": cells(obs[LATE:200]).ravel(), "imagined": set(cells(stored).tolist()), "error": error})
    return found


def measure(full: bool) -> Found:
    """Runs what is missing and compares."""
    horizons = (1, SHORT, LONG) if full else (SHORT, LONG)
    configs = {(start, k): config_of(start, k, full) for start in STARTS for k in horizons}
    made = {
        (start, k): run(config, directory("horizon", full, f"{start}_{k}")) for (start, k), config in configs.items()
    }
    looks = {key: looked_at(where) for key, where in made.items()}
    returns, errors, covered = {}, {}, {}
    for key, look in looks.items():
        returns[key] = [float(r[-2:].mean()) for _, r in curves(made[key]).values()]
        errors[key] = [seed["error"] for seed in look]
        late = [seed["late"] for seed in looks["replay", SHORT]]
        covered[key] = [float(np.isin(l, list(s["imagined"])).mean()) for l, s in zip(late, look, strict=True)]

    def more(x: np.ndarray, y: np.ndarray) -> float:
        return float(iqm(x) - iqm(y))

    measured = {
        "start": bootstrap(more, returns["replay", SHORT], returns["initial", SHORT]),
        "longer from the start": bootstrap(more, returns["initial", LONG], returns["initial", SHORT]),
        "short is enough": bootstrap(more, returns["replay", SHORT], returns["replay", LONG]),
        "covered from the start": bootstrap(np.mean, covered["initial", SHORT]),
        "covered from replay": bootstrap(np.mean, covered["replay", SHORT]),
        "value error": bootstrap(
            lambda x, y: float(iqm(x) / iqm(y)), errors["replay", SHORT], errors["initial", SHORT]
        ),
    }
    parts = (("return", returns, iqm), ("covered", covered, np.mean), ("value error", errors, iqm))
    data = {
        name: {start: [list(bootstrap(of, values[start, k])) for k in horizons] for start in STARTS}
        for name, values, of in parts
    }
    named = {f"{start} {k}": config for (start, k), config in configs.items()}
    return Found(measured, {"horizons": list(horizons), **data}, named, list(made.values()))


def draw(data: dict[str, Any], path: Path) -> None:
    """Return, value error and coverage over the length of rollouts, for both starts."""

    def fill(*axes: Axes) -> None:
        labels = {
            "return": "return\n(last two evaluations)",
            "value error": "value error at starts",
            "covered": "late states covered",
        }
        for panel, (name, label) in zip(axes, labels.items(), strict=True):
            for i, (start, about) in enumerate(STARTS.items()):
                whiskers(panel, data["horizons"], data[name][start], f"from {about}", 1 - i, "so"[i])
            panel.set(xscale="log", ylabel=label)
            panel.set_xticks(data["horizons"], data["horizons"])
            panel.minorticks_off()
        axes[-1].set(ylim=(-0.05, 1.05), xlabel=f"steps per rollout\n({MODEL_STEPS} imagined steps per real one)")
        legend(axes[0], "95 % bootstrap intervals over seeds")

    save(path, [1.5, 1.5, 1.7], fill, above=0.55)


if __name__ == "__main__":
    main(CLAIM, measure, draw, compiles_much=True)
