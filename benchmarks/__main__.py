"""`python -m benchmarks [NAME ...] [--full] [--into DIR]`: measures, prints, writes JSON and figures.

Without a name, the parts of an epoch, five minutes on two cores; with `--full`, all that there is, in all sizes. Those
that are scripts of their own take none of the options.
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from benchmarks import harness

PARTS = ("collect", "fit", "imagine", "improve", "look_ahead")
NAMES = (*PARTS, "epoch", "seeds")
ALONE = (
    "gradients",
    "mbpo_paper",
    "cost",
    "linear",
    "steps",
    "limits",
    "fit_error",
    "compile",
    "first_steps",
    "newcomer",
)  # scripts of their own


def main() -> None:
    """Runs what was asked for."""
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join((*NAMES, *ALONE))}; default: {', '.join(PARTS)}"
    )
    parser.add_argument("--full", action="store_true", help="all sizes")
    parser.add_argument("--into", type=Path, default=harness.RESULTS, help="where the results go")
    parser.add_argument("--repeats", type=int, default=harness.REPEATS, help="timed calls of each case")
    options = parser.parse_args()
    if unknown := set(options.names) - {*NAMES, *ALONE}:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join((*NAMES, *ALONE))}")
    for name in options.names or (NAMES + ALONE if options.full else PARTS):
        module = importlib.import_module(f"benchmarks.{name}")
        if name in ALONE:
            module.main()
        else:
            ceiling = harness.ceilings()
            rows = []
            for case in module.cases(options.full):
                rows.append(harness.run(case, options.repeats))
                rate = f"{rows[-1]['per_second']:,.4g} {module.UNIT}/s"
                print(f"{name}: {harness.label(case.settings)}: {rate}", flush=True)
            print("written to", harness.publish(name, module.UNIT, rows, ceiling, options.into))


if __name__ == "__main__":
    main()
