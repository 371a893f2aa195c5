"""The command line; `experiments.published` has what it does."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from branchax.commands.base import FAILED, OK
from branchax.commands.flags import Switch, parse
from branchax.errors import ConfigError
from branchax.presets import PRESETS
from experiments import published
from experiments.command import answer, leave
from experiments.harness import read_results
from experiments.published import curves, pages, plan, runs
from experiments.published.curves import DONE, RUNNING, STALE
from experiments.published.plan import PLAN, REPORTED, Arm


@dataclass(frozen=True)
class Options:
    """What the command takes."""

    task: str | None = None
    """As the plan names them, such as Hopper."""
    preset: str | None = None
    """Any preset, or preset+tf32."""
    seeds: int | None = None
    """How many."""
    steps: int | None = None
    """Real steps of each."""
    every: int | None = None
    """Real steps between evaluations; by default as the task has it."""
    first: int = REPORTED
    """The first seed; those below 100 are not published."""
    jobs: int = 1
    """Seeds at once on a CPU, each on a core of its own."""
    again: Switch = False
    """Train also what the results hold from runs that are not here."""
    list: Switch = False
    """Only say what is done and missing."""
    collect: Switch = False
    """Only draw and write what has been run so far."""
    check: Switch = False
    """A short fresh run against the committed curve."""
    seed: int | None = None
    """Run this seed alone, in this process."""
    together: int = 1
    """With --seed: so many from it on, in one program."""


def arms_of(options: Options) -> list[Arm]:
    """The arms that are meant: one if a task and a preset are named, else those of the plan. Raises `ConfigError`."""
    if options.task is not None:
        plan.check_task(options.task)
    if options.task and options.preset:
        planned = next((a for a in PLAN if (a.task, a.method) == (options.task, options.preset)), None)
        arm = planned or Arm(options.task, options.preset)
        found = [arm._replace(seeds=options.seeds or arm.seeds, steps=options.steps or arm.steps)]
        plan.config_of(found[0])  # objects to what does not exist
        return found
    if options.seeds or options.steps:
        raise ConfigError("seeds, steps: not possible for the whole plan; name a task and a preset")
    arms = [a for a in PLAN if options.task in (None, a.task) and options.preset in (None, a.method)]
    if not arms:
        raise ConfigError(f"preset: nothing planned has {options.preset!r}; name a task too")
    return arms


def states(arm: Arm, first: int = REPORTED, again: bool = False) -> dict[int, tuple[str, int]]:
    """How each seed of an arm is doing, and how far it is; all are stale where the preset is another one by now.

    By the runs that are here and by the results; `again`: by the runs alone.
    """
    there, kept = curves.found(arm), read_results(curves.path_of(arm))
    if possible(arm):
        config = plan.config_of(arm)
        if curves.differences(arm, curves.path_of(arm), config):
            return {int(seed): (STALE, entry["env_steps"][-1]) for seed, entry in kept["seeds"].items()}
        kept = {} if again else curves.kept_of(arm, config)
    return {seed: curves.state_of(arm, seed, there, kept) for seed in range(first, first + arm.seeds)}


def possible(arm: Arm) -> bool:
    """Whether the preset exists; a plan may be ahead of them."""
    return arm.method.split("+")[0] in PRESETS


def listing(arms: list[Arm], first: int = REPORTED, again: bool = False) -> Table:
    """A line an arm, with the state of each seed."""
    table = Table("task", "preset", "env steps", f"seeds from {first} on", box=None, header_style="bold")
    for arm in arms:
        each = [
            f"{state} at {reached:,}" if state not in (DONE,) and reached else state
            for state, reached in states(arm, first, again).values()
        ]
        table.add_row(
            arm.task,
            arm.method,
            f"{arm.env_steps:,}",
            ", ".join(each) if possible(arm) else "there is no such preset yet",
        )
    return table


def go_on(arm: Arm, options: Options) -> int:
    """Runs what is missing of an arm; returns the exit code."""
    import jax

    curves.check_same(arm, curves.path_of(arm), plan.config_of(arm))  # before hours are spent
    each = {seed: state for seed, (state, _) in states(arm, options.first, options.again).items()}
    accelerated = jax.default_backend() != "cpu"
    parts = runs.missing(each, curves.found(arm), accelerated)
    if not accelerated:
        return runs.run_processes(arm, parts, options.jobs, options.every)
    for first, count in parts:
        runs.train_seeds(arm, first, count, options.every)
    return OK


def work(options: Options) -> int:
    """Does what was asked for; returns the exit code."""
    if options.check:
        from experiments.published import check

        named = bool(options.task or options.preset)
        return OK if check.check(*([tuple(arms_of(options))] if named else [])) else FAILED
    if options.seed is not None:
        (arm,) = arms_of(options)
        core = runs.take_core()
        runs.train_seeds(arm, options.seed, options.together, options.every)
        del core
        return OK
    if options.collect:
        pages.collect(options.again)
        return OK
    arms = arms_of(options)
    Console().print(listing(arms, options.first, options.again))
    for arm in arms:
        if possible(arm) and (differs := curves.differences(arm, curves.path_of(arm), plan.config_of(arm))):
            print(f"stale: {curves.path_of(arm)} was made with other settings: {'; '.join(differs)}")
            print("  move it and its runs away to begin anew")
    if options.list:
        return OK
    # Where one arm is named, `go_on` says what makes a stale one so.
    over = (DONE, RUNNING) if options.task and options.preset else (DONE, RUNNING, STALE)
    left = [
        a
        for a in arms
        if possible(a) and any(s not in over for s, _ in states(a, options.first, options.again).values())
    ]
    if not left:
        print("nothing is missing")
        elsewhere = {s for a in arms for s, _ in states(a, options.first, True).values()} - {DONE, RUNNING, STALE}
        if elsewhere:
            print("  some of it was run elsewhere; --again trains it here")
        pages.collect(options.again)
        return OK
    arm = left[0]
    print(f"going on with {arm.task} {arm.method}, {arm.env_steps:,} env steps; Ctrl-C saves", flush=True)
    try:
        code = go_on(arm, options)
    finally:
        pages.collect(options.again)
    return code


def main(arguments: list[str]) -> int:
    """Reads the flags; returns the exit code."""
    return answer(
        "published", lambda: work(parse(Options, arguments, "python -m experiments.published", about=published.__doc__))
    )


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
