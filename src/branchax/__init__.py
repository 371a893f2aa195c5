"""branchax: model-based reinforcement learning in JAX, on short rollouts that branch off real states.

    import branchax

    config = branchax.preset("mbpo", "brax/inverted_pendulum", env_steps=5_000, agent__tau=0.01)
    run = branchax.run(config, "runs/first")  # later: branchax.load("runs/first")
    run.policy(obs), run.metrics, run.evaluate(100)

The names below load their modules when they are first used, so that `import branchax` imports no JAX. To drive the
functions yourself, `branchax.build.build(config)` returns them as a `Program`; `branchax.agents`, `branchax.dynamics`,
`branchax.worlds` and `branchax.epoch` hand on what an extension needs, and `examples/` has a run, a world and an agent
made by hand. A name that is in no `__all__` of these five packages is private.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from branchax import build as build
    from branchax.agents.base import Agent as Agent
    from branchax.agents.base import Sources as Sources
    from branchax.checks import check as check
    from branchax.config import Config as Config
    from branchax.config import with_field as with_field
    from branchax.deploy.export import export as export
    from branchax.dynamics.base import Dynamics as Dynamics
    from branchax.epoch.program import make_program as make_program
    from branchax.errors import ConfigError as ConfigError
    from branchax.presets import preset as preset
    from branchax.runs.evaluate import evaluate as evaluate
    from branchax.runs.trackers import Logger as Logger
    from branchax.types import Transition as Transition
    from branchax.views.run import Run as Run
    from branchax.views.run import load as load
    from branchax.views.run import run as run
    from branchax.worlds.base import World as World
    from branchax.worlds.base import WorldSpec as WorldSpec
    from branchax.worlds.base import make_world as make_world
else:
    from branchax.public import hand_on

    __getattr__, __dir__, __all__ = hand_on(
        __name__,
        {
            "Agent": "branchax.agents.base",
            "Config": "branchax.config",
            "ConfigError": "branchax.errors",
            "Dynamics": "branchax.dynamics.base",
            "Logger": "branchax.runs.trackers",
            "Run": "branchax.views.run",
            "Sources": "branchax.agents.base",
            "Transition": "branchax.types",
            "World": "branchax.worlds.base",
            "WorldSpec": "branchax.worlds.base",
            "build": "branchax.build",
            "check": "branchax.checks",
            "evaluate": "branchax.runs.evaluate",
            "export": "branchax.deploy.export",
            "load": "branchax.views.run",
            "make_program": "branchax.epoch.program",
            "make_world": "branchax.worlds.base",
            "preset": "branchax.presets",
            "run": "branchax.views.run",
            "with_field": "branchax.config",
        },
    )

__version__ = "0.2.0"
