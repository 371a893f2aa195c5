"""What a run's model and critic are worth, measured at its last checkpoint on episodes that no fit has seen.

    open loop     the model follows the recorded actions of real episodes for k steps: error against what happened
    calibration   share of true outcomes below each quantile that the model predicts one step ahead
    map           where the ensemble's members disagree, over a slice of the states
    returns       what the policy's mode returns in the world and, from the same starts, in the model
    critic        predicted values against discounted returns that followed
    phases        what an epoch's time goes into (`phases`)

Everything is JSON-ready, so that pictures (`pictures`) and the page of `report` draw the same numbers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from branchax import replay
from branchax.agents.base import Valuation
from branchax.devices import cache
from branchax.errors import ConfigError
from branchax.runs import checkpoint, rundir, runlog
from branchax.types import Trajectory
from branchax.views import bodies, phases, play, scenes
from branchax.views.play import Player
from branchax.worlds.catalog import observation_names, step_seconds

EPISODES, WINDOWS, ROWS, DRAWS, GRID = 16, 64, 500, 60, 41
SHOWN = 8  # entries of an observation that are drawn
FRAMES = 300  # of an episode that is shown
LEVELS = np.linspace(0.05, 0.95, 19)
TAIL = 0.01  # a return is complete when what is cut off weighs less than this

Found = dict[str, Any]
VERSION = 2  # of what is written; another one is measured again


def diagnose(directory: str | Path, seed: int | None = None, say: Callable[[str], Any] = lambda text: None) -> Found:
    """The diagnosis of one seed (by default the first), from the file that `path_of` names if that is up to date.

    Otherwise it is measured, which takes as long as compiling a run; `say` hears of that.

    Raises:
      ConfigError: when the directory holds no run, no checkpoint yet, or no such seed.
      CheckpointError: when the checkpoint cannot be read.
    """
    directory = Path(directory)
    config = rundir.load_config(directory)
    seed = config.seed if seed is None else seed
    saved = checkpoint.steps(directory / rundir.CHECKPOINTS)
    if not saved:
        raise ConfigError(f"run: {directory} holds no checkpoint yet, so there is nothing to diagnose")
    path = path_of(directory, saved[-1], seed)
    made = directory / rundir.CHECKPOINTS / str(saved[-1]) / checkpoint.MANIFEST
    if path.exists() and path.stat().st_mtime > made.stat().st_mtime:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["version"] == VERSION:
            return found
    say(f"{directory}: measuring what the model and the critic of seed {seed} are worth, and where the time goes")
    cache.enable()
    player = play.load(directory, seed)
    rows = runlog.read(directory / rundir.METRICS)
    found = measure(player) | {"phases": _plain(phases.measure(player, rows))}
    path.parent.mkdir(exist_ok=True)
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(found, allow_nan=False), encoding="utf-8")
    draft.replace(path)
    return found


def path_of(directory: Path, step: int, seed: int) -> Path:
    """Where the diagnosis of a seed at a checkpoint is kept."""
    return directory / rundir.EVALUATIONS / f"{step}_seed{seed}_model.json"


def refusal(config: Any) -> str | None:
    """Why a run has no model to diagnose; None when it has one."""
    if config.model_free:
        return "it is model-free (rollout.horizon = 0): nothing is imagined"
    if config.model.kind == "oracle":
        return "its model is the simulator itself (model.kind = oracle): there is no error to measure"
    return None


def summary(found: Found) -> list[str]:
    """The diagnosis in a few lines."""
    lines = [f"{found['world']}, seed {found['seed']} after {found['env_steps']:,} env steps"]
    if part := found.get("open_loop"):
        unit = "of states wrong" if part["tabular"] else "standard deviations off"
        ahead = sorted({0, min(9, len(part["steps"]) - 1), len(part["steps"]) - 1})
        errors = ", ".join(f"{part['all'][i]:.3g} after {part['steps'][i]}" for i in ahead)
        still = part["still"][ahead[-1]]
        lines.append(f"  open loop     {unit}: {errors} steps (were nothing to change: {still:.3g})")
    if part := found.get("calibration"):
        lines.append(f"  calibration   {part['inside']:.0%} inside the middle 90 %, mean gap {part['ece']:.3f}")
    part = found["returns"]
    if part.get("imagined"):
        real, imagined = np.mean(part["real"]), np.mean(part["imagined"])
        lines.append(
            f"  return        {real:.5g} real, {imagined:.5g} imagined, over the first {part['steps']:,} steps"
        )
    if (part := found.get("critic")) and part["actual"]:
        lines.append(
            f"  critic        predicts {np.mean(part['predicted']):.4g} where {np.mean(part['actual']):.4g} follows"
        )
    seconds = found["phases"]["seconds"]
    shares = [f"{name} {x / sum(seconds):.0%}" for name, x in zip(found["phases"]["names"], seconds, strict=True)]
    lines.append(f"  time          {', '.join(shares)} of {sum(seconds):.3g} s for an epoch of one seed")
    return lines


def measure(player: Player) -> Found:
    """Measures one seed of a run. What the run has no part for (a model, a critic) is left out."""
    config, spec, valuation = player.config, player.world.spec, player.agent.valuation
    plans = player.agent.memory is not None  # each of its steps costs thousands of the model's: a few have to do
    count = 2 if plans else EPISODES
    shown = min(spec.episode_length, 100 if plans else 1000)
    why = refusal(config)
    tail = None if valuation is None else tail_of(config.agent.discount)
    length = max(shown, min(shown, 200) + tail) if tail is not None else shown
    keep = bodies.pose if bodies.has_bodies(spec.name) else lambda state: ()
    run = play.episodes(player, count, length, keep)
    real = jax.tree.map(np.asarray, run(True)[0])
    found: Found = {
        "version": VERSION,
        "world": spec.name,
        "seed": player.seed,
        "env_steps": player.clock,
        "names": observation_names(spec.name, spec.obs_size),
        "why_no_model": why,
        "returns": {"steps": shown, "real": _returns(real, shown)},
    }
    imagined = None
    if why is None:
        starts = real.transition.obs[0]
        imagined = play.imagine(player, starts, shown, members=1 if plans else None)
        members = range(imagined.valid.shape[0])
        found["returns"]["imagined"] = [_returns(_member(imagined, e), shown) for e in members]
        found |= open_loop(player, real, shown)
        if not spec.tabular:
            found["calibration"] = calibration(player, real)
        found["map"] = disagreement(player)
    if valuation is not None and tail is not None:
        own = real if valuation.greedy else jax.tree.map(np.asarray, run(False)[0])
        found["critic"] = critic(player, valuation, own, tail)
    found["player"] = frames(player, real, imagined, shown)
    return _plain(found)


def tail_of(discount: float) -> int | None:
    """Steps after which a discounted return is complete, but for `TAIL`; None when more than 1000 would be needed."""
    if discount <= 0:
        return 1
    steps = math.ceil(math.log(TAIL) / math.log(discount)) if discount < 1 else 10**9
    return steps if steps <= 1000 else None


def _returns(trajectory: Trajectory, steps: int) -> np.ndarray:
    """The returns [B] of the first steps of a trajectory [H, B, ...]."""
    reward = np.where(trajectory.valid, trajectory.transition.reward, 0.0)
    return reward[:steps].sum(0)


def _member(imagined: Trajectory, e: int) -> Trajectory:
    """What one elite imagined, of [n, H, B, ...]."""
    return jax.tree.map(lambda x: x[e], imagined)


def _data(player: Player) -> np.ndarray:
    """The observations [N, D] in the replay buffer."""
    ring = player.state.real
    size = int(ring.size)
    newest = (int(ring.cursor) - 1 - np.arange(size)) % replay.capacity(ring)
    return np.asarray(ring.data.transition.obs)[newest]


def open_loop(player: Player, real: Trajectory, shown: int) -> Found:
    """Errors of predictions k steps ahead, and one example of them.

    Of `WINDOWS` pieces of the real episodes [H, B, ...]: with s the deviation of each entry in the replay buffer,

        error_k,d = sqrt mean ((predicted - true) / s_d)^2          over the pieces that are not over after k steps

    A tabular world has the share of wrong states in its place. `still` is the same of a model that says that nothing
    changes, all entries together.
    """
    spec, length = player.world.spec, real.valid.shape[0]
    horizon = min(max(25, min(player.config.rollout.longest(), 100)), length, shown)
    rng = np.random.default_rng(0)
    where = np.argwhere(real.valid[: min(shown, length - horizon + 1)])  # [., 2]: time, episode
    where = where[rng.permutation(len(where))[:WINDOWS]]
    at = where[:, 0] + np.arange(horizon)[:, None], np.broadcast_to(where[:, 1], (horizon, len(where)))  # [H, W]
    true, actions, valid = (np.asarray(x)[at] for x in (real.transition.next_obs, real.transition.action, real.valid))
    start = np.asarray(real.transition.obs)[where[:, 0], where[:, 1]]
    sampled, mean = play.open_loop(player, start, actions)
    data = _data(player)
    scale = data.std(0)
    scale = np.where(scale > 1e-6, scale, 1.0)
    if spec.tabular:
        off = lambda x: (x.argmax(-1) != true.argmax(-1))[..., None].astype(float)  # noqa: E731
        names = ["wrong state"]
    else:
        off = lambda x: ((x - true) / scale) ** 2  # noqa: E731
        names = observation_names(spec.name, spec.obs_size)
    count = valid.sum(1)
    average = lambda x: np.where(valid[..., None], x, 0.0).sum(1) / np.maximum(count, 1)[:, None]  # noqa: E731
    root = (lambda x: x) if spec.tabular else np.sqrt
    wrong = off(mean)
    each = root(wrong.mean(-1))  # [H, W]
    enough = count >= min(4, count[0])
    steps = np.flatnonzero(enough)
    quantiles = np.stack([np.quantile(each[k, valid[k]], [0.25, 0.5, 0.75]) for k in steps])
    longest = valid.sum(0).argmax()
    kept = valid[:, longest]
    return {
        "open_loop": {
            "steps": steps + 1,
            "names": names,
            "error": root(average(wrong))[steps],  # [k, D]
            "all": root(average(wrong).mean(-1))[steps],
            "quantiles": quantiles,
            "still": root(average(off(np.broadcast_to(start, true.shape))).mean(-1))[steps],
            "pieces": count[steps],
            "tabular": spec.tabular,
        },
        "example": {
            "start": start[longest, :SHOWN],
            "true": true[kept, longest, :SHOWN],
            "mean": mean[kept, longest, :SHOWN],
            "sampled": sampled[:, kept, longest, :SHOWN],
        }
        if not spec.tabular
        else None,
    }


def calibration(player: Player, real: Trajectory) -> Found | None:
    """Of true next observations and rewards, the share below each quantile of the model's one-step prediction.

    With `DRAWS` samples of the elites' mixture at each of `ROWS` steps; a calibrated model has share p below its
    quantile p (Kuleshov et al. 2018, arXiv:1807.00263). Entries that never vary, such as
    a constant reward, are left out. `ece` is the mean gap, `inside` the share of the middle 90 %.
    """
    rng = np.random.default_rng(1)
    where = np.argwhere(real.valid)
    where = where[rng.permutation(len(where))[:ROWS]]
    t = jax.tree.map(lambda x: x[where[:, 0], where[:, 1]], real.transition)
    next_obs, reward = play.one_step(player, t.obs, t.action, DRAWS)
    drawn = np.concatenate([next_obs, reward[..., None]], -1)  # [draws, N, F]
    true = np.concatenate([t.next_obs, t.reward[:, None]], -1)
    names = [*observation_names(player.world.spec.name, t.obs.shape[-1]), "reward"]
    varied = true.std(0) > 0  # of what never changes there is no chance to speak of
    if not varied.any():
        return None
    drawn, true = drawn[..., varied], true[:, varied]
    rank = (drawn < true).mean(0) + 0.5 * (drawn == true).mean(0)
    share = (rank[..., None] <= LEVELS).mean(0)  # [F, levels]
    return {
        "levels": LEVELS,
        "names": [name for name, varies in zip(names, varied, strict=True) if varies],
        "share": share,
        "ece": np.abs(share - LEVELS).mean(),
        "inside": ((rank >= 0.05) & (rank <= 0.95)).mean(),
        "rows": len(where),
    }


def disagreement(player: Player) -> Found | None:
    """Doubt over a slice of the states, under the mode of the policy (a planner: under no action).

    None where an observation has one entry, of which there is no slice.
    """
    spec, data = player.world.spec, _data(player)
    if spec.tabular:
        states, actions = spec.obs_size, spec.action_size
        obs, action = np.repeat(np.eye(states), actions, 0), np.tile(np.eye(actions), (states, 1))
        unseen = play.doubt(player, obs.astype(np.float32), action.astype(np.float32)).reshape(states, actions).mean(1)
        return {"tabular": True, "cells": scenes.layout(spec.name, states), "doubt": unseen}
    if spec.obs_size < 2:
        return None
    plane = scenes.plane(spec.name, spec.obs_size)
    seen = plane.coordinates(data)
    low, high = seen.min(0), seen.max(0)
    margin = np.where(high > low, 0.1 * (high - low), 1.0)
    axes = [np.linspace(a, b, GRID) for a, b in zip(low - margin, high + margin, strict=True)]
    at = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
    obs = plane.obs(np.median(data, 0), at).astype(np.float32)
    action = None if player.agent.memory is None else np.zeros((len(obs), spec.action_size), np.float32)
    found = play.doubt(player, obs, action).reshape(GRID, GRID)
    shown = seen[np.random.default_rng(2).permutation(len(seen))[:400]]
    return {"tabular": False, "names": plane.names, "x": axes[0], "y": axes[1], "doubt": found.T, "data": shown}


def critic(player: Player, valuation: Valuation, real: Trajectory, tail: int) -> Found:
    """Predicted values against the discounted returns that followed, at up to `ROWS` steps of its own episodes.

        G_t = r_t + discount (1 - terminated_t) (bonus_{t+1} + G_{t+1})

    Only of steps that a termination or `tail` more steps follow, so that what is cut off weighs less than `TAIL`. The
    clock ends nothing here, as it ends no value in training.
    """
    discount, (length, count) = player.config.agent.discount, real.valid.shape
    t, agent = real.transition, player.state.agent
    flat = lambda x: x.reshape(length * count, -1)  # noqa: E731

    def valued(obs: jax.Array, action: jax.Array) -> tuple[jax.Array, jax.Array]:
        bonus = jax.numpy.zeros(()) if valuation.bonus is None else valuation.bonus(agent, obs, action)
        return valuation.values(agent, obs, action), bonus

    with jax.default_matmul_precision(player.config.precision):
        values, bonus = jax.jit(jax.vmap(valued))(flat(t.obs), flat(t.action))
    values, bonus = np.asarray(values).reshape(length, count, -1), np.asarray(bonus).reshape(length, count)
    gained, later = np.zeros((length, count)), np.zeros(count)
    for i in reversed(range(length)):
        gained[i] = np.where(real.valid[i], t.reward[i] + discount * np.where(t.terminated[i], 0.0, later), 0.0)
        later = bonus[i] + gained[i]
    ends = (t.terminated & real.valid).any(0)
    complete = real.valid & (ends | (np.arange(length)[:, None] < length - tail + 1))
    where = np.argwhere(complete)
    where = where[np.random.default_rng(3).permutation(len(where))[:ROWS]]
    predicted, actual = values[where[:, 0], where[:, 1]].mean(-1), gained[where[:, 0], where[:, 1]]
    return {
        "predicted": predicted,
        "actual": actual,
        "bias": (predicted - actual).mean(),
        "error": np.sqrt(((predicted - actual) ** 2).mean()),
        "discount": discount,
        "soft": valuation.bonus is not None,
    }


def frames(player: Player, real: Trajectory, imagined: Trajectory | None, shown: int) -> Found:
    """Up to three episodes, real and imagined (by the first elite) from the same starts, ready to be drawn."""
    spec, config = player.world.spec, player.config
    sides = {"real": real} | ({} if imagined is None else {"imagined": _member(imagined, 0)})
    body = None
    if bodies.has_bodies(spec.name):
        from branchax.worlds.brax import environment

        short = spec.name.removeprefix("brax/")
        body = bodies.bodies(environment(short, config.backend), short)
    exact = body is not None and _rebuilds(body, real)
    episodes = []
    for b in range(min(3, real.valid.shape[1])):
        episode = {}
        for side, trajectory in sides.items():
            steps = min(int(trajectory.valid[:, b].sum()), shown, FRAMES)
            obs = np.asarray(trajectory.transition.obs[:steps, b])
            reward = np.cumsum(trajectory.transition.reward[:steps, b])
            drawn: Found = {"total": reward, "traces": obs[:, :SHOWN].T}
            drawing = scenes.scene(spec.name, obs)
            if drawing is not None:
                drawn["scene"] = drawing.data()
            if body is not None and side == "real":
                drawn["poses"] = real.state[:steps, b].reshape(steps, -1)
            elif body is not None and exact:
                rebuilt = body.rebuild(obs, real.state[0, b])
                assert rebuilt is not None
                drawn["poses"] = rebuilt.reshape(steps, -1)
            episode[side] = drawn
        episodes.append(episode)
    geoms = None if body is None else body.geoms
    note = (
        ""
        if body is None or exact
        else "The observation does not give the bodies' places: the imagined side is traces."
    )
    seconds = body.seconds if body is not None else step_seconds(spec.name)
    return {"episodes": episodes, "geoms": geoms, "seconds": seconds, "note": note}


def _rebuilds(body: bodies.Bodies, real: Trajectory) -> bool:
    """Whether the bodies read back from real observations are where the simulator has them."""
    steps = min(int(real.valid[:, 0].sum()), FRAMES)
    rebuilt = body.rebuild(np.asarray(real.transition.obs[:steps, 0]), real.state[0, 0])
    return rebuilt is not None and bodies.apart(rebuilt, real.state[:steps, 0]) < bodies.EXACT


def _plain(x: Any) -> Any:
    """JSON-ready, five significant digits; what is not finite is null."""
    if isinstance(x, dict):
        return {name: _plain(value) for name, value in x.items()}
    if isinstance(x, (list, tuple)):
        return [_plain(value) for value in x]
    if isinstance(x, np.ndarray):
        return _plain(x.tolist())
    if isinstance(x, (bool, np.bool_)):
        return bool(x)
    if isinstance(x, (float, np.floating)):
        return float(f"{x:.5g}") if math.isfinite(x) else None
    return int(x) if isinstance(x, np.integer) else x
