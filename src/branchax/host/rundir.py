"""The directory of a run, and what lies in it.

config.json         every setting, as it was resolved
command.txt         the commands that worked on this run, one a line
environment.json    versions, device, platform and commit
metrics.jsonl       one row per epoch and seed
checkpoints/N/      the whole train state after N env steps (the last two)
evaluations/N.json  what `branchax evaluate` measured after N env steps
plots/              learning_curve.png
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from branchax.config import Config, ConfigError, check, from_dict, to_dict
from branchax.host import cache

CONFIG, COMMAND, ENVIRONMENT, METRICS = "config.json", "command.txt", "environment.json", "metrics.jsonl"
CHECKPOINTS, EVALUATIONS, CURVE = "checkpoints", "evaluations", "plots/learning_curve.png"
PACKAGES = ("branchax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "brax", "mujoco", "numpy")
DECISIVE = ("jax", "jaxlib", "device")  # where these differ, floats can


def prepare(directory: Path, resume: bool) -> None:
    """Makes the directory and tries to write into it, before anything is compiled.

    Raises:
      ConfigError: when it is not empty and `resume` is not set, or cannot be written.
    """
    if directory.exists() and not directory.is_dir():
        raise ConfigError(f"run: {directory} is not a directory")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if not resume and any(directory.iterdir()):
            raise ConfigError(f"run: {directory} is not empty; name another directory, or add --resume to go on in it")
        with tempfile.NamedTemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise ConfigError(f"run: cannot write to {directory}: {error.strerror}") from error


def claim(directory: Path, config: Config) -> None:
    """Writes the settings of a new run, which makes the directory its own.

    Only one process can create the file: of two that start at once the second gets a `ConfigError`.
    """
    try:
        with (directory / CONFIG).open("x", encoding="utf-8") as file:
            json.dump(to_dict(config), file, indent=2)
    except FileExistsError as error:
        raise ConfigError(f"run: {directory} was taken by another run a moment ago; name another directory") from error


def load_config(directory: Path) -> Config:
    """The settings of a run. Raises `ConfigError` when the directory holds none that can be read."""
    path = directory / CONFIG
    try:
        config = from_dict(Config, json.loads(path.read_text(encoding="utf-8")))
        check(config)
        return config
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ConfigError(f"run: {directory} holds no run ({CONFIG} is missing)") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"run: cannot read {path}: {error}") from error


def check_resume(saved: Config, wanted: Config) -> None:
    """Raises `ConfigError` unless `wanted` is `saved` with as many or more `env_steps`; the message lists the rest."""
    before, after = _flat(to_dict(saved)), _flat(to_dict(wanted))
    changed = [f"{name} {before[name]} -> {after[name]}" for name in before if before[name] != after[name]]
    if wanted.env_steps >= saved.env_steps:
        changed = [change for change in changed if not change.startswith("env_steps ")]
    if changed:
        raise ConfigError(f"resume: only env_steps may change, and only grow; not {'; '.join(changed)}")


def _flat(settings: dict[str, Any], path: str = "") -> dict[str, Any]:
    parts = (_flat(v, f"{path}{k}.") if isinstance(v, dict) else {f"{path}{k}": v} for k, v in settings.items())
    return {name: value for part in parts for name, value in part.items()}


def write_json(path: Path, data: Any) -> None:
    """Writes a JSON file that is either the old one or the new one, whenever the process ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".tmp")
    draft.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    draft.replace(path)


def record(directory: Path, config: Config, command: str) -> list[str]:
    """Writes what this run is made of. Returns the decisive differences to the machine that began it."""
    write_json(directory / CONFIG, to_dict(config))
    if command:
        with (directory / COMMAND).open("a", encoding="utf-8") as file:
            file.write(command + "\n")
    now = environment()
    path = directory / ENVIRONMENT
    if not path.exists():
        write_json(path, now)
        return []
    begun = json.loads(path.read_text(encoding="utf-8"))
    return [f"{name} {begun.get(name)} -> {now[name]}" for name in DECISIVE if begun.get(name) != now[name]]


def environment() -> dict[str, Any]:
    """Versions, device, platform and (in a checkout) the commit, with a `+` when files differ from it."""
    import jax  # not above: the command line refuses bad settings before it loads JAX

    device = jax.devices()[0]
    return {
        **{name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cache.cpu_model(),
        "cpu_count": os.cpu_count(),
        "device": f"{device.platform}: {device.device_kind}",
        "device_count": jax.device_count(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "commit": _commit(),
    }


def _version(package: str) -> str | None:
    import importlib.metadata  # not above: it takes a while, and `--help` loads this module

    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the checkout that this file is part of; `None` for an installed package or without git."""

    def git(*arguments: str) -> str:
        here = Path(__file__).parent
        command = ["git", "-C", str(here), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain") else "")
    except (OSError, subprocess.SubprocessError):
        return None
