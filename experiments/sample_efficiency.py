"""Claim: a learned model saves real steps, against the best that its baseline does with any number of updates.

Real steps until a world is solved: the first of three evaluations in a row that reach its return. `mbpo` and
`dhmbpo_tiny` run by their defaults; `sac`, the same code with nothing imagined, gets several numbers of updates per
real step, and is counted with the one that is best on the world. A seed that does not solve the world within the budget
counts with the whole budget, which is a lower bound; a run ends when all its seeds have. Ratios are of means over
seeds, with an interval of pairs: both methods explore with the same actions.

    python -m experiments.sample_efficiency                        # all of it, or what is missing of it
    python -m experiments.sample_efficiency classic/pendulum mbpo  # one part, to run several side by side
    python -m experiments.sample_efficiency --done                 # publish what is there
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from branchax.config import Config
from branchax.presets import preset
from branchax.runs import plots, runlog
from branchax.runs.statistics import bootstrap
from branchax.runs.train import train
from experiments.harness import RESULTS, RUNS, curves, publish, steps_to

FIRST, COUNT = 100, 5  # the seeds, side by side in one run; presets were chosen on seeds 20 to 24
EXPLORED = 100  # real steps of exploration, of each method
UPDATES = (10, 20, 40)  # per real step, of the baseline
MODEL_BASED = ("mbpo", "dhmbpo_tiny")


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
    return [f"sac@{updates}" for updates in UPDATES] + list(model_based)


def config_of(method: str, world: str) -> Config:
    """A method's defaults, but for how long it explores, runs and is evaluated, and the updates after its `@`."""
    name, _, updates = method.partition("@")
    task, config = WORLDS[world], preset(name, world)
    if updates:
        config = replace(config, updates_per_step=float(updates), epoch_steps=task.every)
    return replace(
        config,
        seed=FIRST,
        seeds=COUNT,
        env_steps=task.steps,
        explore_steps=EXPLORED,
        eval_every=max(1, task.every // config.epoch_steps),
        eval_episodes=10,
    )


def directory_of(method: str, world: str) -> Path:
    """The run's directory."""
    return RUNS / f"steps_{world.replace('/', '-')}_{method}"


def solved_at(method: str, world: str) -> list[float | None]:
    """The real steps at which each seed had solved the world; None where it has not, and none without a run."""
    directory = directory_of(method, world)
    if not directory.exists():
        return []
    return [steps_to(*curve, WORLDS[world].solved) for curve in curves(directory).values()]


def is_done(method: str, world: str) -> bool:
    """Whether each seed has solved the world or spent the budget."""
    solved = solved_at(method, world)
    if not solved or None not in solved:
        return bool(solved)
    return all(steps[-1] >= WORLDS[world].steps for steps, _ in curves(directory_of(method, world)).values())


def train_all(method: str, world: str) -> None:
    """Runs the seeds until they are done, or goes on with them."""
    if not is_done(method, world):
        train(config_of(method, world), directory_of(method, world), callbacks=[lambda *_: is_done(method, world)])


def compare(solved: dict[str, list[float | None]], budget: int) -> dict[str, Any]:
    """Means and deviations of the steps, the baseline's best arm, and each model-based method's ratio to that."""
    counted = {m: np.array([budget if s is None else s for s in steps]) for m, steps in solved.items()}
    best = min((m for m in counted if "@" in m), key=lambda m: counted[m].mean())
    ratios = {}
    for method, steps in counted.items():
        if "@" not in method:

            def ratio(pairs: Any, steps: np.ndarray = steps) -> float:
                return float(steps[pairs].mean() / counted[best][pairs].mean())

            pairs = np.arange(len(steps))
            ratios[method] = {"of": best, "ratio": ratio(pairs), "interval": [*map(float, bootstrap(ratio, pairs))]}
    spread = {m: float(s.std(ddof=1)) for m, s in counted.items()}
    return {"mean": {m: float(s.mean()) for m, s in counted.items()}, "sd": spread, "ratios": ratios}


def draw(made: dict[str, dict[str, Path]], found: dict[str, Any], path: Path) -> None:
    """A panel for each world: the returns of the model-based methods and of the baseline's best arm."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(3, len(made))
    rows = -(-len(made) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.2 * rows), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels[len(made) :]:
        axes.set_visible(False)
    for axes, (world, directories) in zip(panels, made.items(), strict=False):
        best = next(iter(found[world]["ratios"].values()))["of"]
        axes.axhline(WORLDS[world].solved, color="0.4", linewidth=1, linestyle=":")
        for i, method in enumerate((best, *found[world]["ratios"])):
            look = {"color": plots.COLOURS[i], "linestyle": plots.DASHES[i]}
            (group,) = plots.groups([directories[method]])
            plots.add(axes, group, runlog.RETURN, look, name=f"{method}: ")
        plots.tidy(axes, "return of an episode")
        axes.set_title(world, fontsize=9, loc="left")
        axes.set_xlabel("real env steps")
        axes.legend(framealpha=0.85, edgecolor="none", fontsize=7)
    plots.save(figure, path)


def as_table(found: dict[str, Any]) -> str:
    """The comparison as Markdown."""
    lines = ["| world (solved at) | baseline | `mbpo` | ratio | `dhmbpo_tiny` | ratio |", "|---|---|---|---|---|---|"]
    for world, of in found.items():

        def steps(method: str, of: dict[str, Any] = of) -> str:
            missed = sum(s is None for s in of["solved_at"][method])
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
    if len(arguments) == 2:
        train_all(arguments[1], arguments[0])
        return
    found, configs, made = {}, {}, {}
    for world, task in WORLDS.items():
        methods = methods_of(world)
        for method in methods if arguments != ["--done"] else ():
            train_all(method, world)
        if not all(is_done(method, world) for method in methods):
            continue
        made[world] = {method: directory_of(method, world) for method in methods}
        solved = {method: solved_at(method, world) for method in methods}
        configs |= {f"{world} {method}": config_of(method, world) for method in methods}
        found[world] = {"solved": task.solved, "steps": task.steps, "solved_at": solved, **compare(solved, task.steps)}
    draw(made, found, RESULTS / "sample_efficiency.png")
    (RESULTS / "sample_efficiency.md").write_text(as_table(found), encoding="utf-8")
    runs = [directory for directories in made.values() for directory in directories.values()]
    print("written to", publish("sample_efficiency", {"worlds": found}, configs, runs))


if __name__ == "__main__":
    main(sys.argv[1:])
