"""The command line. It refuses bad settings before it loads JAX; the work itself is done in `branchax.host`."""

from __future__ import annotations

import argparse
import importlib.util
import io
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from branchax import __version__
from branchax.config import Config, ConfigError, check, nearest
from branchax.host import rundir
from branchax.presets import ABOUT, PRESETS, preset
from branchax.worlds.catalog import WORLDS

OK, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130  # exit codes

HELP = f"""\
branchax {__version__}: model-based reinforcement learning on short rollouts that branch off real states

  branchax train PRESET [--world NAME] [--seed N] [--seeds K] [--env-steps N] [--run DIR]
  branchax train --run DIR --resume [--env-steps N]
  branchax train PRESET --world NAME --dataset FILE
  branchax evaluate DIR [--episodes N]
  branchax dataset DIR FILE
  branchax lab gradients [--world NAME] [--dynamics known|learned|oracle] [--horizons 1,2,5,10]
  branchax list

`branchax list` shows the presets and the worlds; `branchax train --help` shows every setting.
Try: branchax train mbpo --world brax/inverted_pendulum"""


@dataclass(frozen=True)
class TrainOptions:
    """What `branchax train` takes beside the preset."""

    # The preset decides which kind of agent it is; its fields are then flags like the others.
    config: Annotated[Config, tyro.conf.arg(name=""), tyro.conf.AvoidSubcommands]
    run: Path | None = None
    """Directory of the run, new or empty; by default a new one under runs/."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Go on from the last checkpoint in --run; only --env-steps may then change, and only grow."""


@dataclass(frozen=True)
class EvaluateOptions:
    """What `branchax evaluate` takes."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """Directory of the run."""
    episodes: int | None = None
    """Episodes per seed, side by side; by default as many as the run's own evaluations had."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0, 1 for a run that failed, 2 for bad settings, 130 for Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    commands = {"train": _train, "evaluate": _evaluate, "dataset": _dataset, "lab": _lab, "list": _list}
    name = arguments[0] if arguments else "--help"
    try:
        if name in ("-h", "--help", "help"):
            print(HELP)
        elif name == "--version":
            print(__version__)
        elif name in commands:
            commands[name](arguments[1:])
        else:
            raise ConfigError(f"command: {name!r} is unknown{nearest(name, commands)}; known: {', '.join(commands)}")
    except ConfigError as error:
        print(f"branchax: {error}", file=sys.stderr)
        return REFUSED
    except SystemExit as stop:  # tyro has printed its help (0) or what it could not read (2)
        return stop.code if isinstance(stop.code, int) else REFUSED
    except KeyboardInterrupt:
        print("\nbranchax: interrupted; what was saved is good (--resume goes on from there)", file=sys.stderr)
        return INTERRUPTED
    return OK


def entry() -> None:
    """What the `branchax` command calls."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without Unicode shows `?` and goes on
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:  # `branchax list | head`
        os._exit(OK)
    if code == INTERRUPTED:
        os._exit(code)  # compilation in a thread cannot be interrupted, and would be waited for
    sys.exit(code)


def _train(arguments: list[str]) -> None:
    named = arguments[0] if arguments and not arguments[0].startswith("-") else None
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--world")
    early.add_argument("--run", type=Path)
    early.add_argument("--resume", action="store_true")
    known, _ = early.parse_known_args([a for a in arguments if a not in ("-h", "--help")])
    wants_help = "-h" in arguments or "--help" in arguments
    if known.resume and known.run is None:
        raise ConfigError("resume: name the run to go on with: --run DIR --resume")
    saved = rundir.load_config(known.run) if known.resume else None
    if named is not None:
        base = preset(named, known.world)
    elif saved is not None:
        base = saved
    elif wants_help:
        base = PRESETS["mbpo"]
    else:
        raise ConfigError(f"preset: missing; branchax train PRESET ..., where PRESET is one of {', '.join(PRESETS)}")
    options = tyro.cli(
        TrainOptions,
        default=TrainOptions(base),
        args=arguments[1:] if named is not None else arguments,
        prog="branchax train PRESET",
        description=f"Trains an agent. PRESET is one of {', '.join(PRESETS)}; its settings are the defaults below.",
    )
    config = options.config
    if config.dataset is not None and saved is None:
        from branchax.host import dataset

        config = dataset.sized(config)
    check(config)
    if saved is not None:
        rundir.check_resume(saved, config)
    _check_installed(config.world)
    directory = options.run or _next_directory(named or "run", config)
    rundir.prepare(directory, options.resume)

    from branchax.host.checkpoint import CheckpointError
    from branchax.host.run import WorldFault, train

    try:
        train(config, directory, options.resume, command=shlex.join(["branchax", "train", *arguments]))
    except (WorldFault, CheckpointError) as error:
        print(f"branchax: {error}", file=sys.stderr)
        print(f"branchax: the run stopped; the checkpoints in {directory}, if any, are good", file=sys.stderr)
        raise SystemExit(FAILED) from error


def _evaluate(arguments: list[str]) -> None:
    options = tyro.cli(
        EvaluateOptions, args=arguments, prog="branchax evaluate", description="Runs episodes with a saved policy."
    )
    if options.episodes is not None and options.episodes < 1:
        raise ConfigError(f"episodes: {options.episodes} is not possible; allowed: >= 1")
    _check_installed(rundir.load_config(options.run).world)

    from branchax.host import runlog
    from branchax.host.checkpoint import CheckpointError
    from branchax.host.evaluate import evaluate

    try:
        records = evaluate(options.run, options.episodes)
    except CheckpointError as error:
        print(f"branchax: {error}", file=sys.stderr)
        raise SystemExit(FAILED) from error
    for record in records:
        print(
            f"seed {record['seed']} after {record['env_steps']:,} env steps: return {record['eval/return_mean']:.1f}"
            f" ± {record['eval/return_std']:.1f} (SD), length {record['eval/length_mean']:.1f},"
            f" over {record['episodes']} episodes"
        )
    print(f"written to {options.run / rundir.EVALUATIONS / str(runlog.clock(records[0]))}.json")


def _dataset(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        "branchax dataset", description="Writes the real transitions that a run has collected, of all its seeds."
    )
    parser.add_argument("run", type=Path, metavar="DIR", help="directory of the run")
    parser.add_argument("file", type=Path, metavar="FILE", help="what to write, an .npz; it must not exist yet")
    options = parser.parse_args(arguments)
    if options.file.exists():
        raise ConfigError(f"dataset: {options.file} exists already; name another file")
    _check_installed(rundir.load_config(options.run).world)

    from branchax.host import dataset
    from branchax.host.checkpoint import CheckpointError
    from branchax.host.run import collected

    try:
        transitions = collected(options.run)
    except CheckpointError as error:
        print(f"branchax: {error}", file=sys.stderr)
        raise SystemExit(FAILED) from error
    dataset.save(options.file, transitions)
    print(f"{transitions.reward.shape[0]:,} transitions written to {options.file}")


def _lab(arguments: list[str]) -> None:
    from branchax.host.lab import options as lab  # which loads no JAX

    experiments, named = ("gradients",), [a for a in arguments[:1] if not a.startswith("-")]
    if named and named[0] not in experiments:
        raise ConfigError(f"lab: {named[0]!r} is unknown{nearest(named[0], experiments)}; known: gradients")
    if not named and not {"-h", "--help"} & set(arguments):
        raise ConfigError("lab: say what to measure: branchax lab gradients ...")
    estimators = "\n".join(f"  {name:<21} {about}" for name, about in lab.ESTIMATORS.items())
    options = tyro.cli(
        lab.LabOptions,
        args=arguments[len(named) :],
        prog="branchax lab gradients",
        description=f"Measures bias, variance, direction and cost of gradient estimators, by horizon.\n{estimators}",
    )
    lab.check(options)
    _check_installed(options.world)
    directory = lab.directory_of(options)
    with lab.prepared(directory):
        from branchax.host.lab.run import gradients

        try:
            gradients(options, directory, command=shlex.join(["branchax", "lab", *arguments]))
        except KeyboardInterrupt:
            print(f"\nbranchax: interrupted; {directory} has the horizons that were done, if any", file=sys.stderr)
            raise SystemExit(INTERRUPTED) from None


def _list(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser("branchax list", description="Shows the presets and the worlds.")
    parser.parse_args(arguments)
    print("presets (branchax train PRESET)")
    for name in PRESETS:
        print(f"  {name:<14} {ABOUT[name]}")
    brax = "installed" if _installed("brax") else "not installed: pip install brax==0.14.2"
    print(f"\nworlds (--world NAME); those of brax/ need brax, which is {brax}")
    for name, entry in WORLDS.items():
        notes = [f"not available: {entry.refused}"] if entry.refused else []
        notes += ["discrete actions"] if entry.discrete else []
        print(f"  {name:<31} {entry.about}{''.join(f' [{note}]' for note in notes)}")
    gymnasium = "any of Gymnasium's, such as gym/Hopper-v5, or module:Id of one's own that the module registers"
    print(f"  {'gym/<Id>':<31} {gymnasium}{'' if _installed('gymnasium') else ' [pip install branchax[gym]]'}")


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _check_installed(world: str) -> None:
    if world.startswith("brax/") and not _installed("brax"):
        raise ConfigError(f"world: {world!r} needs brax, which is not installed: pip install brax==0.14.2")
    if world.startswith("gym/"):
        from branchax.worlds import gymnasium_spec  # which loads no JAX

        gymnasium_spec(world.removeprefix("gym/"))


def _next_directory(name: str, config: Config) -> Path:
    """`runs/<world>_<preset>_s<seed>_<n>` with the first `n` that is free."""
    last = f"-{config.seed + config.seeds - 1}" if config.seeds > 1 else ""
    stem = f"{config.world.replace('/', '-')}_{name}_s{config.seed}{last}"
    number = 1
    while (directory := Path("runs") / f"{stem}_{number}").exists():
        number += 1
    return directory
