"""Finds the runs to compare, groups them into curves, and labels the curves by what differs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from branchax.config import decisive
from branchax.errors import ConfigError
from branchax.runs import rundir, runlog
from branchax.runs.runlog import Row

DEPTH = 3  # how many levels of subfolders are searched for runs
TOLD_BY = 3  # curves are labelled by up to this many settings; if more differ, by the names of the directories
ANY = ("seed", "seeds", "env_steps")  # settings that may differ between the runs of one curve

Say = Callable[[str], Any]


class Group(NamedTuple):
    """Runs that differ only in their seeds and in how far they have come."""

    label: str
    world: str
    seeds: list[list[Row]]  # rows of each seed


class _Found(NamedTuple):
    """A group that is still being collected."""

    name: str  # of its first directory, without seed and number
    settings: dict[str, Any]
    rows: dict[int, tuple[Path, list[Row]]]  # seed -> (directory that the rows are from, rows)


def runs_in(paths: Sequence[Path], say: Say) -> list[Path]:
    """The run directories in `paths` and in their subfolders, each once; `say` is told of paths without a run.

    Raises:
      ConfigError: there is no run at all.
    """
    found: dict[Path, Path] = {}
    left_out: list[str] = []
    for path in paths:
        before, here = len(left_out), list(_below(path, left_out))
        found |= {run.resolve(): run for run in here if run.resolve() not in found}
        if not here and len(left_out) == before:
            left_out.append(f"run: {path} holds no run ({rundir.CONFIG} is missing)")
    if not found:
        raise ConfigError(left_out[0] if left_out else "run: none is named")
    for reason in dict.fromkeys(left_out):
        say(f"left out: {reason.removeprefix('run: ')}")
    return list(found.values())


def _below(path: Path, left_out: list[str], depth: int = DEPTH) -> Iterator[Path]:
    """The run at `path`, or those in the folders below it."""
    if (path / rundir.CONFIG).is_file():
        try:
            rundir.load_config(path)
        except ConfigError as error:  # of another version, or damaged
            left_out.append(f"run: {path}: {error}")
        else:
            yield path
    elif path.is_dir() and depth:
        for child in sorted(path.iterdir()):
            if child.is_dir() and not child.name.startswith("."):
                yield from _below(child, left_out, depth - 1)


def groups(run_dirs: Iterable[Path], say: Say = lambda text: None) -> list[Group]:
    """The runs in groups: those that differ only in their seeds (and in how far they have come) are one group.

    If two runs have the same seed, only the one that has come farther counts. `say` is told of that, and of seeds that
    end before others of their curve.
    """
    found: dict[str, _Found] = {}
    for directory in run_dirs:
        config = rundir.load_config(directory)
        settings = {name: value for name, value in decisive(config).items() if name not in ANY}
        name = re.sub(r"_s\d+(-\d+)?_\d+$", "", directory.resolve().name)
        group = found.setdefault(repr(settings), _Found(name, settings, {}))
        rows = runlog.read(directory / rundir.METRICS)
        for seed in sorted({row["seed"] for row in rows}):
            mine = [row for row in rows if row["seed"] == seed]
            if seed in group.rows:
                other, theirs = group.rows[seed]
                farther = _end(mine) > _end(theirs)
                say(
                    f"seed {seed} is there twice, in {other} and {directory}: it counts once, as in"
                    f" {directory if farther else other}"
                )
                if not farther:
                    continue
            group.rows[seed] = (directory, mine)
    for group in found.values():
        _say_short(group, say)
    labels = _labels(list(found.values()))
    return [
        Group(label, group.settings["world"], [rows for _, rows in group.rows.values()])
        for label, group in zip(labels, found.values(), strict=True)
    ]


def _end(rows: list[Row]) -> int:
    return runlog.clock(rows[-1])


def _say_short(group: _Found, say: Say) -> None:
    last = max((_end(rows) for _, rows in group.rows.values()), default=0)
    for seed, (directory, rows) in group.rows.items():
        if _end(rows) < last:
            say(f"{directory}: seed {seed} ends after {_end(rows):,} steps, others of its curve after {last:,}")


def _labels(found: list[_Found]) -> list[str]:
    """A label for each group: the settings that differ from the other groups of its world, if these are few.

    Otherwise the name of its directory. Where two groups have the same name, such settings are added.
    """
    labels = []
    for group in found:
        others = [other for other in found if other.settings["world"] == group.settings["world"]]
        told = told_apart(group.settings, [other.settings for other in others])
        if len(others) == 1 or told is None:
            alike = [other.settings for other in others if other.name == group.name]
            told = f"{group.name} {told_apart(group.settings, alike) or ''}".rstrip()
        labels.append(told)
    return labels


def told_apart(settings: dict[str, Any], others: Sequence[dict[str, Any]]) -> str | None:
    """The `settings` that differ among the `others`, which include these: `tau=0.05`. None if too many differ."""
    names = dict.fromkeys(name for other in others for name in other)
    differ = [name for name in names if len({repr(other.get(name)) for other in others}) > 1]
    if len(differ) > TOLD_BY:
        return None
    short = [name.rpartition(".")[2] for name in differ]
    shown = [last if short.count(last) == 1 else name for name, last in zip(differ, short, strict=True)]
    return ", ".join(f"{text}={_value(settings.get(name))}" for text, name in zip(shown, differ, strict=True))


def _value(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return " ".join(map(_value, value))
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
