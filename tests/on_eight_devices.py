"""What `test_mesh.py` runs in a process of its own: an epoch on 8 devices beside the same on one, as JSON."""

import dataclasses
import json
import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

if __name__ == "__main__":  # before JAX looks
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"

import jax
import numpy as np
from test_train import TINY

from branchax.build import build
from branchax.checks import check
from branchax.config import RolloutConfig
from branchax.devices import cache, mesh
from branchax.runs import checkpoint, compiling
from branchax.sharding import over_seeds

CONFIG = dataclasses.replace(
    TINY,
    seeds=2,
    model=dataclasses.replace(TINY.model, batch_size=32),
    rollout=RolloutConfig(per_step=8, groups=4, horizon=3),
)
HORIZON = np.int32(2)
COLLECTIVE = re.compile(
    r" (all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter|collective-broadcast)(?:-start)?\("
)
NAME = re.compile(r'op_name="([^"]*)"')


def on(layout, seeds=2):
    config = dataclasses.replace(CONFIG, mesh=layout, seeds=seeds)
    check(config)
    over, program = mesh.make(config), build(config)
    with ThreadPoolExecutor(2) as pool:
        lanes = lambda: ({}, compiling.seed_keys(config))  # noqa: E731
        compiled = compiling.compile_program(lambda floats: program, lanes, config, over, mock.Mock(), pool)
        init, epoch = compiled.init.result(), compiled.epoch.result()
        compiled.evaluate.result()
    lie = mesh.shardings(compiled.template)
    imagine = jax.jit(over_seeds(program.stages.imagine, (0, None)), out_shardings=(lie, None))
    with mesh.entered(over):
        imagined = imagine(init(*compiled.lanes), HORIZON)[0].imagined
    return compiled.template, epoch.as_text(), imagined, epoch({}, init(*compiled.lanes), HORIZON)[0]


def leaves(tree):
    """The leaves as NumPy arrays, by their paths; keys as their data."""
    found = {}
    for path, x in jax.tree_util.tree_leaves_with_path(tree):
        key = jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key)
        found[jax.tree_util.keystr(path)] = np.asarray(jax.random.key_data(x) if key else x)
    return found


def same_bits(a, b):
    a, b = leaves(a), leaves(b)
    return a.keys() == b.keys() and all(a[name].tobytes() == b[name].tobytes() for name in a)


def difference(a, b):
    """The largest difference of two floats, where they exceed 1 in units of themselves; None if an integer differs."""
    worst = 0.0
    for x, y in zip(leaves(a).values(), leaves(b).values(), strict=True):
        if not np.issubdtype(x.dtype, np.floating):
            if (x != y).any():
                return None
        elif x.size:
            worst = max(worst, float((np.abs(x - y) / np.maximum(np.abs(x), 1)).max()))
    return worst


def collectives(text):
    """Where the compiled program's text has collectives: inside rollouts, in updates, and of gradients."""
    blocks = re.split(r"\n(?=(?:ENTRY )?%?[\w.\-]+ \()", text)
    bodies = {name[1]: block for block in blocks if (name := re.match(r"(?:ENTRY )?%?([\w.\-]+) \(", block))}
    calls = r"(?:body|condition|to_apply|calls|branch_computations|called_computations)=\{?(%[\w.\-]+(?:, %[\w.\-]+)*)"

    def reached(name, seen):
        if name not in seen:
            seen.add(name)
            for called in re.findall(calls, bodies[name]):
                for one in called.split(", "):
                    reached(one.lstrip("%"), seen)
        return seen

    loops = re.findall(r" while\(.*body=%([\w.\-]+).*op_name=\"[^\"]*rollout", text)
    inside = [line for name in loops for each in reached(name, set()) for line in bodies[each].splitlines()]
    found = [
        (kind[1], name[1]) for x in text.splitlines() if (kind := COLLECTIVE.search(x)) and (name := NAME.search(x))
    ]
    updates = [(kind, name) for kind, name in found if "/update/" in name]
    return {
        "rollouts": len(loops),
        "rollout_lines": len(inside),
        "in_rollouts": [line.strip()[:200] for line in inside if COLLECTIVE.search(line)],
        "in_an_update": sorted(kind for kind, _ in updates),
        "gradients_of_an_update": sum("transpose(" in name for _, name in updates),
        "gradients_of_the_fit": sum("transpose(" in name for _, name in found)
        - sum("transpose(" in n for _, n in updates),
    }


def main(folder):
    cache.enable()
    single, _, rollouts, one = on("seed=1,batch=1")
    template, text, spread_rollouts, eight = on("seed=2,batch=4")
    spread = eight.imagined.data.obs.sharding.shard_shape(eight.imagined.data.obs.shape)
    folder = Path(folder)
    checkpoint.save(folder / "eight", 1, eight, {})
    four_config = dataclasses.replace(CONFIG, mesh="seed=2,batch=2")
    on_four = checkpoint.restore(folder / "eight", 1, mesh.placed(template, mesh.make(four_config)))
    checkpoint.save(folder / "four", 1, on_four, {})
    on_one = checkpoint.restore(folder / "four", 1, single)
    alone, alone_on_eight = (on(layout, seeds=1)[3] for layout in ("seed=1,batch=1", "seed=1,batch=8"))
    back = checkpoint.restore(folder / "four", 1, template)
    devices = [len(x.imagined.data.obs.devices()) for x in (eight, on_four, on_one, back)]
    print(
        json.dumps(
            {
                "rows": [list(spread), list(eight.imagined.data.obs.shape)],
                "rollouts": same_bits(rollouts, spread_rollouts),
                "epoch": difference(one, eight),
                "devices": devices,
                "restored": same_bits(eight, on_four) and same_bits(eight, on_one) and same_bits(eight, back),
                "alone": difference(alone, alone_on_eight),
                "collectives": collectives(text),
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1])
