"""The policies that come with the library: trains each, evaluates it, and keeps its folder in `branchax.pretrained`.

Each is seed 0 of its preset's defaults, at the last checkpoint; Hopper's and HalfCheetah's are the first seeds of
published curves, which have to be there (`make published TASK=Hopper PRESET=sac SEEDS=1`; HalfCheetah, dhmbpo_small).
What it returns over 100 episodes is in its `policy/spec.json` and in `results/pretrained.json`, whatever it is.

    python -m experiments.pretrained            # all of them
    python -m experiments.pretrained pendulum   # one; the others stay as they are
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

from branchax.config import to_dict
from branchax.deploy import numpy_policy
from branchax.deploy.export import ARRAYS, JAX, POLICY, SPEC, export
from branchax.presets import preset
from branchax.pretrained import FOLDER
from branchax.runs import rundir, runlog
from branchax.runs.evaluate import evaluate
from experiments.harness import RESULTS, publish, run
from experiments.published.plan import REPORTED, Arm, directory_of

EPISODES = 100


class Made(NamedTuple):
    """How a policy is made."""

    preset: str
    world: str
    env_steps: int


POLICIES = {
    "pendulum": Made("dhmbpo_tiny", "classic/pendulum", 1_000),
    "cartpole": Made("dhmbpo_tiny", "classic/cartpole", 1_500),
    "cartpole_discrete": Made("mbpo", "classic/cartpole_discrete", 1_500),
    "inverted_pendulum": Made("mbpo", "brax/inverted_pendulum", 1_500),
    "inverted_double_pendulum": Made("mbpo", "gym/InvertedDoublePendulum-v5", 2_000),
}
PUBLISHED = {"hopper": Arm("Hopper", "sac"), "halfcheetah": Arm("HalfCheetah", "dhmbpo_small", steps=30_000)}
FILE = RESULTS / "pretrained.json"


def train(name: str) -> Path:
    """The directory of its run, which is made if it is not there. Raises `FileNotFoundError` for a published one."""
    if name in PUBLISHED:
        directory = directory_of(PUBLISHED[name], REPORTED)
        if not directory.exists():
            raise FileNotFoundError(f"{directory} is missing; run make published as above")
        return directory
    made = POLICIES[name]
    config = dataclasses.replace(preset(made.preset, made.world), env_steps=made.env_steps)
    return run(config, f"pretrained_{name}")


def keep(name: str, directory: Path) -> float:
    """Copies what is kept of a run, and returns the mean return of its first seed over `EPISODES` episodes."""
    config, folder = rundir.load_config(directory), FOLDER / name
    (row, *_) = evaluate(directory, EPISODES)
    exported = export(directory)
    shutil.rmtree(folder, ignore_errors=True)
    (folder / POLICY).mkdir(parents=True)
    rundir.write_json(folder / rundir.CONFIG, to_dict(config))
    curve = [r for r in runlog.read(directory / rundir.METRICS) if r["seed"] == config.seed and runlog.RETURN in r]
    kept = ("seed", "epoch", "env_steps", "wall_s", runlog.RETURN)
    lines = (json.dumps({key: r[key] for key in kept}) + "\n" for r in curve)
    (folder / rundir.METRICS).write_text("".join(lines), encoding="utf-8")
    for file in (JAX, ARRAYS):
        shutil.copy(exported / file, folder / POLICY / file)
    told = json.loads((exported / SPEC).read_text(encoding="utf-8"))
    told["files"][ARRAYS]["read_by"] = numpy_policy.__name__  # no copy of it for each policy
    rundir.write_json(folder / POLICY / SPEC, told | {"return": {"mean": row[runlog.RETURN], "episodes": EPISODES}})
    return row[runlog.RETURN]


def main(names: list[str]) -> None:
    """Trains, keeps, publishes."""
    directories = {name: train(name) for name in names or [*POLICIES, *PUBLISHED]}
    earlier = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    returns = earlier.get("returns", {}) | {name: keep(name, directory) for name, directory in directories.items()}
    configs = {name: rundir.load_config(FOLDER / name) for name in returns}
    command, made = " ".join(("pretrained", *names)), list(directories.values())
    print("written to", publish(command, {"returns": returns}, configs, made, earlier.get("runs"), FILE))


if __name__ == "__main__":
    main(sys.argv[1:])
