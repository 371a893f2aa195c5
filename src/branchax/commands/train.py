"""`branchax train`: a new run; in the directory of one that is not done, that one goes on."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from branchax.checks import read, read_settings
from branchax.commands.base import aside, check_found
from branchax.commands.flags import Switch, parse, read_early, spelled_out
from branchax.config import Config, flat, to_dict, with_own
from branchax.config.fields import check_ranges, with_fields
from branchax.devices import distributed
from branchax.devices.distributed import Processes
from branchax.errors import ConfigError, RunError
from branchax.presets import PRESETS, preset
from branchax.runs import entry, rundir


@dataclass(frozen=True)
class TrainOptions:
    """What `branchax train` takes beside the preset."""

    # The preset decides which kind of agent it is; its fields are then flags like the others.
    config: Annotated[Config, tyro.conf.arg(name=""), tyro.conf.AvoidSubcommands]
    file: Annotated[Path | None, tyro.conf.arg(name="config", metavar="FILE")] = None
    """Settings from a JSON or YAML file: on top of a preset, or all of them, such as the config.json of another run."""
    paper: Switch = False
    """The preset at the sizes of MBPO's paper: 7 x (4 x 200), SAC 2 x 256, 400 rollouts per step."""
    run: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Directory of the run, by default a new one under runs/. When it holds a run of these settings, that goes on."""
    force: Switch = False
    """Continue the run in --run even if its settings differ."""
    processes: Annotated[Processes, tyro.conf.arg(name="")] = field(default_factory=Processes)


@dataclass(frozen=True)
class Early:
    """What decides on the defaults of all other flags."""

    world: str | None = None
    paper: Switch = False
    file: Annotated[Path | None, tyro.conf.arg(name="config")] = None


EARLY = ("world", "paper", "config")  # its flags


@dataclass(frozen=True)
class Own:
    """Parts of one's own, as flags beside those of their fields."""

    agent: str | None = None
    model: str | None = None

    def within(self, config: Config) -> Config:
        """Settings whose agent and model are these, where they are named."""
        return with_own(config, self.agent, self.model)


def run(arguments: list[str]) -> None:
    """Checks the settings, then trains."""
    command = shlex.join(["branchax", "train", *arguments])
    own, arguments = read_own(spelled_out(arguments, EARLY), "branchax train")
    named = arguments[0] if arguments and not arguments[0].startswith("-") else None
    early, _ = read_early(Early, arguments, "branchax train")
    if named is not None or early.file is not None:
        base = base_of(named, early)
    elif "-h" in arguments or "--help" in arguments:
        base = PRESETS["mbpo"]
    else:
        raise ConfigError(f"preset: missing; branchax train PRESET ..., where PRESET is one of {', '.join(PRESETS)}")
    base = own.within(base)
    options = parse(
        TrainOptions,
        arguments[1:] if named is not None else arguments,
        "branchax train PRESET",
        default=TrainOptions(base),
        known=flags(base),
        about=f"Trains an agent. PRESET is one of {', '.join(PRESETS)}; its settings are the defaults below."
        " --agent and --model MODULE:FUNCTION put an agent or a model of one's own in the preset's place.",
    )
    _say_of_ramp(base, options.config)
    new = options.run or _stem(named or Path(str(early.file)).stem, options.config)
    launch(options.config, new, options.force, command, options.processes, named=options.run is not None)


def _say_of_ramp(base: Config, config: Config) -> None:
    """Says that a horizon that was asked for is where a task's ramp begins."""
    now, before = config.rollout, base.rollout
    if now.horizon != before.horizon and now.horizon_end is not None and now.horizon_end == before.horizon_end:
        aside(
            f"rollout.horizon: rollouts of {now.horizon} steps become {now.horizon_end} steps long over env steps"
            f" {now.ramp[0]:,} to {now.ramp[1]:,}, as the preset has it there; {now.horizon} throughout:"
            " --rollout.horizon-end None --rollout.ramp 0 0"
        )


def base_of(named: str | None, early: Early) -> Config:
    """The settings that flags are applied to: those of a preset and then of a file on top of it, or of a file alone."""
    if named is None:
        assert early.file is not None
        if early.paper:
            raise ConfigError(f"paper: is for a preset, and {early.file} has its own sizes")
        if left_out := set(flat(to_dict(base := read(early.file)))) - set(flat(read_settings(early.file))):
            aside(
                f"config: {early.file} leaves out {len(left_out)} settings, which have the library's defaults; to put"
                f" it on top of a preset: branchax train PRESET --config {early.file}"
            )
        return base
    settings = {} if early.file is None else flat(read_settings(early.file))
    config = preset(named, early.world or settings.get("world"), early.paper)
    try:
        config = with_fields(config, settings)
        check_ranges(config, "")
    except ConfigError as error:
        raise ConfigError(f"config: {early.file}: {error}") from error
    return config


def flags(config: Config) -> list[str]:
    """What `branchax train` takes when a preset or a file has given these settings."""
    return [*flat(to_dict(config)), *(f.name for f in dataclasses.fields(Processes)), "config", "paper", "run", "force"]


def read_own(arguments: list[str], command: str) -> tuple[Own, list[str]]:
    """Parts of one's own, and the arguments without them."""
    if not any(a.partition("=")[0] in ("--agent", "--model") for a in arguments):
        return Own(), arguments
    own, rest = read_early(Own, arguments, command)
    return own, rest + [a for a in arguments if a in ("-h", "--help")]


def launch(
    config: Config,
    directory: Path,
    force: bool,
    command: str,
    processes: Processes = Processes(),  # noqa: B008
    named: bool = True,
) -> None:
    """Refuses what cannot work before JAX is loaded, then trains.

    `directory` is the one that was `named`, or what a new one's name begins with (`rundir.claimed`).
    """
    config = entry.prepare(config)
    rundir.find_modules(directory)
    check_found(config)
    distributed.check(processes, named=named)
    with contextlib.ExitStack() as held:
        directory = directory if named else held.enter_context(rundir.claimed(directory))
        changed = None
        if processes == Processes():  # of several, the first one looks
            changed = entry.enter([(directory, config)], force, held)
            print("loading JAX", flush=True)  # which takes seconds, in which nothing else could be said
        distributed.start(processes)
        _train(config, directory, force, command, changed)


def _train(config: Config, directory: Path, force: bool, command: str, changed: list[str] | None) -> None:
    """Trains, and says what is left when that fails."""
    from branchax.runs.checkpoint import CheckpointError
    from branchax.runs.loop import Run
    from branchax.runs.train import train_together

    try:
        train_together([Run(config, directory, command)], force=force, changed=changed)
    except CheckpointError:
        raise
    except RunError as error:
        from branchax.runs.progress import advised  # which loads NumPy

        saved = rundir.status(directory).get("last_good_step")
        then = "begins again: nothing was saved yet" if saved is None else f"goes on after {saved:,} env steps"
        error.add_note(f"{advised('resume', directory)} {then}")
        raise
    except OSError as error:
        raise RunError(f"cannot write to {directory}: {error}") from error


def _stem(name: str, config: Config) -> Path:
    """`runs/<world>_<preset>_s<seed>`."""
    last = f"-{config.seed + config.seeds - 1}" if config.seeds > 1 else ""
    return Path("runs") / f"{rundir.named(config.world)}_{name}_s{config.seed}{last}"
