"""Loggers of metrics in addition to `metrics.jsonl`: TensorBoard, Weights & Biases, or your own.

Your own is a `Logger`. This one prints:

    branchax.Logger(write=lambda rows: print(rows[0]["env_steps"]), close=lambda: None)

A row is one of `metrics.jsonl` (`runlog`): a dictionary of one seed's numbers after one epoch.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from branchax.config import Config, to_dict
from branchax.errors import ConfigError
from branchax.runs import rundir
from branchax.runs.runlog import SKIPPED, Row, clock

PROJECT = "branchax"  # in Weights & Biases, unless WANDB_PROJECT names another
ALLOWED = "allowed: wandb login, WANDB_MODE=offline or --no-wandb"


class Logger(NamedTuple):
    """A logger that a run writes its rows to. An exception in one of its functions ends the run."""

    write: Callable[[list[Row]], None]  # the rows of one epoch, one per seed
    close: Callable[[], None]  # once, after the last rows or a failure


def all_of(loggers: Sequence[Logger]) -> Logger:
    """One logger that calls several loggers in order; the list may be empty."""

    def write(rows: list[Row]) -> None:
        for logger in loggers:
            logger.write(rows)

    def close() -> None:
        for logger in loggers:
            logger.close()

    return Logger(write, close)


def open_curves(
    config: Config, directory: Path, rows: list[Row], say: Callable[[str], Any], loggers: Sequence[Logger] = ()
) -> Logger:
    """Opens the loggers that the settings of a run ask for.

    Args:
      config: the run's settings; only `wandb` and `tensorboard` matter here.
      directory: the run's directory.
      rows: the rows that a resumed run wrote before.
      say: called with a message about where to find the curves.
      loggers: further loggers. They only get the rows that are written from now on.

    Raises:
      ConfigError: like `open_wandb`.
    """
    places = list(loggers)
    if config.wandb:
        places.append(open_wandb(config, directory, rows, say))
    if config.tensorboard:
        places.append(open_tensorboard(directory / rundir.TENSORBOARD, rows))
    return all_of(places)


def open_tensorboard(directory: Path, rows: list[Row]) -> Logger:
    """Writes the numbers of rows for TensorBoard to `directory/seed_N/`, over env steps; each write is flushed.

    The curves are first written again from `rows`, the earlier rows of a resumed run, into a file that replaces the old
    one. So there is one clean curve, even after a crash. The file begins with a restart mark (as `purge_step` writes
    it), so that an open TensorBoard also drops what it has read before.
    """
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
    from tensorboardX.summary import scalar

    writers: dict[int, Any] = {}

    def writer_of(seed: int) -> Any:
        if seed not in writers:
            folder = directory / f"seed_{seed}"
            folder.mkdir(parents=True, exist_ok=True)
            writers[seed] = EventsWriter(str(folder / "events"))
            restart = SessionLog(status=SessionLog.START)
            writers[seed].write_event(Event(wall_time=time.time(), step=0, session_log=restart))
        return writers[seed]

    def write(rows: list[Row]) -> None:
        for row in rows:
            for name, value in _numbers(row).items():
                event = Event(wall_time=time.time(), step=clock(row), summary=scalar(name, value))
                writer_of(row["seed"]).write_event(event)
        for writer in writers.values():
            writer.flush()

    def close() -> None:
        for writer in writers.values():
            writer.close()

    for old in directory.glob("seed_*/events.out.tfevents.*"):
        old.unlink()
    write(rows)
    return Logger(write, close)


def open_wandb(config: Config, directory: Path, rows: list[Row], say: Callable[[str], Any]) -> Logger:
    """Sends the numbers of rows to Weights & Biases, over env steps: one W&B run per seed, grouped by directory.

    `wandb/ids.json` in the run's directory keeps the ids of the W&B runs, so that a resumed run continues in the same
    ones. The earlier `rows` of a resumed run are there, too. W&B's own environment variables set the destination (the
    account, `WANDB_PROJECT`, `WANDB_ENTITY`) and the mode (`WANDB_MODE=offline`, then `wandb sync`).

    Raises:
      ConfigError: when W&B cannot start (a wrong account, no network).
    """
    library: Any = importlib.import_module("wandb")
    path = directory / rundir.WANDB / "ids.json"
    path.parent.mkdir(exist_ok=True)
    ids = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    name, runs = directory.resolve().name, {}

    def write(rows: list[Row]) -> None:
        for row in rows:
            run, step = runs[row["seed"]], clock(row)
            if step >= run.step:  # W&B already has the earlier rows of a resumed run, and they are the same
                run.log(_numbers(row), step=step, commit=True)

    def close() -> None:  # waits until everything is sent or on the disk
        for run in runs.values():
            run.finish()

    for seed in range(config.seed, config.seed + config.seeds):
        new = str(seed) not in ids
        try:
            run = library.init(
                id=ids.setdefault(str(seed), secrets.token_hex(4)),
                resume="allow",
                reinit="create_new",  # one run per seed, all open at the same time
                dir=directory,
                project=None if library.Settings().project else PROJECT,
                group=name,
                name=f"{name}/seed_{seed}",
                config=to_dict(config) | {"seed": seed},
                allow_val_change=True,  # some settings may change when a run is resumed
                settings=library.Settings(silent=True, console="off"),  # the terminal is `Progress`'s
            )
        except library.Error as error:
            close()
            raise _refused(error) from error
        runs[seed] = run
        rundir.write_json(path, ids)
        say(f"  wandb      {f'wandb sync {Path(run.dir).parent} sends it' if run.offline else run.url}")
        if new or not run.offline:  # a killed process may not have sent its last rows
            write([row for row in rows if row["seed"] == seed])
    return Logger(write, close)


def check_wandb() -> None:
    """Raises `ConfigError` when W&B's package is missing, or when it is online and has no account.

    Nothing is sent yet: a wrong account is only noticed when the runs begin.
    """
    spec = importlib.util.find_spec("wandb")
    if spec is None or spec.origin is None:  # W&B's output folder looks like a package without an origin
        raise ConfigError("wandb: the package is not installed; allowed: pip install 'branchax[wandb]', or no --wandb")
    library: Any = importlib.import_module("wandb")
    if library.run is not None:  # the caller has an open W&B run
        return
    try:  # it reads its environment variables, its settings and netrc
        library.setup(settings=library.Settings(silent=True))  # the terminal is `Progress`'s
        if library.setup().settings.mode in ("offline", "dryrun", "disabled"):
            return
        found = library.login(prompt=False, verify=False)
    except (library.Error, ValueError) as error:  # such as a key of the wrong length, or an unknown mode
        raise _refused(error) from error
    if not found:
        raise ConfigError(f"wandb: not logged in; {ALLOWED}")


def _numbers(row: Row) -> dict[str, Any]:
    """The numbers to draw as curves; non-finite numbers (`None`) leave a gap."""
    return {name: x for name, x in row.items() if name not in SKIPPED and x is not None}


def _refused(error: Exception) -> ConfigError:
    why = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
    return ConfigError(f"wandb: {why}; {ALLOWED}")
