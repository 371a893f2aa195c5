"""A search by Optuna: trials of settings that it samples, each a run in its directory, stopped when it falls behind.

search.json      what is searched, and under which settings
optuna.log       Optuna's journal of the trials (`optuna.storages.JournalStorage`)
<settings>/      the run of a trial, as made by `branchax train`

The same search again resumes: a trial that was interrupted goes on from its checkpoint.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from branchax.config import Config, decisive, value_at
from branchax.errors import ConfigError, RunError
from branchax.runs import rundir
from branchax.runs.signals import Preempted
from branchax.sweeps import sweep

SEARCH, JOURNAL = "search.json", "optuna.log"
WARM_UP = 5  # trials before the first one is stopped for falling behind


class Space(NamedTuple):
    """The values of one setting: a range, or choices."""

    field: str
    values: tuple[str, ...]  # the two ends of a range, or the choices
    is_range: bool
    log: bool = False  # sampled by its logarithm
    whole: bool = False  # whole numbers

    def suggest(self, trial: Any) -> str:
        """A value for an Optuna trial, as it is written on the command line."""
        if not self.is_range:
            return trial.suggest_categorical(self.field, self.values)
        low, high = map(float, self.values)
        if self.whole:
            return str(trial.suggest_int(self.field, int(low), int(high), log=self.log))
        return f"{trial.suggest_float(self.field, low, high, log=self.log):.6g}"


def space(field: str, text: str, config: Config) -> Space:
    """Reads `"LOW..HIGH"`, `"log:LOW..HIGH"` or `"A,B"`, the values of a setting. Raises `ConfigError`."""
    kind, _, rest = text.rpartition(":")
    low, dots, high = rest.partition("..")
    try:
        if not dots:
            choices = tuple(text.split(","))
            if not all(choices) or len(set(choices)) < len(choices):
                raise ValueError
            return Space(field, choices, False)
        if kind not in ("", "log") or not (0.0 if kind else float("-inf")) < float(low) < float(high) < float("inf"):
            raise ValueError
    except ValueError:
        allowed = "LOW..HIGH, log:LOW..HIGH with LOW > 0, or choices A,B"
        raise ConfigError(f"search: {field}={text} is not possible; allowed: {allowed}") from None
    value = value_at(config, field)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(f"search: {field}={text} is not possible; allowed: a range of numbers only for a number")
    return Space(field, (low, high), True, bool(kind), isinstance(value, int))


def directory_of(what: dict[str, Any], stem: str, chosen: Path | None) -> Path:
    """The search's directory, as `sweep.place` finds it; it is made and says what it is for. Raises `ConfigError`."""

    def same(directory: Path) -> bool | None:
        try:
            return json.loads((directory / SEARCH).read_text(encoding="utf-8")) == what
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise ConfigError(f"search: cannot read {directory / SEARCH}: {error}") from error

    directory = sweep.place(stem, chosen, same, "search")
    if not (directory / SEARCH).exists():
        rundir.write_json(directory / SEARCH, what)
    return directory


def describe(spaces: list[Space], ends: list[Config]) -> dict[str, Any]:
    """What makes two searches the same, ready for JSON: the spaces, and the settings at their ends."""
    return json.loads(json.dumps({"search": [s._asdict() for s in spaces], "settings": list(map(decisive, ends))}))


def run(directory: Path, spaces: list[Space], trials: int, config_of: Callable[[dict[str, str]], Config]) -> None:
    """Runs trials until the search has `trials` finished ones, and prints them, the best first.

    A trial's value is the mean of its seeds' last evaluations. It is stopped early when its evaluations are below the
    median of the others' after as many env steps (`optuna.pruners.MedianPruner`).

    Raises:
      Preempted: when a signal asked to stop; the trial is saved and goes on with the next call.
    """
    from branchax.runs import runlog, train

    optuna: Any = importlib.import_module("optuna")  # an extra

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    states = optuna.trial.TrialState
    backend = optuna.storages.journal.JournalFileBackend(str(directory / JOURNAL))
    study = optuna.create_study(
        study_name="branchax", direction="maximize", load_if_exists=True,
        storage=optuna.storages.JournalStorage(backend), pruner=optuna.pruners.MedianPruner(WARM_UP),
    )  # fmt: skip
    for broken in study.get_trials(states=(states.RUNNING,)):  # by a signal, or by a machine that went away
        study.enqueue_trial(broken.params)
        study.tell(broken.number, state=states.FAIL)
    study.sampler = optuna.samplers.TPESampler(seed=len(study.trials))  # other random numbers after an interruption
    while (done := _over(study)) < trials:
        trial = study.ask()
        settings = {s.field: s.suggest(trial) for s in spaces}
        name = sweep.name_of(settings)
        config, pruned = config_of(settings), False
        print(f"\ntrial {done + 1} of {trials}: {name}", flush=True)

        def fell_behind(
            rows: list[dict[str, Any]], state: Any, trial: Any = trial, last: int = config.env_steps
        ) -> bool:
            nonlocal pruned
            returns = [row[runlog.RETURN] for row in rows if row.get(runlog.RETURN) is not None]
            if returns:
                trial.report(sum(returns) / len(returns), runlog.clock(rows[0]))
            goes_on = runlog.clock(rows[0]) < last
            pruned = bool(returns) and goes_on and trial.should_prune()
            return pruned

        try:
            train.train(config, directory / name, f"branchax sweep ({name})", callbacks=[fell_behind])
        except Preempted:
            raise
        except (ConfigError, RunError) as error:  # such as numbers that are not finite
            print(f"trial failed: {error}", flush=True)
            trial.set_user_attr("failed", str(error).splitlines()[0])
            study.tell(trial, state=states.FAIL)
            continue
        if pruned:
            study.tell(trial, state=states.PRUNED)  # its value is the last that was reported
        else:
            study.tell(trial, sweep.result(directory / name)["return_mean"])
    show(directory, spaces, study)


def _over(study: Any) -> int:
    """Trials that have a result, or failed by themselves."""
    return sum(trial.state.name in ("COMPLETE", "PRUNED") or "failed" in trial.user_attrs for trial in study.trials)


def show(directory: Path, spaces: list[Space], study: Any) -> None:
    """Prints the table of trials."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for name in (*(s.field.replace(".", ".\n") for s in spaces), "return", ""):
        table.add_column(name, justify="right", overflow="fold")
    over = [t for t in study.trials if t.state.is_finished() and (t.value is not None or "failed" in t.user_attrs)]
    for trial in sorted(over, key=lambda t: (t.state.name != "COMPLETE", -(t.value or 0.0))):
        cells = [f"{x:.4g}" if isinstance(x, float) else str(x) for x in (trial.params[s.field] for s in spaces)]
        value = "–" if trial.value is None else f"{trial.value:.1f}"
        table.add_row(*cells, value, {"COMPLETE": "", "PRUNED": "stopped early"}.get(trial.state.name, "failed"))
    console = Console(highlight=False, markup=False)
    console.print(f"{directory}: last evaluations, the best first", soft_wrap=True)
    console.print(table)
