"""The presets are valid values, and a world's own settings reach them."""

import pytest

from branchax import presets
from branchax.config import ConfigError, check
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
