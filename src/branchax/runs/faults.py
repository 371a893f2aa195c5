"""Non-finite numbers: where they come from, whether they stop the run, and what is saved to debug them.

The compiled epoch counts them: rows of a world (`state.fault`), members of the ensemble, and losses and gradients of
the agent (`epoch.report.Health`). They never spread: such rows are not stored, only the affected members are rolled
back, and such updates are skipped. The setting `config.faults` only decides whether the run continues. Evaluations are
not looked at, because nothing is learned from them: what is not finite there is seen in the log.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from branchax.config import Config
from branchax.epoch.report import Health
from branchax.epoch.state import Fault, TrainState
from branchax.errors import RunError
from branchax.runs import rundir, runlog
from branchax.sharding import of_seed
from branchax.types import Transition


class NonFinite(RunError):
    """A non-finite number stopped the run, as set by `config.faults`. Earlier checkpoints are good."""

    def __init__(self, what: str, brief: str) -> None:
        super().__init__(what)
        self.brief = brief


class Found(NamedTuple):
    """One thing that went wrong in an epoch."""

    kind: str  # "world", "model" or "agent"
    place: int  # index of the seed among those of the run
    what: str
    brief: str  # a short version for a cell of a table
    stops: bool


def find(config: Config, fault: Fault, health: Health | None) -> list[Found]:
    """What was not finite in an epoch.

    Args:
      config: the settings.
      fault: `fault` of the state after the epoch, [K, ...].
      health: of the epoch, [K]; `None` after exploration, before the first epoch.
    """
    found = []
    everything = config.explore_steps if health is None else config.epoch_steps
    for i in range(config.seeds):
        seed = f"of seed {config.seed + i}"
        brief = f"{{}} not finite, seed {config.seed + i}".format
        if rows := int(fault.rows[i]):
            field, step = Transition._fields[int(fault.field[i])], int(fault.step[i])
            what = f"{config.world} returned a non-finite {field} at env step {step} {seed}"
            if config.parallel_worlds > 1:  # env steps are counted world after world
                what += f", in parallel world {step % config.parallel_worlds}"
            if field == "action":
                what = f"the policy's action is not finite at env step {step} {seed}: training has diverged"
            elif rows > 1:
                what += f", the first of {rows}"
            # A fit needs a block of rows, of which one is held out.
            least = min(config.model.holdout_every, everything) if health is None else 1
            stops = config.faults.world == "stop" or field == "action" or everything - rows < least
            found.append(Found("world", i, what, f"{brief(field)}, step {step}", stops))
        if health is None:
            continue
        members, steps, mask = (int(np.asarray(x)[i]) for x in health.members)
        if members or steps:
            which = ", ".join(str(i) for i in range(config.model.members) if mask >> i & 1) or "32 or above"
            what = f"the model {seed} was not finite in member {which}: {members} rolled back"
            what += f", {steps} gradient steps left out"
            found.append(Found("model", i, what, brief("model"), config.faults.model == "stop"))
        counts = {name: int(count[i]) for name, count in health.losses.items()}
        bad = [f"{name} in {count} updates" for name, count in counts.items() if count]
        bad += [f"{int(health.gradients[i])} gradients, left out"] if health.gradients[i] else []
        if bad:
            what = f"the agent {seed} was not finite: {', '.join(bad)}"
            found.append(Found("agent", i, what, brief("agent"), config.faults.agent == "stop"))
    return found


def dump(directory: Path, found: Found, config: Config, state: TrainState, horizon: int, metrics: Any) -> Path:
    """Writes the details of a fault to `faults/<kind>_<env steps>_seed<n>.json` and to an `.npz` next to it.

    The arrays are the first bad row of a world (`row.*`) and the seed's state after the epoch without its buffers
    (`state.*`). The epoch itself can be run again from the last checkpoint: `branchax doctor DIR --replay`.
    """
    one = of_seed(state._replace(real=(), imagined=()), found.place)
    kept = {"state": one._replace(fault=())} | ({"row": one.fault.first} if found.kind == "world" else {})
    seed, steps = config.seed + found.place, int(one.counts.env_steps)
    path = directory / rundir.FAULTS / f"{found.kind}_{steps}_seed{seed}.json"
    about = {
        "kind": found.kind,
        "what": found.what,
        "seed": seed,
        "env_steps": steps,
        "epoch": int(one.counts.epochs),
        "horizon": horizon,
        "metrics": {name: runlog.plain(x[found.place]) for name, x in metrics.items()},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_arrays(path.with_suffix(".npz"), kept)
    rundir.write_json(path, about)
    return path


def save_arrays(path: Path, trees: dict[str, Any]) -> None:
    """Writes the leaves of trees by their paths, in dtypes that NumPy can write."""

    def plain(x: Any) -> np.ndarray:
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return np.asarray(jax.random.key_data(x))
        return np.asarray(x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x)

    leaves = jax.tree_util.tree_leaves_with_path(trees)
    arrays: dict[str, Any] = {jax.tree_util.keystr(p, simple=True, separator="."): plain(x) for p, x in leaves}
    np.savez_compressed(path, **arrays)
