"""The directory of a run and its files.

config.json         every setting, as it was resolved
command.txt         the commands that trained this run, one per line
environment.json    versions, device, platform and commit
status.json         running, preempted, failed or done, and the last good checkpoint
metrics.jsonl       one row per epoch and seed
tb/                 the same for TensorBoard
wandb/              the same for Weights & Biases, with `--wandb`
checkpoints/N/      the whole train state after N env steps (the newest, `checkpoints_kept` of them)
faults/             details of non-finite numbers, for `branchax doctor`
evaluations/N.json  all results of `branchax evaluate` after N env steps
plots/              learning_curve.png
"""

from __future__ import annotations

import contextlib
import functools
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
FOUND_IN = "found_in"  # in `ENVIRONMENT`: the folder of the module of each user-defined part, by field
PACKAGES = ("branchax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "brax", "mujoco", "gymnasium", "numpy")
# If these differ, floats can differ, too.
DECISIVE = ("jax", "jaxlib", "brax", "mujoco", "device", "device_count", "cpu", "xla_flags")


def check_writable(directory: Path) -> None:
    """Raises `ConfigError` unless files can be written in the directory, or where it will be made."""
    there = next(p for p in (directory, *directory.absolute().parents) if p.exists())
    try:
        if not there.is_dir():
            raise ConfigError(f"run: {there} is not a directory")
        with tempfile.NamedTemporaryFile(dir=there) as file:
            file.write(bytes(4096))  # an empty file fits on a full disk
    except OSError as error:
        raise ConfigError(f"run: cannot write to {directory}: {error.strerror}") from error


def admit(directory: Path, config: Config, force: bool = False) -> list[str]:
    """Checks that a run of `config` may start or continue in a directory; writes nothing.

    Returns:
      The settings that differ from those of the existing run, each as "name old -> new".

    Raises:
      ConfigError: when the directory holds other files, or a run with settings that may not change, unless `force` is
        set.
    """
    check_writable(directory)
    if not (directory / CONFIG).exists():
        ours = {lock.FILE, lock.OWNER, f"{CONFIG}.tmp"}  # left by a run that was killed before it began
        if directory.is_dir() and {path.name for path in directory.iterdir()} - ours:
            raise ConfigError(f"run: {directory} is not empty and holds no run; name another directory")
        return []
    allowed, refused = changes(load_config(directory), config)
    if refused and not force:
        raise ConfigError(
            f"run: {directory} holds a run of other settings: {'; '.join(refused)}; name another directory, or add"
            f" --force to continue with these (allowed without it: {', '.join(RESUMABLE)}, and a larger env_steps)"
        )
    return allowed + refused


@contextlib.contextmanager
def opened(directory: Path) -> Iterator[None]:
    """Makes the directory and holds its lock; afterwards removes the folders that it made and that are still empty."""
    made = [path for path in (directory, *directory.parents) if not path.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with lock.held(directory):
            yield
    finally:
        with contextlib.suppress(OSError):  # rmdir does nothing unless it is empty
            for path in made:
                path.rmdir()


def named(world: str) -> str:
    """A world's name as a part of a directory's: no slash, and no colon, which `scp` takes for the end of a host."""
    return world.replace("/", "-").replace(":", "-")


@contextlib.contextmanager
def claimed(stem: Path) -> Iterator[Path]:
    """Makes `<stem>_<n>` with the first free `n`; afterwards removes the folders that it made and that are still empty.

    The folder is made immediately, so that runs that start at the same time get different ones. Raises `ConfigError`
    when it cannot be made.
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
    """The settings of a run. Raises `ConfigError` when the directory holds no readable settings."""
    if not (directory / CONFIG).is_file():
        raise ConfigError(f"run: {directory} holds no run ({CONFIG} is missing)")
    return read(directory / CONFIG)


def write_status(directory: Path, state: str, step: int | None, reason: str = "") -> None:
    """Writes the status of a run.

    Args:
      directory: the run's directory.
      state: `running`, `preempted` (asked to stop; continues when started again), `failed` or `done`.
      step: of the last good checkpoint.
      reason: why it ended.
    """
    process = {"pid": os.getpid(), "host": platform.node(), "heartbeat": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    write_json(directory / STATUS, {"state": state, "reason": reason, "last_good_step": step, **process})


def status(directory: Path) -> dict[str, Any]:
    """What `write_status` wrote last; empty if there is nothing, or it cannot be read."""
    try:
        found = json.loads((directory / STATUS).read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError):
        return {}


def is_done(directory: Path) -> bool:
    """Whether the run in a directory is finished."""
    return status(directory).get("state") == "done"


def write_json(path: Path, data: Any) -> None:
    """Writes a JSON file atomically: if the process is killed, the file is either the old or the new one."""
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
    """Waits until a file or a folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def record(directory: Path, config: Config, command: str) -> list[str]:
    """Writes the settings, the command and the environment of a run.

    Returns the decisive differences from the machine that began it.
    """
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
    """Lets Python find the modules of the run's user-defined parts in the folders where they were when it began.

    Raises `ConfigError` like `outside.look_for`.
    """
    try:
        folders = json.loads((directory / ENVIRONMENT).read_text(encoding="utf-8")).get(FOUND_IN, {})
    except (OSError, ValueError, AttributeError):  # a run without this file can still be read
        return
    parts = load_config(directory).own_parts if folders else {}
    for field, folder in folders.items():
        outside.look_for(parts.get(field, ""), field, Path(folder))


def differences(directory: Path, now: dict[str, Any]) -> list[str]:
    """The differences between the machine that began a run and this one (`environment()`) that can change floats."""
    try:
        begun = json.loads((directory / ENVIRONMENT).read_text(encoding="utf-8"))
        return [f"{name} {begun.get(name)} -> {now[name]}" for name in DECISIVE if begun.get(name) != now[name]]
    except (OSError, ValueError, AttributeError):
        return [f"{ENVIRONMENT} cannot be read"]


def environment() -> dict[str, Any]:
    """Versions, device, platform and (in a checkout) the commit, with a `+` if there are uncommitted changes."""
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
    """The versions of the packages that affect results; `None` for those that are not installed."""
    return {name: _version(name) for name in PACKAGES}


@functools.cache  # reading a package's metadata takes 10 ms, and each checkpoint notes the versions
def _version(package: str) -> str | None:
    import importlib.metadata  # not above: slow to import, and `--help` loads this module

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
