"""Claim: rollouts gated by the ensemble's doubt stay out of a region that the data never covered.

A model of `classic/pendulum` is fitted to 4,000 real steps of a random policy, less all that touch the upper third of
the circle (within 60 degrees of upright). Rollouts of 15 steps branch off the rest with the same random policy, and
swing into the gap. Of the imagined steps that count, so many are inside the gap: without a gate; with M2AC's rank mask
(`one_vs_rest`); with a mask that keeps as many of each step by chance (what M2AC's keeps are early steps for the most
part, far from the gap whatever is doubted); and with MACURA's threshold (`jensen_shannon`). And so large is the model's
one-step error against the simulator, in deviations of the data's own changes. The claim holds if each gate at least
halves the share, on average over five seeds, and M2AC's that of the mask by chance too.

    python -m experiments.gates    # three to four minutes
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from branchax import replay, worlds
from branchax.config import ModelConfig, RolloutConfig
from branchax.devices import cache
from branchax.dynamics.base import assign_members
from branchax.dynamics.fit import make_ensemble
from branchax.dynamics.uncertainty import gate
from branchax.epoch.collect import uniform
from branchax.presets import PRESETS
from branchax.rollout import rollout
from branchax.runs.plots import COLOURS
from branchax.types import Key, Row, Trajectory
from branchax.worlds.base import WorldState
from experiments.harness import RESULTS, publish

SEEDS, HORIZON, STARTS, GROUPS = range(5), 15, 300, 6
WORLD = worlds.make("classic/pendulum")
CHANCE = "rank by chance"
# name: (how doubt is measured, what is done with it)
GATES = {
    "no gate": ("jensen_shannon", RolloutConfig()),
    "rank (M2AC)": ("one_vs_rest", RolloutConfig(gate="rank")),
    CHANCE: ("one_vs_rest", RolloutConfig(gate="rank")),
    "threshold (MACURA)": ("jensen_shannon", RolloutConfig(gate="threshold")),
}


def inside(obs: jax.Array) -> jax.Array:
    """Whether the pendulum is within 60 degrees of upright; obs [..., 3] is cos, sin, velocity."""
    return obs[..., 0] > 0.5 * jnp.sqrt(obs[..., 0] ** 2 + obs[..., 1] ** 2)


def collected(key: Key) -> replay.Ring:
    """4,000 random steps, without those that start or end in the gap."""
    start = jax.vmap(WORLD.reset)(jax.random.split(key, 40))
    _, trajectory = rollout(key, WORLD, uniform(WORLD.spec), start, 100, restart=True)
    rows = Row(jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), trajectory.transition))
    ring = replay.init(jax.tree.map(lambda x: x[0], rows), 4_000)
    return replay.add(ring, rows, ~(inside(rows.transition.obs) | inside(rows.transition.next_obs)))


def model_of(measure: str) -> ModelConfig:
    """Predictions may leave the data's range: the gap lies beyond it in cos(angle)."""
    return replace(PRESETS["mbpo"].model, uncertainty=measure, bound_margin=2.0)


def imagined(key: Key, measure: str, config: RolloutConfig, chance: bool) -> tuple[Trajectory, jax.Array]:
    """Gated rollouts [G, H, B] and their one-step error [G, H, B]; with `chance`, doubt is drawn, not measured."""
    dynamics = make_ensemble(WORLD, model_of(measure))
    key_data, key_init, key_fit, key_start, key_members, key_run = jax.random.split(key, 6)
    ring = collected(key_data)
    fitted, _ = dynamics.fit(key_fit, dynamics.init(key_init), ring)
    members = assign_members(key_members, dynamics.elites(fitted), GROUPS, HORIZON, "ts1")

    def group(x: tuple[Key, jax.Array, Any]) -> Trajectory:
        start = jax.vmap(dynamics.branch)(replay.sample(x[0], ring, STARTS // GROUPS))
        act, world = uniform(WORLD.spec), lambda member: dynamics.world(fitted, member)
        return rollout(x[1], world, act, start, HORIZON, context=x[2])[1]

    keys = jax.random.split(key_start, GROUPS), jax.random.split(key_run, GROUPS)
    trajectory = jax.vmap(group)((*keys, members))
    t = trajectory.transition
    over = lambda f: jax.vmap(jax.vmap(jax.vmap(f)))  # noqa: E731
    doubt = over(lambda s, a: dynamics.doubt(fitted, s, a))(t.obs, t.action)
    doubt = jax.random.uniform(jax.random.fold_in(key, 6), doubt.shape) if chance else doubt

    def truth(obs: jax.Array, action: jax.Array) -> jax.Array:
        angle = jnp.arctan2(obs[1], obs[0])
        state = WorldState(jnp.stack([angle, obs[2]]), obs, jnp.zeros((), jnp.int32))
        return WORLD.step(key, state, action)[1].next_obs

    scale = fitted.scales.targets.std[:-1]
    error = jnp.sqrt((((t.next_obs - over(truth)(t.obs, t.action)) / scale) ** 2).mean(-1))
    return gate(trajectory, doubt, jnp.int32(HORIZON), config), error


def draw(shown: dict[str, Trajectory], found: dict[str, dict[str, Any]], path: Any) -> None:
    """The steps of the first seed by angle and velocity, the gap shaded; and for each seed the share in the gap."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.6, 3.4), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    *planes, shares = figure.subplots(1, len(shown) + 1, width_ratios=[1.0] * len(shown) + [1.35])
    for axes, (name, trajectory) in zip(planes, shown.items(), strict=True):
        obs, valid = np.asarray(trajectory.transition.next_obs), np.asarray(trajectory.valid)
        angle, velocity = np.degrees(np.arctan2(obs[..., 1], obs[..., 0]))[valid], obs[..., 2][valid]
        within = np.asarray(inside(obs))[valid]
        axes.axvspan(-60, 60, color="0.92", zorder=0)
        for keep, colour in ((~within, COLOURS[0]), (within, COLOURS[1])):
            axes.plot(angle[keep], velocity[keep], ".", color=colour, markersize=1.5, alpha=0.6)
        axes.set_title(f"{name}, seed {SEEDS[0]}:\n{valid.sum():,} steps, {within.mean():.1%} in the gap", **TITLE)
        axes.set(xlabel="angle from upright [degrees]", xlim=(-180, 180), xticks=(-180, -60, 60, 180))
        axes.set_ylim(-9.5, 9.5)
        axes.tick_params(labelleft=axes is planes[0])
    planes[0].set_ylabel("velocity [rad/s]")
    planes[0].text(0, 9.3, "no data", ha="center", va="top", fontsize=8, color="0.4")
    for i, each in enumerate(found.values()):
        spread = i + np.linspace(-0.2, 0.2, len(each["share_inside"]))
        shares.plot(spread, 100 * np.array(each["share_inside"]), "o", color=COLOURS[1], markersize=4, alpha=0.7)
        shares.plot([i - 0.3, i + 0.3], [100 * each["mean"]] * 2, color="black", linewidth=1.5)
        shares.annotate(f"{each['mean']:.2%}", (i, 100 * max(each["share_inside"])), (0, 6), **LABEL)
    shares.set_title(f"steps in the gap [%],\n{len(SEEDS)} seeds (dots) and their mean", **TITLE)
    shares.set_xticks(
        range(len(found)), [name.replace(" (", "\n(").replace(" by", "\nby") for name in found], fontsize=7
    )
    shares.set(
        xlim=(-0.5, len(found) - 0.5),
        ylim=(-0.3, 1.1 * max(100 * max(each["share_inside"]) for each in found.values())),
    )
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


TITLE: dict[str, Any] = {"fontsize": 8, "loc": "left"}
LABEL: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "fontsize": 8}


def main() -> None:
    """Imagines, counts, publishes."""
    cache.enable()
    found, shown = {}, {}
    for name, (measure, config) in GATES.items():
        run = jax.jit(lambda key, m=measure, c=config, chance=name == CHANCE: imagined(key, m, c, chance))
        shares, errors, counts = [], [], []
        for seed in SEEDS:
            trajectory, error = run(jax.random.key(seed))
            valid = np.asarray(trajectory.valid)
            shares.append(float(np.asarray(inside(trajectory.transition.next_obs))[valid].mean()))
            errors.append(float(np.asarray(error)[valid].mean()))
            counts.append(int(valid.sum()))
            shown.setdefault(name, trajectory)
        found[name] = {"share_inside": shares, "mean": float(np.mean(shares)), "error": errors, "steps": counts}
        print(name, found[name])
    draw(shown, found, RESULTS / "gates.png")
    base = found["no gate"]["mean"]
    holds = all(found[name]["mean"] <= base / 2 for name in GATES if name not in ("no gate", CHANCE))
    holds = holds and found["rank (M2AC)"]["mean"] <= found[CHANCE]["mean"] / 2
    data = {"gates": found, "seeds": list(SEEDS), "holds": bool(holds)}
    configs = {
        name: replace(PRESETS["mbpo"], model=model_of(measure), rollout=replace(config, horizon=HORIZON))
        for name, (measure, config) in GATES.items()
    }
    print("holds:", holds, "written to", publish("gates", data, configs, []))


if __name__ == "__main__":
    main()
