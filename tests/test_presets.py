"""The presets are valid values, and a world's own settings reach them."""

import dataclasses

import pytest

from branchax import build, presets
from branchax.checks import check
from branchax.config import Config, SACConfig
from branchax.errors import ConfigError
from branchax.worlds.catalog import WORLDS


@pytest.mark.parametrize("name", presets.PRESETS)
def test_is_valid(name):
    check(presets.preset(name))


@pytest.mark.parametrize("name", presets.PRESETS)
def test_is_valid_on_every_world_whose_actions_it_takes(name):
    taken = 0
    for world, entry in WORLDS.items():
        config = presets.preset(name, world)
        assert config.world == world
        tabular = config.agent.kind == "q_learning"
        if config.discrete in (None, entry.discrete) and (entry.tabular or not tabular):
            check(config)
            taken += 1
        else:
            with pytest.raises(
                ConfigError, match=r"^(agent.kind|agent.through_model|world): .* is not possible.*; allowed: "
            ):
                check(config)
    assert taken >= 2


def test_each_says_what_it_is():
    assert presets.ABOUT.keys() == presets.PRESETS.keys()


def test_unknown_names_the_nearest():
    with pytest.raises(ConfigError, match=r"preset: 'mbop' is unknown \(did you mean .*mbpo.*\); known: mbpo, "):
        presets.preset("mbop")


def test_sac_is_model_free_and_mbpo_is_not():
    assert presets.PRESETS["sac"].model_free
    assert not presets.PRESETS["mbpo"].model_free


def test_a_task_s_settings_serve_brax_and_gymnasium():
    assert {f"brax/{task}" for task in presets.WORLD_SETTINGS} <= WORLDS.keys()
    for world in ("brax/hopper", "gym/Hopper-v5", "gym/Hopper-v4"):
        config = presets.preset("mbpo", world)
        assert (config.updates_per_step, config.rollout.horizon_end, config.agent.target_entropy) == (20.0, 15, -1.0)
    for name, world in (("mbpo", "gym/Pendulum-v1"), ("mbpo", "classic/pendulum"), ("mve", "gym/Hopper-v5")):
        assert presets.preset(name, world).rollout.horizon_end is None
    assert presets.preset("dyna", "gym/Hopper-v5").agent == presets.PRESETS["dyna"].agent  # DQN has no target entropy


def test_with_two_links_observations_are_not_standardised():
    for name, world in (
        ("mbpo", "classic/acrobot"),
        ("oracle_mbpo", "classic/acrobot"),
        ("mbpo", "gym/InvertedDoublePendulum-v5"),
    ):
        assert not presets.preset(name, world).agent.normalise_obs
    assert not presets.preset("dhmbpo_tiny", "gym/InvertedDoublePendulum-v5").agent.normalise_obs
    for name, world in (("mbpo", "classic/pendulum"), ("dhmbpo_small", "gym/InvertedDoublePendulum-v5")):
        assert presets.preset(name, world).agent.normalise_obs


def test_where_an_episode_ends_by_a_fall_rollouts_of_mbpo_end_at_the_edge_of_the_data():
    for world in ("classic/cartpole", "gym/CartPole-v1", "brax/inverted_pendulum", "gym/InvertedPendulum-v5", None):
        config = presets.preset("mbpo", world)
        assert (config.model.beyond, config.model.bound_margin, config.rollout.horizon) == ("end", 0.1, 20)
    assert presets.preset("oracle_mbpo", "classic/cartpole").rollout.horizon == 20  # the same but for the model
    others = [(name, "classic/cartpole") for name in ("macura", "m2ac", "mbpo_td3", "mbpo_paper")]
    for name, world in (("mbpo", "classic/acrobot"), ("mbpo", "brax/hopper"), *others):
        config, own = presets.preset(name, world), presets.PRESETS[name]
        assert (config.model.beyond, config.model.bound_margin) == ("clip", own.model.bound_margin)


@pytest.mark.parametrize("name", ["dhmbpo", "dhmbpo_small", "dhmbpo_tiny", "svg5"])
def test_mbpo_s_settings_of_a_world_are_not_those_of_another_paper(name):
    config = presets.preset(name, "gym/Hopper-v5")
    assert config.agent.target_entropy is None
    assert config == dataclasses.replace(presets.PRESETS[name], world="gym/Hopper-v5")


def test_a_task_s_rollouts_are_for_those_that_roll_out_as_mbpo_does():
    for name in ("mbpo", "mbpo_paper", "oracle_mbpo", "mbpo_td3"):
        config = presets.preset(name, "brax/hopper")
        assert (config.rollout.horizon, config.rollout.horizon_end, config.epoch_steps) == (1, 15, 250)
    for name in ("macura", "m2ac", "mad_td", "mve"):
        config, own = presets.preset(name, "brax/hopper"), presets.PRESETS[name]
        assert (config.rollout, config.epoch_steps) == (own.rollout, own.epoch_steps)
        assert config.updates_per_step == 20.0


def test_on_bodies_mbpo_has_a_wider_model_and_the_paper_s_pool_and_only_there():
    for world in ("brax/hopper", "gym/Walker2d-v5", "gym/HalfCheetah-v5", "gym/Ant-v5"):
        pool = (100, 1) if "Ant" in world else (400, 4)
        for name in ("mbpo", "mbpo_td3"):
            model, rollout = presets.preset(name, world).model, presets.preset(name, world).rollout
            assert (model.hidden, model.beta, model.pre_norm) == ((128, 128, 128), 0.5, True)
            assert (rollout.per_step, rollout.keep_epochs) == pool
        assert presets.preset("oracle_mbpo", world).model == presets.PRESETS["oracle_mbpo"].model
        assert presets.preset("mbpo_paper", world).model == Config().model
        large = presets.preset("mbpo", world, paper=True)
        assert large.model == dataclasses.replace(
            presets.preset("mbpo", world).model, members=7, elites=5, hidden=(200,) * 4, round_steps=20, max_rounds=100
        )
        assert (large.rollout.per_step, large.rollout.keep_epochs) == (400, pool[1])
    for world in ("classic/pendulum", "gym/Pendulum-v1"):
        config = presets.preset("mbpo", world)
        assert (config.model, config.rollout) == (presets.PRESETS["mbpo"].model, presets.PRESETS["mbpo"].rollout)


@pytest.mark.parametrize("world", [f"brax/{task}" for task in presets.WORLD_SETTINGS] + ["gym/Ant-v5"])
def test_by_default_a_model_buffer_fits_beside_much_else(world):
    """The smallest machines have 8 GB; a row has two observations, an action, a reward and two marks."""
    spec = build.make_world(presets.preset("mbpo", world)).spec
    for name, config in ((name, presets.preset(name, world)) for name in ("mbpo", "mbpo_td3", "m2ac", "macura")):
        row = 4 * (2 * spec.obs_size + spec.action_size + 1) + 2
        assert config.imagined_capacity * row < 2**30, name


def test_the_paper_s_sizes_are_the_defaults_and_leave_the_method_alone():
    assert presets.preset("mbpo_paper") == Config()
    large, small = presets.preset("mbpo", paper=True), presets.preset("mbpo")
    assert (large.rollout.horizon, large.epoch_steps) == (small.rollout.horizon, small.epoch_steps) == (20, 25)
    assert large.model.members == 7 and large.agent.hidden == (256, 256) and large.agent.critic == small.agent.critic
    gated, small = presets.preset("m2ac", paper=True), presets.preset("m2ac")
    assert gated.model.members == 7 and gated.rollouts == 400 * 25 and gated.agent.hidden == (256, 256)
    assert (gated.rollout.horizon, gated.rollout.gate, gated.model.uncertainty) == (5, "rank", "one_vs_rest")
    assert presets.preset("sac", paper=True).model_free and small.model.members == 5
    many = presets.preset("redq", paper=True).agent
    assert isinstance(many, SACConfig) and many.critic.members == 10 and many.hidden == (256, 256)


@pytest.mark.parametrize("name", presets.PRESETS)
def test_is_valid_at_the_paper_s_sizes_or_says_that_it_has_none(name):
    if presets.PRESETS[name].agent.traits.critic is not None:
        check(presets.preset(name, paper=True))
    else:
        with pytest.raises(ConfigError, match=r"^paper: .*allowed: mbpo, "):
            presets.preset(name, paper=True)
