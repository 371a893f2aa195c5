"""SAC of Stable-Baselines3 (PyTorch) and of sbx (JAX): `python -m benchmarks.peers.baselines`, with `sbx.txt`."""

from __future__ import annotations

from typing import Any

import gymnasium
import jax
import numpy as np
import sbx
import stable_baselines3 as sb3
import torch
from stable_baselines3.common.logger import configure

from benchmarks.peers.worker import Once, serve, versions


class Free(gymnasium.Env):
    """A world of given sizes that is never stepped."""

    def __init__(self, obs: int, action: int) -> None:
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (obs,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1, 1, (action,), np.float32)


def updates(kind: Any, settings: dict[str, Any]) -> Once:
    """So many updates of a `kind` of SAC on a buffer of random transitions."""
    world, rng, rows = Free(settings["obs"], settings["action"]), np.random.default_rng(0), 10_000
    model = kind(
        "MlpPolicy",
        world,
        batch_size=settings["batch"],
        buffer_size=rows,
        gradient_steps=settings["updates"],
        policy_kwargs={"net_arch": [settings["hidden"]] * 2},
        device="cpu",
        seed=0,
    )
    model.set_logger(configure(None, []))
    for _ in range(rows):
        obs, after = rng.normal(size=(2, 1, settings["obs"])).astype(np.float32)
        action = rng.uniform(-1, 1, (1, settings["action"])).astype(np.float32)
        model.replay_buffer.add(obs, after, action, after[:, 0], np.zeros(1, bool), [{}])

    def once() -> None:
        model.train(gradient_steps=settings["updates"], batch_size=settings["batch"])
        if kind is sbx.SAC:  # its updates are dispatched, not waited for
            jax.block_until_ready((model.policy.qf_state.params, model.policy.actor_state.params))

    for _ in range(2):
        once()
    return once


if __name__ == "__main__":
    names = ("stable-baselines3", "sbx-rl", "torch", "jax", "flax", "gymnasium", "numpy")
    serve(
        {"sb3_sac": lambda s: updates(sb3.SAC, s), "sbx_sac": lambda s: updates(sbx.SAC, s)},
        {"versions": versions(*names), "threads": torch.get_num_threads()},
    )
