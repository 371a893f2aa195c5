"""Problems for comparing gradient estimators, by the name of the world (environment), and the estimators by name.

The options of `--dynamics`:

    known     the world's own equations, from its own initial states
    oracle    the same equations, branched at states visited under uniformly random actions
    learned   the best member of an ensemble fitted to those same steps, branched at the same states

So oracle and learned differ only in the model. Rollouts end at their horizon or at a termination; there is no
truncation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from branchax import replay, worlds
from branchax.config import ModelConfig
from branchax.dynamics.fit import make_ensemble
from branchax.dynamics.oracle import oracle
from branchax.epoch.collect import uniform
from branchax.gradients.base import EstimatorError, Problem, Value, initial
from branchax.gradients.finite_difference import evolution_strategies, finite_differences
from branchax.gradients.likelihood_ratio import likelihood_ratio
from branchax.gradients.pathwise import deterministic, pathwise
from branchax.gradients.total_propagation import inverse_variance, total_propagation
from branchax.lab.measure import Maker
from branchax.lab.options import ESTIMATORS, WINDOW
from branchax.policies import gaussian_policy, linear_policy
from branchax.presets import PRESETS
from branchax.replay import Ring
from branchax.rollout import rollout
from branchax.types import Key, Params, Row, finite
from branchax.worlds.base import World, endless, never
from branchax.worlds.lqr import LinearSystem, double_integrator, lqr, lqr_gain, lqr_gradient

HIDDEN = (16,)  # widths of the policy network's hidden layers
REACTION = 100.0  # factor of its last layer, which `gaussian_policy` initialises 100 times smaller
PARALLEL = 10  # number of real worlds stepped in parallel


class Critic(NamedTuple):
    """The policy's values for a horizon: V(obs, time) and Q(obs, action, time)."""

    value: Value
    q: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


class Case(NamedTuple):
    """A problem and the exact solutions known for it."""

    problem: Problem  # its horizon is a placeholder
    params: Params  # theta
    exact: Callable[[int], Params] | None  # horizon -> the gradient in closed form, if known
    critic: Callable[[int], Critic] | None  # horizon -> the exact critic, if known
    about: dict[str, Any]  # facts for the results file


def make_case(
    name: str,
    dynamics: Literal["known", "oracle", "learned"] = "known",
    *,
    policy_std: float = 0.3,
    discount: float = 1.0,
    steps: int = 2_000,
    seed: int = 0,
    model: ModelConfig = PRESETS["mbpo"].model,
) -> Case:
    """The case for a world.

    The policy of `classic/lqr` is linear, with half the optimal gain. Other policies are random networks with one
    hidden layer of 16 tanh units; their last layer is large enough for actions to depend on observations.

    Args:
      name: the world's name.
      dynamics: see the module.
      policy_std: standard deviation of the policy's noise; 0 is deterministic.
      discount: gamma.
      steps: real steps, for oracle and learned; rounded up to a multiple of 10 times `model.holdout_every`.
      seed: for policy, real steps and model.
      model: the ensemble's settings.

    Raises:
      ConfigError: as `worlds.make` does.
    """
    if name == "classic/lqr":
        system = double_integrator()
        return lqr_case(system, 0.5 * lqr_gain(system, 200)[0], dynamics, policy_std, discount, steps, seed, model)
    key = jax.random.key(seed)
    world = worlds.make(name)
    policy = gaussian_policy(world.spec, HIDDEN, policy_std)
    params = policy.init(jax.random.fold_in(key, 0))
    assert policy.layers is not None
    last = policy.layers(params)[-1].kernel
    params = jax.tree.map(lambda x: x * REACTION if x is last else x, params)
    placed, start, about, _ = _place(world, dynamics, steps, key, model)
    about |= {"policy": f"tanh network {HIDDEN}", "policy_std": policy_std, "discount": discount, "seed": seed}
    return Case(Problem(placed, policy, start, 1, discount), params, None, None, about)


def lqr_case(
    system: LinearSystem,
    gain: jax.Array,
    dynamics: Literal["known", "oracle", "learned"] = "known",
    policy_std: float = 0.3,
    discount: float = 1.0,
    steps: int = 2_000,
    seed: int = 0,
    model: ModelConfig = PRESETS["mbpo"].model,
) -> Case:
    """The case of a linear system with u = -K x + policy_std e and `gain` = K [A, D]; arguments as in `make_case`.

    For known and oracle, gradient and critic have closed forms. For the oracle they use the second moment of the
    visited states, the only property of the start states that the expected return depends on.
    """
    world = lqr(system)
    policy = linear_policy(world.spec, policy_std)
    placed, start, about, ring = _place(world, dynamics, steps, jax.random.key(seed), model)
    about |= {"policy": "linear", "gain": gain.tolist(), "policy_std": policy_std, "discount": discount, "seed": seed}
    problem = Problem(placed, policy, start, 1, discount)
    if dynamics == "learned":
        return Case(problem, gain, None, None, about)
    moment = None
    if ring is not None:
        moment = jnp.einsum("bi,bj->ij", ring.data.transition.obs, ring.data.transition.obs) / ring.size
    exact = lambda horizon: lqr_gradient(system, gain, horizon, discount, policy_std, moment)  # noqa: E731
    return Case(problem, gain, exact, lambda horizon: lqr_critic(system, gain, horizon, discount), about)


def lqr_critic(system: LinearSystem, gain: jax.Array, horizon: int, discount: float) -> Critic:
    """The exact critic of u = -K x + noise over a horizon H, up to a constant per time that affects no gradient.

    V_t(x) = -x' P_t x      P_H = 0      P_t = Q + K' R K + discount (A - B K)' P_{t+1} (A - B K)
    Q_t(x, u) = -(x' Q x + u' R u) + discount V_{t+1}(A x + B u)
    """
    closed, stage = system.a - system.b @ gain, system.q + gain.T @ system.r @ gain

    def back(cost: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        return stage + discount * closed.T @ cost @ closed, cost

    first, later = jax.lax.scan(back, jnp.zeros_like(system.q), length=horizon, reverse=True)
    costs = jnp.concatenate([first[None], later])  # [H + 1, D, D]

    def value(obs: jax.Array, time: jax.Array) -> jax.Array:
        return -obs @ costs[time] @ obs

    def q(obs: jax.Array, action: jax.Array, time: jax.Array) -> jax.Array:
        after = system.a @ obs + system.b @ action
        return -(obs @ system.q @ obs + action @ system.r @ action) + discount * value(after, time + 1)

    return Critic(value, q)


def _place(
    world: World, dynamics: str, steps: int, key: Key, config: ModelConfig
) -> tuple[World, Callable[[Key, int], Any], dict[str, Any], Ring | None]:
    """The world to imagine in, its start states, facts about them, and the real steps if any were taken."""
    about: dict[str, Any] = {"world": world.spec.name, "dynamics": dynamics}
    if dynamics == "known":
        return endless(world), initial(world), about, None
    key_collect, key_init, key_fit = jax.random.split(jax.random.fold_in(key, 1), 3)
    rounding = PARALLEL * config.holdout_every
    ring = collect(key_collect, world, -(-steps // rounding) * rounding)
    about["real_steps"] = int(ring.size)
    if dynamics == "oracle":
        source = oracle(world)
        placed = source.world((), None)
    else:
        source = make_ensemble(world, replace(config, kind="ensemble"))
        model, report = jax.jit(source.fit)(key_fit, jax.jit(source.init)(key_init), ring)
        about["model"] = {name.removeprefix("model/"): float(value) for name, value in report.metrics.items()}
        placed = source.world(model, source.elites(model)[0])

    def start(key: Key, count: int) -> Any:
        return jax.vmap(source.branch)(replay.sample(key, ring, count))

    return placed, start, about, ring


def collect(key: Key, world: World, steps: int) -> Ring:
    """`steps` real steps of 10 worlds with uniformly random actions, including the states before each step."""

    @jax.jit
    def run(key: Key) -> Ring:
        key_reset, key_run = jax.random.split(key)
        start = initial(world)(key_reset, PARALLEL)
        _, trajectory = rollout(key_run, world, uniform(world.spec), start, steps // PARALLEL, restart=True)
        rows = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), Row(trajectory.transition, trajectory.state))
        ring = replay.init(jax.tree.map(lambda x: x[0], rows), steps)
        return replay.add(ring, rows, finite(rows.transition))

    return run(key)


# --- estimators -------------------------------------------------------------------------------------------------------


def makers(case: Case) -> dict[str, Maker]:
    """All estimators of `options.ESTIMATORS`, as functions (problem, samples) -> estimator."""
    name = case.problem.world.spec.name

    def critic(problem: Problem) -> Critic:
        if case.critic is None:
            can = ", ".join(n for n, about in ESTIMATORS.items() if "needs a critic" not in about)
            raise EstimatorError(
                f"critic on {name} ({case.about['dynamics']}): only classic/lqr, known or oracle, has an exact value;"
                f" possible without one: {can}"
            )
        return case.critic(problem.horizon)

    return {
        "pathwise": pathwise,
        "pathwise_window": lambda p, n: pathwise(p, n, WINDOW),
        "pathwise_critic": lambda p, n: pathwise(p, n, WINDOW, critic(p).value),
        "deterministic": lambda p, n: deterministic(p, n, critic(p).q),
        "likelihood_total": lambda p, n: likelihood_ratio(p, n, "total"),
        "likelihood_to_go": lambda p, n: likelihood_ratio(p, n, "to_go"),
        "likelihood_baseline": likelihood_ratio,
        "likelihood_gae": lambda p, n: likelihood_ratio(p, n, "gae", critic(p).value),
        "finite_differences": finite_differences,
        "evolution_strategies": evolution_strategies,
        "inverse_variance": inverse_variance,
        "total_propagation": total_propagation,
    }


def possible(case: Case, names: Sequence[str], samples: int) -> tuple[dict[str, Maker], dict[str, str]]:
    """The named estimators that the case supports, and the reasons why it does not support the others."""
    able, refused, known = {}, {}, makers(case)
    for name in names:
        try:
            known[name](case.problem, samples)
            able[name] = known[name]
        except EstimatorError as error:
            refused[name] = str(error)
    return able, refused


def references(case: Case, samples: int) -> dict[str, Maker]:
    """The unbiased estimators for computing the truth, the most trusted one last.

    The pathwise gradient is excluded if episodes may terminate, because it ignores how actions affect terminations.
    """
    names = ["pathwise"] * (case.problem.world.spec.termination is never) + ["likelihood_baseline"]
    return possible(case, names, samples)[0]
