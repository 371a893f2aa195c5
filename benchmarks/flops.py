"""Floating-point operations of matrix products alone: the floor of everything else. All counts are per sample.

A dense layer of `n` inputs and `m` outputs takes 2 n m operations forwards, as many for the gradient of its weights and
as many for the gradient of its inputs (which the first layer does not need, when nothing before it learns).

    python -m benchmarks.flops        # operations for each real step of Hopper, by preset and part
"""

from __future__ import annotations

from itertools import pairwise

from rich.console import Console
from rich.table import Table

from branchax.config import Config, CriticConfig, ModelConfig, SACConfig
from branchax.presets import preset

HOPPER, HOPPER_WORLD = (11, 3), "gym/Hopper-v5"  # sizes of observation and action


def dense(sizes: tuple[int, ...]) -> int:
    """One forward pass through layers of the given widths, inputs and outputs included."""
    return 2 * sum(n * m for n, m in pairwise(sizes))


def trained(sizes: tuple[int, ...]) -> int:
    """Forwards, and back to the weights."""
    return 3 * dense(sizes) - dense(sizes[:2])


def through(sizes: tuple[int, ...]) -> int:
    """Forwards, and back to the inputs alone."""
    return 2 * dense(sizes)


def model_sizes(obs: int, action: int, config: ModelConfig, ends: bool = False) -> tuple[int, ...]:
    """Widths of one member: mean and log-variance of state and reward, and a logit for ends that are learned."""
    return (obs + action, *config.hidden, 2 * (obs + 1) + ends)


def policy_sizes(obs: int, action: int, config: SACConfig) -> tuple[int, ...]:
    """Widths of SAC's actor."""
    return (obs, *config.hidden, 2 * action)


def model_step(obs: int, action: int, model: ModelConfig, agent: SACConfig) -> int:
    """One imagined step: the policy, then one member."""
    return dense(policy_sizes(obs, action, agent)) + dense(model_sizes(obs, action, model))


def model_fit(obs: int, action: int, model: ModelConfig) -> int:
    """One row in one member's minibatch."""
    return trained(model_sizes(obs, action, model))


def sac_row(obs: int, action: int, agent: SACConfig) -> int:
    """One row of one update: targets (actor and critics forwards), critics trained, actor trained through them."""
    critic: CriticConfig = agent.critic
    policy, q = policy_sizes(obs, action, agent), (obs + action, *agent.hidden, 1)
    targets = dense(policy) + critic.members * dense(q)
    return targets + critic.members * trained(q) + trained(policy) + critic.members * through(q)


def look_ahead_row(obs: int, action: int, model: ModelConfig, agent: SACConfig, steps: int) -> int:
    """One row of an update on a fresh rollout (`agents.double_horizon`): forwards, back to the actor, and the critics.

    Observations depend on the actor from the second step on, so that its first layer learns of its inputs as well.
    """
    policy, q = policy_sizes(obs, action, agent), (obs + action, *agent.hidden, 1)
    rollout = steps * through(model_sizes(obs, action, model, True)) + trained(policy) + steps * 3 * dense(policy)
    return rollout + agent.critic.members * (dense(q) + trained(q) + through(q))


def per_real_step(obs: int, action: int, config: Config) -> dict[str, float]:
    """Operations for each real step of a run of SAC in a learned model, by part; rollouts at their longest. Evaluations
    on held-out rows are left out, and what the policy computes for the range of values.

    A fit whose error never falls takes `fit, patience`, one that `model.max_rounds` ends `fit, most`.
    `model.good_error` can end it sooner.
    """
    agent, model, rollout = config.agent, config.model, config.rollout
    assert isinstance(agent, SACConfig)
    fresh, steps = agent.critic.expand == "fresh", rollout.look_ahead or rollout.horizon
    policy, q = policy_sizes(obs, action, agent), (obs + action, *agent.hidden, 1)
    row = look_ahead_row(obs, action, model, agent, steps) if fresh else sac_row(obs, action, agent)
    warm = agent.critic.members * (dense(q) + trained(q)) + dense(policy)
    warm += steps * model_step(obs, action, model, agent) * fresh
    each_imagining = config.rollouts * rollout.longest() * model_step(obs, action, model, agent)
    often = 1 / config.epoch_steps if rollout.every is None else config.updates_per_step / rollout.every
    a_round = model.round_steps * model.batch_size * model.members * model_fit(obs, action, model)
    return {
        "updates": config.updates_per_step * config.batch_size * row,
        "rollouts": each_imagining * often,
        "warm-up": agent.critic_warmup * config.batch_size * warm / config.epoch_steps,
        "fit, patience": min(model.patience + 1, model.max_rounds) * a_round / config.epoch_steps,
        "fit, most": model.max_rounds * a_round / config.epoch_steps,
    }


def main() -> None:
    """Prints the operations for each real step of Hopper."""
    table = Table("preset", *(parts := list(per_real_step(*HOPPER, preset("mbpo", HOPPER_WORLD)))))
    for name in ("mbpo", "dhmbpo_small", "mbpo_paper", "dhmbpo"):
        found = per_real_step(*HOPPER, preset(name, HOPPER_WORLD))
        table.add_row(name, *(f"{found[part] / 1e9:.2f}" for part in parts))
    table.title = "billions of operations for each real step of Hopper"
    Console().print(table)


if __name__ == "__main__":
    main()
