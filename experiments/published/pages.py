"""From runs to results files, and from these to figures and pages."""

from __future__ import annotations

import sys

from branchax.errors import ConfigError
from experiments.published import curves, draw, plan, table
from experiments.published.plan import PLAN, Arm


def collect(again: bool = False) -> None:
    """Collects every run that there is, and shows all that was collected; `again` as in `curves.collect`."""
    known = {(arm.task, arm.method): arm for arm in PLAN}
    for directory in sorted(plan.RUNS.glob("*_*_s*")):
        task, _, rest = directory.name.partition("_")
        known.setdefault((task, rest.rpartition("_s")[0]), Arm(task, rest.rpartition("_s")[0]))
    for arm in known.values():
        if arm.task not in plan.TASKS:
            continue
        name = f"published --task {arm.task} --preset {arm.method} --seeds {{seeds}} --steps {{steps}}"
        try:
            curves.collect(arm, name, curves.path_of(arm), again=again)
        except ConfigError as error:  # the others are none the worse
            print(f"published: {error}", file=sys.stderr)
    show()


def show() -> None:
    """Draws each task that has results, and writes the tables."""
    tables = {}
    for task in plan.TASKS:
        if arms := curves.ours(task):
            others = curves.published(task)
            draw.draw(task, arms, others, plan.RESULTS / f"{task}.png")
            tables[task] = table.of_task(task, arms, others)
    plan.RESULTS.mkdir(parents=True, exist_ok=True)
    print("written to", table.write(tables))
