"""Agents that learn to act, each a NamedTuple of pure functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from branchax.agents.base import Agent as Agent
    from branchax.agents.base import Ahead as Ahead
    from branchax.agents.base import Layers as Layers
    from branchax.agents.base import Outcome as Outcome
    from branchax.agents.base import Sources as Sources
    from branchax.agents.base import Valuation as Valuation
    from branchax.agents.dqn import make_dqn as make_dqn
    from branchax.agents.pathwise import make_pathwise as make_pathwise
    from branchax.agents.planner import make_planner as make_planner
    from branchax.agents.policy_gradient import make_policy_gradient as make_policy_gradient
    from branchax.agents.q_learning import make_q_learning as make_q_learning
    from branchax.agents.sac import make_sac as make_sac
    from branchax.agents.td3 import make_td3 as make_td3
else:
    from branchax.public import hand_on

    __getattr__, __dir__, __all__ = hand_on(
        __name__,
        {
            "Agent": "branchax.agents.base",
            "Ahead": "branchax.agents.base",
            "Layers": "branchax.agents.base",
            "Outcome": "branchax.agents.base",
            "Sources": "branchax.agents.base",
            "Valuation": "branchax.agents.base",
            "make_dqn": "branchax.agents.dqn",
            "make_pathwise": "branchax.agents.pathwise",
            "make_planner": "branchax.agents.planner",
            "make_policy_gradient": "branchax.agents.policy_gradient",
            "make_q_learning": "branchax.agents.q_learning",
            "make_sac": "branchax.agents.sac",
            "make_td3": "branchax.agents.td3",
        },
    )
