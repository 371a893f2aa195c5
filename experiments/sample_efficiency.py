"""Claim: short branched rollouts in a learned model need at most a third of the real steps that SAC needs.

Both learners are the same code, with the same networks and the same 100 updates per real step; `sac` imagines nothing.
With few updates per step both are limited by updates, and on worlds as small as these they need about the same number
of real steps; with many, real data is what is short, and that is what a model stretches. Rollouts are 15 steps
long: those of 2, as in a first version, hardly leave the real states, and what a policy has not met in the world it can
meet in the model.

A seed has solved a world at the first of three evaluations in a row that reach the threshold. A seed of `sac` that does
not within its budget counts with the whole budget, which is a lower bound.

    python -m experiments.sample_efficiency                        # all of it, or what is missing of it
    python -m experiments.sample_efficiency classic/pendulum sac   # one part, to run several side by side
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from branchax.config import Config
from branchax.presets import preset
from branchax.runs import plots, runlog
from experiments.harness import RESULTS, curves, publish, run, steps_to

SEEDS = range(5)
# world: (return that counts as solved, real steps for mbpo, real steps for sac)
WORLDS = {"classic/pendulum": (-200.0, 900, 1_200), "classic/cartpole": (475.0, 900, 1_200)}


def config_of(name: str, world: str, env_steps: int) -> Config:
    """A preset with many updates per real step, and a fit every 20 steps."""
    config = preset(name, world)
    config = replace(config, env_steps=env_steps, explore_steps=100, epoch_steps=20, updates_per_step=100.0)
    config = replace(config, agent=replace(config.agent, tau=0.02), eval_episodes=8, checkpoint_every=1_000)
    if config.model_free:
        return config
    return replace(config, rollout=replace(config.rollout, horizon=15, per_step=100, keep_epochs=2))


def runs(name: str, world: str, env_steps: int) -> list[Path]:
    """One run per seed, so that they can be spread over processors."""
    config, short = config_of(name, world, env_steps), world.replace("/", "-")
    return [run(replace(config, seed=seed), f"{short}_{name}_s{seed}_1") for seed in SEEDS]


def draw(world: str, made: dict[str, list[Path]], solved: dict[str, list[float | None]], path: Path) -> None:
    """Returns of both methods over real steps, and below them when each seed had solved the world, if it had."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    threshold, *budgets = WORLDS[world]
    figure = Figure(figsize=(6.4, 4.8), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    returns, seeds = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    returns.axhline(threshold, color="0.4", linewidth=1, linestyle=":", label=f"solved: {threshold:g}")
    for i, (name, directories) in enumerate(made.items()):
        look = {"color": plots.COLOURS[i], "linestyle": plots.DASHES[i]}
        (group,) = plots.groups(directories)
        plots.add(returns, group, runlog.RETURN, look, name=f"{name}: ")
        reached = [at for at in solved[name] if at is not None]
        missed = [budgets[i]] * (len(solved[name]) - len(reached))
        for marker, at in (("|", reached), ("x", missed)):  # one above the other where several are at the same step
            row = [i + 0.2 * (at[:j].count(x) - (at.count(x) - 1) / 2) for j, x in enumerate(at)]
            seeds.plot(at, row, marker, color=look["color"], markersize=8 if marker == "|" else 5, markeredgewidth=1.8)
        seeds.plot([0, budgets[i]], [i, i], color=look["color"], linewidth=0.8, alpha=0.4, zorder=0)
    plots.tidy(returns, "return of an episode")
    returns.set_title(f"{world}: bands are {plots.INTERVAL}s, thin lines seeds", fontsize=9, loc="left")
    returns.legend(frameon=False, fontsize=8, loc="lower right")
    plots.tidy(seeds, "")
    seeds.set_title(
        "bars: a seed has solved it; crosses: not within the budget (the line's end)", fontsize=8, loc="left"
    )
    seeds.grid(visible=False)
    seeds.set_yticks(range(len(made)), list(made))
    seeds.set(xlabel="real env steps", xlim=(0, 1.04 * max(budgets)), ylim=(len(made) - 0.4, -0.6))
    plots.save(figure, path)


def main() -> None:
    """Runs, compares, publishes."""
    if sys.argv[1:]:
        world, name = sys.argv[1:]
        runs(name, world, WORLDS[world][1 + (name == "sac")])
        return
    found, configs, directories = {}, {}, []
    for world, (threshold, *budgets) in WORLDS.items():
        made, solved, means, spread = {}, {}, {}, {}
        for name, budget in zip(("mbpo", "sac"), budgets, strict=True):
            configs[f"{world} {name}"] = config_of(name, world, budget)
            made[name] = runs(name, world, budget)
            steps = [steps_to(*curves(directory)[seed], threshold) for seed, directory in enumerate(made[name])]
            solved[name] = steps
            counted = [budget if s is None else s for s in steps]
            means[name], spread[name] = float(np.mean(counted)), float(np.std(counted, ddof=1))
            directories += made[name]
        draw(world, made, solved, RESULTS / f"sample_efficiency_{world.replace('/', '-')}.png")
        ratio = means["mbpo"] / means["sac"]
        found[world] = {
            "threshold": threshold,
            "solved_at": solved,
            "mean": means,
            "sd": spread,
            "ratio": ratio,
            "holds": None not in solved["mbpo"] and ratio <= 1 / 3,
        }
        print(world, found[world])
    print("written to", publish("sample_efficiency", {"worlds": found}, configs, directories))


if __name__ == "__main__":
    main()
