"""Measures a run's model: errors k steps ahead, calibration one step ahead, and a map of its uncertainty."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from branchax import normalize, replay
from branchax.epoch.state import TrainState
from branchax.types import Trajectory
from branchax.views import play, scenes
from branchax.views.play import Player
from branchax.worlds.catalog import observation_names

WINDOWS, ROWS, DRAWS, GRID = 64, 500, 60, 41
SHOWN = 8  # how many entries of an observation are drawn
LEVELS = np.linspace(0.05, 0.95, 19)

Found = dict[str, Any]  # a part of a diagnosis


def measure_open_loop(player: Player, real: Trajectory, shown: int) -> Found:
    """Errors of predictions k steps ahead, and one example of them.

    They are measured on `WINDOWS` pieces of the real episodes [H, B, ...]. With s the standard deviation of each entry
    in the replay buffer,

        error_k,d = sqrt mean ((predicted - true) / s_d)^2          over the pieces that last at least k steps

    For a tabular world it is the share of wrong states instead. `still` is the same error, over all entries together,
    of a model that predicts no change.
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
    scale = np.asarray(normalize.measure(jnp.asarray(data), jnp.ones(len(data), bool)).std)
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


def measure_calibration(player: Player, real: Trajectory) -> Found | None:
    """The share of true next observations and rewards below each quantile of the model's one-step prediction.

    It uses `DRAWS` samples of the elites' mixture at each of `ROWS` steps. For a calibrated model, a share p is below
    the quantile p (Kuleshov et al. 2018, arXiv:1807.00263). Entries that never vary, such as a constant reward, are
    left out. `ece` is the mean gap, `inside` the share in the middle 90 %.
    """
    rng = np.random.default_rng(1)
    where = np.argwhere(real.valid)
    where = where[rng.permutation(len(where))[:ROWS]]
    t = jax.tree.map(lambda x: x[where[:, 0], where[:, 1]], real.transition)
    next_obs, reward = play.one_step(player, t.obs, t.action, DRAWS)
    drawn = np.concatenate([next_obs, reward[..., None]], -1)  # [draws, N, F]
    true = np.concatenate([t.next_obs, t.reward[:, None]], -1)
    names = [*observation_names(player.world.spec.name, t.obs.shape[-1]), "reward"]
    varied = np.ptp(true, axis=0) > 0  # constant entries have no distribution to compare
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


def map_disagreement(player: Player) -> Found | None:
    """The model's uncertainty over a slice of the states, under the mode of the policy (for a planner: zero actions).

    None if an observation has only one entry, as there is no slice then.
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
    plans = player.agent.learns_from == "plans"  # which would take a search for each point
    action = np.zeros((len(obs), spec.action_size), np.float32) if plans else None
    found = play.doubt(player, obs, action).reshape(GRID, GRID)
    shown = seen[np.random.default_rng(2).permutation(len(seen))[:400]]
    return {"tabular": False, "names": plane.names, "x": axes[0], "y": axes[1], "doubt": found.T, "data": shown}


def _data(player: Player) -> np.ndarray:
    """The observations [N, D] in the replay buffer."""
    assert isinstance(player.state, TrainState), "a kept policy has no rows"
    ring = player.state.real
    size = int(ring.size)
    newest = (int(ring.cursor) - 1 - np.arange(size)) % replay.capacity(ring)
    return np.asarray(ring.data.transition.obs)[newest]
