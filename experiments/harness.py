"""What the experiments share: run a config once, read its curve, publish figures with their provenance."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from branchax.config import Config, decisive, flat, from_dict, to_dict
from branchax.errors import ConfigError
from branchax.runs import rundir, runlog
from branchax.runs.train import train

RUNS, RESULTS = Path("runs/experiments"), Path("results")
# Of what a run was made with.
WHERE = ("commit", "device", "cpu", "xla_flags", "python", "jax", "jaxlib", "brax", "mujoco", "gymnasium")


def run(config: Config, name: str) -> Path:
    """Trains `config` in `runs/experiments/<name>`, or goes on there if it was interrupted; returns the directory."""
    return train(config, RUNS / name)


def curves(directory: Path) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Env steps [T] and evaluation returns [T] of each seed of a run."""
    rows = [row for row in runlog.read(directory / rundir.METRICS) if row.get(runlog.RETURN) is not None]
    seeds = sorted({row["seed"] for row in rows})
    return {
        seed: tuple(np.array([[runlog.clock(r), r[runlog.RETURN]] for r in rows if r["seed"] == seed]).T)  # type: ignore[misc]
        for seed in seeds
    }


def learned(directory: Path, seed: int) -> dict[str, Any]:
    """What a run of one seed shows: its returns, and whether its model's holdout error falls (the mean of the last
    three against that of the first three)."""
    rows = [row for row in runlog.read(directory / rundir.METRICS) if runlog.MODEL_ERROR in row]
    errors = [row[runlog.MODEL_ERROR] for row in rows]
    _, returns = curves(directory)[seed]
    return {
        "horizons": sorted({row["horizon"] for row in rows}),
        "env_steps": [row["env_steps"] for row in rows],
        "model_holdout_error": errors,
        "falls": float(np.mean(errors[-3:])) < float(np.mean(errors[:3])),
        "return_first": float(returns[0]),
        "returns_last_three": returns[-3:].tolist(),
        "model_steps": rows[-1]["model_steps"],
    }


def read_results(path: Path) -> dict[str, Any]:
    """What a results file holds; empty where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def steps_to(steps: np.ndarray, returns: np.ndarray, threshold: float, hold: int = 3) -> float | None:
    """The env steps at the first of `hold` evaluations in a row that reach `threshold`; None if there are none."""
    good = np.convolve(returns >= threshold, np.ones(hold), "valid") == hold
    return float(steps[good.argmax()]) if good.any() else None


def differences(old: dict[str, Any], config: Config) -> list[str]:
    """The settings in which `config` differs from `old`, which a results file was made with; none if that is empty.

    Seeds and lengths may differ. A setting that did not exist then had what is its default today.
    """
    was, now = flat(old), _plain(config)
    with contextlib.suppress(ConfigError):  # it has one that is gone
        was = _plain(from_dict(Config, old)) | was if old else {}
    free = ("seed", "seeds", "env_steps")
    return [f"{k} {was[k]} -> {now[k]}" for k in now if k in was and k not in free and was[k] != now[k]]


def made_with(directory: Path, config: Config) -> bool:
    """Whether the run in `directory` has the settings of `config`, but for seeds and lengths."""
    return not differences(_plain(rundir.load_config(directory)), config)


def _plain(config: Config) -> dict[str, Any]:
    """The settings that decide what a run learns, by their paths, as JSON holds them."""
    return json.loads(json.dumps(decisive(config)))


def publish(
    name: str,
    data: dict[str, Any],
    configs: dict[str, Config | dict[str, Any]],
    directories: list[Path],
    earlier: dict[str, Any] | None = None,
    path: Path | None = None,
) -> Path:
    """Writes the data, the command, the configs (dictionaries where they are older ones), and where and with what each
    run was made; returns where to.

    That is `path`, by default `results/<name>.json`. `name` is that of the module and what follows it in the command;
    `earlier` are the runs, as an older version of the file describes them, that the data is also made of.
    """
    path = path or RESULTS / f"{name}.json"
    made = {"command": f"python -m experiments.{name}", "environment": rundir.environment()}
    runs = dict(earlier or {})
    for directory in directories:
        rows = runlog.read(directory / rundir.METRICS)
        made_by = json.loads((directory / rundir.ENVIRONMENT).read_text(encoding="utf-8"))  # may be older than `made`
        seeds = sorted({row["seed"] for row in rows})
        where = {key: made_by[key] for key in WHERE if made_by.get(key)}
        runs[directory.name] = {"wall_s": rows[-1]["wall_s"], "seeds": seeds, **where}
    settings = {key: config if isinstance(config, dict) else to_dict(config) for key, config in configs.items()}
    rundir.write_json(path, {**data, "made": made, "runs": runs, "configs": settings})
    return path
