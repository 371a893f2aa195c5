"""Branchax's side, and Brax's own SAC, which lives in the same environment: `python -m benchmarks.peers.ours`."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import fit, harness, imagine, improve
from benchmarks.peers.worker import Once, Paused, serve
from branchax.build import build
from branchax.config import with_field
from branchax.devices import cache
from branchax.presets import preset
from branchax.runs import rundir
from branchax.runs.compiling import seed_keys
from branchax.sharding import over_seeds


def again(case: harness.Case) -> Once:
    """The call of a case, compiled and warm; its state is carried from one to the next."""
    holder, rest = [case.arguments[0]], case.arguments[1:]
    compiled = jax.jit(case.function, donate_argnums=0).lower(*case.arguments).compile()

    def once() -> None:
        holder[0] = jax.block_until_ready(compiled(holder[0], *rest))

    for _ in range(harness.WARM):
        once()
    return once


def loop(settings: dict[str, Any]) -> Once:
    """250 real steps of the whole loop at the paper's sizes, from the first fit on."""
    config = preset("mbpo_paper", "brax/inverted_pendulum")
    config = replace(config, explore_steps=settings["explore"], env_steps=20_000)
    config = with_field(config, "model.good_error", settings["good_error"])
    program = build(config)
    init = jax.jit(over_seeds(program.init))
    epoch = jax.jit(over_seeds(program.epoch, (0, None)), donate_argnums=0)
    horizon = jnp.int32(config.rollout.horizon)
    compiled = epoch.lower(jax.eval_shape(init, seed_keys(config)), horizon).compile()
    holder = [jax.block_until_ready(init(seed_keys(config)))]

    def once() -> dict[str, float]:
        holder[0], metrics = jax.block_until_ready(compiled(holder[0], horizon))
        rows = float(metrics["model/fit_rounds"][0]) * config.model.round_steps * config.model.batch_size
        return {"fit_sample_members": rows * config.model.members}

    return once


def brax_sac(settings: dict[str, Any]) -> Once:
    """Brax's SAC takes turns at its evaluations; each stands for four env steps with `updates` updates each."""
    from brax import envs
    from brax.training.agents.sac import train

    # Removed from JAX, and still called by the newest release of Brax.
    jax.device_put_replicated = lambda tree, devices: jax.tree.map(lambda x: jnp.stack([x] * len(devices)), tree)
    obs, action = settings["obs"], settings["action"]

    class Free(envs.Env):
        """Costs nothing."""

        observation_size, action_size, backend = obs, action, "none"

        def reset(self, rng: jax.Array) -> envs.State:
            zero = jnp.zeros(())
            return envs.State(None, jax.random.normal(rng, (obs,)), zero, zero)

        def step(self, state: envs.State, action: jax.Array) -> envs.State:
            return state.replace(reward=action.sum())

    steps, said = 4, {}

    def run(paused: Paused) -> None:
        def progress(_: int, metrics: dict[str, Any]) -> None:
            if "training/sps" in metrics:
                said["seconds"] = 1 / metrics["training/sps"]  # by its own clock, without the evaluation
                paused.pause()

        train.train(
            Free(),
            num_timesteps=1_000 + steps * 1_000,
            episode_length=10,
            num_envs=1,
            num_eval_envs=1,
            num_evals=1_001,
            batch_size=settings["batch"],
            grad_updates_per_step=settings["updates"],
            min_replay_size=1_000,
            max_replay_size=10_000,
            progress_fn=progress,
        )

    paused = Paused(run)

    def once() -> dict[str, float]:
        paused.go()
        return dict(said)

    for _ in range(harness.WARM):
        once()
    return once


def rollouts(settings: dict[str, Any]) -> Once:
    """Imagines once."""
    return again(imagine.case(settings["rollouts"], settings["horizon"]))


def model_fit(settings: dict[str, Any]) -> Once:
    """Fits for so many rounds of 20 minibatches, each with a look at the holdout."""
    return again(fit.case("7 x (4 x 200)", 256, settings["rounds"], settings["rows"]))


def sac(settings: dict[str, Any]) -> Once:
    """A scan of updates on 5 % real and 95 % imagined rows."""
    return again(improve.case((settings["hidden"],) * 2, settings["batch"], 2, settings["updates"]))


def ceiling(_: dict[str, Any]) -> Once:
    """The fastest large matrix product."""
    return lambda: {"gflops": harness.ceilings()["matmul_gflops"]}


if __name__ == "__main__":
    cache.enable()
    tasks = {"imagine": rollouts, "fit": model_fit, "sac": sac, "loop": loop}
    serve(
        {**tasks, "brax_sac": brax_sac, "ceiling": ceiling},
        {"versions": rundir.versions(), "threads": len(os.sched_getaffinity(0)), "environment": rundir.environment()},
    )
