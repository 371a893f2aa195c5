"""The directory of a run, and what lies in it.

config.json         every setting, as it was resolved
command.txt         the commands that worked on this run, one a line
environment.json    versions, device, platform and commit
status.json         running, preempted, failed or done, and the last good checkpoint
metrics.jsonl       one row per epoch and seed
tb/                 the same for TensorBoard
wandb/              the same for Weights & Biases, with `--wandb`
checkpoints/N/      the whole train state after N env steps (the newest, `checkpoints_kept` of them)
faults/             what was not finite, for `branchax doctor`
evaluations/N.json  what `branchax evaluate` measured after N env steps, each time
plots/              learning_curve.png
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from branchax import outside
from branchax.checks import read
from branchax.config import RESUMABLE, Config, changes, to_dict
from branchax.devices import cache
from branchax.errors import ConfigError
from branchax.runs import lock

STATUS, FAULTS, TENSORBOARD, WANDB = "status.json", "faults", "tb", "wandb"
CONFIG, COMMAND, ENVIRONMENT, METRICS = "config.json", "command.txt", "environment.json", "metrics.jsonl"
CHECKPOINTS, EVALUATIONS, CURVE = "checkpoints", "evaluations", "plots/learning_curve.png"
FOUND_IN = "found_in"  # in `ENVIRONMENT`: the folders in which the modules of one's own parts were found, by field
PACKAGES = ("branchax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "brax", "mujoco", "gymnasium", "numpy")
# Where these differ, floats can.
DECISIVE = ("jax", "jaxlib", "brax", "mujoco", "device", "device_count", "cpu", "xla_flags")


def check_writable(directory: Path) -> None:
    """Raises `ConfigError` unless files can be written in the directory, or where it is going to be made."""
    there = next(p for p in (directory, *directory.absolute().parents) if p.exists())
    try:
        if not there.is_dir():
            raise ConfigError(f"run: {there} is not a directory")
        with tempfile.NamedTemporaryFile(dir=there) as file:
            file.write(bytes(4096))  # an empty file fits on a full disk
    except OSError as error:
        raise ConfigError(f"run: cannot write to {directory}: {error.strerror}") from error


def admit(directory: Path, config: Config, force: bool = False) -> list[str]:
    """Whether a run of `config` may begin in a directory, or go on there; nothing is written.

    Returns:
      The settings that differ from those of the run that goes on, each as "name old -> new".

    Raises:
      ConfigError: when something else lies there, or a run with settings that may not change, unless `force` is set.
    """
    check_writable(directory)
    if not (directory / CONFIG).exists():
        ours = {lock.FILE, lock.OWNER, f"{CONFIG}.tmp"}  # of a run that was killed before it began
        if directory.is_dir() and {path.name for path in directory.iterdir()} - ours:
            raise ConfigError(f"run: {directory} is not empty and holds no run; name another directory")
        return []
    allowed, refused = changes(load_config(directory), config)
    if refused and not force:
        raise ConfigError(
            f"run: {directory} holds a run of other settings: {'; '.join(refused)}; name another directory, or add"
            f" --force to go on with these (allowed without it: {', '.join(RESUMABLE)}, and a larger env_steps)"
        )
    return allowed + refused


@contextlib.contextmanager
def opened(directory: Path) -> Iterator[None]:
    """Makes the directory, holds its lock, and takes away again what was made and stayed empty."""
    made = [path for path in (directory, *directory.parents) if not path.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with lock.held(directory):
            yield
    finally:
        with contextlib.suppress(OSError):  # rmdir does nothing unless it is empty
            for path in made:
                path.rmdir()


@contextlib.contextmanager
def claimed(stem: Path) -> Iterator[Path]:
    """Makes `<stem>_<n>`, with the first `n` that nobody has, and takes away again what was made and stayed empty.

    It is made at once, so that of runs that start together each gets its own. Raises `ConfigError` when it cannot be.
    """
    check_writable(stem.parent)
    made = [path for path in (stem.parent, *stem.parent.parents) if not path.exists()]
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        directory = _next(stem)
    except OSError as error:
        raise ConfigError(f"run: cannot make {stem}_N: {error.strerror}") from error
    try:
        yield directory
    finally:
        with contextlib.suppress(OSError):  # rmdir does nothing unless it is empty
            for path in (directory, *made):
                path.rmdir()


def _next(stem: Path) -> Path:
    number = 1
    while True:
        directory = stem.with_name(f"{stem.name}_{number}")
        try:
            directory.mkdir()
        except FileExistsError:
            number += 1
        else:
            return directory


def load_config(directory: Path) -> Config:
    """The settings of a run. Raises `ConfigError` when the directory holds none that can be read."""
    if not (directory / CONFIG).is_file():
        raise ConfigError(f"run: {directory} holds no run ({CONFIG} is missing)")
    return read(directory / CONFIG)


def write_status(directory: Path, state: str, step: int | None, reason: str = "") -> None:
    """Says how a run is doing.

    Args:
      directory: the run's directory.
      state: `running`, `preempted` (asked to end; goes on when started again), `failed` or `done`.
      step: of the last good checkpoint.
      reason: why it ended.
    """
    process = {"pid": os.getpid(), "host": platform.node(), "heartbeat": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    write_json(directory / STATUS, {"state": state, "reason": reason, "last_good_step": step, **process})


def status(directory: Path) -> dict[str, Any]:
    """What `write_status` wrote last; empty when that is nothing, or cannot be read."""
    try:
        found = json.loads((directory / STATUS).read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError):
        return {}


def is_done(directory: Path) -> bool:
    """Whether the run in a directory has come to its end."""
    return status(directory).get("state") == "done"


def write_json(path: Path, data: Any) -> None:
    """Writes a JSON file that is either the old one or the new one, whenever the process ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".tmp")
    try:
        draft.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
        sync(draft)
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Returns once a file or a folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def record(directory: Path, config: Config, command: str) -> list[str]:
    """Writes what this run is made of. Returns the decisive differences to the machine that began it."""
    write_json(directory / CONFIG, to_dict(config))
    if command:
        with (directory / COMMAND).open("a", encoding="utf-8") as file:
            file.write(command + "\n")
    now = environment()
    path = directory / ENVIRONMENT
    if not path.exists():
        folders = {field: outside.folder_of(name) for field, name in config.own_parts.items()}
        write_json(path, now | {FOUND_IN: {field: str(x) for field, x in folders.items() if x is not None}})
        return []
    return differences(directory, now)


def find_modules(directory: Path) -> None:
    """Has Python look for the modules of the run's own parts where they were when it began.

    Raises `ConfigError` as `outside.look_for` does.
    """
    try:
        folders = json.loads((directory / ENVIRONMENT).read_text(encoding="utf-8")).get(FOUND_IN, {})
    except (OSError, ValueError, AttributeError):  # a run without this file can still be read
        return
    parts = load_config(directory).own_parts if folders else {}
    for field, folder in folders.items():
        outside.look_for(parts.get(field, ""), field, Path(folder))


def differences(directory: Path, now: dict[str, Any]) -> list[str]:
    """Where the machine that began a run differs from this one (`environment()`) so that floats can, too."""
    try:
        begun = json.loads((directory / ENVIRONMENT).read_text(encoding="utf-8"))
        return [f"{name} {begun.get(name)} -> {now[name]}" for name in DECISIVE if begun.get(name) != now[name]]
    except (OSError, ValueError, AttributeError):
        return [f"{ENVIRONMENT} cannot be read"]


def environment() -> dict[str, Any]:
    """Versions, device, platform and (in a checkout) the commit, with a `+` when files differ from it."""
    import jax  # not above: the command line refuses bad settings before it loads JAX

    device = jax.devices()[0]
    return {
        **versions(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cache.cpu_model(),
        "cpu_count": os.cpu_count(),
        "device": f"{device.platform}: {device.device_kind}",
        "device_count": jax.device_count(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "commit": _commit(),
    }


def versions() -> dict[str, str | None]:
    """The versions of the packages that numbers come from; `None` for those that are not installed."""
    return {name: _version(name) for name in PACKAGES}


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
