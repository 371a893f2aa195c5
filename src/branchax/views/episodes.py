"""Real and imagined episodes of a run, converted for drawing."""

from __future__ import annotations

import jax
import numpy as np

from branchax.types import Trajectory
from branchax.views import bodies, scenes
from branchax.views.model import SHOWN, Found
from branchax.views.play import Player

FRAMES = 300  # of an episode that is shown


def collect_frames(
    player: Player, real: Trajectory, imagined: Trajectory | None, shown: int, most: int = FRAMES
) -> Found:
    """Up to three episodes, real and imagined (by the first elite) from the same starts, ready to be drawn."""
    spec, config = player.world.spec, player.config
    sides = {"real": real} | ({} if imagined is None else {"imagined": member_of(imagined, 0)})
    body = None
    if bodies.has_bodies(spec.name):
        from branchax.worlds.brax import environment

        short = spec.name.removeprefix("brax/")
        body = bodies.bodies(environment(short, config.backend), short)
    exact = body is not None and _rebuilds(body, real)
    episodes = []
    for b in range(min(3, real.valid.shape[1])):
        episode = {}
        for side, trajectory in sides.items():
            steps = min(int(trajectory.valid[:, b].sum()), shown, most)
            obs = np.asarray(trajectory.transition.obs[:steps, b])
            reward = np.cumsum(trajectory.transition.reward[:steps, b])
            drawn: Found = {"total": reward, "traces": obs[:, :SHOWN].T}
            drawing = scenes.scene(spec.name, obs, config.world_args)
            if drawing is not None:
                drawn["scene"] = drawing.data()
            if body is not None and side == "real":
                drawn["poses"] = real.state[:steps, b].reshape(steps, -1)
            elif body is not None and exact:
                rebuilt = body.rebuild(obs, real.state[0, b])
                assert rebuilt is not None
                drawn["poses"] = rebuilt.reshape(steps, -1)
            episode[side] = drawn
        episodes.append(episode)
    geoms = None if body is None else body.geoms
    note = (
        ""
        if body is None or exact
        else "The observation does not contain the positions of the bodies, so the imagined side shows traces."
    )
    seconds = body.seconds if body is not None else scenes.step_seconds(spec.name, config.world_args)
    return {"episodes": episodes, "geoms": geoms, "seconds": seconds, "note": note}


def _rebuilds(body: bodies.Bodies, real: Trajectory) -> bool:
    """Whether bodies rebuilt from real observations are where the simulator has them."""
    steps = min(int(real.valid[:, 0].sum()), FRAMES)
    rebuilt = body.rebuild(np.asarray(real.transition.obs[:steps, 0]), real.state[0, 0])
    return rebuilt is not None and bodies.apart(rebuilt, real.state[:steps, 0]) < bodies.EXACT


def member_of(imagined: Trajectory, e: int) -> Trajectory:
    """The rollouts of elite `e`, from those of all elites [n, H, B, ...]."""
    return jax.tree.map(lambda x: x[e], imagined)
