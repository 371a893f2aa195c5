"""What each piece of `dhmbpo_tiny`, the double horizon at its smallest, is worth on two small worlds.

An arm is the preset with one variant (`experiments.variants`), five seeds side by side, up to the world's budget. Each
seed has two figures: the area under its curve, which is the mean return over all evaluations up to the budget, and the
real steps until the world is solved, as `experiments.sample_efficiency` has them. A seed that does not solve the world
counts with the whole budget, which is a lower bound. Differences are of pairs: an arm's seed and the preset's same seed
explore with the same actions. Intervals are bootstrap intervals over these pairs. They are 95 % intervals by name: with
five pairs they hold the mean in 83 to 93 % of cases (`experiments.coverage`), and a few of many leave out 0 by chance.
One that holds 0 says that no difference was shown, not that there is none.

    python -m experiments.ablation                         # what is missing, in the order of the list
    python -m experiments.ablation --arm relu              # one arm
    python -m experiments.ablation --again                 # all of it, whatever results/ablation.json holds
    python -m experiments.ablation --draw                  # only the table and the figure of what there is
    python -m experiments.ablation --steps 300 --seeds 2   # a trial, in a folder of its own with its results

What was published before counts as well, where its settings are still those of today; so in
a fresh clone the first command runs little. Runs that are in `runs/` count in any case.
"""

from __future__ import annotations

import itertools
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from branchax.checks import check
from branchax.commands.base import OK
from branchax.commands.flags import Switch, parse
from branchax.config import Config, to_dict
from branchax.errors import ConfigError, nearest
from branchax.runs import plots, rundir
from branchax.runs.statistics import bootstrap
from branchax.runs.train import train
from experiments import sample_efficiency
from experiments.command import answer, leave
from experiments.harness import RESULTS, RUNS, curves, differences, publish, read_results, steps_to
from experiments.variants import varied

PRESET, FIRST, SEEDS = "dhmbpo_tiny", 100, 5  # presets were chosen on seeds 20 to 24
# Budgets of less than half those of `sample_efficiency`: the preset needs a third of the real steps of its baseline.
WORLDS = {
    world: sample_efficiency.WORLDS[world]._replace(steps=steps)
    for world, steps in (("classic/pendulum", 400), ("classic/cartpole", 600))
}
BASE = "preset"
# The arms, in the order in which they are run, and what each is.
ARMS = {
    BASE: "as it is",
    "no_spread": "updates from the states of real rows",
    "ahead1": "look-ahead 1 instead of 5",
    "ahead3": "look-ahead 3",
    "ahead7": "look-ahead 7",
    "no_norm": "no LayerNorm in critics and model",
    "raw": "observations not standardised",
    "relu": "ReLU instead of SiLU in actor and critics",
    "unscaled": "values neither scaled nor clipped",
    "in_range": "predictions clipped to the data's range, not to a tenth beyond it",
    "unclipped": "predictions not clipped",
    "no_dropout": "no dropout in critics and model",
    "constant": "model noise the same everywhere",
    "spread40": "states spread over 40 steps instead of 20",
    "twice": "20 updates per real step instead of 10",
    "crossq": "BatchNorm instead of LayerNorm in critics",
    "xqc": "the same, and values over 101 atoms",
    "clip_actor": "values clipped to their range in the actor's objective",
    "all_targets": "targets by the least of all five critics, not of two drawn",
    "last_layer": "critics' last layer not zero at first",
    "warmup": "250 updates of the critics alone after each fit",
    "reset": "Adam's moments reset at each fit",
    "walls": "rollouts go on at the edge of the data (on the pendulum they do so anyway)",
    "past_end": "rollouts that end count with 0 in the actor's objective (no episode of the pendulum ends)",
}
Figures = dict[str, dict[str, float | None]]  # "area" and "solved_at", by seed


@dataclass(frozen=True)
class Options:
    """What the command takes."""

    arm: str | None = None
    """Run only this one."""
    again: Switch = False
    """Also what `results/ablation.json` holds from runs that are not here."""
    draw: Switch = False
    """Run nothing: only the table and the figure of what there is."""
    steps: int | None = None
    """A trial of so many real steps, in a folder of its own."""
    seeds: int = SEEDS
    """With --steps: how many, from 100 on."""


@dataclass(frozen=True)
class Plan:
    """How long and with how many seeds, where the runs are, and where the results go."""

    steps: int | None = None  # None: each world's budget
    seeds: int = SEEDS

    @property
    def runs(self) -> Path:
        return RUNS / ("ablation" if self.steps is None else f"ablation_{self.steps}x{self.seeds}")

    @property
    def results(self) -> Path:
        return RESULTS if self.steps is None else self.runs

    def budget(self, world: str) -> int:
        return self.steps or WORLDS[world].steps

    def config(self, world: str, arm: str) -> Config:
        """The preset's settings on a world with the variant of an arm."""
        config = sample_efficiency.config_of(PRESET, world, FIRST)
        config = replace(config, env_steps=self.budget(world), seeds=self.seeds)
        return config if arm == BASE else varied(config, arm)

    def directory(self, world: str, arm: str) -> Path:
        return self.runs / f"{world.replace('/', '-')}_{arm}"

    def figures(self, world: str, arm: str) -> Figures | None:
        """The figures of a run; None unless all seeds have spent the budget, with today's settings."""
        directory, budget = self.directory(world, arm), self.budget(world)
        if not (directory / rundir.METRICS).exists():
            return None
        made_with = json.loads(json.dumps(to_dict(rundir.load_config(directory))))
        found = curves(directory)
        done = len(found) == self.seeds and all(steps[-1] >= budget for steps, _ in found.values())
        if not done or differences(made_with, self.config(world, arm)):
            return None
        area = {str(seed): float(returns[steps <= budget].mean()) for seed, (steps, returns) in found.items()}
        solved = {str(seed): steps_to(*curve, WORLDS[world].solved) for seed, curve in found.items()}
        return {"area": area, "solved_at": solved}

    def published(self, world: str, arm: str, earlier: dict[str, Any]) -> Figures | None:
        """What an earlier file has of an arm, where its settings are today's."""
        then = earlier.get("worlds", {}).get(world, {})
        config = earlier.get("configs", {}).get(f"{world} {arm}", {})
        if arm not in then.get("arms", {}) or then["steps"] != self.budget(world):
            return None
        same = not differences(config, self.config(world, arm))
        return {key: then["arms"][arm][key] for key in ("area", "solved_at")} if same else None

    def known(self, world: str, arm: str, earlier: dict[str, Any]) -> Figures | None:
        """The figures of a run that is there, or else of an earlier file."""
        return self.figures(world, arm) or self.published(world, arm, earlier)


def compare(mine: Figures, base: Figures, budget: int) -> dict[str, Any]:
    """Means and deviations of an arm, and its differences to the preset with their intervals, over shared seeds."""
    seeds = sorted(set(mine["area"]) & set(base["area"]), key=int)
    found: dict[str, Any] = dict(mine)
    for name in ("area", "solved_at"):
        ours, theirs = (
            np.array([budget if each[name][seed] is None else each[name][seed] for seed in seeds], float)
            for each in (mine, base)
        )
        apart = ours - theirs
        found[f"{name}_mean"], found[f"{name}_sd"] = float(ours.mean()), float(ours.std(ddof=len(ours) > 1))
        low, high = bootstrap(np.mean, apart)
        found[f"{name}_difference"] = [float(apart.mean()), float(np.mean(low)), float(np.mean(high))]
    return found


def as_table(worlds: dict[str, Any]) -> str:
    """A table for each world: a row an arm, with differences to the preset."""
    text = (
        f"# `{PRESET}`, piece by piece\n\n`python -m experiments.ablation`: the preset with one thing changed."
        " Area: the mean return over the evaluations up to the budget. Steps: real steps until solved; a seed that does"
        " not solve the world counts with the budget. Means ± deviations over seeds; differences to the preset are of"
        " pairs of seeds, with 95 % bootstrap intervals. With five pairs these hold the mean in 83 to 93 % of cases;"
        " one that holds 0 says that no difference was shown.\n"
    )
    for world, of in worlds.items():
        text += f"\n## `{world}`, {of['steps']:,} real steps, solved at {of['solved']:g}\n\n"
        text += "| arm | what changes | area | difference | steps | difference |\n|---|---|---|---|---|---|\n"
        for arm, each in of["arms"].items():
            missed = sum(at is None for at in each["solved_at"].values())
            cells = []
            for name in ("area", "solved_at"):
                less = f" ({missed} not)" if missed and name == "solved_at" else ""
                cells.append(f"{each[f'{name}_mean']:,.0f} ± {each[f'{name}_sd']:,.0f}{less}")
                cells.append(
                    "–" if arm == BASE else "{:+,.0f} [{:+,.0f}, {:+,.0f}]".format(*each[f"{name}_difference"])
                )
            text += f"| `{arm}` | {ARMS[arm]} | {' | '.join(cells)} |\n"
    return text


def draw(worlds: dict[str, Any], path: Path) -> None:
    """A forest plot: differences to the preset, an arm a line; their intervals are bold where they leave out 0."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    arms = [arm for arm in ARMS if arm != BASE and any(arm in of["arms"] for of in worlds.values())]
    figure = Figure(figsize=(2.2 + 3.2 * 2 * len(worlds), 1.2 + 0.25 * len(arms)), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    panels = iter(figure.subplots(1, 2 * len(worlds), sharey=True, squeeze=False).ravel())
    for world, of in worlds.items():
        for name, label in (("area", "area under the curve"), ("solved_at", "real steps until solved")):
            axes = next(panels)
            better = 1 if name == "area" else -1
            for place, arm in enumerate(arms):
                if arm not in of["arms"]:
                    continue
                middle, low, high = of["arms"][arm][f"{name}_difference"]
                clear = low > 0 or high < 0
                colour = plots.COLOURS[2 if better * middle > 0 else 1] if clear else "0.45"
                axes.plot([low, high], [place, place], color=colour, linewidth=2.5 if clear else 1.2)
                axes.plot(middle, place, "o", color=colour, markersize=5)
            axes.axvline(0, color="0.2", linewidth=0.8)
            plots.tidy(axes, "")
            axes.grid(axis="y", visible=False)
            axes.grid(axis="x", color="0.9", linewidth=0.8)
            axes.set_title(f"{world}: {label}", fontsize=8, loc="left")
            axes.set_xlabel(f"difference to {PRESET}", fontsize=8)
            axes.tick_params(axis="x", labelsize=7)
            axes.set_yticks(range(len(arms)), arms)
            axes.set_ylim(len(arms) - 0.5, -0.5)
    plots.save(figure, path)


def write(plan: Plan, earlier: dict[str, Any]) -> Path | None:
    """Writes table, figure and JSON file of the arms that there are; None while there is no pair to compare."""
    worlds, configs, used = {}, {}, []
    for world, task in WORLDS.items():
        known = {arm: each for arm in ARMS if (each := plan.known(world, arm, earlier))}
        if BASE not in known or len(known) == 1:
            continue
        budget = plan.budget(world)
        arms = {arm: compare(each, known[BASE], budget) for arm, each in known.items()}
        worlds[world] = {"solved": task.solved, "steps": budget, "arms": arms}
        configs |= {f"{world} {arm}": plan.config(world, arm) for arm in known}
        used += [plan.directory(world, arm) for arm in known if plan.figures(world, arm)]
    if not worlds:
        return None
    draw(worlds, plan.results / "ablation.png")
    (plan.results / "ablation.md").write_text(as_table(worlds), encoding="utf-8")
    return publish(
        "ablation",
        {"preset": PRESET, "worlds": worlds},
        configs,
        used,
        earlier.get("runs"),
        plan.results / "ablation.json",
    )


def work(options: Options) -> int:
    """Runs what is missing, one world after the other; then writes what there is. Returns the exit code."""
    if options.arm not in (None, *ARMS):
        raise ConfigError(f"arm: {options.arm!r} is unknown{nearest(options.arm, ARMS)}; allowed: {', '.join(ARMS)}")
    if options.steps is None and options.seeds != SEEDS:
        raise ConfigError(f"seeds: {options.seeds} is not possible without --steps; allowed: {SEEDS}")
    plan = Plan(options.steps, options.seeds)
    file = plan.results / "ablation.json"
    earlier = read_results(file)
    counts = {} if options.again else earlier
    arms = [] if options.draw else list(ARMS) if options.arm is None else [options.arm]
    try:
        for world, arm in itertools.product(WORLDS, arms):
            if plan.known(world, arm, counts) is None:
                check(config := plan.config(world, arm))
                train(config, plan.directory(world, arm))
    finally:  # interrupted, too
        print("written to", write(plan, earlier) or "nothing: the preset and another arm have to be run first")
    return OK


def main(arguments: list[str]) -> int:
    """Reads the flags; returns the exit code."""
    return answer("ablation", lambda: work(parse(Options, arguments, "python -m experiments.ablation", about=__doc__)))


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
