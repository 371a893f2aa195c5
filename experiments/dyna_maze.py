"""Claim: Dyna-Q with more planning steps needs fewer real steps (Sutton and Barto 2018, Figure 8.2, reproduced).

The Dyna maze, alpha = 0.1, gamma = 0.95, epsilon = 0.1, n = 0, 5 and 50 planning steps per real step, 30 repetitions
side by side: steps per episode, from the second episode on as in the book. As there, each real step is followed by one
update on it, a fit of the table and n updates on pairs that were seen. (One difference: pairs are drawn as often as
they were visited; in the book each pair is as likely.)

    python -m experiments.dyna_maze    # a quarter of an hour: the table is counted afresh each step
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from branchax.build import build
from branchax.config import Config, RolloutConfig
from branchax.devices import cache
from branchax.presets import preset
from branchax.runs.plots import COLOURS
from experiments.harness import RESULTS, publish

PLANNING, SEEDS, EPISODES, SHORTEST = (0, 5, 50), 30, 50, 14
REAL_STEPS = {0: 20_000, 5: 7_000, 50: 4_000}  # enough for 50 episodes


def config_of(planning: int) -> Config:
    """The textbook's settings: collect one step, learn it, fit, imagine n steps, learn them."""
    base = preset("dyna_q" if planning else "q_learning")
    base = replace(base, explore_steps=1, epoch_steps=1, collect_steps=1, env_steps=REAL_STEPS[planning])
    if not planning:
        return base
    rollout = RolloutConfig(per_step=planning, groups=1, first_action="replayed")
    return replace(base, rollout=rollout, batch_size=planning)


def episode_lengths(config: Config) -> np.ndarray:
    """Steps of each of the first episodes [SEEDS, EPISODES]; every seed is a run of its own under `vmap`."""
    program, horizon = build(config), jnp.int32(config.rollout.longest())

    def one(key: jax.Array) -> jax.Array:
        state = program.init(key)
        state, _ = jax.lax.scan(lambda s, _: (program.epoch(s, horizon)[0], None), state, length=config.epochs)
        return state.real.data.transition.terminated

    ended = np.asarray(jax.jit(jax.vmap(one))(jax.vmap(jax.random.key)(jnp.arange(SEEDS))))
    lengths = [np.diff(np.flatnonzero(row), prepend=-1)[:EPISODES] for row in ended]
    assert min(map(len, lengths)) == EPISODES, [len(row) for row in lengths]
    return np.stack(lengths)


def draw(found: dict[int, np.ndarray], path: Any) -> None:
    """Steps per episode over episodes: mean and 95 % interval over the repetitions."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0, 3.8), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for (planning, lengths), colour in zip(found.items(), COLOURS, strict=False):
        x, mean = np.arange(2, EPISODES + 1), lengths[:, 1:].mean(0)
        error = 1.96 * lengths[:, 1:].std(0, ddof=1) / np.sqrt(SEEDS)
        axes.plot(x, mean, color=colour, label=f"{planning} planning steps")
        axes.fill_between(x, mean - error, mean + error, color=colour, alpha=0.2, linewidth=0)
    axes.axhline(SHORTEST, color="0.6", linewidth=0.8, linestyle=":")
    axes.text(EPISODES, SHORTEST + 12, f"shortest path, {SHORTEST}", ha="right", fontsize=8, color="0.4")
    axes.set(
        xlabel="episode", ylabel=f"steps per episode, mean of {SEEDS} runs ± 95 %", ylim=(0, 800), xlim=(1, EPISODES)
    )
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def main() -> None:
    """Runs, compares, publishes."""
    cache.enable()
    found, numbers = {}, {}
    for planning in PLANNING:
        start = time.perf_counter()
        lengths = found[planning] = episode_lengths(config_of(planning))
        total = lengths.sum(1)  # real steps for the 50 episodes
        numbers[planning] = {
            "steps_by_episode": lengths.mean(0).round(2).tolist(),
            "real_steps_for_all_episodes": {"mean": float(total.mean()), "sd": float(total.std(ddof=1))},
            "first_episode_within_twice_the_shortest": int((lengths.mean(0) <= 2 * SHORTEST).argmax()) + 1,
            "last_ten": float(lengths[:, -10:].mean()),
            "seconds": round(time.perf_counter() - start, 1),
        }
        print(planning, numbers[planning])
    means = [numbers[n]["real_steps_for_all_episodes"]["mean"] for n in PLANNING]
    holds = means == sorted(means, reverse=True) and means[0] > 2 * means[1] > 2 * means[2]
    draw(found, RESULTS / "dyna_maze.png")
    data = {"planning": numbers, "seeds": list(range(SEEDS)), "holds": bool(holds)}
    print("written to", publish("dyna_maze", data, {f"n={n}": config_of(n) for n in PLANNING}, []))


if __name__ == "__main__":
    main()
