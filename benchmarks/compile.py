"""Seconds from a config to a compiled epoch: cold, and with the persistent cache warm, each in a process of its own."""

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
from branchax.build import build
from branchax.devices import cache
from branchax.runs.compiling import seed_keys
from branchax.presets import preset
from branchax.sharding import over_seeds
import jax, jax.numpy as jnp
cache.enable()
begun = time.perf_counter()
config = preset(sys.argv[1], sys.argv[2])
program = build(config)
built = time.perf_counter()
init = jax.jit(over_seeds(program.init))
state = jax.eval_shape(init, seed_keys(config))
lowered = jax.jit(over_seeds(program.epoch, (0, None)), donate_argnums=0).lower(state, jnp.int32(1))
traced = time.perf_counter()
lowered.compile()
done = time.perf_counter()
print(json.dumps({"build_s": built - begun, "trace_s": traced - built, "compile_s": done - traced}))
"""


def rows(full: bool) -> list[dict[str, Any]]:
    """Seconds of building, tracing and compiling the epoch, for a few presets."""
    pairs = [("mbpo", "classic/pendulum"), ("sac", "classic/pendulum")]
    if full:
        pairs += [("mbpo", "brax/inverted_pendulum"), ("mbpo_paper", "brax/hopper"), ("v2.5", "classic/pendulum")]
    found = []
    for preset, world in pairs:
        with tempfile.TemporaryDirectory() as folder:
            for state in ("cold", "cached"):
                command = [sys.executable, "-c", CODE, preset, world]
                env = os.environ | {"BRANCHAX_CACHE": folder}
                done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
                took = json.loads(done.stdout.splitlines()[-1])
                found.append({"settings": {"preset": preset, "world": world, "cache": state}, **took})
    return found
