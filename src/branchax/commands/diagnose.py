"""`branchax diagnose`: what a run's model and critic are worth."""

from __future__ import annotations

from dataclasses import dataclass

from branchax.commands.base import aside, check_run
from branchax.commands.flags import Directory, parse
from branchax.errors import ConfigError
from branchax.runs import rundir


@dataclass(frozen=True)
class DiagnoseOptions:
    """Measures the model of a run at its last checkpoint, on episodes that it has not been fitted to."""

    run: Directory
    """Directory of the run."""
    seed: int | None = None
    """Whose model; by default the run's first."""


def run(arguments: list[str]) -> None:
    """Measures, prints a summary, and says where everything is."""
    options = parse(DiagnoseOptions, arguments, "branchax diagnose")
    check_run(options.run, options.seed)
    config = rundir.load_config(options.run)
    from branchax.views import diagnose, pictures

    if why := diagnose.refusal(config):
        raise ConfigError(
            f"run: {options.run} has no model to diagnose: {why}; `branchax plot` draws what its critic is worth"
        )
    found = diagnose.diagnose(options.run, options.seed, say=aside)
    for line in diagnose.summary(found):
        print(line)
    paths = pictures.draw(found, options.run / "plots")
    print(f"written to {diagnose.path_of(options.run, found['env_steps'], found['seed'])}")
    print(f"drawn in   {options.run / 'plots'}: {', '.join(path.name for path in paths)}")
