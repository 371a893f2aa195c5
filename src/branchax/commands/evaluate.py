"""`branchax evaluate`: episodes with the policy that a run saved."""

from __future__ import annotations

from dataclasses import dataclass

from branchax.commands.base import aside, check_installed
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
    check_installed(rundir.load_config(options.run).world)

    from branchax.runs import runlog
    from branchax.runs.evaluate import evaluate

    records = evaluate(options.run, options.episodes, options.step, say=aside)
    for record in records:
        print(
            f"seed {record['seed']} after {record['env_steps']:,} env steps: return {record['eval/return_mean']:.1f}"
            f" ± {record['eval/return_std']:.1f} (SD), length {record['eval/length_mean']:.1f},"
            f" over {record['episodes']} episodes"
        )
    print(f"written to {options.run / rundir.EVALUATIONS / str(runlog.clock(records[0]))}.json")
