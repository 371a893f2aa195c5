"""Runs of settings drawn at random: agents x models x rollouts x worlds, all that `check` accepts, in small sizes.

Of each the program is built and explores, an epoch is run and saved, another is run, and what was saved is restored and
runs that epoch again: no loss, metric or weight may be NaN, and both ends must be equal to the bit.

    python -m benchmarks.settings [COUNT]        # those of the first COUNT draws (default 240) that have no result yet

The last 40 draws are wider: buffers that wrap around, other numbers of first updates, a world of Brax. Worlds stepped
on the host have another epoch (`tests/test_host_epoch.py`) and are not among them.

Writes `results/settings.json` after each, with the settings of those that failed. Ends with 1 if any did. A draw is run
again when its settings have changed: those of a seed depend on which fields there are.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import sys
import tempfile
import time
import traceback
import typing
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from branchax.checks import check
from branchax.config import (
    Config,
    ConfigError,
    CriticConfig,
    DQNConfig,
    ModelConfig,
    PathwiseConfig,
    PlannerConfig,
    PolicyGradientConfig,
    QLearningConfig,
    RolloutConfig,
    SACConfig,
    TD3Config,
    to_dict,
)

RESULT = Path("results/settings.json")
WORLDS = (
    *(f"classic/{name}" for name in ("pendulum", "cartpole", "point_mass", "double_pendulum", "lqr")),
    *(f"classic/{name}" for name in ("cartpole_discrete", "acrobot", "mountain_car", "gridworld", "chain")),
    *(f"probe/{name}" for name in ("constant_reward", "observation", "discounting", "action", "time_limit", "choice")),
)
PLAIN = 200  # draws before the wider ones
SIZES: dict[str, Any] = {  # what is small here whatever is drawn
    "hidden": (8,),
    "value_hidden": (8,),
    "members": 3,
    "candidates": 8,
    "iterations": 2,
}
DRAWS: dict[str, tuple[Any, ...]] = {  # fields of which a few values are tried; flags and choices are all drawn
    "horizon_end": (None, 3),
    "ramp": ((0, 0), (10, 40)),
    "every": (None, 2),
    "look_ahead": (None, 1, 2),
    "keep_epochs": (1, 2),
    "parallel_groups": (None, 2),
    "penalty": (0.0, 0.5),
    "validate_every": (None, 1, 2),
    "gate_share": (0.5, 1.0),
    "subset": (None, 1, 2),
    "atoms": (None, 5),
    "dropout": (0.0, 0.1),
    "critic_warmup": (0, 2),
    "policy_delay": (1, 2),
    "exploration": (0.0, 0.3),
    "epsilon": (0.0, 0.2, 1.0),
    "passes": (1, 2),
    "minibatches": (1, 2),
    "clip": (None, 0.2),
    "kl_penalty": (0.0, 1.0),
    "kl_stop": (None, 0.01),
    "kl_budget": (None, 0.01),
    "entropy_weight": (0.0, 0.01),
    "window": (None, 1, 2),
    "max_gradient_norm": (None, 0.5),
    "temperature": (None, 0.1),
    "noise_exponent": (0.0, 2.0),
    "keep": (0.0, 0.5),
    "decay": (1.0, 1.5),
    "particles": (1, 2),
    "bound_margin": (0.0, 0.1),
    "target_entropy": (None, -1.0),
}


class Sort(NamedTuple):
    """A kind of agent, and the fields in which all draws of this sort agree."""

    kind: type
    agent: dict[str, Any] = {}  # noqa: RUF012 (never changed)
    critic: dict[str, Any] = {}  # noqa: RUF012


SORTS = (
    Sort(SACConfig),
    Sort(TD3Config),
    Sort(DQNConfig),
    Sort(QLearningConfig),
    Sort(PolicyGradientConfig),
    Sort(PathwiseConfig),
    Sort(PlannerConfig, {"elites": 3, "horizon": 3}),
    # By chance alone these would hardly be drawn: the double horizon, and critics as in CrossQ and XQC.
    Sort(SACConfig, {"through_model": True}, {"expand": "fresh"}),
    Sort(SACConfig, {}, {"batch_norm": True, "pre_norm": False, "layer_norm": False}),
)


def draw_fields(rng: random.Random, often: float, kind: type, /, **fixed: Any) -> Any:
    """A config of a kind: each of its choices, flags and fields in `DRAWS` is drawn with chance `often`."""
    hints = typing.get_type_hints(kind)
    values: dict[str, Any] = {}
    for field in fields(kind):
        name, hint = field.name, hints[field.name]
        if name in fixed or name == "kind":
            continue
        if name in SIZES:
            values[name] = SIZES[name]
        elif rng.random() < often:
            if name in DRAWS:
                values[name] = rng.choice(DRAWS[name])
            elif hint is bool:
                values[name] = rng.random() < 0.5
            elif typing.get_origin(hint) is typing.Literal:
                values[name] = rng.choice(typing.get_args(hint))
    return kind(**values | fixed)


def propose(rng: random.Random, sort: Sort, wide: bool = False) -> Config:
    """A config, with a sort of agent, that may or may not be possible: the less is drawn, the likelier it is."""
    often, kind, fixed = rng.choice((0.1, 0.3, 0.5)), sort.kind, dict(sort.agent)
    if kind in (SACConfig, TD3Config, DQNConfig):
        fixed["critic"] = draw_fields(rng, often, CriticConfig, members=rng.choice((1, 2, 3)), **sort.critic)
    rollout = draw_fields(rng, often, RolloutConfig, horizon=rng.choice((0, 1, 2)), per_step=2, groups=2, per_update=4)
    kind_of_model, elites = rng.choice(("ensemble", "oracle", "tabular")), rng.choice((2, 3))
    model = draw_fields(rng, often, ModelConfig, kind=kind_of_model, elites=elites)
    collect, world, parallel, updates = (
        rng.choice((2, 10, 20)),
        rng.choice(WORLDS),
        rng.choice((1, 2)),
        rng.choice((0.1, 0.2, 1.0)),
    )
    if kind is PlannerConfig:  # a plan lasts for an epoch, with one update
        collect, updates = 20, 0.05
    wider: dict[str, Any] = {}
    if wide:
        world = rng.choice((world, world, world, "brax/inverted_pendulum"))
        first = 2 * max(1, round(20 * updates))
        wider = {"replay_capacity": rng.choice((40, 100)), "first_updates": rng.choice((None, first))}
    return Config(
        world=world,
        parallel_worlds=parallel,
        explore_steps=20,
        epoch_steps=20,
        collect_steps=collect,
        env_steps=60,
        updates_per_step=updates,
        batch_size=8,
        real_fraction=rng.choice((0.0, 0.25, 1.0)),
        agent=draw_fields(rng, often, kind, **fixed),
        model=replace(model, round_steps=2, max_rounds=2, batch_size=8),
        rollout=rollout,
        eval_episodes=2,
        **wider,
    )


def draw(seed: int) -> Config:
    """The first possible config of a seed's own sequence; the seeds take turns over the sorts of agents.

    Raises:
      RuntimeError: when none of many is possible, because what is drawn no longer agrees with what `check` allows.
    """
    rng = random.Random(seed)
    for _ in range(20_000):
        config = propose(rng, SORTS[seed % len(SORTS)], wide=seed >= PLAIN)
        try:
            check(config)
            possible(config)
            return config
        except ConfigError:
            continue
    raise RuntimeError(f"none of 20,000 configs is possible: {SORTS[seed % len(SORTS)]}")


def possible(config: Config) -> None:
    """Raises `ConfigError` where what is built refuses the settings; nothing is traced."""
    from branchax.build import build

    build(config)


def attempt(config: Config) -> None:
    """Explores, runs two epochs, and the second again from what was saved after the first.

    Raises:
      AssertionError: for a number that is not finite, or an end that differs; and whatever the library raises.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np

    from branchax.build import build
    from branchax.devices import cache
    from branchax.runs import checkpoint

    program, key, zero = build(config), jax.random.key(config.seed), jnp.int32(0)
    epochs = jax.jit(program.epoch).lower(jax.eval_shape(program.init, key), zero)
    soon = cache.ready_sooner(0)  # nothing here runs for as long as it compiles
    epoch = epochs.compile(compiler_options=soon)

    def step(state: Any) -> Any:
        after, report = epoch(state, jnp.int32(config.rollout.at(int(state.counts.env_steps))))
        wrong = [name for name, x in report.metrics.items() if not bool(jnp.isfinite(x))]
        assert not wrong, f"not finite: {', '.join(wrong)}"
        skipped = {name: int(n) for name, n in report.health.losses.items() if int(n)}
        assert not skipped, f"losses that were not finite: {skipped}"
        assert int(report.health.gradients) == 0, f"{int(report.health.gradients)} gradients were not finite"
        return after

    first = step(jax.jit(program.init).lower(key).compile(compiler_options=soon)(key))
    assert int(first.counts.env_steps) == 40, f"{int(first.counts.env_steps)} steps instead of 40"
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save(Path(folder), 1, first, {})
        back = checkpoint.restore(Path(folder), 1, jax.eval_shape(lambda: first))
    ends = step(first), step(back)
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(ends[0]), jax.tree.leaves(ends[1]), strict=True):
        raw = jax.random.key_data if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else (lambda leaf: leaf)
        x, y, name = np.asarray(raw(x)), np.asarray(raw(y)), jax.tree_util.keystr(path)
        assert x.tobytes() == y.tobytes(), f"{name} differs after it was restored"
        assert x.dtype.kind != "f" or not np.isnan(x).any(), f"{name} holds NaN"
    returns = jax.jit(program.evaluate)(jax.random.key(1), ends[0].agent)["return"]
    assert bool(jnp.isfinite(returns).all()), "returns are not finite"
    if config.model_free:
        assert int(ends[0].counts.model_steps) == 0


def main() -> None:
    """Runs what has no result yet."""
    from branchax.devices import cache

    # As the fast tests are compiled: nothing here runs for as long as it compiles.
    os.environ.setdefault("XLA_FLAGS", cache.as_flags(cache.ready_sooner(0)))
    import jax

    from branchax.runs import rundir

    count = int(sys.argv[1]) if len(sys.argv) > 1 else PLAIN + 40
    found = json.loads(RESULT.read_text(encoding="utf-8"))["draws"] if RESULT.is_file() else {}
    for seed in range(count):
        begun, config = time.monotonic(), draw(seed)
        digest = hashlib.sha256(json.dumps(to_dict(config), sort_keys=True).encode()).hexdigest()[:12]
        if found.get(str(seed), {}).get("settings") == digest:
            continue
        told: dict[str, Any] = {
            "settings": digest,
            "agent": config.agent.kind,
            "world": config.world,
            "model": config.model.kind,
        }
        try:
            attempt(config)
            told["outcome"] = "sound"
        except Exception as error:  # whatever there is to be found
            last = traceback.extract_tb(error.__traceback__)[-1]
            says = f"{type(error).__name__}: {error}"[:400]
            told |= {"outcome": "failed", "says": says, "at": f"{Path(last.filename).name}:{last.lineno}"}
            told["config"] = to_dict(config)
        found[str(seed)] = told | {"seconds": round(time.monotonic() - begun, 1)}
        print(seed, told["outcome"], told["world"], told["agent"], told.get("says", "")[:150], flush=True)
        outcomes = [x["outcome"] for x in found.values()]
        counts = {kind: outcomes.count(kind) for kind in ("sound", "failed")}
        made = {"command": " ".join(["python", "-m", "benchmarks.settings", *sys.argv[1:]])}
        made["environment"] = rundir.environment()
        rundir.write_json(RESULT, {"counts": counts, "draws": found, "made": made})
        jax.clear_caches()
    raise SystemExit(any(x["outcome"] == "failed" for x in found.values()))


if __name__ == "__main__":
    main()
