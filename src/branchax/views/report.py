"""One self-contained HTML page about one or several runs: it opens offline and loads nothing from a server."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from branchax.config import Config, flat, to_dict
from branchax.errors import ConfigError
from branchax.runs import overview as overviews
from branchax.runs import plots, rundir, runlog
from branchax.runs.plots import Group, Line
from branchax.runs.progress import elapsed

PAGE = Path(__file__).parent / "page"
SCRIPTS = ("charts.js", "player.js", "page.js", "theme.js")
TITLED = 2  # up to so many runs are named in the title
FIRST = (runlog.RETURN, runlog.MODEL_ERROR)  # the first metrics in the menu
NAMES = {  # clearer names for some metrics
    runlog.RETURN: "return of an episode",
    runlog.RETURN_SPREAD: "return of an episode: SD",
    runlog.LENGTH: "length of an episode",
    runlog.MODEL_ERROR: "model: holdout error, as a share of variance",
    "model/holdout_error_worst": "model: holdout error of the worst member",
    "model/ece": "model: calibration gap",
    "model/nll": "model: negative log-likelihood",
    "model/coverage_90": "model: share inside the middle 90 %",
    "policy/alpha": "policy: temperature",
    "critic/q_mean": "critic: mean value",
    "critic/q_max": "critic: largest value",
    "wall_s": "seconds, with compilation",
}
NO_CURVES = {"seed", "epoch", "env_steps", runlog.OFFLINE}  # axes and labels of curves


def report(
    run_dirs: Sequence[str | os.PathLike[str]],
    path: str | os.PathLike[str],
    diagnoses: bool = False,
    seed: int | None = None,
    say: Callable[[str], Any] = lambda text: None,
) -> None:
    """Writes the page: curves, evaluations, settings; with `diagnoses`, also a player of episodes and diagnostics.

    Args:
      run_dirs: directories of runs.
      path: the file to write.
      diagnoses: adds real and imagined episodes and diagnostics, which need the checkpoints and JAX and take minutes.
      seed: the seed to diagnose, by default each run's first.
      say: called with messages before slow steps.

    Raises:
      ConfigError: when a directory holds no run.
    """
    directories = [Path(d) for d in run_dirs]
    found = plots.groups(directories, say)
    runs = [_run(directory, diagnoses, seed, say) for directory in directories]
    offline = any(runlog.OFFLINE in row for group in found for rows in group.seeds for row in rows)
    curves = [_curves(group) for group in found]
    data = {
        "steps": "steps of training offline" if offline else "env steps",
        "summary": _summary(overviews.overview(directories)),
        "names": {name: _readable(name) for group in curves for name in group["metrics"]},
        "curves": curves,
        "runs": runs,
    }
    named = ", ".join(run["name"] for run in runs) if len(runs) <= TITLED else f"{len(runs)} runs"
    title = f"{', '.join(sorted({group.world for group in found}))} · {named}"
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".tmp")
    draft.write_text(page(title, data), encoding="utf-8")
    draft.replace(path)


def page(title: str, data: dict[str, Any], scripts: Sequence[str] = SCRIPTS, asks: bool = False) -> str:
    """The page's HTML, with style, scripts and data included. With `asks`, it may load more from its own server."""
    parts = {
        "TITLE": html.escape(title),
        "STYLE": (PAGE / "style.css").read_text(encoding="utf-8"),
        # `</` would end the script element, even inside a string.
        "DATA": json.dumps(data, allow_nan=False).replace("<", "\\u003c"),
        "SCRIPT": "\n".join((PAGE / name).read_text(encoding="utf-8") for name in scripts),
    }
    text = (PAGE / "report.html").read_text(encoding="utf-8")
    if asks:
        text = text.replace("default-src 'none';", "default-src 'none'; connect-src 'self';")
    head, rest = text.split("STYLE")
    between, tail = rest.split("DATA")
    before, after = tail.split("SCRIPT")
    head, between = (x.replace("TITLE", parts["TITLE"]) for x in (head, between))
    return head + parts["STYLE"] + between + parts["DATA"] + before + parts["SCRIPT"] + after


def _curves(group: Group) -> dict[str, Any]:
    names = {name for rows in group.seeds for row in rows for name in row} - NO_CURVES
    order = [name for name in FIRST if name in names] + sorted(names - set(FIRST))
    metrics = {}
    for name in order:
        parts = {"steps": plots.line(group, name), "seconds": plots.line(group, name, seconds=True)}
        metrics[name] = {over: _line(line) for over, line in parts.items() if line is not None}
    return {
        "label": group.label,
        "world": group.world,
        "metrics": {name: both for name, both in metrics.items() if both},
    }


def _readable(name: str) -> str:
    """A readable name of a metric: from `NAMES`, otherwise `critic/loss` -> `critic: loss`."""
    return NAMES.get(name, name.replace("/", ": ", 1).replace("_", " "))


def _summary(lines: list[overviews.Line]) -> list[dict[str, Any]]:
    """A row for each run. Settings are compared among runs of one kind; runs of other kinds differ in that."""
    kinds = [_kind(rundir.load_config(line.directory)) for line in lines]
    mixed = len(set(kinds)) > 1
    return [
        {
            "name": line.directory.resolve().name,
            "state": line.state,
            "steps": line.steps,
            "return": line.returned,
            "time": elapsed(line.seconds),
            "differs": ", ".join(filter(None, [kind if mixed else "", line.differs])),
        }
        for line, kind in zip(lines, kinds, strict=True)
    ]


def _kind(config: Config) -> str:
    return f"{config.agent.kind} {'without' if config.model_free else 'with'} a model"


def _line(line: Line) -> dict[str, Any]:
    one = len(line.seeds) == 1  # it equals the middle
    return runlog.plain(line._asdict() | ({"seeds": [[]]} if one else {}), digits=6)


def _run(directory: Path, diagnoses: bool, seed: int | None, say: Callable[[str], Any]) -> dict[str, Any]:
    config, diagnosis, note = rundir.load_config(directory), None, ""
    if diagnoses:
        from branchax.views.diagnose import diagnose

        try:
            diagnosis = diagnose(directory, seed, say)
        except ConfigError as error:  # no checkpoint yet: there are still curves
            note = str(error)
    command = directory / rundir.COMMAND
    environment = directory / rundir.ENVIRONMENT
    return {
        "name": directory.resolve().name,
        "config": flat(to_dict(config)),
        "environment": json.loads(environment.read_text(encoding="utf-8")) if environment.exists() else {},
        "command": command.read_text(encoding="utf-8").strip() if command.exists() else "",
        "evaluations": _evaluations(directory, config),
        "diagnosis": diagnosis,
        "note": note,
    }


def _evaluations(directory: Path, config: Config) -> list[dict[str, Any]]:
    """The run's own last evaluation of each seed, and what `branchax evaluate` measured, oldest first."""
    rows = [row for row in runlog.read(directory / rundir.METRICS) if row.get(runlog.RETURN) is not None]
    last = {row["seed"]: {**row, "episodes": config.eval_episodes} for row in rows}
    files = sorted((f for f in (directory / rundir.EVALUATIONS).glob("*.json") if f.stem.isdecimal()), key=_step)
    records = [record for f in files for record in json.loads(f.read_text(encoding="utf-8"))]
    return [
        {
            "seed": record["seed"],
            "steps": runlog.clock(record),
            "episodes": record["episodes"],
            "mean": record.get(runlog.RETURN),
            "std": record.get(runlog.RETURN_SPREAD),
            "length": record.get(runlog.LENGTH),
        }
        for record in [*last.values(), *records]
    ]


def _step(path: Path) -> int:
    return int(path.stem)
