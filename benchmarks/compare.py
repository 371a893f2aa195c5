"""What moved between two runs of a benchmark beyond the noise, or of all benchmarks in two folders.

    make bench ARGS='--into runs/bench'
    python -m benchmarks.compare results/bench runs/bench

The ratio of the medians comes with a 95 % bootstrap interval over the timed calls of both. Something moved when the
whole interval lies outside [1 / TOLERANCE, TOLERANCE]: calls of one process spread less than processes do.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from branchax.errors import ConfigError

TOLERANCE = 1.2


class Change(NamedTuple):
    """How much faster a case is in the second file."""

    case: str
    ratio: float  # of rates, second to first
    low: float
    high: float
    same_work: bool = True  # whether both count the same operations

    @property
    def verdict(self) -> str:
        """`faster`, `slower`, `other work`, or nothing when it could be noise."""
        if not self.same_work:
            return "other work"
        return "faster" if self.low > TOLERANCE else "slower" if self.high < 1 / TOLERANCE else ""


def load(path: Path) -> dict[str, Any]:
    """What a benchmark wrote. Raises `ConfigError` for a file that is not that."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        rows = {json.dumps(row["settings"]): [float(x) for x in row["seconds"]] for row in found["rows"]}
        work = {json.dumps(row["settings"]): (row.get("work"), row.get("flops")) for row in found["rows"]}
        return {
            "benchmark": found["benchmark"],
            "rows": rows,
            "work": work,
            "environment": found["made"]["environment"],
        }
    except OSError as error:
        raise ConfigError(f"bench: cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"bench: {path} is not the result of a benchmark with timed calls") from error


def compare(first: dict[str, Any], second: dict[str, Any], draws: int = 2_000) -> list[Change]:
    """The cases that both files have. Raises `ConfigError` when they have none in common."""
    rng, changes = np.random.default_rng(0), []
    for case in [case for case in first["rows"] if case in second["rows"]]:
        before, after = (np.asarray(each["rows"][case]) for each in (first, second))
        again = [np.median(rng.choice(x, (draws, len(x))), 1) for x in (before, after)]
        low, high = np.quantile(again[0] / again[1], (0.025, 0.975))
        settings = ", ".join(f"{name} {value}" for name, value in json.loads(case).items())
        ratio, same = float(np.median(before) / np.median(after)), first["work"][case] == second["work"][case]
        changes.append(Change(settings, ratio, float(low), float(high), same))
    if not changes:
        names = f"{first['benchmark']} and {second['benchmark']}"
        raise ConfigError(f"bench: the files have no case in common ({names})")
    return changes


def pairs_of(first: Path, second: Path) -> list[tuple[Path, Path]]:
    """The two files, or those of the same name in two folders that have timed calls in both.

    Raises:
      ConfigError: for a folder beside a file, and for folders without such files.
    """
    if first.is_dir() != second.is_dir():
        raise ConfigError(f"bench: {first} and {second} have to be two files or two folders")
    if not first.is_dir():
        return [(first, second)]
    pairs = []
    for there in sorted(second.glob("*.json")):
        with contextlib.suppress(ConfigError):  # some benchmarks write other things
            load(first / there.name), load(there)
            pairs.append((first / there.name, there))
    if not pairs:
        raise ConfigError(f"bench: {first} and {second} have no results of a benchmark in common")
    return pairs


def show(first: dict[str, Any], second: dict[str, Any]) -> None:
    """Prints the cases of two results, and what else has changed."""
    changes = compare(first, second)
    table = Table("case", "B / A", "95 % interval", "", title=f"{second['benchmark']}: rates of B over those of A")
    for change in changes:
        table.add_row(change.case, f"{change.ratio:.2f}", f"{change.low:.2f} to {change.high:.2f}", change.verdict)
    console = Console()
    console.print(table)
    for name in ("device", "cpu", "jax", "commit"):
        before, after = (each["environment"].get(name) for each in (first, second))
        if before != after:
            console.print(f"{name}: {before} -> {after}", markup=False)
    moved = sum(bool(change.verdict) and change.same_work for change in changes)
    console.print(f"{moved} of {len(changes)} moved by more than a factor of {TOLERANCE}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints each case's ratio, and says which are more than noise. Returns the exit code."""
    parser = argparse.ArgumentParser("python -m benchmarks.compare", description="Rates of B over those of A.")
    parser.add_argument("first", type=Path, metavar="A", help="a file, or a folder: results/bench is the committed one")
    parser.add_argument("second", type=Path, metavar="B", help="the same")
    options = parser.parse_args(arguments)
    code = 0
    try:
        pairs = pairs_of(options.first, options.second)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    for first, second in pairs:
        try:
            show(load(first), load(second))
        except ConfigError as error:  # the other files are compared all the same
            print(error, file=sys.stderr)
            code = 2
    return code


if __name__ == "__main__":
    sys.exit(main())
