"""The tables, as Markdown, and the pages that they are in."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from experiments.published import curves
from experiments.published.curves import Ours, Published
from experiments.published.plan import COUNTERPART, RESULTS, TASKS

PAGE = Path("docs/reproduction.md")
EARLIER = " (its settings of then)"
BEGIN, END = "<!-- filled in by `make published` -->", "<!-- end -->"
HEADER = """# Beside published curves

Written by `make published`. Return of an episode as mean ± sample standard deviation over seeds, at a number of real
steps: of each seed the evaluation there (10 episodes, the policy's mode), read off between two neighbours where none is
at that very step, never the best so far. One evaluation may fall on a dip or a peak: the last column has the mean of
each seed's last five up to the step that all seeds have. In brackets: of how many seeds, where not all have got there.
Ours first, then published ones; [experiments/published/data](../../experiments/published/data/README.md) has their
sources. MBPO's published spread is no statistic of seeds and is left out. "Its settings of then": the preset was
another one when these seeds were run. Seconds are means over seeds, with compilation and evaluations; in brackets ours
as a share of the published counterpart's, which is of another machine.

"""


def of_task(task: str, arms: list[Ours], published: dict[str, Published]) -> str:
    """The returns and the clocks of a task, two tables."""
    most = max([arm.asked for arm in arms] + [300_000] * bool(published))
    marks = [mark for mark in TASKS[task].marks if mark <= most]
    head = [f"{mark // 1000}k" for mark in marks]
    returns = [_row(_name(arm), len(arm.seeds), [*(_ours_at(arm, mark) for mark in marks), _last(arm)]) for arm in arms]
    returns += [
        _row(method, c.seeds or "–", [*(_published_at(c, mark) for mark in marks), ""])
        for method, c in published.items()
    ]
    clocks = [
        _row(f"**`{arm.method}`**, {arm.where}", len(arm.seeds), [_clock(arm, mark, published) for mark in marks])
        for arm in arms
    ]
    clocks += [
        _row(method, c.seeds or "–", [_seconds(_value(c, mark, c.wall_s)) for mark in marks])
        for method, c in published.items()
        if not np.isnan(c.wall_s).all()
    ]
    return (
        "\n".join([*_table("return after", [*head, "last five"], returns), "", *_table("seconds until", head, clocks)])
        + "\n"
    )


def _table(what: str, head: list[str], rows: list[str]) -> list[str]:
    return [f"| {what} | seeds | {' | '.join(head)} |", f"|---|---|{'---|' * len(head)}", *rows]


def _row(name: str, seeds: int | str, cells: list[str]) -> str:
    return f"| {name} | {seeds} | {' | '.join(cells)} |"


def _name(arm: Ours) -> str:
    partly = "" if arm.reached >= arm.asked else f" (so far, to {arm.reached:,} of {arm.asked:,})"
    return f"**`{arm.method}`**{partly}{EARLIER * arm.earlier}"


def _ours_at(arm: Ours, mark: int) -> str:
    values = curves.all_at(arm, mark)
    return f"{_mean(values)}{_fewer(arm, values)}" if values.size else ""


def _fewer(arm: Ours, values: np.ndarray) -> str:
    """How many seeds have got there, unless all have."""
    return f" ({values.size})" if values.size < len(arm.seeds) else ""


def _last(arm: Ours) -> str:
    return _mean(np.array([c.returns[c.steps <= arm.reached][-5:].mean() for c in arm.seeds.values()]))


def _mean(values: np.ndarray) -> str:
    spread = f" ± {values.std(ddof=1):,.0f}" if values.size > 1 else ""
    return f"{values.mean():,.0f}{spread}"


def _value(curve: Published, mark: int, column: np.ndarray) -> float:
    """A published number at a step; NaN where none is given."""
    here = np.flatnonzero(curve.steps == mark)
    return float(column[here[0]]) if here.size else np.nan


def _published_at(curve: Published, mark: int) -> str:
    mean, sd = _value(curve, mark, curve.mean), _value(curve, mark, curve.sd)
    if np.isnan(mean):
        return ""
    return f"{mean:,.0f}" if np.isnan(sd) else f"{mean:,.0f} ± {sd:,.0f}"


def _seconds(value: float) -> str:
    return "" if np.isnan(value) else f"{value:,.0f}"


def _clock(arm: Ours, mark: int, published: dict[str, Published]) -> str:
    values = curves.all_at(arm, mark, "wall_s")
    if not values.size:
        return ""
    other = published.get(COUNTERPART.get(arm.method.split("+")[0], ""))
    theirs = np.nan if other is None else _value(other, mark, other.wall_s)
    share = "" if np.isnan(theirs) else f" (× {values.mean() / theirs:.2f})"
    return f"{values.mean():,.0f}{_fewer(arm, values)}{share}"


def write(tables: dict[str, str], pictures: Path = RESULTS, page: Path = PAGE) -> Path:
    """Writes the tables beside the figures, and into the documentation's page; returns the first of the two."""
    here = pictures / "README.md"
    here.write_text(HEADER + _sections(tables, "", "##"), encoding="utf-8")
    if page.exists():
        text = page.read_text(encoding="utf-8")
        filled = f"{BEGIN}\n\n{_sections(tables, '../results/published/', '###')}\n{END}"
        text = re.sub(f"{re.escape(BEGIN)}.*{re.escape(END)}", lambda _: filled, text, flags=re.DOTALL)
        page.write_text(text, encoding="utf-8")
    return here


def _sections(tables: dict[str, str], folder: str, level: str) -> str:
    if not tables:
        return "Nothing has been run yet.\n"
    parts = [f"{level} {task}\n\n![{task}]({folder}{task}.png)\n\n{table}" for task, table in tables.items()]
    return "\n".join(parts)
