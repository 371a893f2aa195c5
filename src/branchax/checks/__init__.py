"""Refuses settings that cannot work, alone or together, before anything is compiled and before JAX is loaded."""

from __future__ import annotations

import math
from pathlib import Path

from branchax.checks.files import read_settings
from branchax.checks.mesh import check_mesh
from branchax.checks.world import Need, check_actions, check_world, needs_table
from branchax.config.critic import CriticConfig
from branchax.config.fields import LARGEST, check_ranges, from_dict, value_at
from branchax.config.run import Config
from branchax.errors import ConfigError

__all__ = ["check", "check_actions", "needs_table", "read", "read_settings"]


def check(config: Config) -> None:
    """Raises `ConfigError` for the first setting that cannot work, before JAX is loaded."""
    check_ranges(config, "")

    def need(holds: bool, path: str, allowed: str) -> None:
        if not holds:
            raise ConfigError(f"{path}: {value_at(config, path)} is not possible; allowed: {allowed}")

    check_world(config, need)
    _check_sizes(config, need)
    named = not config.model.is_own or ":" in config.model.factory
    need(named, "model.factory", "module:function (also by --model)")
    if config.agent.traits.learns_from is None:  # the user's own agent: `build.settle` checks the rest once it is built
        _check_rules(config, need)
        return
    if config.model_free:
        _check_model_free(config, need)
    else:
        _check_model(config, need)
    _check_agent(config, need)
    _check_horizons(config, need)
    repeats = config.first_updates is None or config.first_updates % config.updates_per_round == 0
    need(repeats, "first_updates", f"a multiple of the {config.updates_per_round} updates of a round")
    one_round = config.first_updates is None or config.collect_steps == config.epoch_steps
    need(one_round, "first_updates", f"unset, unless collect_steps = epoch_steps = {config.epoch_steps}")
    check_mesh(config, need)


def _check_sizes(config: Config, need: Need) -> None:
    need(
        config.seed + config.seeds - 1 <= LARGEST,
        "seeds",
        f"<= {LARGEST - config.seed + 1}, counted from seed = {config.seed}",
    )
    need(
        config.seeds <= config.most_seeds,
        "seeds",
        f"few enough that buffers hold at most {LARGEST:,} rows over all seeds; one seed has {config.real_capacity:,}"
        f" real and {config.imagined_capacity:,} imagined ones",
    )
    need(config.env_steps > config.explored, "env_steps", f"> explore_steps = {config.explored}")
    for name in ("explore_steps", "collect_steps"):
        multiple = f"a multiple of parallel_worlds = {config.parallel_worlds}"
        need(getattr(config, name) % config.parallel_worlds == 0, name, multiple)
    need(
        config.epoch_steps % config.collect_steps == 0,
        "epoch_steps",
        f"a multiple of collect_steps = {config.collect_steps}",
    )
    sized = config.dataset is not None  # a dataset sets the buffer's size, unless replay_capacity does
    per_round = config.updates_per_step * config.collect_steps
    need(
        math.isclose(per_round, round(per_round)) and round(per_round) >= 1,
        "updates_per_step",
        f"a number whose product with collect_steps = {config.collect_steps} is whole and >= 1",
    )
    need(
        config.agent.traits.critic is None or config.batch_size <= config.real_kept,
        "batch_size",
        f"<= the real buffer's capacity, {config.real_kept}"
        + (", the part of the dataset that is kept" if sized else ""),
    )
    need(
        config.dataset is not None or config.real_capacity >= max(config.explore_steps, config.collect_steps),
        "replay_capacity",
        f">= explore_steps = {config.explore_steps} and >= collect_steps = {config.collect_steps}",
    )
    collects = config.agent.traits.online or (config.on_policy and config.model_free)
    need(config.dataset is None or not collects, "dataset", "unset: this agent learns on just collected steps")


def _check_model_free(config: Config, need: Need) -> None:
    need(
        config.agent.traits.critic is None or config.real_fraction == 1.0,
        "rollout.horizon",
        f">= 1, because real_fraction = {config.real_fraction:g} needs imagined data (model-free: preset sac)",
    )
    need(
        not config.looks_ahead,
        "rollout.horizon",
        ">= 1: this agent's updates look ahead in a model or the oracle (model-free: preset sac)",
    )
    need(
        not config.through_model,
        "rollout.horizon",
        ">= 1: the pathwise gradient goes through rollouts in a model or the oracle (model-free: preset ppo, reinforce,"
        " a2c or sac)",
    )
    need(
        not config.on_policy or config.updates_per_round == 1,
        "updates_per_step",
        f"1 / collect_steps = {1 / config.collect_steps:.10g}: a model-free on-policy agent uses its collected steps"
        " for one update only",
    )
    need(not config.plans, "rollout.horizon", ">= 1: a planner needs a model")
    need(config.rollout.horizon_end is None, "rollout.horizon_end", "unset at horizon 0")


def _check_model(config: Config, need: Need) -> None:
    _check_data(config, need)
    _check_ramp(config, need)
    _check_kind(config, need)
    _check_edge(config, need)
    _check_doubt(config, need)


def _check_data(config: Config, need: Need) -> None:
    """Checks what the model is fitted to, and that its rollouts are used."""
    learned = config.model.has_networks
    need(config.model.elites <= config.model.members, "model.elites", f"<= model.members = {config.model.members}")
    together = config.model.stop == "members" or config.model.elites == config.model.members
    need(together, "model.elites", f"{config.model.members}, all members: model.stop = mixture judges them together")
    need(
        config.agent.traits.learns_from != "replay" or config.stores_imagined or config.looks_ahead,
        "real_fraction",
        "small enough to leave imagined rows in the batch (model-free: rollout.horizon 0)",
    )
    need(
        not learned or config.dataset is not None or config.explore_steps >= 2 * config.model.holdout_every,
        "explore_steps",
        f">= {2 * config.model.holdout_every}, so that the first fit has training rows and holdout rows",
    )
    if config.dataset is not None:
        least = 2 * config.model.holdout_every
        enough = (config.replay_capacity or LARGEST) >= least
        need(enough, "dataset", f"a buffer of at least {least} transitions, for training and holdout rows")
        need(not config.model.exact, "dataset", "unset with the oracle: a file holds no simulator states")


def _check_ramp(config: Config, need: Need) -> None:
    """Checks the schedule of the horizon."""
    low, high = config.rollout.ramp
    need(
        config.rollout.horizon_end is None or high > low,
        "rollout.ramp",
        "two env-step counts in rising order, because rollout.horizon_end is set",
    )
    need(
        config.rollout.horizon_end is not None or config.rollout.ramp == (0, 0),
        "rollout.horizon_end",
        f"the horizon at the end of rollout.ramp = {config.rollout.ramp}",
    )
    need(
        (config.rollout.horizon_end or config.rollout.horizon) >= config.rollout.horizon,
        "rollout.horizon_end",
        f">= rollout.horizon = {config.rollout.horizon}",
    )


def _check_kind(config: Config, need: Need) -> None:
    """Checks what the kind of model can do."""
    learned = config.model.has_networks
    need(bool(config.model.weight_decay), "model.weight_decay", "at least one value")
    drops = config.model.is_own or (learned and bool(config.model.hidden))
    need(config.model.dropout == 0 or drops, "model.dropout", "0: the model has no hidden layers to drop from")
    need(
        not config.model.exact or not (config.looks_ahead and config.stores_imagined),
        "real_fraction",
        "1: the oracle looks ahead from simulator states, and imagined rows have none",
    )
    need(
        not config.through_model or not config.model.counts,
        "model.kind",
        "ensemble or oracle: a table has no gradient",
    )
    need(
        config.rollout.first_action == "policy" or (config.rollout.start == "replay" and config.stores_imagined),
        "rollout.first_action",
        "policy; replayed needs rollouts from replayed states into a buffer",
    )


def _check_edge(config: Config, need: Need) -> None:
    """Checks what follows where a rollout leaves the range of the data."""
    critic, own = config.agent.traits.critic, "agent.factory" in config.own_parts
    least = critic is not None and critic.expand in ("none", "fresh") and critic.scale == "possible"
    need(
        config.model.beyond == "clip" or own or least,
        "model.beyond",
        "clip"
        if critic is None
        else "clip; end needs agent.critic.scale = possible, agent.critic.expand = none or fresh",
    )


def _check_doubt(config: Config, need: Need) -> None:
    """Checks how rollouts and updates use the ensemble's uncertainty."""
    gated, learned = config.rollout.gate != "none", config.model.has_networks
    if gated or config.rollout.penalty > 0:
        field, off = ("rollout.gate", "none") if gated else ("rollout.penalty", "0")
        need(not config.model.exact, field, f"{off}: the oracle is certain")
        used = config.stores_imagined or config.on_policy
        need(used, field, f"{off}: it applies only to rollouts into a buffer and to those of an on-policy agent")
        several = not learned or config.model.elites > 1 or config.model.uncertainty == "max_std"
        need(several, "model.elites", f">= 2, because {field} measures how far elites disagree")
    if config.rollout.penalty > 0:
        need(
            not config.agent.traits.starts_fresh,
            "rollout.penalty",
            "0: this agent's critics do not learn on the rewards of stored rollouts",
        )
    if config.rollout.weigh:
        replayed = (
            config.stores_imagined and config.agent.traits.critic is not None and not config.agent.traits.starts_fresh
        )
        need(replayed, "rollout.weigh", "false: this agent's critics do not learn on imagined rows of a buffer")
        several = learned and (config.model.elites > 1 or config.model.uncertainty == "max_std")
        need(several, "rollout.weigh", "false; true needs an ensemble with at least two elites")
    whole = config.rollout.gate != "rank" or not config.on_policy
    need(whole, "rollout.gate", "none or threshold: rollouts of an on-policy agent must have no holes")


def _check_horizons(config: Config, need: Need) -> None:
    """Checks how far rollouts go, and how far updates look ahead."""
    rollout = config.rollout
    ahead = rollout.look_ahead is None or config.looks_ahead
    need(ahead, "rollout.look_ahead", "unset: this agent's updates do not look ahead in a model")
    every, updates = rollout.every, config.updates_per_round
    if every is None:
        return
    need(config.stores_imagined, "rollout.every", "unset: nothing is imagined into a buffer")
    at_once = config.agent.traits.updates_at_once
    need(
        updates % every == 0 and every % at_once == 0,
        "rollout.every",
        f"a divisor of the {updates} updates of a round" + (f", and a multiple of {at_once}" if at_once > 1 else ""),
    )


def _check_agent(config: Config, need: Need) -> None:
    agent, every = config.agent, config.rollout.validate_every
    imagines = config.on_policy and not config.model_free
    need(
        every is None or (imagines and config.updates_per_round % every == 0),
        "rollout.validate_every",
        f"a divisor of the {config.updates_per_round} updates of a round"
        if imagines
        else "unset: it needs an agent that learns on imagined rollouts of its own policy",
    )
    if agent.traits.critic is not None:
        _check_critic(config, agent.traits.critic, need)
    at_once = agent.traits.updates_at_once
    whole = f"a number whose product with collect_steps = {config.collect_steps} is a multiple of {at_once}"
    need(config.updates_per_round % at_once == 0, "updates_per_step", f"{whole}, agent.policy_delay")
    once = not agent.traits.online or config.updates_per_round == 1
    need(
        once, "updates_per_step", f"1 / collect_steps = {1 / config.collect_steps:.10g}: each real step is learned once"
    )
    _check_rules(config, need)
    if config.plans:
        need(
            not config.model.exact and not config.model.counts,
            "model.kind",
            "ensemble: a planner sees observations, not states",
        )
        whole = config.collect_steps == config.epoch_steps and config.updates_per_round == 1
        need(whole, "collect_steps", f"epoch_steps = {config.epoch_steps}, with one update: a plan lasts that long")
    if config.on_policy:
        horizon = config.collect_steps // config.parallel_worlds if config.model_free else config.rollout.longest()
        rows = horizon * (config.parallel_worlds if config.model_free else config.rollouts)
        need(agent.traits.minibatches <= rows, "agent.minibatches", f"<= the {rows} steps of an update")
        several = not agent.traits.has_budget or not config.model_free
        need(several, "agent.kl_budget", "unset: model-free, each collection has one update (agent.kl_stop bounds it)")
        one_rule = not agent.traits.has_budget or every is None
        need(one_rule, "agent.kl_budget", "unset with rollout.validate_every: only one of them can stop a round")


def _check_critic(config: Config, critic: CriticConfig, need: Need) -> None:
    """Checks the settings of an ensemble of Q-functions against each other and the agent's."""
    agent = config.agent
    need((critic.subset or 1) <= critic.members, "agent.critic.subset", f"<= agent.critic.members = {critic.members}")
    steve, fresh = critic.expand == "steve", critic.expand == "fresh"
    need(
        not fresh or config.through_model,
        "agent.critic.expand",
        "none, mve or steve; fresh needs SAC with agent.through_model",
    )
    in_units = critic.scale == "none" or agent.traits.scales
    need(in_units, "agent.critic.scale", f"none: agent.kind = {agent.kind} does not scale its values")
    bounded = critic.scale == "none" or agent.discount < 1
    need(
        bounded,
        "agent.discount",
        "< 1 with agent.critic.scale, which divides by 1 - agent.discount",
    )
    dropped = critic.dropout == 0 or agent.traits.scales
    need(dropped, "agent.critic.dropout", f"0: agent.kind = {agent.kind} has no dropout")
    joins = not critic.batch_norm or agent.traits.scales
    need(joins, "agent.critic.batch_norm", f"false: agent.kind = {agent.kind} does not join its batches")
    joined = not critic.batch_norm or critic.expand in ("none", "fresh")
    need(joined, "agent.critic.expand", "none or fresh: agent.critic.batch_norm joins one next state to each state")
    one_norm = not (critic.batch_norm and critic.layer_norm)
    need(one_norm, "agent.critic.layer_norm", "false: agent.critic.batch_norm normalises the same layers")
    clips = not critic.clip_actor or critic.scale != "none"
    need(clips, "agent.critic.clip_actor", "false: without agent.critic.scale there is no range to clip to")
    ranged = critic.atoms is None or critic.scale != "none"
    need(ranged, "agent.critic.atoms", "None: without agent.critic.scale there is no range to put them on")
    need(not steve or critic.subset is None, "agent.critic.subset", "unset: STEVE averages over all critics")
    need(
        critic.td_k or critic.expand == "mve",
        "agent.critic.td_k",
        "true without agent.critic.expand = mve",
    )


def _check_rules(config: Config, need: Need) -> None:
    """Checks the agent's own fields against each other."""
    for holds, field, allowed in config.agent.traits.rules:
        need(holds, f"agent.{field}", allowed)


def read(path: Path) -> Config:
    """Reads and checks the settings in a file, such as a run's `config.json`; missing fields get their defaults.

    Raises:
      ConfigError: when the file does not exist or cannot be read, or a setting cannot work.
    """
    config = from_dict(Config, read_settings(path))
    check(config)
    return config
