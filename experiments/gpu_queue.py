"""What waits for an accelerator: a queue of measurements, each of which goes on where it was.

    python -m experiments.gpu_queue --list                # the queue: done, partial, missing
    python -m experiments.gpu_queue [--minutes 9]         # the next missing item, and those after it if there is time
    python -m experiments.gpu_queue --item hopper_dhmbpo  # a certain one
    python -m experiments.gpu_queue --workers 8           # eight processes step the environments
    python -m experiments.gpu_queue --here                # on a CPU, too

After `--minutes`, compilation included, a run is asked to end: it saves, and goes on next time; until then each minute
brings what there is into `results/gpu/<item>.json`. Curves there are drawn by `experiments.published` beside the
others. Runs lie in `runs/gpu/`: whoever borrows a machine for a while takes that folder along.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from branchax.commands.base import OK
from branchax.commands.flags import Switch, parse
from branchax.errors import ConfigError, nearest
from branchax.lab.measure import cores
from branchax.presets import PRESETS
from branchax.runs import rundir, runlog
from branchax.runs.signals import Preempted
from experiments.command import answer, leave
from experiments.harness import publish, read_results
from experiments.published import curves, pages, plan, runs
from experiments.published.plan import REPORTED, Arm

RUNS, RESULTS = Path("runs/gpu"), curves.GPU_RESULTS
MINUTES = 9.0
LEAST = 3.0  # minutes that must be left to begin another item: compilation takes one of them
EVERY = 60.0  # seconds between two times that what there is is written


@dataclass(frozen=True)
class Options:
    """What the command takes."""

    list: Switch = False
    """Only show the queue."""
    item: str | None = None
    """This one, and not the next."""
    minutes: float = MINUTES
    """After which a run is asked to save and end."""
    workers: int | None = None
    """Processes that step the environments of all seeds; 0: the run's own; by default one for each core."""
    here: Switch = False
    """On whatever there is, a CPU too."""


class Item(NamedTuple):
    """Something to measure."""

    name: str
    about: str
    arm: Arm
    side_by_side: tuple[int, ...] = ()  # how many seeds, for a rate; () for a curve


ITEMS = (
    Item("rate_dhmbpo", "updates per second over 1, 8, 32, 64 seeds", Arm("Hopper", "dhmbpo"), (1, 8, 32, 64)),
    Item("hopper_dhmbpo", "100,000 steps, 8 seeds", Arm("Hopper", "dhmbpo", 8, 100_000)),
    Item("walker2d_dhmbpo", "100,000 steps, 8 seeds", Arm("Walker2d", "dhmbpo", 8, 100_000)),
    Item("ant_dhmbpo", "100,000 steps, 8 seeds", Arm("Ant", "dhmbpo", 8, 100_000)),
    Item("halfcheetah_dhmbpo", "100,000 steps, 8 seeds", Arm("HalfCheetah", "dhmbpo", 8, 100_000)),
    Item("hopper_mbpo_paper", "100,000 steps, 8 seeds", Arm("Hopper", "mbpo_paper+explore", 8, 100_000)),
    Item("hopper_dhmbpo_tf32", "TF32 against hopper_dhmbpo, 8 seeds", Arm("Hopper", "dhmbpo+tf32", 8, 100_000)),
    Item("rate_dhmbpo_tf32", "TF32 against rate_dhmbpo", Arm("Hopper", "dhmbpo+tf32"), (1, 8, 32, 64)),
    Item(
        "hopper_mbpo_paper_layer_norm",
        "LayerNorm in the critics against hopper_mbpo_paper, 8 seeds",
        Arm("Hopper", "mbpo_paper+explore+layer_norm", 8, 100_000),
    ),
)
LOOKED_AT_EVERY = 5_000  # real steps between evaluations, and between checkpoints: half a minute or so
EPOCHS = 4  # of the runs that a rate is measured in
_writing = threading.Lock()


def path_of(item: Item) -> Path:
    """The results file of an item."""
    return RESULTS / f"{item.name}.json"


def state_of(item: Item) -> str:
    """Done, partial, missing, stale (its preset is another one by now), or why it cannot be run."""
    if item.arm.method.split("+")[0] not in PRESETS:
        return f"there is no preset {item.arm.method.split('+')[0]} yet"
    data = read_results(path_of(item))
    if curves.differences(item.arm, path_of(item), plan.config_of(item.arm)):
        return curves.STALE
    if data.get("complete"):
        return curves.DONE
    return curves.PARTIAL if data or any(folder_of(item).glob("*")) else curves.MISSING


def folder_of(item: Item) -> Path:
    """Where the runs of an item lie."""
    return RUNS / item.name


def run(item: Item, workers: int | None = None) -> None:
    """Runs an item to its end, or until it is asked to stop (`Preempted`); `workers` as in `workers_for`."""
    curves.check_same(item.arm, path_of(item), plan.config_of(item.arm))  # before its minutes are spent
    measure = measure_curve if not item.side_by_side else measure_rate
    over = threading.Event()
    thread = threading.Thread(target=_keep, args=(item, over), daemon=True)
    thread.start()
    try:
        measure(item, workers)
    finally:
        over.set()
        thread.join()
        collect(item)


def _keep(item: Item, over: threading.Event) -> None:
    """Writes what there is each minute."""
    while not over.wait(EVERY):
        collect(item)


def collect(item: Item) -> None:
    """Writes what the runs of an item hold so far."""
    gather: Callable[[Item], Any] = gather_rates if item.side_by_side else gather_curve
    with _writing:
        gather(item)


def workers_for(seeds: int, workers: int | None) -> int:
    """How many processes step the environments of so many seeds: `workers`, or one for each core, but no more than
    seeds; 0, which is the run's own process, where that would be one."""
    most = min(seeds, cores())
    return (0 if most == 1 else most) if workers is None else workers


def measure_curve(item: Item, workers: int | None) -> None:
    """All seeds in one program, evaluated and saved less often than on a CPU.

    Episodes are stepped on the host, and ten of each seed take longer than 1,000 steps of training; checkpoints hold
    the replay buffers of all seeds.
    """
    seeds, watched = item.arm.seeds, LOOKED_AT_EVERY
    runs.train_seeds(item.arm, REPORTED, seeds, watched, folder_of(item), watched, workers_for(seeds, workers))


def gather_curve(item: Item) -> None:
    curves.collect(item.arm, f"gpu_queue --item {item.name}", path_of(item), folder_of(item))


def measure_rate(item: Item, workers: int | None) -> None:
    """A few epochs with each number of seeds; what was measured already is done at once."""
    from branchax.runs.train import train

    for count in item.side_by_side:
        config = plan.config_of(item.arm, REPORTED, count)
        steps = config.explore_steps + EPOCHS * config.epoch_steps
        config = replace(config, env_steps=steps, eval_every=EPOCHS, eval_episodes=1)
        config = replace(config, env_workers=workers_for(count, workers))
        train(config, plan.directory_of(item.arm, REPORTED, count, folder_of(item)))
        collect(item)


def gather_rates(item: Item) -> None:
    """Updates and env steps per second of all seeds together, after the first epoch."""
    found, configs, made = {}, {}, []
    for each in curves.found(item.arm, folder_of(item)):
        rows = [row for row in runlog.read(each.directory / rundir.METRICS) if row["seed"] == each.first]
        if rate := rate_of(rows, each.count):
            found[str(each.count)] = rate
            configs[item.arm.method] = rundir.load_config(each.directory)
            made.append(each.directory)
    if found:
        complete = all(str(count) in found for count in item.side_by_side)
        ordered = dict(sorted(found.items(), key=lambda pair: int(pair[0])))
        data = {"item": item.name, "complete": complete, "seeds_at_once": ordered}
        publish(f"gpu_queue --item {item.name}", data, configs, made, path=path_of(item))


def rate_of(rows: list[dict[str, Any]], seeds: int) -> dict[str, float] | None:
    """The rates of `seeds` seeds together, by the median epoch after the first; None until all epochs are there.

    The median, because a run that was stopped compiles again between two of its epochs.
    """
    trained = [row for row in rows if row["epoch"] > 0]
    if len(trained) < EPOCHS:
        return None
    wall_s, steps, updates = (
        float(np.median(np.diff([row[name] for row in trained]))) for name in ("wall_s", "env_steps", "updates")
    )
    return {
        "updates_per_s": seeds * updates / wall_s,
        "env_steps_per_s": seeds * steps / wall_s,
        "seconds_per_1000_env_steps": 1_000 * wall_s / steps,
        "first_epoch_at_s": trained[0]["wall_s"],
    }


def calls_of(item: Item, minutes: float = MINUTES) -> str:
    """How many calls an item takes, by the rate that was measured with as many seeds; empty when it was not."""
    names = item.arm.method.replace("+", "_"), item.arm.method.split("+")[0]
    found = (read_results(RESULTS / f"rate_{name}.json") for name in names)
    rate = next(filter(None, found), {}).get("seeds_at_once", {})
    rate = rate.get(str(item.arm.seeds))
    if rate is None or item.side_by_side:
        return ""
    training = item.arm.env_steps / 1_000 * rate["seconds_per_1000_env_steps"]
    each = max(60.0 * minutes - rate["first_epoch_at_s"], 1.0)
    return f"about {-(-training // each):.0f} of {minutes:g} minutes"


def listing(items: tuple[Item, ...], minutes: float) -> Table:
    """A line an item."""
    table = Table("item", "what", "state", "reached", "calls", box=None, header_style="bold")
    for item in items:
        data = read_results(path_of(item))
        seeds = data.get("seeds", {}).values()
        reached = f"{min(x['env_steps'][-1] for x in seeds):,}" if seeds else ""
        table.add_row(item.name, item.about, state_of(item), reached, calls_of(item, minutes))
    return table


def work(options: Options) -> int:
    """Does what was asked for; returns the exit code."""
    names = [item.name for item in ITEMS]
    if options.item and options.item not in names:
        raise ConfigError(
            f"item: {options.item!r} is unknown{nearest(options.item, names)}; allowed: {', '.join(names)}"
        )
    if options.list:
        Console().print(listing(ITEMS, options.minutes))
        return OK
    import jax

    if jax.default_backend() == "cpu" and not options.here:
        raise ConfigError("device: cpu is not what this is for; allowed with --here")
    end = time.monotonic() + 60 * options.minutes
    wanted = [item for item in ITEMS if options.item in (None, item.name)]
    # Where one is named, `run` says what makes a stale one so.
    left_to_do = (curves.PARTIAL, curves.MISSING, *([curves.STALE] if options.item else []))
    for i, item in enumerate([item for item in wanted if state_of(item) in left_to_do]):
        left = (end - time.monotonic()) / 60
        if i and left < LEAST:
            break
        print(f"{item.name}: {item.about}; {left:.1f} minutes left", flush=True)
        try:
            with runs.limited(left):
                run(item, options.workers)
        except Preempted as error:
            print(f"gpu_queue: {error}; the same command goes on")
            return OK
        finally:
            pages.show()
    Console().print(listing(ITEMS, options.minutes))
    return OK


def main(arguments: list[str]) -> int:
    """Reads the flags; returns the exit code."""
    return answer(
        "gpu_queue", lambda: work(parse(Options, arguments, "python -m experiments.gpu_queue", about=__doc__))
    )


if __name__ == "__main__":
    leave(main(sys.argv[1:]), at_once=True)
