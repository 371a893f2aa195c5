"""What more devices are predicted to bring, from a cost model whose every assumption is a field below.

python -m experiments.scale            prints the predictions of docs/scale.md
python -m experiments.scale --check    weak scaling of imagination on 1, 2, 4 and 8 devices forced on the host: that
                                       the program runs and stays free of collectives, not how fast an accelerator is
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Machine:
    """An accelerator and what joins several of them: assumed, not measured."""

    flops: float = 20e12  # float32 without TF32, at 30 % of the 67e12 that an H100's data sheet gives
    update: float = 150e-6  # s per update of 2 x 256 networks on 256 rows: bound by latency (0.1 to 0.2 ms)
    minibatch: float = 200e-6  # s per minibatch of the fit: bound by latency as well
    env_step: float = 1e-3  # s per real step, however few worlds
    near: float = 15e-6  # s per small reduction between the devices of a host
    far: float = 40e-6  # s per small reduction between hosts
    per_host: int = 8


@dataclass(frozen=True)
class Work:
    """MBPO on Hopper at the paper's sizes, per seed and env step."""

    updates: float = 20
    model_steps: float = 400 * 8  # 400 rollouts, at the mean of the horizons 1 to 15
    step_flops: float = 255e3 + 140e3  # one member's network and the policy's, of one model step
    minibatches: float = 700 / 250  # 35 rounds of 20, every 250 env steps
    update_reductions: float = 5  # two gradients, two for the drawn rows, one of a metric (tests/test_mesh.py)
    fit_reductions: float = 1


def predict(work: Work, machine: Machine, over_batch: int, model_steps: float) -> dict[str, float]:
    """Seconds of each term until a seed has taken `model_steps` on `over_batch` devices of its own."""
    env_steps = model_steps / work.model_steps
    reduction = 0.0 if over_batch == 1 else machine.near if over_batch <= machine.per_host else machine.far
    return {
        "imagine": model_steps * work.step_flops / machine.flops / over_batch,
        "improve": env_steps * work.updates * (machine.update + work.update_reductions * reduction),
        "fit": env_steps * work.minibatches * (machine.minibatch + work.fit_reductions * reduction),
        "collect": env_steps * machine.env_step,
    }


def table() -> None:
    """Prints the predictions, a row to a layout."""
    print("| GPUs | seeds | mesh | imagine | improve | fit | collect | in all | model steps per s, all seeds |")
    print("|---|---|---|---|---|---|---|---|---|")
    for gpus, seeds, over_batch in [(1, 1, 1), (8, 1, 8), (8, 8, 1), (64, 1, 64), (64, 8, 8), (64, 64, 1)]:
        terms = predict(Work(), Machine(), over_batch, 1e9)
        total = sum(terms.values())
        cells = " | ".join(f"{x:,.0f} s" if x >= 10 else f"{x:.1f} s" for x in terms.values())
        rate = seeds * 1e9 / total
        print(f"| {gpus} | {seeds} | seed={seeds},batch={over_batch} | {cells} | {total:,.0f} s | {rate:,.0f} |")


def one(devices: int) -> None:
    """Times imagination with work in proportion to the devices, in a process that has as many; prints JSON."""
    import dataclasses

    import jax
    import numpy as np

    from branchax.build import build
    from branchax.config import with_field
    from branchax.host import mesh
    from branchax.host.run import seed_keys
    from branchax.presets import preset

    config = with_field(preset("mbpo", "classic/pendulum"), "rollout.per_step", 8 * devices)
    config = dataclasses.replace(with_field(config, "rollout.horizon", 5), devices=devices)
    over, program = mesh.make(config), build(config)
    assert program.parts is not None
    lie = mesh.shardings(mesh.placed(jax.eval_shape(jax.vmap(program.init), seed_keys(config)), over))
    with jax.set_mesh(over):
        state = jax.jit(jax.vmap(program.init, spmd_axis_name="seed"), out_shardings=lie)(seed_keys(config))
        imagine = jax.jit(jax.vmap(program.parts.imagine, (0, None), spmd_axis_name="seed"), out_shardings=(lie, None))
        imagine = imagine.lower(state, np.int32(5)).compile()
    times = []
    for _ in range(6):
        start = time.perf_counter()
        jax.block_until_ready(imagine(state, np.int32(5)))
        times.append(time.perf_counter() - start)
    print(json.dumps({"devices": devices, "model_steps": config.rollouts * 5, "s": float(np.median(times[1:]))}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one(options.one)
    elif options.check:
        for devices in (1, 2, 4, 8):
            env = os.environ | {
                "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
                "JAX_PLATFORMS": "cpu",
            }
            command = [sys.executable, "-m", "experiments.scale", "--one", str(devices)]
            print(
                subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout.strip(), flush=True
            )
    else:
        table()


if __name__ == "__main__":
    main()
