"""Claim: `pets` balances `classic/cartpole` (500 steps) within 10 episodes; and model steps per second while planning.

One epoch is 200 real steps, after 100 at random; counted are the training episodes that end after those. Scored by 4
evaluation episodes of 500 steps in the end.

    python -m experiments.planning            # a quarter of an hour; --draw draws what is in results/ again
"""

from __future__ import annotations

import itertools
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from branchax.presets import preset
from branchax.runs import rundir, runlog
from branchax.runs.plots import COLOURS, DASHES
from branchax.runs.restoring import collected
from experiments.harness import RESULTS, publish, run

SEEDS, EPISODES, SOLVED = (0, 1, 2), 10, 475.0
METHODS = ("pets", "pets_mppi")
STEPS, EXPLORED, LONGEST = 1_100, 100, 500  # real steps, random ones among them; steps of an episode


def draw(found: dict[str, dict[str, Any]], path: Path) -> None:
    """How long the pole stayed up in each training episode, and in evaluations at the end, over real steps."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.8), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    axes, end = figure.subplots(), STEPS + 180
    for left, right, about in (
        (0, EXPLORED, "random actions"),
        (STEPS, end, "evaluated at the end:\nmean of 4 episodes"),
    ):
        axes.axvspan(left, right, color="0.93", linewidth=0)
        axes.text((left + right) / 2, 70, about, rotation=90, ha="center", va="bottom", color="0.4", fontsize=7.5)
    for i, (name, seeds) in enumerate(found.items()):
        look: dict[str, Any] = {"color": COLOURS[i], "linestyle": DASHES[i], "marker": "os"[i], "markersize": 4.5}
        for j, each in enumerate(seeds.values()):
            label = f"{name}, {len(seeds)} seeds" if j == 0 else None
            axes.plot(np.cumsum(each["lengths"]), each["lengths"], linewidth=1.3, label=label, **look)
            at = STEPS + 15 + 30 * (len(seeds) * i + j)  # side by side, as several seeds end at 500
            axes.plot(at, each["last_return"], **look)
    axes.set(xlabel="real env steps, at the end of each training episode", xlim=(0, end), ylim=(0, 1.04 * LONGEST))
    axes.set_xticks(range(0, STEPS, 200))
    axes.set_ylabel("steps that the pole stayed up")
    axes.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def main() -> None:
    """Runs, counts episodes, publishes."""
    if "--draw" in sys.argv[1:]:
        draw(json.loads((RESULTS / "planning.json").read_text(encoding="utf-8"))["methods"], RESULTS / "planning.png")
        return
    found, made, configs = {}, [], {}
    for name in METHODS:
        configs[name] = replace(preset(name, "classic/cartpole"), env_steps=STEPS, eval_every=100, checkpoint_every=5)
        found[name] = {}
        for seed in SEEDS:
            directory = run(replace(configs[name], seed=seed), f"classic-cartpole_{name}_s{seed}_1")
            rows, t = runlog.read(directory / rundir.METRICS), collected(directory)
            lengths = np.diff(np.flatnonzero(t.terminated | t.truncated), prepend=-1).tolist()
            epochs = [b["wall_s"] - a["wall_s"] for a, b in itertools.pairwise(rows)]
            steps = (rows[-1]["model_steps"] - rows[-2]["model_steps"]) / 200
            found[name][seed] = {
                "episodes": len(lengths),
                "episodes_after_exploration": int(sum(np.cumsum(lengths) > EXPLORED)),
                "lengths": lengths,
                "last_return": rows[-1][runlog.RETURN],
                "seconds_per_epoch_of_200_steps": float(np.median(epochs[1:-1])),
                "model_steps_per_action": steps,
                "model_steps_per_second_fit_included": float(200 * steps / np.median(epochs[1:-1])),
            }
            print(name, seed, found[name][seed])
            made.append(directory)
    in_time = lambda s: s["episodes_after_exploration"] <= EPISODES and s["last_return"] >= SOLVED  # noqa: E731
    solved = {n: [in_time(s) for s in by.values()] for n, by in found.items()}
    draw(found, RESULTS / "planning.png")
    print("written to", publish("planning", {"methods": found, "solved": solved}, configs, made))


if __name__ == "__main__":
    main()
