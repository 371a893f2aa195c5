"""The ensemble's likelihood against SciPy, and its propagation rules on members whose answers are known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from branchax import nn, normalize
from branchax.config import ModelConfig
from branchax.dynamics import ensemble
from branchax.dynamics.base import assign_members
from branchax.dynamics.ensemble import Ensemble, Prediction, Scales
from branchax.rollout import rollout
from branchax.types import Transition
from branchax.worlds.base import WorldSpec, make_world, never

SPEC = WorldSpec("mock", obs_size=2, action_size=1, episode_length=10)
MEMBERS, STD = 4, 0.05


def constant_net():
    """A network whose parameters are its output: member e predicts a change of e + 1 and a reward of 10 (e + 1)."""
    return nn.Network(
        init=lambda key: jnp.zeros(7), apply=lambda params, x: jnp.broadcast_to(params, (*x.shape[:-1], 7))
    )


def mock_model(elites=(3, 1), std=STD, logit=-50.0, size=100.0):
    level = jnp.arange(1.0, MEMBERS + 1)[:, None]
    raw = jnp.full((MEMBERS, 3), 2 * np.log(std))
    out = jnp.concatenate([level, level, 10 * level, raw, jnp.full((MEMBERS, 1), logit)], -1)
    wide = {"log_var_low": jnp.full((MEMBERS, 3), -60.0), "log_var_high": jnp.full((MEMBERS, 3), 60.0)}
    scales = Scales(normalize.unit(3), normalize.unit(3), normalize.unit(2))
    if size < 100.0:
        bound = jnp.full(2, size)
        scales = scales._replace(obs=normalize.Stats(jnp.zeros(2), jnp.ones(2), -bound, bound))
    return Ensemble({"net": out, **wide}, (), scales, jnp.array(elites, jnp.int32))


def imagine(members, model=None, horizon=3, batch=2_000, termination=None, config=None):
    real = make_world(
        SPEC, lambda key: (jnp.zeros(2), jnp.zeros(2)), lambda *a: (a[1], a[1], jnp.zeros(()), jnp.zeros((), bool))
    )
    model = mock_model() if model is None else model

    def world_of(member):
        return ensemble.as_world(model, member, constant_net(), config or ModelConfig(), real, termination)

    world = world_of(None) if members is None else world_of
    act = lambda key, obs: (jnp.zeros(1), ())  # noqa: E731

    @jax.jit
    def run():
        start = jax.vmap(lambda _: ensemble.branch(jnp.zeros(2)))(jnp.arange(batch))
        return rollout(jax.random.key(0), world, act, start, horizon, context=members)[1]

    return jax.tree.map(np.asarray, run())


def test_likelihood_equals_scipy():
    rng = np.random.default_rng(0)
    mean, log_var, y = rng.normal(size=(3, 50, 4)).astype(np.float32)
    expected = -scipy.stats.norm(mean, np.exp(0.5 * log_var)).logpdf(y).sum(-1)
    got = ensemble.negative_log_likelihood(Prediction(mean, log_var, jnp.zeros(50)), jnp.asarray(y))
    np.testing.assert_allclose(got, expected, rtol=1e-4)


def test_beta_weighs_each_entry_by_its_variance_to_that_power_and_the_weight_has_no_gradient():
    rng = np.random.default_rng(0)
    mean, log_var, y = rng.normal(size=(3, 50, 4)).astype(np.float32)

    def loss(mean, log_var):
        return ensemble.negative_log_likelihood(Prediction(mean, log_var, jnp.zeros(50)), jnp.asarray(y), 0.5).sum()

    weight = np.exp(0.5 * log_var)
    each = -scipy.stats.norm(mean, np.exp(0.5 * log_var)).logpdf(y)
    np.testing.assert_allclose(loss(mean, log_var), (weight * each).sum(), rtol=1e-5)
    of_mean, of_log_var = jax.grad(loss, (0, 1))(jnp.asarray(mean), jnp.asarray(log_var))
    # Seitzer et al. 2022, equations 6 and 7.
    np.testing.assert_allclose(of_mean, weight * (mean - y) / np.exp(log_var), rtol=1e-4, atol=1e-6)
    expected = weight * 0.5 * (1 - (y - mean) ** 2 / np.exp(log_var))
    np.testing.assert_allclose(of_log_var, expected, rtol=1e-4, atol=1e-6)


def test_log_variance_stays_inside_its_bounds_and_is_free_between():
    net = nn.Network(lambda key: jnp.zeros(()), lambda params, x: x)
    params = {"net": jnp.zeros(()), "log_var_low": jnp.array([-10.0]), "log_var_high": jnp.array([0.5])}
    raw = jnp.array([-1e4, -5.0, 1e4])
    out = jnp.stack([jnp.zeros(3), raw, jnp.zeros(3)], -1)
    log_var = np.asarray(ensemble.predict(net, params, out).log_var)[:, 0]
    np.testing.assert_allclose(log_var, [-10.0, -5.0, 0.5], atol=0.02)


@pytest.mark.parametrize("layer_norm", [False, True])
def test_weight_penalty_equals_numpy_layer_by_layer(layer_norm):
    config = ModelConfig(hidden=(4, 5))
    net = ensemble.network(SPEC, config, functools.partial(nn.mlp, layer_norm=layer_norm))
    params = ensemble.init_member(jax.random.key(0), net, SPEC, config)
    rates = (0.1, 0.2)  # the last one serves the third layer
    kernels = [np.asarray(params["net"][f"layer_{i}"]["kernel"]) for i in range(3)]
    expected = 0.5 * sum(r * (w**2).sum() for r, w in zip((0.1, 0.2, 0.2), kernels, strict=True))
    assert float(ensemble.weight_penalty(net.kernels(params["net"]), rates)) == pytest.approx(expected, rel=1e-5)


def test_ts_infinity_keeps_its_member_and_ts1_changes_it():
    members = jnp.array([3, 1, 3])
    t = imagine(members).transition
    np.testing.assert_allclose((t.next_obs - t.obs).mean(1)[:, 0], [4.0, 2.0, 4.0], atol=0.01)
    np.testing.assert_allclose(t.reward.mean(1), [40.0, 20.0, 40.0], atol=0.01)
    np.testing.assert_allclose((t.next_obs - t.obs).std(1), STD, rtol=0.1)  # the member's own noise, and nothing else


def test_mean_propagation_is_the_elites_mean_without_noise():
    t = imagine(None).transition
    np.testing.assert_allclose(t.next_obs - t.obs, 3.0, atol=1e-5)  # elites 3 and 1 say 4 and 2
    np.testing.assert_allclose(t.reward, 30.0, rtol=1e-5)


@pytest.mark.parametrize("propagation", ["ts1", "tsinf"])
def test_assignment_uses_elites_only_evenly_and_as_its_name_says(propagation):
    elites = jnp.array([6, 2, 4, 0, 5])
    assign = jax.jit(jax.vmap(lambda key: assign_members(key, elites, 10, 8, propagation)))
    tables = np.asarray(assign(jax.vmap(jax.random.key)(np.arange(200))))
    assert tables.shape == (200, 10, 8) and set(tables.ravel()) == set(elites.tolist())
    assert all((np.bincount(tables[0, :, h], minlength=7)[np.asarray(elites)] == 2).all() for h in range(8))
    changes = (tables[:, :, 1:] != tables[:, :, :-1]).mean()
    assert changes == (pytest.approx(0.8, abs=0.05) if propagation == "ts1" else 0.0)
    np.testing.assert_allclose(np.bincount(tables[:, 0, 0], minlength=7)[np.asarray(elites)] / 200, 0.2, atol=0.12)
    assert assign_members(jax.random.key(0), elites, 10, 8, "mean") is None


def test_each_step_evaluates_only_the_member_assigned():
    """FLOPs of an imagined step with one member are those of one network, not of the ensemble."""
    config = ModelConfig(members=7, elites=5, hidden=(64, 64))
    net = ensemble.network(SPEC, config)
    params = jax.jit(jax.vmap(lambda k: ensemble.init_member(k, net, SPEC, ModelConfig())))(
        jax.random.split(jax.random.key(0), 7)
    )
    model = mock_model()._replace(params=params)

    def step(member, obs, action):
        one = lambda k, o, a: ensemble.sample(k, model, net, config, SPEC, o, a, member)  # noqa: E731
        return jax.vmap(one)(jax.random.split(jax.random.key(0), 512), obs, action)

    compiled = jax.jit(step).lower(jnp.int32(0), jnp.zeros((512, 2)), jnp.zeros((512, 1))).compile()
    matmuls = 2 * 512 * (3 * 64 + 64 * 64 + 64 * 7)
    assert compiled.cost_analysis()["flops"] < 2 * matmuls


def test_predictions_stay_in_the_widened_range_of_the_data():
    t = imagine(jnp.array([3, 3, 3]), mock_model(size=5.0), config=ModelConfig(bound_margin=0.1)).transition
    assert float(t.next_obs.max()) == pytest.approx(6.0)  # 5 + 10 % of the width 10


@pytest.mark.parametrize(("beyond", "ends"), [("clip", False), ("end", True)])
def test_a_rollout_that_leaves_the_range_ends_where_it_should(beyond, ends):
    config = ModelConfig(bound_margin=0.1, beyond=beyond)
    out = imagine(jnp.array([3, 3, 3]), mock_model(size=5.0), config=config)  # by 4 a step, to 6 at most
    assert not out.transition.truncated[0].any() and (out.transition.truncated[1] == ends).all()
    assert out.valid[:2].all() and (out.valid[2] != ends).all()
    fell = lambda obs, action, next_obs: next_obs[0] > 5.0  # noqa: E731
    endless = imagine(jnp.array([3, 3, 3]), mock_model(size=5.0), config=config, termination=never)
    assert not endless.transition.truncated.any() and endless.valid.all()  # where nothing ever ends
    both = imagine(jnp.array([3, 3, 3]), mock_model(size=5.0), config=config, termination=fell).transition
    assert both.terminated[1].all() and not both.truncated[1].any()  # an end that is known is no doubt


def test_termination_known_learned_and_stored_up_to_the_end():
    known = imagine(jnp.array([3, 3, 3]), termination=lambda obs, action, next_obs: next_obs[0] > 6.0)
    assert not known.transition.terminated[0].any() and known.transition.terminated[1].all()
    assert known.valid[:2].all() and not known.valid[2].any()
    learned = imagine(jnp.array([3, 3, 3]), mock_model(logit=float(np.log(0.25 / 0.75))), batch=8_000)
    assert float(learned.transition.terminated[0].mean()) == pytest.approx(0.25, abs=0.02)


def test_one_step_is_differentiable_in_state_and_action():
    """The reparameterised step's Jacobian against finite differences."""
    net = ensemble.network(SPEC, ModelConfig(hidden=(16,)))
    init = jax.jit(jax.vmap(lambda k: ensemble.init_member(k, net, SPEC, ModelConfig())))
    model = mock_model()._replace(params=init(jax.random.split(jax.random.key(0), MEMBERS)))
    config = ModelConfig()

    @jax.jit
    def step(z):
        return ensemble.sample(jax.random.key(1), model, net, config, SPEC, z[:2], z[2:], jnp.int32(1)).next_obs

    z, eps = np.array([0.3, -0.2, 0.5], np.float32), np.float32(1e-2)
    numeric = np.stack([(step(z + e) - step(z - e)) / (2 * eps) for e in eps * np.eye(3, dtype=np.float32)], -1)
    np.testing.assert_allclose(jax.jit(jax.jacobian(step))(z), numeric, atol=2e-3)


def test_targets_are_deltas_or_next_observations():
    t = Transition(
        jnp.ones((1, 2)),
        jnp.zeros((1, 1)),
        jnp.array([7.0]),
        jnp.full((1, 2), 3.0),
        jnp.zeros(1, bool),
        jnp.zeros(1, bool),
    )
    np.testing.assert_array_equal(ensemble.targets(t, "delta"), [[2.0, 2.0, 7.0]])
    np.testing.assert_array_equal(ensemble.targets(t, "next_obs"), [[3.0, 3.0, 7.0]])
