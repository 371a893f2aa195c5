"""Claim: each version of model-based reinforcement learning needs fewer real steps than the one before.

2.0 goes back through long rollouts of the model, 2.5 weighs long rollouts by likelihood ratios (PPO), 3.0 is SAC on
short branched rollouts (`mbpo`), DHMBPO what the three became (`dhmbpo_tiny`); SAC and PPO without a model are what
they are compared with. 3.0 and DHMBPO run by their presets; SAC, the learner of 3.0, with the updates per real step
that were best for it on other seeds. 2.0 is run on the pendulum alone: elsewhere the reward is 1 until an episode ends,
which has no derivative. So are 2.5, PPO and DHMBPO, to save time. Returns are on a scale from 0 (a random policy) to 1
(solved), not clipped.

    python -m experiments.lecture.versions           # 300 and 400 real steps of the pendulum alone, 2 seeds
    python -m experiments.lecture.versions --full    # 800 to 1,200 real steps, 10 to 12 seeds; about 90 minutes
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes

from branchax.config import Config
from branchax.presets import preset
from branchax.runs import rundir, runlog
from experiments.family import WORLDS as SCALES
from experiments.harness import curves, steps_to
from experiments.lecture.claim import Arms, Measured, Work, band, bootstrap, changed, directory, first_seed, gap, main
from experiments.lecture.figures import legend, line, save


class Task(NamedTuple):
    """A world of this comparison."""

    reached: float  # the return that counts as reached
    steps: int  # real steps of the full settings
    every: int  # real steps between evaluations
    updates: float  # of SAC for a real step, the best of 10, 20 and 40 on seeds 100 to 104


PENDULUM = "classic/pendulum"
WORLDS = {
    PENDULUM: Task(-250.0, 800, 25, 20.0),
    "classic/cartpole": Task(450.0, 1_200, 50, 10.0),
    "brax/inverted_pendulum": Task(950.0, 800, 50, 20.0),
}
LONGER = 1_000  # real steps of 2.0, 2.5 and PPO, which learn from 200 at a time
METHODS = {
    "v2.0": "2.0",
    "v2.5": "2.5",
    "mbpo": "3.0 (mbpo)",
    "dhmbpo_tiny": "DHMBPO",
    "sac": "SAC, no model",
    "ppo": "PPO, no model",
}
EVERYWHERE = ("mbpo", "sac")  # the others in the first world alone, see above
LOOKS: dict[str, tuple[Any, str]] = {  # dashes and mark
    "v2.0": (":", "v"),
    "v2.5": ("--", "^"),
    "mbpo": ("-", "o"),
    "dhmbpo_tiny": ((0, (4, 1)), "*"),
    "sac": ("-.", "s"),
    "ppo": ((0, (5, 1, 1, 1, 1, 1)), "D"),
}


def config_of(name: str, world: str, full: bool, **fields: Any) -> Config:
    """A preset with the budget of this comparison, and further fields."""
    task = WORLDS[world]
    config = changed(preset(name, world), seed=first_seed(full), eval_episodes=8, checkpoint_every=1_000)
    if not config.on_policy:
        config = changed(config, seeds=10 if full else 2, env_steps=task.steps if full else 300)
        config = changed(config, explore_steps=100 if full else 200)
        if config.model_free:
            config = changed(config, epoch_steps=task.every, updates_per_step=task.updates)
        return changed(config, eval_every=max(1, task.every // config.epoch_steps), **fields)
    config = changed(config, seeds=12 if full else 2, env_steps=LONGER if full else 400, eval_every=1)
    config = changed(config, epoch_steps=200, collect_steps=200)
    if config.model_free:
        return changed(config, explore_steps=10, parallel_worlds=10, updates_per_step=1 / 200, **fields)
    config = changed(config, explore_steps=200, updates_per_step=0.25, rollout__per_update=24, rollout__groups=1)
    return changed(config, **({"agent__passes": 5} if name == "v2.5" else {}), **fields)


def arms_of(full: bool) -> dict[str, tuple[str, Config]]:
    """By world and method, what `Arms` takes; quick settings have the pendulum alone."""
    worlds = WORLDS if full else [PENDULUM]
    pairs = [(world, name) for world in worlds for name in METHODS if world == PENDULUM or name in EVERYWHERE]
    return {
        (arm := f"{world} {name}"): (directory("versions", full, arm), config_of(name, world, full))
        for world, name in pairs
    }


def scores(where: Path, world: str) -> np.ndarray:
    """Of all evaluations of a run: [K, T]."""
    random, solved = SCALES[world]
    return np.array([(r - random) / (solved - random) for _, r in curves(where).values()])


def areas(where: Path, world: str, steps: int | None = None) -> np.ndarray:
    """The mean score over the evaluations of a run, up to so many real steps: [K]."""
    clock = next(iter(curves(where).values()))[0]
    return scores(where, world)[:, clock <= (steps or clock[-1])].mean(1)


def last(where: Path, world: str) -> np.ndarray:
    """The score of a run's last evaluation: [K]."""
    return scores(where, world)[:, -1]


def result(where: Path, config: Config) -> dict[str, Any]:
    """What one run gave, for the figure."""
    rows = runlog.read(where / rundir.METRICS)
    final = [row for row in rows if row["epoch"] == rows[-1]["epoch"]]
    share = float(config.model_free) if config.on_policy else config.real_rows / config.batch_size
    return {
        "env_steps": next(iter(curves(where).values()))[0].tolist(),
        "score": band(scores(where, config.world)),
        "last": last(where, config.world).tolist(),
        "area": areas(where, config.world).tolist(),
        "reached": [steps_to(*curve, WORLDS[config.world].reached) for curve in curves(where).values()],
        "model_steps_per_real": float(np.mean([row["model_steps"] / row["env_steps"] for row in final])),
        "updates_per_real": float(np.mean([row["updates"] / row["env_steps"] for row in final])),
        "real_share": share,
    }


def measure(full: bool) -> Work:
    """From a run for each world and method."""
    arms = Arms(arms_of(full))
    worlds = list(WORLDS) if full else [PENDULUM]

    def area(name: str, world: str = PENDULUM) -> np.ndarray:
        return areas(arms[f"{world} {name}"], world)

    def against(first: str, second: str) -> Measured:
        return gap((last(arms[f"{PENDULUM} {first}"], PENDULUM), last(arms[f"{PENDULUM} {second}"], PENDULUM)))

    def reached(name: str, world: str) -> list[float]:
        """Real steps by seed, in budgets."""
        where = arms[f"{world} {name}"]
        budget = arms.configs[f"{world} {name}"].env_steps
        steps = [steps_to(*curve, WORLDS[world].reached) for curve in curves(where).values()]
        return [1.0 if s is None else s / budget for s in steps]

    def ratio(*pairs: np.ndarray) -> float:
        return float(np.sum([p[:, 0].mean() for p in pairs]) / np.sum([p[:, 1].mean() for p in pairs]))

    def data() -> dict[str, Any]:
        found = {key: result(arms[key], config) for key, config in arms.configs.items()}
        return {"worlds": {w: {k.split()[1]: r for k, r in found.items() if k.startswith(w + " ")} for w in worlds}}

    measured = {
        "3.0 over SAC": lambda: gap(*((area("mbpo", w), area("sac", w)) for w in worlds)),
        "steps to a return": lambda: bootstrap(
            ratio, *(np.transpose([reached("mbpo", w), reached("sac", w)]) for w in worlds)
        ),
        "3.0 over 2.5": lambda: against("mbpo", "v2.5"),
        "2.5 over 2.0": lambda: against("v2.5", "v2.0"),
        "2.5 over PPO": lambda: against("v2.5", "ppo"),
        "DHMBPO over SAC": lambda: gap((area("dhmbpo_tiny"), area("sac"))),
        "DHMBPO and 3.0": lambda: gap((area("dhmbpo_tiny"), area("mbpo"))),
    }
    return Work(measured, data, arms)


def draw(data: dict[str, Any], path: Path) -> None:
    """Score over real steps in each world, and how much of the data is imagined."""
    worlds = data["worlds"]

    def fill(*axes: Axes) -> None:
        for panel, (world, found) in zip(axes, worlds.items(), strict=False):
            for name, r in found.items():
                line(panel, r["env_steps"], r["score"], METHODS[name], list(METHODS).index(name), *LOOKS[name])
            panel.axhline(1, color="0.6", linewidth=0.8, linestyle=":")
            panel.set(title=world, ylabel="score (1: solved)", xlabel="real steps")
            panel.set_ylim(-0.4 if world == PENDULUM else -0.1, 1.2)
        legend(axes[0], "mean, 95 % band", 2)
        for i, (name, r) in enumerate(worlds[PENDULUM].items()):
            count = r["model_steps_per_real"]
            axes[-1].barh(METHODS[name], max(count, 0.1), color=f"C{i}")
            share = f"{r['real_share']:.0%} of a batch is real"
            axes[-1].text(0.12, i, share, va="center", fontsize=6.5, color="white" if count else "black")
        axes[-1].set(xscale="log", xlim=(0.1, None), xlabel="imagined steps per real step (pendulum)")
        axes[-1].invert_yaxis()
        axes[-1].grid(axis="y", visible=False)

    save(path, [2.4, *[1.8] * (len(worlds) - 1), 1.6], fill, above=0.8)


if __name__ == "__main__":
    main("versions", measure, draw, compiles_much=True)
