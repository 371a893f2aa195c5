"""`branchax evaluate`: episodes with the policy that a run saved."""

from __future__ import annotations

from dataclasses import dataclass

from branchax.commands.base import aside, check_run
from branchax.commands.flags import Directory, parse
from branchax.errors import ConfigError
from branchax.runs import rundir


@dataclass(frozen=True)
class EvaluateOptions:
    """Runs episodes with a saved policy."""

    run: Directory
    """Directory of the run."""
    episodes: int | None = None
    """Episodes per seed, side by side; by default as many as the run's own evaluations had."""
    step: int | None = None
    """Which checkpoint, by its env steps; by default the last good one."""


def run(arguments: list[str]) -> None:
    """Evaluates and prints one line per seed."""
    options = parse(EvaluateOptions, arguments, "branchax evaluate")
    if options.episodes is not None and options.episodes < 1:
        raise ConfigError(f"episodes: {options.episodes} is not possible; allowed: >= 1")
    check_run(options.run)

    from branchax.runs import runlog
    from branchax.runs.evaluate import evaluate
    from branchax.runs.progress import number

    records = evaluate(options.run, options.episodes, options.step, say=aside)
    for record in records:
        print(
            f"seed {record['seed']} after {record['env_steps']:,} env steps: return {number(record[runlog.RETURN])}"
            f" ± {number(record[runlog.RETURN_SPREAD])} (SD), length {number(record[runlog.LENGTH])},"
            f" over {record['episodes']} episodes"
        )
    print(f"written to {options.run / rundir.EVALUATIONS / str(runlog.clock(records[0]))}.json")
