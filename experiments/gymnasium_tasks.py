"""Claim: `mbpo` solves Gymnasium's own InvertedPendulum-v5 within 5,000 env steps; and how far it is on Hopper-v5.

A full episode of InvertedPendulum returns 1,000; solved is the first of three evaluations in a row of at least 950.
Hopper is run for its first 20,000 steps with the paper's updates per step (20), target entropy and horizon (1 until
20,000 steps) on networks sized for a laptop. Beside it stands MBPO at its own sizes as others ran it, with 5,000 steps
of exploration where this run has 250 (Kubo et al., github.com/4kubo/erl_lib at 6d23b5b,
`results/main/gym/mbpo/Hopper.csv`). That file holds five rows a step, as seeds 0 to 4, which are evenly spaced at every
step: a middle (the third) and a band about it, whose kind it does not say, and no statistic of seeds. What was run
earlier stays in the figure.

    python -m experiments.gymnasium_tasks                       # all of it, or what is missing of it
    python -m experiments.gymnasium_tasks gym/Hopper-v5         # one task
    python -m experiments.gymnasium_tasks --publish             # what has been run
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from branchax.config import Config
from branchax.presets import preset
from branchax.runs import plots, rundir, runlog
from experiments.harness import RESULTS, RUNS, curves, publish, run, steps_to

# task: (real steps, seeds)
TASKS = {"gym/InvertedPendulum-v5": (5_000, (0, 1, 2)), "gym/Hopper-v5": (20_000, (0,))}
SOLVED = 950.0
# env steps: the first, the third and the fifth row, which are the band's lower edge, the middle and its upper edge
PUBLISHED = {
    "gym/Hopper-v5": {
        6_019: (34.0, 166.6, 299.1), 8_019: (57.8, 246.3, 434.7), 10_019: (92.6, 329.0, 565.3),
        12_019: (124.0, 405.2, 686.4), 14_019: (159.2, 439.2, 719.3), 16_019: (162.3, 480.2, 798.1),
        18_019: (182.8, 498.9, 814.9), 20_019: (216.3, 529.6, 842.9),
    }
}  # fmt: skip


def config_of(task: str, seed: int) -> Config:
    base = preset("mbpo", task)
    every = 1 if task == "gym/InvertedPendulum-v5" else 4
    return replace(base, env_steps=TASKS[task][0], seed=seed, eval_every=every, eval_episodes=8)


def directory_of(task: str, seed: int) -> str:
    return f"{task.replace('/', '-')}_mbpo_s{seed}_1"


def draw(task: str, seeds: dict[str, Any], path: Path) -> None:
    """Evaluation returns over env steps, a line for each seed, and the published curve with its bounds."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    if published := PUBLISHED.get(task):
        low, middle, high = np.array(list(published.values())).T
        axes.fill_between(list(published), low, high, color="0.85", linewidth=0)
        axes.plot(list(published), middle, color="0.4", label="MBPO at its own sizes, as others ran it, and its band")
    for i, (seed, found) in enumerate(seeds.items()):
        curve = {int(steps): value for steps, value in found["curve"].items()}
        axes.plot(list(curve), list(curve.values()), color=plots.COLOURS[i], linewidth=1.2, label=f"mbpo, seed {seed}")
    axes.set(xlabel="env steps", ylabel="return")
    axes.set_title(task, loc="left", fontsize=10)
    axes.legend(fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def main() -> None:
    """Runs, scores, publishes."""
    arguments = [a for a in sys.argv[1:] if a != "--publish"]
    if "--publish" not in sys.argv[1:]:
        for task in arguments or TASKS:
            for seed in TASKS[task][1]:
                run(config_of(task, seed), directory_of(task, seed))
        if arguments:
            return
    file = RESULTS / "gymnasium_tasks.json"
    before = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"tasks": {}, "runs": {}}
    found, made, earlier = {}, [], {}
    for task, (_, seeds) in TASKS.items():
        scores = {}
        for seed in seeds:
            name = directory_of(task, seed)
            if not (RUNS / name / rundir.METRICS).exists():
                if known := before["tasks"].get(task, {}).get("seeds", {}).get(str(seed)):
                    scores[seed], earlier[name] = known, before["runs"][name]
                continue
            steps, returns = curves(RUNS / name)[seed]
            scores[seed] = {
                "env_steps": float(steps[-1]),
                "last_three": float(np.mean(returns[-3:])),
                "solved_at": steps_to(steps, returns, SOLVED) if "Pendulum" in task else None,
                "curve": {int(s): round(float(r), 1) for s, r in zip(steps, returns, strict=True)},
                "seconds": runlog.read(RUNS / name / rundir.METRICS)[-1]["wall_s"],
            }
            made.append(RUNS / name)
        for seed, score in scores.items():
            print(task, seed, {k: v for k, v in score.items() if k != "curve"})
        found[task] = {"seeds": scores, "published": PUBLISHED.get(task, {})}
        if scores:
            draw(task, scores, RESULTS / f"{task.replace('/', '-')}.png")
    configs = {task: config_of(task, 0) for task in TASKS}
    print("written to", publish("gymnasium_tasks", {"tasks": found}, configs, made, earlier))


if __name__ == "__main__":
    main()
