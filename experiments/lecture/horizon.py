"""Claim: from the start an imagined rollout has to be long, from replayed states it may be short.

`mbpo` on a pendulum that always starts hanging still, so that the upright is a late state; 600 imagined steps for each
real one, cut into rollouts of 1 to 50 steps that start where episodes do (as 2.5 does) or at replayed real states
(3.0). All else is the preset's. Late states are those that the policy of the 5-step replayed run of the same seed
visits from step 100 on, in cells of 15 degrees by 1 rad/s; a cell is covered if the model buffer of a run holds a state
in it. The value error is the distance of the critics' value of starts from the return that follows (discounted, 400
steps; the entropy bonus is in the one and not in the other, at most a few units).

    python -m experiments.lecture.horizon           # 300 real steps, 2 seeds
    python -m experiments.lecture.horizon --full    # 600 real steps, 10 seeds; about 50 minutes
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
from branchax.build import build_agent
from branchax.config import Config, SACConfig
from branchax.presets import PRESETS
from branchax.rollout import rollout
from branchax.runs.restoring import restore
from branchax.types import Key
from branchax.worlds.base import World, WorldState, endless
from branchax.worlds.classic import pendulum
from experiments.harness import curves
from experiments.lecture.claim import Arms, Work, bootstrap, changed, directory, first_seed, gap, main
from experiments.lecture.figures import legend, save, whiskers

WORLD = "experiments.lecture.horizon:hanging"
STARTS = {"initial": "initial states (2.5)", "replay": "replayed states (3.0)"}
LENGTHS = {"initial": (5, 50), "replay": (1, 5, 10, 15, 20, 50)}
MODEL_STEPS, EPISODES, LATE = 600, 64, 100


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
    config = changed(PRESETS["mbpo"], world=WORLD, seed=first_seed(full), seeds=10 if full else 2)
    config = changed(config, env_steps=600 if full else 300, checkpoint_every=1_000)
    config = changed(config, explore_steps=100 if full else 200, eval_every=2)
    rollouts = {"start": start, "horizon": horizon, "per_step": MODEL_STEPS // horizon}
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
    assert isinstance(settings, SACConfig) and agent.valuation is not None
    values = jax.vmap(agent.valuation.values, (None, 0, 0))

    @jax.jit
    def episodes(params: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        key_start, key_run = jax.random.split(jax.random.key(1))
        start = jax.vmap(world.reset)(jax.random.split(key_start, EPISODES))
        act = lambda key, obs: agent.act(key, params, obs)  # noqa: E731
        t = rollout(key_run, endless(world), act, start, 400)[1].transition
        gained = (settings.discount ** jnp.arange(400)[:, None] * t.reward).sum(0)
        value = values(params, t.obs[0], t.action[0]).min(1)
        return t.obs, gained, value

    found = []
    for i in range(config.seeds):
        one = jax.tree.map(lambda x, i=i: x[i], state)
        obs, gained, value = (np.asarray(x) for x in episodes(one.agent))
        stored = np.asarray(replay.take(one.imagined, jnp.arange(int(one.imagined.size))).obs)
        error = float(np.abs(value - gained).mean())
        found.append({"late": cells(obs[LATE:200]).ravel(), "imagined": set(cells(stored).tolist()), "error": error})
    return found


def measure(full: bool) -> Work:
    """From a run for each start and length."""
    keys = [(start, k) for start, lengths in LENGTHS.items() for k in lengths]
    arms = Arms(
        {(arm := f"{start} {k}"): (directory("horizon", full, arm), config_of(start, k, full)) for start, k in keys}
    )

    def returns(start: str, k: int) -> list[float]:
        """The mean over the second half of a run, by seed."""
        return [float(r[len(r) // 2 :].mean()) for _, r in curves(arms[f"{start} {k}"]).values()]

    look = functools.cache(lambda start, k: looked_at(arms[f"{start} {k}"]))

    def covered(start: str, k: int) -> list[float]:
        pairs = zip(look("replay", 5), look(start, k), strict=True)
        return [float(np.isin(late["late"], list(one["imagined"])).mean()) for late, one in pairs]

    def error(start: str, k: int) -> list[float]:
        return [one["error"] for one in look(start, k)]

    def share(pairs: np.ndarray) -> float:
        return float(pairs[:, 0].mean() / pairs[:, 1].mean())

    def data() -> dict[str, Any]:
        parts = (("return", returns), ("covered", covered), ("value error", error))
        return {
            "horizons": {start: list(lengths) for start, lengths in LENGTHS.items()},
            **{
                name: {s: [list(bootstrap(np.mean, of(s, k))) for k in lengths] for s, lengths in LENGTHS.items()}
                for name, of in parts
            },
        }

    measured = {
        "start": lambda: gap((returns("replay", 5), returns("initial", 5))),
        "longer from the start": lambda: gap((returns("initial", 50), returns("initial", 5))),
        "one is too few": lambda: gap((returns("replay", 10), returns("replay", 1))),
        "15 are enough": lambda: gap((returns("replay", 15), returns("replay", 50))),
        "covered from the start": lambda: bootstrap(np.mean, covered("initial", 5)),
        "covered from replay": lambda: bootstrap(np.mean, covered("replay", 5)),
        "value error": lambda: bootstrap(share, np.transpose([error("replay", 5), error("initial", 5)])),
    }
    return Work(measured, data, arms)


def draw(data: dict[str, Any], path: Path) -> None:
    """Return, value error and coverage over the length of rollouts, for both starts."""

    def fill(*axes: Axes) -> None:
        labels = {
            "return": "return\n(second half)",
            "value error": "value error at starts",
            "covered": "late states covered",
        }
        for panel, (name, label) in zip(axes, labels.items(), strict=True):
            for i, (start, about) in enumerate(STARTS.items()):
                whiskers(panel, data["horizons"][start], data[name][start], f"from {about}", 1 - i, "so"[i])
            panel.set(xscale="log", ylabel=label)
            panel.set_xticks(ticks := data["horizons"]["replay"], ticks)
            panel.minorticks_off()
        axes[-1].set(ylim=(-0.05, 1.05), xlabel=f"steps per rollout\n({MODEL_STEPS} imagined steps per real one)")
        legend(axes[0], "95 % intervals over seeds")

    save(path, [1.5, 1.5, 1.7], fill, above=0.55)


if __name__ == "__main__":
    main("horizon", measure, draw, compiles_much=True)
