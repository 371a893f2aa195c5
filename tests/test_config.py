"""Every refusal of `checks.check` names the field, the value and what is allowed."""

import dataclasses
import json

import numpy as np
import pytest
from conftest import replace

from branchax.checks import check
from branchax.config import Config, Range, RolloutConfig, from_dict, to_dict
from branchax.errors import ConfigError, nearest
from branchax.presets import PRESETS, preset
from branchax.worlds import catalog

MBPO, SAC = replace(preset("mbpo_paper"), explore_steps=250, env_steps=4_000), preset("sac")

# (base, changes, what the message must contain)
REFUSED = [
    # ranges and types
    (MBPO, {"seed": -1}, ["seed: -1", ">= 0"]),
    (MBPO, {"seeds": 0}, ["seeds: 0", ">= 1"]),
    (MBPO, {"env_steps": 2.5}, ["env_steps: 2.5", "int"]),
    (MBPO, {"seeds": True}, ["seeds: True", "int"]),
    (MBPO, {"world": 3}, ["world: 3", "str"]),
    (MBPO, {"episode_length": 0}, ["episode_length: 0", ">= 1"]),
    (MBPO, {"real_fraction": 1.5}, ["real_fraction: 1.5", ">= 0 and <= 1"]),
    (MBPO, {"real_fraction": float("nan")}, ["real_fraction: nan"]),
    (MBPO, {"agent__learning_rate": 0.0}, ["agent.learning_rate: 0", "> 0"]),
    (MBPO, {"agent__learning_rate": float("inf")}, ["agent.learning_rate: inf"]),
    (MBPO, {"agent__tau": 0.0}, ["agent.tau: 0", "> 0 and <= 1"]),
    (MBPO, {"agent__target_entropy": "low"}, ["agent.target_entropy: 'low'", "float or None"]),
    (MBPO, {"agent__learn_temperature": 1}, ["agent.learn_temperature: 1", "bool"]),
    (MBPO, {"agent__hidden": (64, 0)}, ["agent.hidden[1]: 0", ">= 1"]),
    (MBPO, {"model__holdout_every": 1}, ["model.holdout_every: 1", ">= 2"]),
    (MBPO, {"model__weight_decay": (1e-4, -1.0)}, ["model.weight_decay[1]: -1", ">= 0"]),
    (MBPO, {"model__kind": "ensembl"}, ["model.kind: 'ensembl'", "did you mean ensemble?", "ensemble, oracle"]),
    (MBPO, {"rollout__propagation": "ts2"}, ["rollout.propagation: 'ts2'", "ts1, tsinf, mean"]),
    (MBPO, {"rollout__ramp": (0, 1, 2)}, ["rollout.ramp: (0, 1, 2)", "2 values"]),
    # names
    (MBPO, {"world": "brax/hoper"}, ["world: 'brax/hoper'", "brax/hopper"]),
    (MBPO, {"backend": "genralized"}, ["backend: genralized", "generalized, positional", "did you mean generalized"]),
    # what does not go together
    (MBPO, {"env_steps": 250}, ["env_steps: 250", "> explore_steps = 250"]),
    (MBPO, {"parallel_worlds": 3, "collect_steps": 3}, ["explore_steps: 250", "parallel_worlds = 3"]),
    (MBPO, {"parallel_worlds": 2}, ["collect_steps: 1", "parallel_worlds = 2"]),
    (MBPO, {"collect_steps": 3}, ["epoch_steps: 250", "collect_steps = 3"]),
    (MBPO, {"updates_per_step": 0.3}, ["updates_per_step: 0.3", "collect_steps = 1"]),
    (MBPO, {"batch_size": 4001}, ["batch_size: 4001", "capacity, 4000"]),
    (MBPO, {"batch_size": 200, "replay_capacity": 205}, ["replay_capacity: 205", "explore_steps = 250"]),
    (SAC, {"real_fraction": 0.5}, ["rollout.horizon: 0", ">= 1"]),
    (MBPO, {"rollout__horizon": 0}, ["rollout.horizon: 0", ">= 1"]),
    (SAC, {"rollout__horizon_end": 3}, ["rollout.horizon_end: 3", "horizon 0"]),
    (MBPO, {"agent__target_entropy": float("nan")}, ["agent.target_entropy: nan"]),
    (MBPO, {"agent__init_temperature": 1e60}, ["agent.init_temperature: 1e+60"]),
    (MBPO, {"seed": 2**40}, ["seed: 1099511627776", "<= 2147483647"]),
    (MBPO, {"seed": 2**31 - 2, "seeds": 3}, ["seeds: 3", "<= 2"]),
    (MBPO, {"rollout__per_step": 10**9}, ["seeds: 1", "imagined ones"]),
    (MBPO, {"world": "probe/action", "episode_length": 5}, ["episode_length: 5", "probe/action has its own"]),
    (MBPO, {"rollout__every": 7}, ["rollout.every: 7", "a divisor of the 10 updates"]),
    (SAC, {"rollout__every": 5}, ["rollout.every: 5", "nothing is imagined into a buffer"]),
    (MBPO, {"rollout__look_ahead": 5}, ["rollout.look_ahead: 5", "do not look ahead"]),
    (SAC, {"rollout__look_ahead": 5}, ["rollout.look_ahead: 5", "do not look ahead"]),
    (MBPO, {"agent__critic__expand": "fresh"}, ["agent.critic.expand: fresh", "agent.through_model"]),
    (MBPO, {"agent__critic__scale": "quantile", "agent__discount": 1.0}, ["agent.discount: 1.0", "< 1"]),
    (MBPO, {"first_updates": 15}, ["first_updates: 15", "a multiple of the 10 updates"]),
    (MBPO, {"first_updates": 20}, ["first_updates: 20", "collect_steps = epoch_steps = 250"]),
    (MBPO, {"model__elites": 8}, ["model.elites: 8", "<= model.members = 7"]),
    (MBPO, {"real_fraction": 1.0}, ["real_fraction: 1.0", "imagined"]),
    (MBPO, {"explore_steps": 9}, ["explore_steps: 9", ">= 10"]),
    (MBPO, {"rollout__horizon_end": 5}, ["rollout.ramp: (0, 0)", "rising order"]),
    (MBPO, {"rollout__horizon": 4, "rollout__horizon_end": 2, "rollout__ramp": (0, 9)}, ["_end: 2", "horizon = 4"]),
    (MBPO, {"model__weight_decay": ()}, ["model.weight_decay: ()", "at least one"]),
    # the family
    (PRESETS["mve"], {"rollout__horizon": 0}, ["rollout.horizon: 0", "look ahead"]),
    (PRESETS["mve"], {"rollout__gate": "rank"}, ["rollout.gate: rank", "none", "into a buffer"]),
    (PRESETS["steve"], {"rollout__penalty": 1.0}, ["rollout.penalty: 1", "into a buffer"]),
    (PRESETS["steve"], {"rollout__weigh": True}, ["rollout.weigh: True", "imagined rows"]),
    (PRESETS["dhmbpo_small"], {"rollout__weigh": True}, ["rollout.weigh: True", "imagined rows"]),
    (PRESETS["dhmbpo_small"], {"rollout__penalty": 1.0}, ["rollout.penalty: 1", "rewards of stored rollouts"]),
    (PRESETS["dhmbpo_small"], {"agent__hidden": ()}, ["agent.critic.dropout: 0.001", "no layers"]),
    *(
        (PRESETS[name], {"model__beyond": "end", "agent__critic__scale": "possible"}, ["model.beyond: end", "or fresh"])
        for name in ("mve", "steve")
    ),
    (PRESETS["v2.5"], {"model__beyond": "end"}, ["model.beyond: end is not possible; allowed: clip"]),
    (PRESETS["dhmbpo_tiny"], {"agent__critic__scale": "quantile"}, ["model.beyond: end", "agent.critic.scale"]),
    (PRESETS["svg"], {"agent__value_before_end": True}, ["agent.value_before_end: True", "agent.critic.expand fresh"]),
    (PRESETS["dhmbpo_small"], {"model__hidden": ()}, ["model.dropout: 0.005", "no hidden layers"]),
    (PRESETS["oracle_mbpo"], {"model__dropout": 0.1}, ["model.dropout: 0.1", "no hidden layers"]),
    (PRESETS["oracle_mbpo"], {"rollout__weigh": True}, ["rollout.weigh: True", "two elites"]),
    (PRESETS["oracle_mve"], {"real_fraction": 0.5}, ["real_fraction: 0.5", "simulator states"]),
    (PRESETS["oracle_mbpo"], {"rollout__gate": "threshold"}, ["rollout.gate: threshold", "the oracle is certain"]),
    (PRESETS["m2ac"], {"model__elites": 1}, ["model.elites: 1", ">= 2"]),
    (PRESETS["mbppo"], {"rollout__gate": "rank"}, ["rollout.gate: rank", "holes"]),
    (PRESETS["mbppo"], {"rollout__first_action": "replayed"}, ["rollout.first_action: replayed", "policy"]),
    (PRESETS["mbppo"], {"rollout__validate_every": 5}, ["agent.kl_budget: 1.0", "rollout.validate_every"]),
    (PRESETS["ppo"], {"agent__kl_budget": 0.1}, ["agent.kl_budget: 0.1", "model-free"]),
    (PRESETS["redq"], {"agent__critic__subset": 11}, ["agent.critic.subset: 11", "<= agent.critic.members = 10"]),
    (PRESETS["steve"], {"agent__critic__subset": 1}, ["agent.critic.subset: 1", "STEVE averages over all"]),
    (PRESETS["sac"], {"agent__critic__td_k": False}, ["agent.critic.td_k: False", "true without"]),
    (MBPO, {"rollout__ramp": (0, 9)}, ["rollout.horizon_end: None", "ramp = (0, 9)"]),
    (PRESETS["td3"], {"updates_per_step": 3.0}, ["updates_per_step: 3", "multiple of 2", "agent.policy_delay"]),
    (PRESETS["svg"], {"world": "classic/acrobot"}, ["agent.through_model: True", "no derivative"]),
    (PRESETS["q_learning"], {"rollout__horizon": 1}, ["real_fraction: 1", "imagined rows"]),
    (PRESETS["q_learning"], {"updates_per_step": 2.0}, ["updates_per_step: 2", "each real step is learned once"]),
    (PRESETS["oracle_mbpo"], {"dataset": "x.npz"}, ["dataset: x.npz", "no simulator states"]),
    (PRESETS["mopo"], {"dataset": "x.npz", "replay_capacity": 9, "batch_size": 8}, ["dataset: x.npz", "at least 10"]),
    (PRESETS["ppo"], {"dataset": "x.npz"}, ["dataset: x.npz", "just collected"]),
    (PRESETS["pets"], {"agent__elites": 101}, ["agent.elites: 101", "<= agent.candidates = 100"]),
]  # fmt: skip


@pytest.mark.parametrize(("base", "changes", "parts"), REFUSED, ids=[str(r[1]) for r in REFUSED])
def test_refuses(base, changes, parts):
    with pytest.raises(ConfigError) as refusal:
        check(replace(base, **changes))
    assert "\n" not in str(refusal.value)
    for part in parts:
        assert part in str(refusal.value)


def test_refuses_what_the_catalog_says(monkeypatch):
    worlds = {"a/continuous": catalog.Entry(""), "a/discrete": catalog.Entry("", discrete=True)}
    monkeypatch.setattr("branchax.checks.world.WORLDS", worlds)
    check(replace(MBPO, world="a/discrete"))  # SAC takes both
    with pytest.raises(
        ConfigError, match=r"agent.kind: td3 .* a/discrete, whose actions are discrete; allowed: .* dqn"
    ):
        check(replace(PRESETS["td3"], world="a/discrete"))
    with pytest.raises(ConfigError, match=r"agent.kind: dqn .* whose actions are continuous; allowed: .* td3"):
        check(replace(PRESETS["dqn"], world="a/continuous"))
    with pytest.raises(ConfigError, match=r"world: a/discrete .* a table needs a world of few states"):
        check(replace(PRESETS["dyna_q"], world="a/discrete"))


def test_every_field_has_a_range_or_choices():
    """A negative or absurd value of any numeric field is refused, or is a value that makes sense."""
    for path, value in _leaves(MBPO):
        if type(value) in (int, float):
            with pytest.raises(ConfigError):
                check(replace(MBPO, **{path.replace(".", "__"): -7}))


@pytest.mark.parametrize("name", PRESETS)
def test_round_trip(name):
    config = preset(name)
    assert from_dict(Config, json.loads(json.dumps(to_dict(config)))) == config


def test_from_dict_names_the_nearest_field():
    data = to_dict(MBPO)
    data["model"]["membres"] = 3
    with pytest.raises(ConfigError, match=r"model\.membres: unknown field \(did you mean members"):
        from_dict(Config, data)


def test_nearest():
    assert nearest("memberz", ["members", "elites"]) == " (did you mean members?)"
    assert nearest("xyz", ["members", "elites"]) == ""


@pytest.mark.parametrize(
    ("limits", "inside", "outside"),
    [
        (Range(1), [1, 10], [0, 0.5, float("inf"), float("nan")]),
        (Range(0, above=True), [1e-9], [0, -1]),
        (Range(0, 1), [0, 0.5, 1], [-0.1, 1.1]),
        (Range(), [-3, 3], [float("nan")]),
    ],
)
def test_range(limits, inside, outside):
    assert all(x in limits for x in inside)
    assert not any(x in limits for x in outside)


@pytest.mark.parametrize(
    ("k0", "k1", "a", "b"), [(1, 15, 20, 150), (1, 25, 20, 300), (2, 3, 0, 1), (1, 15, 5_000, 37_500)]
)
def test_horizon_follows_mbpo(k0, k1, a, b):
    """MBPO, appendix C: min(max(x + (e - a) / (b - a) (y - x), x), y), rounded down."""
    at = RolloutConfig(horizon=k0, horizon_end=k1, ramp=(a, b)).at
    for t in np.unique(np.linspace(0, 2 * b, 301).astype(int)):
        assert at(int(t)) == int(np.floor(np.clip(k0 + (t - a) / (b - a) * (k1 - k0), k0, k1) + 1e-9))
    assert at(0) == k0
    assert at(10 * b) == k1


def test_horizon_without_a_schedule():
    assert RolloutConfig(horizon=4).at(0) == RolloutConfig(horizon=4).at(10**6) == 4
    assert RolloutConfig(horizon=0).at(10**6) == RolloutConfig(horizon=0).longest() == 0
    assert RolloutConfig(horizon=1, horizon_end=9, ramp=(0, 5)).longest() == 9


def test_derived_sizes():
    config = replace(MBPO, env_steps=1001, explore_steps=251, epoch_steps=250, model__holdout_every=5)
    assert config.epochs == 3
    assert config.real_capacity == 4_100  # 4,096, rounded up to whole blocks of 5
    assert config.real_kept == 1_005  # 251 + 3 * 250 in whole blocks of 5, which is all that a batch can be drawn from
    assert replace(config, env_steps=4_000).real_capacity == 4_100  # the same program for more steps
    assert replace(config, env_steps=5_000).real_capacity == 8_195
    assert replace(config, replay_capacity=701).real_capacity == 705
    assert config.real_rows == round(0.05 * 256)
    assert config.rollouts == 400 * 250
    assert replace(config, rollout__groups=7).rollouts == 100_002  # rounded up to whole groups
    assert config.updates_per_round == 10
    assert SAC.real_rows == SAC.batch_size
    assert SAC.imagined_capacity == 0


def _leaves(node, path=""):
    for f in dataclasses.fields(node):
        value = getattr(node, f.name)
        if dataclasses.is_dataclass(value):
            yield from _leaves(value, f"{path}{f.name}.")
        else:
            yield f"{path}{f.name}", value
