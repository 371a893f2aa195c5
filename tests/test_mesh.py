"""The mesh: what it may be, and that a run on 8 devices is the run on one."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from branchax.checks import check
from branchax.config import changes, with_field
from branchax.devices import mesh
from branchax.errors import ConfigError
from branchax.presets import preset
from branchax.sharding import over_batch, over_seeds

MBPO = preset("mbpo", "classic/pendulum")


@pytest.mark.parametrize(
    ("changes", "shape"),
    [
        ({"mesh": "seed=4,batch=2", "seeds": 4}, (4, 2)),
        ({"mesh": "batch=2"}, (1, 2)),
        ({"devices": 8, "seeds": 4}, (4, 2)),
        ({"devices": 8, "seeds": 6}, (2, 4)),
        ({"devices": 4, "seeds": 8}, (4, 1)),
        ({}, None),
    ],
)
def test_shape(changes, shape):
    assert dataclasses.replace(MBPO, **changes).mesh_shape == shape


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mesh": "sead=4"}, "'sead' is not an axis (did you mean seed?)"),
        ({"mesh": "seed=0"}, "seed=N with N >= 1"),
        ({"mesh": "seed=2", "seeds": 3}, "divides seeds = 3: 1, 3"),
        ({"mesh": "seed=2", "seeds": 2, "devices": 8}, "devices: 8 is not possible; allowed: 2, the product"),
        ({"mesh": "batch=7"}, "batch_size: 256 is not possible; allowed: 252 or 259, for a batch axis of 7"),
        ({"mesh": "batch=4", "model.batch_size": 50}, "model.batch_size: 50 is not possible; allowed: 48 or 52"),
        ({"mesh": "batch=4", "rollout.per_step": 1, "epoch_steps": 10}, "rollout.per_step: 1 is not possible"),
    ],
)
def test_refused_before_jax_is_loaded(changes, said):
    config = MBPO
    for path, value in changes.items():
        config = with_field(config, path, value)
    with pytest.raises(ConfigError) as error:
        check(config)
    assert said in str(error.value)


@pytest.mark.parametrize(("seeds", "backend"), [(1, "cpu"), (3, "cpu"), (3, "gpu")])
def test_over_seeds_is_vmap_in_turn_on_a_cpu_and_a_seed_alone_goes_without_its_axis(seeds, backend, monkeypatch):
    def draw(key, weights, scale):
        return {"out": scale * jax.random.normal(key, (5, 2)) @ weights, "key": jax.random.split(key)}, scale

    arguments = jax.vmap(jax.random.key)(jnp.arange(seeds)), jnp.ones((seeds, 2, 2)), jnp.float32(2)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    found, expected = (over(draw, (0, 0, None))(*arguments) for over in (over_seeds, jax.vmap))
    np.testing.assert_array_equal(*(jax.random.key_data(x[0]["key"]) for x in (found, expected)))
    np.testing.assert_allclose(found[0]["out"], expected[0]["out"], rtol=1e-6)
    np.testing.assert_array_equal(found[1], expected[1])
    text = str(jax.make_jaxpr(over_seeds(draw, (0, 0, None)))(*arguments))
    assert ("([0], [0])" in text) == (backend == "gpu")  # the batch axes of the matrix product
    assert ("scan" in text) == (seeds > 1 and backend == "cpu")


def test_the_numbers_that_are_named_are_allowed():
    config = dataclasses.replace(with_field(MBPO, "rollout.per_step", 3), mesh="batch=16", epoch_steps=50)
    with pytest.raises(ConfigError, match=r"rollout\.per_step: 3 .* allowed: (\d+)") as error:
        check(config)
    named = str(error.value).split("allowed: ")[1].split(",")[0].split(" or ")
    for number in named:
        check(with_field(config, "rollout.per_step", int(number)))


@pytest.mark.parametrize("name", ["pets", "dyna_q", "ppo"])
def test_nothing_to_spread_over_the_batch_axis(name):
    world = "classic/gridworld" if name == "dyna_q" else "classic/pendulum"
    with pytest.raises(ConfigError, match="a batch axis of 1"):
        check(dataclasses.replace(preset(name, world), mesh="batch=2"))


def test_one_device_is_the_mesh_of_size_one():
    there = mesh.make(MBPO)
    assert dict(there.shape) == {"seed": 1, "batch": 1}
    x = jnp.zeros(3)
    with mesh.entered(there):
        assert over_batch(x) is x
    with pytest.raises(ConfigError, match=r"devices: 8 needs 8 devices; allowed: up to 1"):
        mesh.make(dataclasses.replace(MBPO, devices=8, seeds=8))


def test_a_run_may_go_on_elsewhere():
    allowed, refused = changes(dataclasses.replace(MBPO, mesh="batch=2"), dataclasses.replace(MBPO, devices=1))
    assert len(allowed) == 2 and not refused


@pytest.mark.slow
def test_eight_devices_compute_what_one_does(tmp_path):
    script = Path(__file__).with_name("on_eight_devices.py")
    out = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, env=os.environ)
    assert out.returncode == 0, out.stderr[-2000:]
    found = json.loads(out.stdout.splitlines()[-1])
    assert found["rows"] == [[1, 240, 4], [2, 960, 4]]  # the model buffer, on a device and in all
    assert found["rollouts"]  # bit for bit
    assert found["alone"] < 1e-5  # one seed over all eight
    assert found["epoch"] < 1e-5  # sums are taken in another order; None would say that a count or a flag differs
    assert found["devices"] == [8, 4, 1, 8] and found["restored"]
    where = found["collectives"]
    assert where["rollouts"] >= 2 and where["rollout_lines"] > 100 and where["in_rollouts"] == []
    assert where["gradients_of_the_fit"] == 1  # a reduction per minibatch
    assert where["gradients_of_an_update"] == 2  # of the critics and of the actor, which has to wait for them
    # Beside them: the imagined rows of the batch, floats and flags, and the largest Q among the metrics.
    assert where["in_an_update"] == ["all-reduce"] * 5


def test_collectives_are_counted_in_loops_and_what_they_call():
    from experiments.scale import in_loops

    text = """HloModule m

%called (x: f32[]) -> f32[] {
  ROOT %r = f32[] all-reduce(%x), to_apply=%add
}

%body (x: f32[]) -> f32[] {
  %g = f32[2] all-gather-start(%x), dimensions={0}
  ROOT %c = f32[] call(%g), to_apply=%called
}

ENTRY %main (x: f32[]) -> f32[] {
  %outside = f32[] all-reduce(%x), to_apply=%add
  ROOT %w = f32[] while(%outside), condition=%cond, body=%body
}
"""
    assert in_loops(text) == 2  # and not the one outside
