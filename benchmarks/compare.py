"""`python -m benchmarks.compare A.json B.json`: what moved between two runs of a benchmark beyond the noise.

The ratio of the medians comes with a 95 % bootstrap interval over the timed calls of both. Something moved when the
whole interval lies outside [1 / TOLERANCE, TOLERANCE]: calls of one process spread less than processes do.
"""

from __future__ import annotations

import argparse
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

    @property
    def verdict(self) -> str:
        """`faster`, `slower`, or nothing when it could be noise."""
        return "faster" if self.low > TOLERANCE else "slower" if self.high < 1 / TOLERANCE else ""


def load(path: Path) -> dict[str, Any]:
    """What a benchmark wrote. Raises `ConfigError` for a file that is not that."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        rows = {json.dumps(row["settings"]): [float(x) for x in row["seconds"]] for row in found["rows"]}
        return {"benchmark": found["benchmark"], "rows": rows, "environment": found["made"]["environment"]}
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
        changes.append(Change(settings, float(np.median(before) / np.median(after)), float(low), float(high)))
    if not changes:
        names = f"{first['benchmark']} and {second['benchmark']}"
        raise ConfigError(f"bench: the files have no case in common ({names})")
    return changes


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints each case's ratio, and says which are more than noise. Returns the exit code."""
    parser = argparse.ArgumentParser("python -m benchmarks.compare", description="Rates of B over those of A.")
    parser.add_argument("first", type=Path, metavar="A.json")
    parser.add_argument("second", type=Path, metavar="B.json")
    options = parser.parse_args(arguments)
    try:
        first, second = load(options.first), load(options.second)
        changes = compare(first, second)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    table = Table("case", "B / A", "95 % interval", "", title=f"{second['benchmark']}: rates of B over those of A")
    for change in changes:
        table.add_row(change.case, f"{change.ratio:.2f}", f"{change.low:.2f} to {change.high:.2f}", change.verdict)
    console = Console()
    console.print(table)
    for name in ("device", "cpu", "jax", "commit"):
        before, after = (each["environment"].get(name) for each in (first, second))
        if before != after:
            console.print(f"{name}: {before} -> {after}", markup=False)
    moved = sum(bool(change.verdict) for change in changes)
    console.print(f"{moved} of {len(changes)} moved by more than a factor of {TOLERANCE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
