"""Curves: those of runs, those that were collected, those that others published."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from branchax.config import Config
from branchax.errors import ConfigError
from branchax.runs import lock, rundir, runlog
from experiments import harness
from experiments.harness import publish, read_results
from experiments.published.plan import REPORTED, RESULTS, RUNS, Arm, config_of

DATA = Path(__file__).parent / "data"
GPU_RESULTS = Path("results/gpu")
DONE, RUNNING, PARTIAL, MISSING, STALE = "done", "running", "partial", "missing", "stale"


class Curve(NamedTuple):
    """The evaluations of a seed; [T] each."""

    steps: np.ndarray
    returns: np.ndarray
    wall_s: np.ndarray  # with compilation


class Published(NamedTuple):
    """What others report of a method; [T] each, NaN where they do not."""

    steps: np.ndarray
    mean: np.ndarray
    sd: np.ndarray  # over seeds
    wall_s: np.ndarray
    seeds: int | None  # None: the source has none that are real


class Ours(NamedTuple):
    """What was collected of an arm."""

    label: str
    method: str
    seeds: dict[int, Curve]
    asked: int  # the env steps that each is meant to have
    where: str  # on what it was computed
    earlier: bool = False  # its preset has other settings by now

    @property
    def reached(self) -> int:
        """The env steps that all seeds have."""
        return int(min(curve.steps[-1] for curve in self.seeds.values()))


class Found(NamedTuple):
    """A run's directory."""

    directory: Path
    first: int
    count: int
    reached: int  # env steps of its last row; 0 without one
    running: bool


def published(task: str) -> dict[str, Published]:
    """The published curves of a task, by method; empty when nobody's are here."""
    found: dict[str, list[dict[str, str]]] = {}
    for path in sorted(DATA.glob("*.csv")):
        with path.open(encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if re.sub(r"-v\d+$", "", row["task"]) == task:
                    found.setdefault(row["method"], []).append(row)
    curves = {}
    for method, rows in found.items():
        columns = (np.array([float(row[name] or "nan") for row in rows]) for name in ("step", "mean", "sd", "wall_s"))
        curves[method] = Published(*columns, seeds=int(rows[0]["seeds"]) if rows[0]["seeds"] else None)
    return curves


def of_run(directory: Path) -> dict[int, Curve]:
    """The curve of each seed of a run so far; a seed that was not evaluated yet has none."""
    rows = [row for row in runlog.read(directory / rundir.METRICS) if row.get(runlog.RETURN) is not None]
    seeds = sorted({row["seed"] for row in rows})
    return {seed: _curve([row for row in rows if row["seed"] == seed]) for seed in seeds}


def _curve(rows: list[dict[str, Any]]) -> Curve:
    return Curve(*(np.array([row[name] for row in rows]) for name in ("env_steps", runlog.RETURN, "wall_s")))


def found(arm: Arm, folder: Path = RUNS) -> list[Found]:
    """The runs of an arm that lie in a folder."""
    runs = []
    for directory in sorted(folder.glob(f"{arm.name}_s*")):
        seeds = re.fullmatch(r"(\d+)(?:-(\d+))?", directory.name.removeprefix(f"{arm.name}_s"))
        if seeds is None or not (directory / rundir.CONFIG).exists():
            continue
        first, last = int(seeds[1]), int(seeds[2] or seeds[1])
        rows = runlog.read(directory / rundir.METRICS)
        reached = rows[-1]["env_steps"] if rows else 0
        runs.append(Found(directory, first, last - first + 1, reached, lock.owner(directory) is not None))
    return runs


def state_of(arm: Arm, seed: int, runs: list[Found], collected: dict[str, Any]) -> tuple[str, int]:
    """How a seed is doing, and the env steps that it has, by its runs and by what was collected before."""
    kept = collected.get("seeds", {}).get(str(seed), {"env_steps": [0]})["env_steps"][-1]
    mine = [run for run in runs if run.first <= seed < run.first + run.count]
    reached = max([kept, *(run.reached for run in mine)])
    if reached >= arm.env_steps:
        return DONE, reached
    if any(run.running for run in mine):
        return RUNNING, reached
    return (PARTIAL if mine or kept else MISSING), reached


def collect(arm: Arm, name: str, path: Path, folder: Path = RUNS, again: bool = False) -> Path | None:
    """Writes the curves of an arm's runs into a results file, beside those that it holds of other seeds.

    Of a seed that both have, the longer curve stays. Seeds below `REPORTED` are left out.

    Args:
      arm: what was run.
      name: of the module that did it, with its flags, where `{seeds}` and `{steps}` stand for how many.
      path: the file.
      folder: where the runs are.
      again: of curves that are as long, that of the run stays, not that of the file.

    Returns:
      The path, or None when there is nothing to write.

    Raises:
      ConfigError: when the file's runs had other settings.
    """
    before = read_results(path)
    seeds = dict(before.get("seeds", {}))
    runs, configs, steps = [], {}, before.get("env_steps", 0)
    for run in found(arm, folder):
        config = rundir.load_config(run.directory)
        for seed, curve in of_run(run.directory).items():
            entry = {
                "env_steps": curve.steps.tolist(),
                "return": [round(float(x), 2) for x in curve.returns],
                "wall_s": [round(float(x), 1) for x in curve.wall_s],
                "run": run.directory.name,
                "complete": bool(curve.steps[-1] >= config.env_steps),
            }
            kept = seeds.get(str(seed))
            further = kept["env_steps"][-1] - curve.steps[-1] if kept else -1
            if seed < REPORTED or kept == entry or further > 0 or (further == 0 and not again):
                if again and further > 0:
                    print(f"{path} keeps a longer curve of seed {seed} than that of {run.directory}")
                continue
            check_same(arm, path, config)
            seeds[str(seed)] = entry
            runs.append(run.directory)
            configs[arm.method], steps = config, max(steps, config.env_steps)
    if not configs:
        return path if before else None
    named = {entry["run"] for entry in seeds.values()}
    runs = sorted(set(runs))
    earlier = {k: v for k, v in before.get("runs", {}).items() if k in named and k not in {r.name for r in runs}}
    data = {
        "task": arm.task,
        "method": arm.method,
        "world": arm.world,
        "env_steps": steps,
        "complete": all(entry["complete"] for entry in seeds.values()),
        "seeds": dict(sorted(seeds.items(), key=lambda item: int(item[0]))),
    }
    return publish(name.format(seeds=len(seeds), steps=steps), data, configs, runs, earlier, path)


def differences(arm: Arm, path: Path, config: Config) -> list[str]:
    """The settings in which `config` differs from those that a results file was made with; none without a file."""
    return harness.differences(read_results(path).get("configs", {}).get(arm.method, {}), config)


def check_same(arm: Arm, path: Path, config: Config) -> None:
    """Raises `ConfigError` when what a results file holds of an arm was made with other settings than `config`."""
    if differs := differences(arm, path, config):
        raise ConfigError(
            f"results: {path} was made with other settings: {'; '.join(differs)}; move it away to begin anew"
        )


def kept_of(arm: Arm, config: Config) -> dict[str, Any]:
    """What results files hold of an arm, and those of the accelerator's queue with the settings of `config`; of a seed,
    the longer curve."""
    data = read_results(path_of(arm))
    seeds = dict(data.get("seeds", {}))
    for path in sorted(GPU_RESULTS.glob("*.json")):
        other = read_results(path)
        if (other.get("task"), other.get("method")) != (arm.task, arm.method) or differences(arm, path, config):
            continue
        for seed, curve in other.get("seeds", {}).items():
            if seed not in seeds or curve["env_steps"][-1] > seeds[seed]["env_steps"][-1]:
                seeds[seed] = curve
    return data | {"seeds": seeds}


def path_of(arm: Arm, folder: Path = RESULTS) -> Path:
    """The results file of an arm."""
    return folder / f"{arm.name}.json"


def ours(task: str, folders: Iterable[Path] = (RESULTS, GPU_RESULTS)) -> list[Ours]:
    """All that was collected of a task, on whatever machine."""
    files = [path for folder in folders for path in sorted(folder.glob("*.json"))]
    return [_ours(data) for data in map(read_results, files) if data.get("task") == task and data.get("seeds")]


def collected(path: Path) -> Ours:
    """The curves of a results file."""
    return _ours(read_results(path))


def _ours(data: dict[str, Any]) -> Ours:
    seeds = {
        int(seed): Curve(*(np.array(x[name], float) for name in ("env_steps", "return", "wall_s")))
        for seed, x in data["seeds"].items()
    }
    where = ", ".join(sorted({_where(run) for run in data["runs"].values()}))
    return Ours(f"{data['method']} ({where})", data["method"], seeds, data["env_steps"], where, _earlier(data))


def _earlier(data: dict[str, Any]) -> bool:
    """Whether the preset of a results file has other settings by now."""
    try:
        config = config_of(Arm(data["task"], data["method"]))
    except ConfigError:  # there is none of that name any more
        return True
    return bool(harness.differences(data.get("configs", {}).get(data["method"], {}), config))


def _where(run: dict[str, Any]) -> str:
    """What a run was computed on, in words."""
    kind, _, name = run.get("device", "an unknown device").partition(": ")
    together = len(run["seeds"])
    device = "CPU" if kind == "cpu" else name or kind
    return device if together == 1 else f"{device}, {together} seeds at once"


def at(curve: Curve, step: float, of: str = "returns") -> float:
    """A seed's return (or `wall_s`) at a step, between its neighbouring evaluations; NaN before and after them."""
    return float(np.interp(step, curve.steps, getattr(curve, of), left=np.nan, right=np.nan))


def all_at(arm: Ours, step: float, of: str = "returns") -> np.ndarray:
    """The same of every seed that has got there."""
    values = np.array([at(curve, step, of) for curve in arm.seeds.values()])
    return values[~np.isnan(values)]
