"""Measures the accuracy of a run's model and critic at its last checkpoint, on episodes that no fit has used.

    open loop     the model follows the recorded actions of real episodes for k steps: error against the real states
    calibration   share of true outcomes below each quantile that the model predicts one step ahead
    map           uncertainty: where the ensemble's members disagree, over a slice of the states
    returns       returns of the policy's mode in the real world and, from the same starts, in the model
    critic        predicted values against the discounted returns that followed
    phases        how the time of an epoch is spent (`phases`)

Everything is JSON-ready, so that the pictures (`pictures`) and the page of `report` draw the same numbers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from branchax.devices import cache
from branchax.errors import ConfigError
from branchax.runs import checkpoint, rundir, runlog
from branchax.types import Trajectory
from branchax.views import bodies, phases, play
from branchax.views.critic import measure_critic, tail_of
from branchax.views.episodes import collect_frames, member_of
from branchax.views.model import Found, map_disagreement, measure_calibration, measure_open_loop
from branchax.views.play import Player
from branchax.worlds.catalog import observation_names

EPISODES = 16
DIGITS = 5  # significant digits of the saved numbers
VERSION = 2  # of the saved file; files of other versions are measured again


def diagnose(
    directory: str | os.PathLike[str], seed: int | None = None, say: Callable[[str], Any] = lambda text: None
) -> Found:
    """The diagnosis of one seed (by default the first), from the file at `path_of` if that is up to date.

    Otherwise it is measured, which takes as long as compiling a run; `say` is called with messages about it.

    Raises:
      ConfigError: when the directory holds no run, no checkpoint yet, or no such seed.
      CheckpointError: when the checkpoint cannot be read.
    """
    directory = Path(directory)
    config = rundir.load_config(directory)
    seed = config.seed if seed is None else seed
    saved = checkpoint.steps(directory / rundir.CHECKPOINTS)
    if not saved:
        raise ConfigError(f"run: {directory} holds no checkpoint yet, so there is nothing to diagnose")
    path = path_of(directory, saved[-1], seed)
    made = directory / rundir.CHECKPOINTS / str(saved[-1]) / checkpoint.MANIFEST
    if path.exists() and path.stat().st_mtime > made.stat().st_mtime:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["version"] == VERSION:
            return found
    say(f"{directory}: measuring the accuracy of the model and the critic of seed {seed}, and where the time goes")
    cache.enable()
    player = play.load(directory, seed)
    rows = runlog.read(directory / rundir.METRICS)
    found = measure(player, say)
    say("  where the time goes")
    found |= {"phases": runlog.plain(phases.measure(player, rows), DIGITS)}
    path.parent.mkdir(exist_ok=True)
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(found, allow_nan=False), encoding="utf-8")
    draft.replace(path)
    return found


def path_of(directory: Path, step: int, seed: int) -> Path:
    """Where the diagnosis of a seed at a checkpoint is kept."""
    return directory / rundir.EVALUATIONS / f"{step}_seed{seed}_model.json"


def refusal(config: Any) -> str | None:
    """The reason why a run has no model to diagnose; None if it has one."""
    if config.model_free:
        return "the run is model-free (rollout.horizon = 0)"
    if config.model.exact:
        return "its model is the simulator itself (model.kind = oracle): there is no error to measure"
    return None


def unfit(player: Player) -> str | None:
    """The reason why the model of a player is not measured; None if it can be. For models from outside the library."""
    dynamics = player.dynamics
    if dynamics is None and refusal(player.config) is None:
        return "only the policy of this run was kept"
    if dynamics is not None and not dynamics.learned:
        return "its model is not learned: there is no error to measure"
    if dynamics is not None and dynamics.needs_state:
        return "its model starts from simulator states, which an observation does not contain"
    return None


def summary(found: Found) -> list[str]:
    """The diagnosis in a few lines."""
    lines = [f"{found['world']}, seed {found['seed']} after {found['env_steps']:,} env steps"]
    if part := found.get("open_loop"):
        unit = "of states wrong" if part["tabular"] else "standard deviations off"
        ahead = sorted({0, min(9, len(part["steps"]) - 1), len(part["steps"]) - 1})
        errors = ", ".join(f"{part['all'][i]:.3g} after {part['steps'][i]}" for i in ahead)
        still = part["still"][ahead[-1]]
        lines.append(f"  open loop     {unit}: {errors} steps (if nothing changed: {still:.3g})")
    if part := found.get("calibration"):
        lines.append(f"  calibration   {part['inside']:.0%} inside the middle 90 %, mean gap {part['ece']:.3f}")
    part = found["returns"]
    if part.get("imagined"):
        real, imagined = np.mean(part["real"]), np.mean(part["imagined"])
        lines.append(
            f"  return        {real:.5g} real, {imagined:.5g} imagined, over the first {part['steps']:,} steps"
        )
    if (part := found.get("critic")) and part["actual"]:
        lines.append(
            f"  critic        mean {np.mean(part['predicted']):.4g} predicted, {np.mean(part['actual']):.4g} observed"
        )
    seconds = found["phases"]["seconds"]
    shares = [f"{name} {x / sum(seconds):.0%}" for name, x in zip(found["phases"]["names"], seconds, strict=True)]
    lines.append(f"  time          {', '.join(shares)} of {sum(seconds):.3g} s for an epoch of one seed")
    return lines


def measure(player: Player, say: Callable[[str], Any] = lambda text: None) -> Found:
    """Measures one seed of a run. Parts that the run does not have (a model, a critic) are left out.

    `say` is called at the start of each part, because most are compiled and take long.
    """
    config, spec, valuation = player.config, player.world.spec, player.agent.valuation
    plans = player.agent.learns_from == "plans"  # each step of a planner takes thousands of model steps, so use few
    count = 2 if plans else EPISODES
    shown = min(spec.episode_length, 100 if plans else 1000)
    why = refusal(config) or unfit(player)
    tail = None if valuation is None else tail_of(config.agent.discount)
    length = max(shown, min(shown, 200) + tail) if tail is not None else shown
    keep = bodies.pose if bodies.has_bodies(spec.name) else lambda state: ()
    say("  real episodes")
    run = play.episodes(player, count, length, keep)
    real = jax.tree.map(np.asarray, run(True)[0])
    found: Found = {
        "version": VERSION,
        "world": spec.name,
        "seed": player.seed,
        "env_steps": player.clock,
        "names": observation_names(spec.name, spec.obs_size),
        "why_no_model": why,
        "returns": {"steps": shown, "real": _returns(real, shown)},
    }
    imagined = None
    if why is None:
        starts = real.transition.obs[0]
        say("  imagined episodes")
        imagined = play.imagine(player, starts, shown, members=1 if plans else None)
        members = range(imagined.valid.shape[0])
        found["returns"]["imagined"] = [_returns(member_of(imagined, e), shown) for e in members]
        say("  errors of predictions")
        found |= measure_open_loop(player, real, shown)
        if not spec.tabular:
            found["calibration"] = measure_calibration(player, real)
        found["map"] = map_disagreement(player)
    if valuation is not None and tail is not None:
        say("  the critic")
        own = real if valuation.greedy else jax.tree.map(np.asarray, run(False)[0])
        if critic := measure_critic(player, valuation, own, tail):
            found["critic"] = critic
    found["player"] = collect_frames(player, real, imagined, shown)
    return runlog.plain(found, DIGITS)


def _returns(trajectory: Trajectory, steps: int) -> np.ndarray:
    """The returns [B] of the first steps of a trajectory [H, B, ...]."""
    reward = np.where(trajectory.valid, trajectory.transition.reward, 0.0)
    return reward[:steps].sum(0)
