"""Weights & Biases: the numbers of `metrics.jsonl`, over env steps; one of its runs to a seed, grouped by directory.

`wandb/ids.json` in the run's directory says which runs these are, so that what goes on goes on in the same ones. Where
to (the account, `WANDB_PROJECT`, `WANDB_ENTITY`) and how (`WANDB_MODE=offline`, then `wandb sync`) are its own
environment variables.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import secrets
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from branchax.config import Config, to_dict
from branchax.errors import ConfigError
from branchax.runs import rundir
from branchax.runs.runlog import SKIPPED, Row, clock

PROJECT = "branchax"  # unless WANDB_PROJECT names another


ALLOWED = "allowed: wandb login, WANDB_MODE=offline or --no-wandb"


def check() -> None:
    """Raises `ConfigError` when the package is missing, or has to send what it gets and knows no account to send it to.

    Nothing is sent yet: whether the account is any good shows when the runs begin.
    """
    spec = importlib.util.find_spec("wandb")
    if spec is None or spec.origin is None:  # the folder that W&B makes where it runs is no package
        raise ConfigError("wandb: the package is not installed; allowed: pip install 'branchax[wandb]', or no --wandb")
    library: Any = importlib.import_module("wandb")
    if library.run is not None:  # who calls has one of their own
        return
    try:  # it looks into its variables, its settings and netrc
        library.setup(settings=library.Settings(silent=True))  # the terminal is `Progress`'s
        if library.setup().settings.mode in ("offline", "dryrun", "disabled"):
            return
        found = library.login(prompt=False, verify=False)
    except (library.Error, ValueError) as error:  # such as a key of the wrong length, or a mode that there is not
        raise _refused(error) from error
    if not found:
        raise ConfigError(f"wandb: not logged in; {ALLOWED}")


def _refused(error: Exception) -> ConfigError:
    why = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
    return ConfigError(f"wandb: {why}; {ALLOWED}")


class Wandb:
    """Writes rows as they come; `rows` are those that were written to the run's directory before.

    Raises `ConfigError` when it refuses to begin (a wrong account, no network).
    """

    def __init__(self, config: Config, directory: Path, rows: Iterable[Row], say: Callable[[str], Any]) -> None:
        library: Any = importlib.import_module("wandb")
        path = directory / rundir.WANDB / "ids.json"
        path.parent.mkdir(exist_ok=True)
        ids = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        name, self._runs = directory.resolve().name, {}
        for seed in range(config.seed, config.seed + config.seeds):
            new = str(seed) not in ids
            try:
                run = library.init(
                    id=ids.setdefault(str(seed), secrets.token_hex(4)),
                    resume="allow",
                    reinit="create_new",  # a run to each seed, all at once
                    dir=directory,
                    project=None if library.Settings().project else PROJECT,
                    group=name,
                    name=f"{name}/seed_{seed}",
                    config=to_dict(config) | {"seed": seed},
                    allow_val_change=True,  # what may change when a run goes on
                    settings=library.Settings(silent=True, console="off"),  # the terminal is `Progress`'s
                )
            except library.Error as error:
                self.close()
                raise _refused(error) from error
            self._runs[seed] = run
            rundir.write_json(path, ids)
            say(f"  wandb      {f'wandb sync {Path(run.dir).parent} sends it' if run.offline else run.url}")
            if new or not run.offline:  # a process that was killed may not have sent the last
                self.write([row for row in rows if row["seed"] == seed])

    def write(self, rows: Iterable[Row]) -> None:
        """Hands the rows on; those that a resumed run has there already are the same, and left out."""
        for row in rows:
            run, step = self._runs[row["seed"]], clock(row)
            if step >= run.step:
                run.log(
                    {name: x for name, x in row.items() if name not in SKIPPED and x is not None},
                    step=step,
                    commit=True,
                )

    def close(self) -> None:
        """Waits until everything is sent, or on the disk."""
        for run in self._runs.values():
            run.finish()
