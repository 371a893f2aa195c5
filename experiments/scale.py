"""What more devices are predicted to bring, from the cost model of `benchmarks/cost.py` and its assumed accelerator.

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


def table() -> None:
    """Prints the predictions, a row to a layout."""
    from benchmarks.cost import predictions

    print("| GPUs | seeds | mesh | imagine | improve | fit | collect | in all | model steps per s, all seeds |")
    print("|---|---|---|---|---|---|---|---|---|")
    for row in predictions():
        seeds, cells = row["seeds"], [f"{x:,.0f} s" if x >= 10 else f"{x:.1f} s" for x in row["seconds"].values()]
        print(
            f"| {row['devices']} | {seeds} | seed={seeds},batch={row['over_batch']} | {' | '.join(cells)} "
            f"| {row['total_s']:,.0f} s | {row['model_steps_per_s']:,.0f} |"
        )


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
