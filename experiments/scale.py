"""What more devices bring: predicted for accelerators, and measured as far as one machine without any goes.

    python -m experiments.scale                    prints the predictions of docs/scale.md, from `benchmarks/cost.py`
    python -m experiments.scale --measure          all of what follows, a quarter of an hour
    python -m experiments.scale --measure scaling  1, 2, 4 and 8 devices forced on the host, each with as much to do as
                                                   one: seconds, and collectives as the compiled text has them
    python -m experiments.scale --measure deaths   seconds until the other of two processes is gone after one dies, and
                                                   whether the run then ends as one that was never interrupted

Writes `results/scale.json` (parts that are not named keep what stands there) and `results/scale.png`. Devices forced on
a host share its cores: n times the work on n of them takes n / cores times as long at best. So this is no speed-up. It
shows that nothing else is added but the reductions of an update, whose count and seconds are measured apart.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

RESULT = Path("results/scale.json")
DEVICES, CALLS = (1, 2, 4, 8), 9
COLLECTIVE = re.compile(r" (?:all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)(?:-start)?\(")
DEATHS = {  # which of two processes is sent what
    "kill -9 of process 1": (1, signal.SIGKILL),
    "kill -9 of process 0, the coordinator": (0, signal.SIGKILL),
    "kill -STOP of process 1": (1, signal.SIGSTOP),
}
ARGUMENTS = shlex.split(
    "train mbpo --world classic/pendulum --env-steps 120 --explore-steps 40 --epoch-steps 20 --checkpoint-every 1"
    " --eval-episodes 2 --updates-per-step 1 --batch-size 16 --model.batch-size 16 --model.hidden 8 --model.members 3"
    " --model.elites 2 --model.max-rounds 3 --rollout.per-step 8 --rollout.groups 4 --rollout.horizon 1"
    " --agent.hidden 8 --mesh batch=2"
)


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


def in_loops(text: str) -> int:
    """Collectives in the bodies of a compiled program's loops, and in what those call."""
    blocks = re.split(r"\n(?=(?:ENTRY )?%[\w.\-]+ \()", text)
    named = {found[1]: block for block in blocks if (found := re.match(r"(?:ENTRY )?%([\w.\-]+) \(", block))}
    inside = set(re.findall(r"body=%([\w.\-]+)", text))
    while (
        more := {callee for name in inside for callee in re.findall(r"%([\w.\-]+)", named[name])} & set(named) - inside
    ):
        inside |= more
    return sum(len(COLLECTIVE.findall(named[name])) for name in inside)


def one(devices: int, axis: str) -> dict[str, Any]:
    """In a process that has so many devices: seconds of a call that has `devices` times as much to do along `axis`."""
    import jax
    import numpy as np
    from jax.sharding import PartitionSpec

    from branchax.build import build
    from branchax.checks import check
    from branchax.devices import mesh
    from branchax.presets import preset
    from branchax.runs.compiling import seed_keys
    from branchax.sharding import over_seeds

    along = {name: devices if name == axis else 1 for name in ("seed", "batch")}
    config = preset("mbpo", "classic/pendulum")
    rollout = replace(config.rollout, per_step=8 * along["batch"], groups=2, horizon=5)
    layout = f"seed={along['seed']},batch={along['batch']}"
    config = replace(config, rollout=rollout, seeds=along["seed"], batch_size=256 * along["batch"], mesh=layout)
    check(config)
    over, program, horizon = mesh.make(config), build(config), np.int32(5)
    assert program.stages is not None
    parts = program.stages
    lie = mesh.shardings(mesh.placed(jax.eval_shape(over_seeds(program.init), seed_keys(config)), over))

    def one_sum(x: jax.Array) -> jax.Array:
        total = partial(jax.lax.psum, axis_name="batch")
        return jax.shard_map(
            lambda y: total(y) / devices, mesh=over, in_specs=PartitionSpec(), out_specs=PartitionSpec()
        )(x)

    def seconds(call: Any, *arguments: Any) -> list[float]:
        found = []
        for _ in range(CALLS + 2):
            begun = time.perf_counter()
            jax.block_until_ready(call(*arguments))
            found.append(time.perf_counter() - begun)
        return found[2:]

    with mesh.entered(over):
        state = jax.jit(over_seeds(program.init), out_shardings=lie)(seed_keys(config))
        imagine = jax.jit(over_seeds(parts.imagine, (0, None)), out_shardings=(lie, None))
        imagine = imagine.lower(state, horizon).compile()
        filled = imagine(state, horizon)[0]
        improve = jax.jit(over_seeds(lambda s, h: parts.improve(s, None, h), (0, None)), out_shardings=(lie, None))
        improve = improve.lower(filled, horizon).compile()
        gradient = np.zeros(2 * 64 * 64, np.float32)
        sums = jax.jit(lambda x: jax.lax.scan(lambda x, _: (one_sum(x), None), x, length=100)[0])
        return {
            "devices": devices,
            "axis": axis,
            "imagine_s": seconds(imagine, state, horizon),
            "collectives_in_rollouts": in_loops(imagine.as_text() or ""),
            "improve_s": seconds(improve, filled, horizon),
            "updates": config.updates_per_round,
            "collectives_per_update": in_loops(improve.as_text() or ""),
            "reduction_s": statistics.median(seconds(sums, gradient)) / 100 if along["batch"] > 1 else 0.0,
        }


def scaling() -> dict[str, Any]:
    """Each number of devices in a process of its own, beside what one device and the count of reductions predict."""
    from branchax.lab import measure

    cores, rows = measure.cores(), []
    for axis in ("batch", "seed"):
        for devices in DEVICES:
            flags = f"--xla_force_host_platform_device_count={devices}"
            env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
            command = [sys.executable, "-m", "experiments.scale", "--one", str(devices), axis]
            said = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout
            row = json.loads(said.splitlines()[-1])
            first = next((r for r in rows if r["axis"] == axis and r["devices"] == 1), row)
            share = devices / min(devices, cores)
            waits = row["updates"] * row["collectives_per_update"] * row["reduction_s"]
            for name, more in (("imagine", 0.0), ("improve", waits)):
                row[f"{name}_predicted_s"] = statistics.median(first[f"{name}_s"]) * share + more
            rows.append(row)
            print(
                json.dumps({k: statistics.median(v) if isinstance(v, list) else v for k, v in row.items()}), flush=True
            )
    return {"cores": cores, "rows": rows}


def pair(directory: Path) -> list[subprocess.Popen[bytes]]:
    """Two processes of one run."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    env = os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0", "JAX_PLATFORMS": "cpu"}
    both = []
    for i in range(2):
        who = ["--coordinator", f"localhost:{port}", "--process-id", str(i), "--processes", "2"]
        command = [sys.executable, "-m", "branchax", *ARGUMENTS, "--run", str(directory), *who]
        with directory.with_suffix(f".{i}.log").open("w") as log:
            both.append(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=env))
    return both


def end_of(directory: Path) -> tuple[list[dict[str, Any]], list[bytes]]:
    """The rows of a run without clocks, and the bytes of its last state."""
    import jax
    import numpy as np

    from branchax.runs import rundir, runlog
    from branchax.runs.restoring import restore

    rows = [{k: v for k, v in row.items() if k != "wall_s"} for row in runlog.read(directory / rundir.METRICS)]
    state = jax.tree.leaves(restore(directory)[1])
    keys = [jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key) for x in state]
    plain = [jax.random.key_data(x) if key else x for x, key in zip(state, keys, strict=True)]
    return rows, [np.asarray(x).tobytes() for x in plain]


def deaths() -> dict[str, Any]:
    """Of two processes one dies after 80 of 120 env steps; then both are started again."""
    with tempfile.TemporaryDirectory() as folder:
        whole, rows, same = Path(folder) / "whole", [], False
        assert [process.wait(900) for process in pair(whole)] == [0, 0]
        for name, (which, sent) in DEATHS.items():
            directory = Path(folder) / f"{which}{sent.name}"
            both = pair(directory)
            try:
                while not (directory / "checkpoints" / "80").exists():
                    assert all(process.poll() is None for process in both), directory.with_suffix(".0.log").read_text()
                    time.sleep(0.1)
                both[which].send_signal(sent)
                begun = time.monotonic()
                code = both[1 - which].wait(300)
                rows.append({"death": name, "survivor_gone_s": time.monotonic() - begun, "survivor_exit_code": code})
            finally:
                for process in both:
                    process.kill()
                    process.wait()
            print(json.dumps(rows[-1]), flush=True)
            if len(rows) == 1:
                assert [process.wait(900) for process in pair(directory)] == [0, 0]
                same = end_of(directory) == end_of(whole)
        return {"rows": rows, "restarted_ends_bit_equal": same}


def draw(found: dict[str, Any], path: Path) -> None:
    """Seconds of a call over the number of devices, each with as much to do as one, beside the predictions."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 2.9), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    panels = (("imagine", "batch"), ("imagine", "seed"), ("improve", "batch"))
    for axes, (part, axis) in zip(figure.subplots(1, 3), panels, strict=True):
        rows = [row for row in found["rows"] if row["axis"] == axis]
        middle = [statistics.median(row[f"{part}_s"]) for row in rows]
        below = [m - min(row[f"{part}_s"]) for m, row in zip(middle, rows, strict=True)]
        above = [max(row[f"{part}_s"]) - m for m, row in zip(middle, rows, strict=True)]
        predicted = [row[f"{part}_predicted_s"] for row in rows]
        axes.plot(DEVICES, predicted, "--", color="#555555", label="predicted")
        axes.errorbar(
            DEVICES, middle, (below, above), fmt="o", color="#0072B2", capsize=3, label="measured, with range"
        )
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
        axes.set_xticks(DEVICES, [str(n) for n in DEVICES])
        axes.yaxis.set_major_formatter(lambda y, _: f"{y:.3g}")
        axes.set_title(
            {"imagine": "imagine", "improve": "SAC updates"}[part] + f", over {axis}", fontsize=9, loc="left"
        )
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("seconds per call", fontsize=8)
    figure.axes[0].legend(fontsize=7, frameon=False)
    cores = found["cores"]
    figure.supxlabel(f"devices forced on {cores} core{'s' * (cores > 1)}, each with as much to do as one", fontsize=8)
    figure.savefig(path)


def measure(names: list[str]) -> None:
    """Measures the parts named, or all, and writes."""
    from branchax.runs import rundir

    made = {"command": " ".join(["python", "-m", "experiments.scale", *sys.argv[1:]])}
    kept = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
    for name in names or list(PARTS):
        kept[name] = {"found": PARTS[name](), "made": made | {"environment": rundir.environment()}}
        rundir.write_json(RESULT, kept)
    if "scaling" in kept:
        draw(kept["scaling"]["found"], RESULT.with_suffix(".png"))
    print("written to", RESULT)


PARTS = {"scaling": scaling, "deaths": deaths}


def main() -> None:
    """Predicts, or measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.measure or ()) - set(PARTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(PARTS)}")
    if options.one:
        print(json.dumps(one(int(options.one[0]), options.one[1])))
    elif options.measure is None:
        table()
    else:
        measure(options.measure)


if __name__ == "__main__":
    main()
