"""Where the seconds before the first update go: each part of a start, cold, and with the persistent cache warm.

    make bench NAME=compile      # ten minutes of one core: results/bench/compile.json

Each start is a process of its own, which compiles the programs of `branchax train`, one after the other, and runs none
of them. A row is a part: importing, building the world, or tracing, lowering and compiling one of the programs.
`cpu_s` is processor time, which says more than the clock on a busy machine; `programs` counts those compiled in it. In
Gymnasium's worlds the small programs that explore and store are left out.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.harness import RESULTS
from branchax.runs import rundir

STARTS = (
    ("mbpo", "brax/inverted_pendulum"),
    ("mbpo", "gym/InvertedPendulum-v5"),
    ("mbpo", "classic/pendulum"),
    ("sac", "classic/pendulum"),
    ("dhmbpo_tiny", "brax/inverted_pendulum"),
    ("dhmbpo_small", "gym/Hopper-v5"),
)
CODE = """
import json, sys, time
clocks = lambda: (time.process_time(), time.perf_counter(), done[0])
done, parts, last = [0], [], (0.0, time.perf_counter(), 0)
def part(name):
    global last
    now = clocks()
    cpu, wall, programs = (after - before for after, before in zip(now, last))
    parts.append({"part": name, "cpu_s": round(cpu, 2), "wall_s": round(wall, 2), "programs": programs})
    last = now
import jax, jax.numpy as jnp
from concurrent.futures import Future
from branchax.build import build
from branchax.devices import cache, mesh as meshes
from branchax.presets import preset
from branchax.runs.compiling import evaluate_at, lanes_of, seed_keys
from branchax.runs.host_epoch import HostEpochs
from branchax.sharding import over_seeds
jax.monitoring.register_event_duration_secs_listener(
    lambda event, _, **__: done.__setitem__(0, done[0] + event.endswith("backend_compile_duration")))
cache.enable()
config = preset(sys.argv[1], sys.argv[2])
part("import")
program = build(config)
keys = seed_keys(config)
part("build")
def measure(name, function, *arguments):
    traced = function.trace(*arguments)
    part(f"{name}: trace")
    lowered = traced.lower()
    part(f"{name}: lower")
    compiled = Future()
    compiled.set_result(cache.compiled(lowered, cache.SOONER.get(name)))
    part(f"{name}: compile")
    return compiled
init = jax.jit(over_seeds(program.init))
state = jax.eval_shape(init, keys)
part("shapes")
if program.host is None:
    measure("init", init, keys)
    measure("epoch", jax.jit(over_seeds(program.epoch, (0, None)), donate_argnums=0), state, jnp.int32(1))
    evaluate = jax.jit(over_seeds(evaluate_at(program)))
    measure("evaluate", evaluate, keys, state.counts.env_steps, state.agent)
else:
    mesh = meshes.make(config)
    arguments = lanes_of([config], ()), config, meshes.placed(state, mesh), mesh
    part("shapes of the host's programs")
    HostEpochs(lambda floats: program, *arguments, measure)
print(json.dumps(parts))
"""


def rows() -> list[dict[str, Any]]:
    """The parts of each start, cold and with the cache."""
    found = []
    for preset, world in STARTS:
        with tempfile.TemporaryDirectory() as folder:
            for state in ("cold", "cached"):
                command = [sys.executable, "-c", CODE, preset, world]
                env = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
                env |= {"BRANCHAX_CACHE": folder}
                ended = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
                for part in json.loads(ended.stdout.splitlines()[-1]):
                    settings = {"preset": preset, "world": world, "cache": state, "part": part.pop("part")}
                    found.append({"settings": settings, **part})
    return found


def table(found: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Lines for the terminal: preset and world, part, seconds cold and cached, and their shares of the whole start."""
    lines = []
    for case in dict.fromkeys((row["settings"]["preset"], row["settings"]["world"]) for row in found):
        mine = [row for row in found if (row["settings"]["preset"], row["settings"]["world"]) == case]
        cold, warm = ([r for r in mine if r["settings"]["cache"] == state] for state in ("cold", "cached"))
        whole = [sum(row["cpu_s"] for row in side) or 1.0 for side in (cold, warm)]
        for pair in zip(cold, warm, strict=True):
            each = [
                f"{row['cpu_s']:.1f} s {row['cpu_s'] / all_of:4.0%}" for row, all_of in zip(pair, whole, strict=True)
            ]
            lines.append((" on ".join(case), pair[0]["settings"]["part"], *each, str(pair[0]["programs"])))
        lines.append((" on ".join(case), "all", *(f"{x:.1f} s" for x in whole), str(sum(r["programs"] for r in cold))))
    return lines


def main() -> None:
    """Measures all starts and writes `results/bench/compile.json`."""
    found = rows()
    made = {"command": "make bench NAME=compile", "environment": rundir.environment()}
    rundir.write_json(RESULTS / "compile.json", {"benchmark": "compile", "rows": found, "made": made})
    shown = Table("case", "part", "cold", "cached", "programs", title="processor seconds before the first epoch")
    for line in table(found):
        shown.add_row(*line)
    Console(width=120).print(shown)
