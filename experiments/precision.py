"""What matrix products in TF32 do to returns: `mbpo` with `--precision highest` and `default`, 8 seeds each.

On a GPU `default` rounds the factors of a product to TF32, 10 bits of mantissa; on a CPU both are float32, and so there
is nothing to compare. Returns are means of the last three evaluations that both runs of a world have, as interquartile
means over seeds with 95 % bootstrap intervals: a run that was cut off shortens its world's comparison.

    python -m experiments.precision                       # on a GPU; 2 worlds x 2 precisions
    python -m experiments.precision brax/inverted_pendulum default    # one run, to have several side by side
    python -m experiments.precision --publish             # the table of what has been run
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from branchax.config import Config
from branchax.presets import preset
from branchax.runs.statistics import bootstrap, interquartile_mean
from experiments.harness import RUNS, curves, publish, run

SEEDS = 8
WORLDS = ("classic/pendulum", "brax/inverted_pendulum")
PRECISIONS = ("highest", "default")


def config_of(world: str, precision: str) -> Config:
    """`mbpo`, eight seeds of it, by the precision."""
    return replace(preset("mbpo", world), seeds=SEEDS, precision=precision, checkpoint_every=100)  # type: ignore[arg-type]


def directory_of(world: str, precision: str) -> str:
    return f"precision/{world.replace('/', '-')}_{precision}"


def score(directory: Path, until: float) -> dict[str, Any]:
    """Returns of the seeds after `until` real steps."""
    last = [float(np.mean(returns[steps <= until][-3:])) for steps, returns in curves(directory).values()]
    column = np.array(last)[:, None]
    low, high = bootstrap(interquartile_mean, column)
    return {"returns": last, "iqm": float(interquartile_mean(column)[0]), "interval": [float(low[0]), float(high[0])]}


def main() -> None:
    """Runs, scores, publishes."""
    arguments, publishes = sys.argv[1:], sys.argv[1:] == ["--publish"]
    pairs = [(w, p) for w in WORLDS for p in PRECISIONS if publishes or not arguments or [w, p] == arguments]
    if not pairs:
        raise SystemExit(
            f"{' '.join(arguments)}: name a world of {', '.join(WORLDS)} and one of {', '.join(PRECISIONS)}"
        )
    if not publishes:
        for world, precision in pairs:
            run(config_of(world, precision), directory_of(world, precision))
        if arguments:
            return
    directories = {pair: RUNS / directory_of(*pair) for pair in pairs}
    found = {}
    for world in WORLDS:
        until = min(float(steps[-1]) for p in PRECISIONS for steps, _ in curves(directories[world, p]).values())
        found[world] = {"env_steps": until} | {p: score(directories[world, p], until) for p in PRECISIONS}
    table = Table("world", *PRECISIONS, title="return by the precision of matrix products")
    for world, row in found.items():
        each = (row[p] for p in PRECISIONS)
        cells = [f"{s['iqm']:.1f} [{s['interval'][0]:.1f}, {s['interval'][1]:.1f}]" for s in each]
        table.add_row(f"{world}, {row['env_steps']:,.0f} steps", *cells)
    Console(width=120).print(table)
    configs = {f"{world} {p}": config_of(world, p) for world, p in pairs}
    print("written to", publish("precision", {"worlds": found}, configs, list(directories.values())))


if __name__ == "__main__":
    main()
