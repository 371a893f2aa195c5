"""Planned memory, against what the compiler counts."""

import dataclasses
from unittest import mock

import jax
import pytest

from branchax.build import build
from branchax.config import with_field
from branchax.devices import memory, mesh
from branchax.errors import ConfigError
from branchax.presets import preset
from branchax.runs import train
from branchax.runs.compiling import seed_keys

MBPO = dataclasses.replace(preset("mbpo", "classic/pendulum"), seeds=2)


def planned(config):
    there = mesh.make(config)
    template = mesh.placed(jax.eval_shape(jax.vmap(build(config).init), seed_keys(config)), there)
    return memory.plan(template, there), template


@pytest.mark.parametrize(("seeds", "backend", "states"), [(1, "cpu", 1), (2, "cpu", 2.5), (2, "gpu", 1)])
def test_the_state_is_counted_to_the_byte(seeds, backend, states, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    parts, template = planned(dataclasses.replace(MBPO, seeds=seeds))
    compiled = jax.jit(lambda state: state).lower(template).compile().memory_analysis()
    state = sum(part.size for part in parts if part.name in ("real buffer", "networks", "model buffer"))
    assert state == pytest.approx(states * compiled.argument_size_in_bytes, abs=3)  # an odd number of bytes in halves


def test_each_knob_moves_its_part():
    before = {part.name: part.size for part in planned(MBPO)[0]}
    for path, value, name in [
        ("replay_capacity", 2 * MBPO.real_capacity, "real buffer"),
        ("rollout.per_step", 2 * MBPO.rollout.per_step, "model buffer"),
        ("model.members", 2 * MBPO.model.members, "networks"),
    ]:
        after = {part.name: part.size for part in planned(with_field(MBPO, path, value))[0]}
        assert after[name] > 1.1 * before[name], path
    free = planned(dataclasses.replace(preset("sac", "classic/pendulum"), seeds=2))[0]
    assert [part.name for part in free] == ["real buffer", "networks"]


@pytest.mark.parametrize(
    ("changes", "knob"),
    [({"replay_capacity": 10**8}, "replay_capacity: 100,000,000"), ({"rollout.per_step": 10**6}, "rollout.per_step")],
)
def test_what_cannot_fit_names_the_knob(changes, knob):
    config = MBPO
    for path, value in changes.items():
        config = with_field(config, path, value)
    parts, _ = planned(config)
    with pytest.raises(ConfigError, match=rf"^{knob}.* is not possible; allowed: a smaller value"):
        memory.check(config, parts, 2**30, "a device of 1 GiB")
    memory.check(config, parts, None, "a device that does not say")


def test_a_group_of_runs_names_what_the_user_set():
    """Six lanes, that are two seeds of each of three runs."""
    parts, _ = planned(dataclasses.replace(MBPO, seeds=6))
    with pytest.raises(ConfigError, match=r"^rollout.per_step.* fewer values in --grid\. The state needs [0-9.]+ MiB"):
        memory.check(MBPO, parts, 1000, "a device", runs=3)
    networks = [part for part in parts if part.name == "networks"]
    with pytest.raises(ConfigError, match=r"^seeds: 2 in each of 3 runs in one program is not possible; allowed: a sm"):
        memory.check(MBPO, networks, 1000, "a device", runs=3)


def test_it_is_said_before_compiling_and_leaves_no_directory(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "limit_of", lambda mesh: 1000)
    monkeypatch.setattr(train, "ThreadPoolExecutor", mock.Mock())  # nothing is compiled
    with pytest.raises(ConfigError, match=r"per device .*, but .* has 1e\+03 B"):
        train.train(MBPO, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_is_reserved_is_what_the_compiler_says():
    inverse = jax.jit(lambda x: jax.numpy.linalg.inv(x[:, None] * x + 1.0)[0])
    compiled = inverse.lower(jax.ShapeDtypeStruct((256,), "float32")).compile()
    rest = compiled.memory_analysis().temp_size_in_bytes
    assert rest >= 256 * 256 * 4
    said = f"reserved per device: {(rest + 1024) / 1024:.3g} KiB (state 1 KiB, temporaries {rest / 1024:.3g} KiB)"
    assert memory.describe_reserved(compiled) == said
    assert memory.describe_reserved(mock.Mock(memory_analysis=lambda: None)) == ""


def test_a_function_that_reserves_more_than_there_is_names_the_settings():
    function = jax.jit(lambda x: jax.numpy.linalg.inv(x[:, None] * x + 1.0)[0])
    compiled = function.lower(jax.ShapeDtypeStruct((256,), "float32")).compile()
    found = compiled.memory_analysis()
    needed = found.argument_size_in_bytes + found.temp_size_in_bytes
    absurd = with_field(MBPO, "model.batch_size", 10**8)
    memory.check_reserved(absurd, "epoch", compiled, needed, "cpu")
    memory.check_reserved(absurd, "epoch", compiled, None, "a device that does not say")
    with pytest.raises(ConfigError, match=r"^epoch: .*smaller values of model\.batch_size = 100,000,000, batch_size"):
        memory.check_reserved(absurd, "epoch", compiled, needed - 1, "cpu")


def test_limit_is_the_machines_share():
    assert 2**28 < memory.limit_of(mesh.make(MBPO)) < 2**45
