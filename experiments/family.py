"""The family on equal terms: every preset on four worlds, five seeds, the same real steps and updates per step.

Off-policy presets take their own settings but for the budget: 1,000 real steps, 100 of them at random, 10 updates per
step after that, a fit every 100 steps. On-policy presets in a model fit at 550 and at 1,000 steps, planners at 100 and
550; model-free on-policy ones learn on 250 steps at a time, 1,010 in all. No preset was tuned for this table, and 1,000
steps are few: it says how quickly each starts to learn, not how well it ends.

Scores are those of the last evaluation (16 episodes), as interquartile means over seeds (the middle three of five) with
95 % bootstrap intervals; seconds are of processor time, of whole runs of five seeds with compilation
(by the clock where a run was cut off and went on, or is older than this measurement).

    python -m experiments.family                     # what results/family.json does not hold, with today's settings
    python -m experiments.family --again             # all of it, whatever that file holds
    python -m experiments.family classic/pendulum    # one world, to run several side by side
    python -m experiments.family --publish           # the table and the figure of what has been run
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from branchax.checks import check
from branchax.config import Config, decisive, flat
from branchax.errors import ConfigError
from branchax.presets import PRESETS, preset
from branchax.runs import rundir, runlog
from branchax.runs.statistics import bootstrap, interquartile_mean
from experiments.harness import RESULTS, RUNS, made_with, publish, read_results, run

SEEDS, STEPS = 5, 1_000
PROCESSOR = "processor.json"
# What a random policy returns, and what counts as solved: the two ends of the figure's scale.
WORLDS = {
    "classic/pendulum": (-1_200.0, -150.0),
    "classic/cartpole": (20.0, 500.0),
    "classic/cartpole_discrete": (20.0, 500.0),
    "brax/inverted_pendulum": (20.0, 1_000.0),
}
# The paper's sizes take minutes a seed here; tables need a world of few states.
LEFT_OUT = ("mbpo_paper", "dyna_q", "q_learning")
HEADER = f"""# The family on equal terms

`python -m experiments.family`: return of the last evaluation (16 episodes) after {STEPS:,} real steps, as the
interquartile mean of {SEEDS} seeds [95 % bootstrap interval], and the seconds of processor time that these took with
compilation (*: by the clock, where processor time was not measured; †: the preset has changed since). Best first, by
mean place. Updates are 10 for each real step off-policy and what a collection brings on-policy and for planners;
`family.json` has every config, and the commit, versions and device of every run. Left out: `mbpo_paper` (its sizes),
the tabular `dyna_q` and `q_learning`.

"""


def config_of(name: str, world: str) -> Config | None:
    """A preset with the budget of the table; None where it cannot act in the world or differentiate it."""
    config = replace(preset(name, world), seeds=SEEDS, env_steps=STEPS, eval_every=1, checkpoint_every=1_000)
    if config.on_policy and config.model_free:
        config = replace(config, explore_steps=10, epoch_steps=250, collect_steps=250, parallel_worlds=10)
        config = replace(config, updates_per_step=1 / 250)
    elif config.on_policy or config.plans:
        config = replace(config, explore_steps=100, epoch_steps=450, collect_steps=450)
        config = replace(config, updates_per_step=config.updates_per_step * PRESETS[name].collect_steps / 450)
    else:
        config = replace(config, explore_steps=100, epoch_steps=100, updates_per_step=10.0)
    try:
        check(config)
    except ConfigError:
        return None
    return config


def directory_of(name: str, world: str) -> str:
    return f"family/{world.replace('/', '-')}_{name}"


def run_all(worlds: list[str], before: dict[str, Any]) -> None:
    """Every run that is missing."""
    for world in worlds:
        for name in PRESETS:
            config = None if name in LEFT_OUT else config_of(name, world)
            if config is not None and known(name, world, before) is None:
                directory = RUNS / directory_of(name, world)
                whole, start = not directory.exists(), time.process_time()
                run(config, directory_of(name, world))
                if whole:
                    rundir.write_json(directory / PROCESSOR, {"processor_s": round(time.process_time() - start, 1)})


def known(name: str, world: str, before: dict[str, Any]) -> dict[str, Any] | None:
    """The score that was published for the same settings; None if there is none."""
    config, old = config_of(name, world), before.get("configs", {}).get(f"{world} {name}")
    if config is None or old is None:
        return None
    now, then = json.loads(json.dumps(decisive(config))), flat(old)
    same = all(now[key] == then.get(key, now[key]) for key in now if key not in ("seed", "seeds"))
    return find_published(name, world, before) if same else None


def find_published(name: str, world: str, before: dict[str, Any]) -> dict[str, Any] | None:
    """The score that was published, with whatever settings; None if there is none."""
    return before.get("worlds", {}).get(world, {}).get(name)


def find(name: str, world: str, before: dict[str, Any]) -> dict[str, Any] | None:
    """The score of a run, or else the one that was published, which is `stale` if the preset has changed since."""
    config, directory = config_of(name, world), RUNS / directory_of(name, world)
    fresh = config is not None and directory.exists() and made_with(directory, config)
    if (now := (score(name, world) if fresh else None) or known(name, world, before)) is not None:
        return now | {"stale": False}
    then = find_published(name, world, before)
    return None if then is None else then | {"stale": True}


def score(name: str, world: str) -> dict[str, Any] | None:
    """Last returns of the seeds, their interquartile mean and its interval; None unless they ran to the end."""
    rows = runlog.read(RUNS / directory_of(name, world) / rundir.METRICS)[-SEEDS:]
    if len(rows) < SEEDS or any(row["env_steps"] < STEPS for row in rows):
        return None
    returns = [row[runlog.RETURN] for row in rows]
    column = np.array(returns)[:, None]
    interval = [float(edge[0]) for edge in bootstrap(interquartile_mean, column)]
    file = RUNS / directory_of(name, world) / PROCESSOR
    return {
        "returns": returns,
        "iqm": float(interquartile_mean(column)[0]),
        "interval": interval,
        "seconds": rows[-1]["wall_s"],
        **(json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}),
    }


def draw(found: dict[str, dict[str, Any]], path: Path) -> None:
    """One panel a world: interquartile mean and interval of each preset, best at the top."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    found = {world: scores for world, scores in found.items() if scores}
    rows, columns = -(-len(found) // 2), min(len(found), 2)
    most = max(len(scores) for scores in found.values())
    figure = Figure(figsize=(2.0 + 4.0 * columns, 0.9 + rows * (0.8 + 0.16 * most)), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels[len(found) :]:
        axes.set_visible(False)
    for axes, (world, scores) in zip(panels, found.items(), strict=False):
        order = sorted(scores, key=lambda name: scores[name]["iqm"])
        for i, name in enumerate(order):
            s = scores[name]
            colour = "#D55E00" if model_free(name) else "#009E73" if in_simulator(name) else "#0072B2"
            axes.plot(s["interval"], [i, i], color=colour, linewidth=2, alpha=0.5, solid_capstyle="butt")
            axes.plot(s["returns"], [i] * len(s["returns"]), ".", color=colour, markersize=3, alpha=0.5)
            axes.plot(s["iqm"], i, "o", color=colour, markersize=5)
        axes.set_yticks(range(len(order)), order, fontsize=7)
        axes.axvline(WORLDS[world][1], color="0.7", linewidth=0.8, linestyle=":")
        axes.set_title(world, fontsize=10, loc="left")
        axes.set_xlabel(f"return after {STEPS:,} env steps", fontsize=8)
        axes.tick_params(axis="x", labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(
        "interquartile mean of 5 seeds, 95 % bootstrap interval, seeds as dots\n"
        "blue: a learned model, green: the simulator as the model, orange: none; dotted: solved",
        fontsize=9,
    )
    figure.savefig(path)


def as_table(found: dict[str, dict[str, Any]]) -> str:
    """Markdown: a row a preset, best first by its mean place in the worlds that it can act in, and a column a world."""

    def place(name: str) -> float:
        worse = [
            sum(s["iqm"] < other["iqm"] for other in scores.values()) / len(scores)
            for scores in found.values()
            if (s := scores.get(name)) is not None
        ]
        return sum(worse) / len(worse)

    lines = [f"| preset | {' | '.join(f'`{world}`' for world in found)} |", f"|---|{'---|' * len(found)}"]
    for name in sorted({name for scores in found.values() for name in scores}, key=lambda name: (place(name), name)):
        cells = []
        for scores in found.values():
            s = scores.get(name)
            if s is None:
                cells.append("")
                continue
            low, high = s["interval"]
            seconds = f"{s['processor_s']:.0f} s" if "processor_s" in s else f"{s['seconds']:.0f} s*"
            cells.append(f"{s['iqm']:.0f} [{low:.0f}, {high:.0f}], {seconds}{' †' * s['stale']}")
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def summary(found: dict[str, dict[str, Any]]) -> str:
    """Markdown: a row a world, with how many pairs were run, the best three, and two to compare with."""

    def cell(world: str, name: str) -> str:
        s = found[world].get(name)
        if s is None:
            return ""
        return "{:,.0f} [{:,.0f}, {:,.0f}]".format(s["iqm"], *s["interval"]) + " †" * s["stale"]

    lines = ["| world | pairs run | best three | `mbpo` | `sac` |", "|---|---|---|---|---|"]
    for world, scores in found.items():
        possible = sum(name not in LEFT_OUT and config_of(name, world) is not None for name in PRESETS)
        best = sorted(scores, key=lambda name: -scores[name]["iqm"])[:3]
        shown = ", ".join(f"`{name}` {cell(world, name)}" for name in best)
        pair = f"{cell(world, 'mbpo')} | {cell(world, 'sac')}"
        lines.append(f"| `{world}` | {len(scores)} of {possible} | {shown} | {pair} |")
    return "\n".join(lines) + "\n\n"


def model_free(name: str) -> bool:
    return PRESETS[name].model_free


def in_simulator(name: str) -> bool:
    """Whether the simulator itself is what a preset imagines in."""
    return PRESETS[name].model.kind == "oracle"


def main() -> None:
    """Runs, scores, publishes."""
    file = RESULTS / "family.json"
    before, again = read_results(file), "--again" in sys.argv[1:]
    arguments = [a for a in sys.argv[1:] if a not in ("--publish", "--again")]
    if "--publish" not in sys.argv[1:]:
        run_all(arguments or list(WORLDS), {} if again else before)
        if arguments:
            return
    found = {w: {n: s for n in PRESETS if (s := find(n, w, before)) is not None} for w in WORLDS}
    missing = [
        f"{name} on {world}"
        for world in WORLDS
        for name in PRESETS
        if name not in LEFT_OUT
        and found[world].get(name, {"stale": True})["stale"]
        and config_of(name, world) is not None
    ]
    table = HEADER + summary(found) + as_table(found)
    (RESULTS / "family.md").write_text(table, encoding="utf-8")
    print(table)
    draw(found, RESULTS / "family.png")
    configs: dict[str, Any] = {
        f"{w} {n}": before["configs"][f"{w} {n}"] if s["stale"] else config_of(n, w)
        for w in WORLDS
        for n, s in found[w].items()
    }
    directories = [RUNS / directory_of(n, w) for w in WORLDS for n in found[w] if score(n, w) is not None]
    fresh = {directory.name for directory in directories}
    earlier = {k: v for k, v in before.get("runs", {}).items() if k.rsplit("_s", 1)[0] not in fresh}
    print("missing:", ", ".join(missing) or "nothing")
    print("written to", publish("family", {"worlds": found, "missing": missing}, configs, directories, earlier))


if __name__ == "__main__":
    main()
