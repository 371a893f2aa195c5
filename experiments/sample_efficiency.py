"""Claim: a learned model saves real steps, against the best that its baseline does with any number of updates.

Real steps until a world is solved: the first of three evaluations in a row that reach its return. `mbpo` and
`dhmbpo_tiny` run by their defaults. The baseline is `sac` with several numbers of updates per real step, or `mbpo`
without its model (`real`: the learner, its updates and its 25 steps between standardisations are those of `mbpo`, all
rows are real), whichever is best on the world. A seed that does not solve the world within the budget
counts with the whole budget, which is a lower bound; a run ends when all its seeds have. Ratios are of means over
seeds, with an interval of pairs: both methods explore with the same actions.

    python -m experiments.sample_efficiency                            # what its file in results/ does not hold
    python -m experiments.sample_efficiency --again                    # all of it, whatever that file holds
    python -m experiments.sample_efficiency classic/pendulum mbpo 100  # one part, to run several side by side
    python -m experiments.sample_efficiency --done                     # publish what is there

What was published before counts as well, where its settings are still those of today, so that seeds can be added; so
in a fresh clone the first command has nothing to run. Runs that are in `runs/` count in any case.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from branchax.config import Config
from branchax.presets import PRESETS, preset
from branchax.runs import plots, rundir
from branchax.runs.statistics import bootstrap
from branchax.runs.train import train
from experiments.harness import RESULTS, RUNS, curves, differences, made_with, publish, read_results, steps_to

FIRSTS, COUNT = (100, 105), 5  # seeds from these on, side by side in one run; presets were chosen on seeds 20 to 24
EXPLORED = 100  # real steps of exploration, of each method
UPDATES = (10, 20, 40)  # per real step, of the baseline
BASELINES = (*(f"sac@{updates}" for updates in UPDATES), "real@20")
MODEL_BASED = ("mbpo", "dhmbpo_tiny")
FILE = RESULTS / "sample_efficiency.json"
Solved = dict[str, float | None]  # real steps by seed


class Task(NamedTuple):
    """A world, and when it is solved."""

    solved: float  # return of an episode
    steps: int  # the budget, in real steps
    every: int  # real steps between evaluations
    discrete: bool = False


WORLDS = {
    "classic/pendulum": Task(-250.0, 1_000, 25),
    "classic/cartpole": Task(450.0, 1_200, 50),
    "brax/inverted_pendulum": Task(950.0, 1_500, 50),
    "gym/InvertedDoublePendulum-v5": Task(9_000.0, 2_000, 100),
    "classic/cartpole_discrete": Task(450.0, 1_200, 50, discrete=True),
    "classic/acrobot": Task(-120.0, 1_500, 50, discrete=True),
}


def methods_of(world: str) -> list[str]:
    """What is compared: the baseline's arms first. An actor's gradient through a model needs continuous actions."""
    model_based = MODEL_BASED[:1] if WORLDS[world].discrete else MODEL_BASED
    return [*BASELINES, *model_based]


def config_of(method: str, world: str, first: int) -> Config:
    """A method's defaults, but for how long it explores, runs and is evaluated, and the updates after its `@`."""
    name, _, updates = method.partition("@")
    task, config = WORLDS[world], preset("mbpo" if name == "real" else name, world)
    if updates:
        config = replace(config, updates_per_step=float(updates))
    if name == "sac":
        config = replace(config, epoch_steps=task.every)
    if name == "real":
        rollout, model = replace(config.rollout, horizon=0), PRESETS["mbpo"].model  # a task's own is for rollouts
        config = replace(config, rollout=rollout, model=model, real_fraction=1.0)
    return replace(
        config,
        seed=first,
        seeds=COUNT,
        env_steps=task.steps,
        explore_steps=EXPLORED,
        eval_every=max(1, task.every // config.epoch_steps),
        eval_episodes=10,
    )


def directory_of(method: str, world: str, first: int) -> Path:
    """The directory of the run of the seeds from `first` on."""
    return RUNS / f"steps_{world.replace('/', '-')}_{method}_s{first}"


def solved_in(directory: Path, solved: float) -> Solved:
    """The real steps at which each seed of a run had solved its world, None where it has not; empty without a run."""
    if not (directory / rundir.METRICS).exists():
        return {}
    return {str(seed): steps_to(*curve, solved) for seed, curve in curves(directory).items()}


def is_done(directory: Path, task: Task) -> bool:
    """Whether each seed of a run has solved the world or spent the budget."""
    solved = solved_in(directory, task.solved)
    if not solved or None not in solved.values():
        return bool(solved)
    return all(steps[-1] >= task.steps for steps, _ in curves(directory).values())


def train_all(method: str, world: str, first: int) -> None:
    """Runs the seeds from `first` on until they are done, or goes on with them."""
    directory, task = directory_of(method, world, first), WORLDS[world]
    if not is_done(directory, task):
        train(config_of(method, world, first), directory, callbacks=[lambda *_: is_done(directory, task)])


def collect(world: str, earlier: dict[str, Any]) -> tuple[dict[str, Solved], list[Path]]:
    """What is known of each method: from an earlier file where its settings are today's, and from runs that are done.

    Those runs are returned as well.
    """
    solved: dict[str, Solved] = {}
    used = []
    for method in methods_of(world):
        then = earlier.get("worlds", {}).get(world, {}).get("solved_at", {}).get(method, {})
        settings = earlier.get("configs", {}).get(f"{world} {method}", {})
        solved[method] = {} if differences(settings, config_of(method, world, FIRSTS[0])) else dict(then)
        for first in FIRSTS:
            directory = directory_of(method, world, first)
            if is_done(directory, WORLDS[world]) and made_with(directory, config_of(method, world, first)):
                solved[method] |= solved_in(directory, WORLDS[world].solved)
                used.append(directory)
    return solved, used


def compare(solved: dict[str, Solved], budget: int) -> dict[str, Any]:
    """Means and deviations of the steps, the baseline's best arm, and each model-based method's ratio to that.

    Seeds count that every method has.
    """
    seeds = sorted(set.intersection(*(set(steps) for steps in solved.values())))
    counted = {m: np.array([budget if steps[s] is None else steps[s] for s in seeds]) for m, steps in solved.items()}
    best = min((m for m in counted if "@" in m), key=lambda m: counted[m].mean())
    ratios = {}
    for method, steps in counted.items():
        if "@" not in method:

            def ratio(pairs: Any, steps: np.ndarray = steps) -> float:
                return float(steps[pairs].mean() / counted[best][pairs].mean())

            pairs = np.arange(len(steps))
            ratios[method] = {"of": best, "ratio": ratio(pairs), "interval": [*map(float, bootstrap(ratio, pairs))]}
    spread = {m: float(s.std(ddof=1)) for m, s in counted.items()}
    mean = {m: float(s.mean()) for m, s in counted.items()}
    kept = {method: {seed: steps[seed] for seed in seeds} for method, steps in solved.items()}
    return {"solved_at": kept, "mean": mean, "sd": spread, "ratios": ratios}


def draw(found: dict[str, Any], path: Path) -> None:
    """A panel for each world: of each method a dot for each seed, hollow where it did not solve the world, and a bar at
    the mean."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(3, len(found))
    rows = -(-len(found) // columns)
    figure = Figure(figsize=(4.2 * columns, 2.4 * rows), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels[len(found) :]:
        axes.set_visible(False)
    for axes, (world, of) in zip(panels, found.items(), strict=False):
        names = list(of["solved_at"])
        for place, (method, solved) in enumerate(of["solved_at"].items()):
            colour = "0.45" if "@" in method else plots.COLOURS[MODEL_BASED.index(method)]
            shift = np.linspace(-0.2, 0.2, len(solved)) if len(solved) > 1 else [0.0]
            for steps, apart in zip(solved.values(), shift, strict=True):
                x, fill = (of["steps"], "none") if steps is None else (steps, colour)
                axes.plot(x, place + apart, "o", markersize=4, color=colour, markerfacecolor=fill, alpha=0.8)
            axes.plot([of["mean"][method]] * 2, [place - 0.35, place + 0.35], color=colour, linewidth=2.5)
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.03 * of["steps"])
        plots.tidy(axes, "")
        axes.grid(axis="y", visible=False)
        axes.grid(axis="x", color="0.9", linewidth=0.8)
        axes.set_title(f"{world}, solved at {of['solved']:g}", fontsize=9, loc="left")
        axes.set_xlabel("real env steps until solved")
    plots.save(figure, path)


def as_table(found: dict[str, Any]) -> str:
    """The comparison as Markdown."""
    lines = ["| world (solved at) | baseline | `mbpo` | ratio | `dhmbpo_tiny` | ratio |", "|---|---|---|---|---|---|"]
    for world, of in found.items():

        def steps(method: str, of: dict[str, Any] = of) -> str:
            missed = sum(s is None for s in of["solved_at"][method].values())
            return f"{of['mean'][method]:,.0f} ± {of['sd'][method]:,.0f}" + (f" ({missed} not)" if missed else "")

        cells = []
        for method in MODEL_BASED:
            if method not in of["ratios"]:
                cells += ["–", "–"]
                continue
            ratio = of["ratios"][method]
            low, high = ratio["interval"]
            cells += [steps(method), f"{ratio['ratio']:.2f} [{low:.2f}, {high:.2f}]"]
        best = next(iter(of["ratios"].values()))["of"]
        lines.append(f"| `{world}` ({of['solved']:g}) | `{best}` {steps(best)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> None:
    """Runs, compares, publishes."""
    if len(arguments) != 3 and arguments not in ([], ["--again"], ["--done"]):
        allowed = "nothing, --again, --done, or a world, a method and a first seed"
        raise SystemExit(f"{' '.join(arguments)} is not possible; allowed: {allowed}")
    if len(arguments) == 3:
        train_all(arguments[1], arguments[0], int(arguments[2]))
        return
    earlier = read_results(FILE)
    counts = {} if arguments == ["--again"] else earlier
    found, configs, used = {}, {}, []
    for world, task in WORLDS.items():
        methods = methods_of(world)
        solved, _ = collect(world, counts)
        missing = [(f, m) for f in FIRSTS for m in methods if str(f) not in solved[m]]
        for first, method in missing if arguments != ["--done"] else ():
            train_all(method, world, first)
        solved, runs = collect(world, earlier)
        if not set.intersection(*(set(steps) for steps in solved.values())):  # a method is missing
            if world in earlier.get("worlds", {}):  # what is published stays, with the settings of then
                found[world] = earlier["worlds"][world]
                configs |= {name: of for name, of in earlier["configs"].items() if name.split()[0] == world}
            continue
        used += runs
        configs |= {f"{world} {method}": config_of(method, world, FIRSTS[0]) for method in methods}
        found[world] = {"solved": task.solved, "steps": task.steps, **compare(solved, task.steps)}
    draw(found, RESULTS / "sample_efficiency.png")
    (RESULTS / "sample_efficiency.md").write_text(as_table(found), encoding="utf-8")
    print("written to", publish("sample_efficiency", {"worlds": found}, configs, used, earlier.get("runs")))


if __name__ == "__main__":
    main(sys.argv[1:])
