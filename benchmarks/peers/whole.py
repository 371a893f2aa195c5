"""One whole run of one library, from the start of its process to a return: what `benchmarks.peers.solve` starts.

    python -m benchmarks.peers.whole LIBRARY METHOD TASK SEED THRESHOLD CAP CORE STARTED

Each library is used as its users do, on Gymnasium's environment. Everything counts: loading, compiling, exploring,
learning, and an evaluation every 100 steps (Hopper: 1,000): three episodes side by side with the policy's mode
(mbrl-lib: one episode every 250 steps, as it does by itself). The last line out is JSON. Standard library alone at the
top: this file runs in every peer's environment, and what a library loads counts as well.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

EPISODES, HOLD = 3, 3
STEPS = {"InvertedPendulum": 100_000, "InvertedDoublePendulum": 100_000, "Hopper": 1_000_000}  # env steps at most
EVERY = {"InvertedPendulum": 100, "InvertedDoublePendulum": 100, "Hopper": 1_000}  # env steps between evaluations
Stop = Callable[[int, float], bool]  # (env steps, mean return of an evaluation) -> whether that is the end


class Watch:
    """The evaluations of a run, and when each was; it is over when `HOLD` in a row are good, or the time is up."""

    def __init__(self, threshold: float, cap: float, started: float) -> None:
        self.threshold, self.cap, self.started = threshold, cap, started
        self.evaluations: list[tuple[int, float, float]] = []  # env steps, seconds, return
        self.compiling: list[tuple[float, float]] = []  # from and to, in seconds of the clock

    @property
    def solved(self) -> bool:
        """Whether the last evaluations are all good."""
        last = self.evaluations[-HOLD:]
        return len(last) == HOLD and all(value >= self.threshold for _, _, value in last)

    def stop(self, env_steps: int, value: float) -> bool:
        """Notes an evaluation. Whether the run is over."""
        seconds = time.time() - self.started
        self.evaluations.append((env_steps, round(seconds, 2), round(value, 1)))
        return self.solved or seconds > self.cap

    def watch_compiling(self) -> None:
        """From now on notes when JAX traces, lowers and compiles."""
        import jax

        def note(name: str, seconds: float, **_: Any) -> None:
            if name.startswith("/jax/core/compile/"):
                now = time.time()
                self.compiling.append((now - seconds, now))

        jax.monitoring.register_event_duration_secs_listener(note)

    @property
    def compile_s(self) -> float:
        """Seconds in which something was compiled: threads that do so side by side count once."""
        total, until = 0.0, 0.0
        for begin, end in sorted(self.compiling):
            total += max(0.0, end - max(begin, until))
            until = max(until, end)
        return total


def config_of(method: str, task: str, seed: int) -> Any:
    """A preset of branchax by its own settings."""
    from dataclasses import replace

    from branchax.presets import preset

    config = preset(method, f"gym/{task}-v5")
    epoch = min(config.epoch_steps, EVERY[task])  # shorter for `sac`, which fits no model and learns the same
    config = replace(config, seed=seed, env_steps=STEPS[task], epoch_steps=epoch)
    return replace(config, eval_every=EVERY[task] // epoch, eval_episodes=EPISODES)


def branchax(method: str, task: str, seed: int, watch: Watch) -> None:
    """A preset by its own settings."""
    from branchax.runs import runlog
    from branchax.runs.train import train

    watch.watch_compiling()
    config = config_of(method, task, seed)

    def callback(rows: list[runlog.Row], _: Any) -> bool:
        row = rows[0]
        return runlog.RETURN in row and watch.stop(int(row["env_steps"]), float(row[runlog.RETURN]))

    with tempfile.TemporaryDirectory() as folder:
        train(config, folder + "/run", callbacks=[callback])


def learn(kind: Any, settings: dict[str, Any], task: str, seed: int, watch: Watch) -> None:
    """A `kind` of agent with the interface of Stable-Baselines3."""
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy

    worlds = make_vec_env(f"{task}-v5", n_envs=EPISODES)

    class Evaluate(BaseCallback):
        """Every so many steps."""

        def _on_step(self) -> bool:
            if self.num_timesteps % EVERY[task]:
                return True
            value, _ = evaluate_policy(self.model, worlds, EPISODES, deterministic=True)
            return not watch.stop(self.num_timesteps, float(value))

    kind("MlpPolicy", f"{task}-v5", seed=seed, device="cpu", **settings).learn(STEPS[task], callback=Evaluate())


def stable_baselines3(method: str, task: str, seed: int, watch: Watch) -> None:
    """SAC by its defaults."""
    import stable_baselines3

    learn(getattr(stable_baselines3, method), {}, task, seed, watch)


# 20 updates of the critics for each step, and one of the actor.
DROQ = {
    "gradient_steps": 20,
    "policy_delay": 20,
    "policy_kwargs": {"dropout_rate": 0.01, "layer_norm": True},
}
SBX: dict[str, tuple[str, dict[str, Any]]] = {"SAC": ("SAC", {}), "DroQ": ("SAC", DROQ), "CrossQ": ("CrossQ", {})}


def sbx(method: str, task: str, seed: int, watch: Watch) -> None:
    """SAC and CrossQ by their defaults; SAC with dropout and 20 updates, which is DroQ."""
    import sbx as library

    watch.watch_compiling()
    kind, settings = SBX[method]
    learn(getattr(library, kind), settings, task, seed, watch)


def mbrl_lib(method: str, task: str, seed: int, watch: Watch) -> None:
    """Its MBPO by its own settings of InvertedPendulum: it explores for 5,000 steps and evaluates one episode.

    The environment is of version 4, the newest that its Gymnasium has.
    """
    assert (method, task) == ("MBPO", "InvertedPendulum")
    from benchmarks.peers import torch_mbrl

    explore, once = torch_mbrl.training({"seed": seed, "explore": 5_000})
    explore()
    while True:
        found = once()
        if watch.stop(found["env_steps"], found["return"]):
            return


PACKAGES = ("branchax", "jax", "torch", "sbx-rl", "stable_baselines3", "mbrl", "gymnasium", "mujoco")
LIBRARIES = {"branchax": branchax, "stable-baselines3": stable_baselines3, "sbx": sbx, "mbrl-lib": mbrl_lib}


def main() -> None:
    """Runs, and prints what there is to say."""
    library, method, task, seed, threshold, cap, core, started = sys.argv[1:]
    if core:  # else all of them
        os.sched_setaffinity(0, {int(core)})
    watch = Watch(float(threshold), float(cap), float(started))
    LIBRARIES[library](method, task, int(seed), watch)
    there = {each.name.lower(): each.version for each in importlib.metadata.distributions()}
    said = {
        "solved": watch.solved,
        "evaluations": watch.evaluations,
        "compile_s": round(watch.compile_s, 1),
        "cores": len(os.sched_getaffinity(0)),
        "versions": {name: there[name] for name in PACKAGES if name in there},
    }
    print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
