"""Where the seconds before the first update go: each part of a start, cold, and with the persistent cache warm.

Each start is a process of its own, which compiles what `branchax train` compiles, one program after the other, and runs
none of them. A row is a part: importing, building the world, or tracing, lowering and compiling one of the programs.
`cpu_s` is processor time, which says more than the clock on a busy machine; `programs` counts those compiled in it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from typing import Any

UNIT = "compilations"
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
from branchax.build import build
from branchax.devices import cache
from branchax.presets import preset
from branchax.runs.compiling import evaluate_at, seed_keys
from branchax.sharding import over_seeds
jax.monitoring.register_event_duration_secs_listener(
    lambda event, _, **__: done.__setitem__(0, done[0] + event.endswith("backend_compile_duration")))
cache.enable()
config = preset(sys.argv[1], sys.argv[2])
part("import")
program = build(config)
keys = seed_keys(config)
part("build")
init = jax.jit(over_seeds(program.init))
state = jax.eval_shape(init, keys)
epoch = jax.jit(over_seeds(program.epoch, (0, None)), donate_argnums=0)
evaluate = jax.jit(over_seeds(evaluate_at(program)))
wanted = {"init": (init, keys), "epoch": (epoch, state, jnp.int32(1)),
    "evaluate": (evaluate, keys, state.counts.env_steps, state.agent)}
for name, (function, *arguments) in wanted.items():
    traced = function.trace(*arguments)
    part(f"{name}: trace")
    lowered = traced.lower()
    part(f"{name}: lower")
    cache.compiled(lowered, cache.SOONER.get(name))
    part(f"{name}: compile")
print(json.dumps(parts))
"""


def rows(full: bool) -> list[dict[str, Any]]:
    """The parts of a start, for a few presets; of Gymnasium's worlds the host has other programs, and none is here."""
    pairs = [("mbpo", "brax/inverted_pendulum"), ("sac", "classic/pendulum")]
    if full:
        pairs += [("mbpo", "classic/pendulum"), ("mbpo_paper", "brax/hopper"), ("v2.5", "classic/pendulum")]
    found = []
    for preset, world in pairs:
        with tempfile.TemporaryDirectory() as folder:
            for state in ("cold", "cached"):
                command = [sys.executable, "-c", CODE, preset, world]
                env = os.environ | {"BRANCHAX_CACHE": folder}
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
