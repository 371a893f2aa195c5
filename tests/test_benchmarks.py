"""What the benchmarks count and how two of their results are compared."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from benchmarks import flops
from benchmarks.harness import Case, run
from branchax import cli
from branchax.agents.base import Sources
from branchax.agents.sac import make_sac
from branchax.config import CriticConfig, ModelConfig, SACConfig
from branchax.dynamics import ensemble
from branchax.types import Row, Transition
from branchax.worlds.base import WorldSpec

SPEC = WorldSpec("sizes", 5, 2, 100)


def products(jaxpr):
    """Operations of all matrix products in a jaxpr, inner ones included (each once: there are no loops here)."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            ((contracted, _), _) = equation.params["dimension_numbers"]
            inner = np.prod([equation.invars[0].aval.shape[i] for i in contracted])
            total += 2 * int(inner) * int(np.prod(equation.outvars[0].aval.shape))
        for inner in jaxprs_in_params(equation.params):
            total += products(inner)
    return total


def count(function, *arguments):
    return products(jax.make_jaxpr(function)(*arguments).jaxpr)


@pytest.mark.parametrize("critics", [2, 5])
def test_an_update_of_sac_takes_the_products_that_are_counted(critics):
    config, batch = SACConfig(hidden=(7, 11), critic=CriticConfig(members=critics)), 3
    agent = make_sac(SPEC, config)
    none = jnp.zeros(batch, bool)
    row = Row(Transition(jnp.ones((batch, 5)), jnp.ones((batch, 2)), jnp.ones(batch), jnp.ones((batch, 5)), none, none))
    sources = Sources(lambda key: row, None)
    params = agent.init(jax.random.key(0))
    update = lambda params: agent.update(jax.random.key(1), params, sources)[0]  # noqa: E731
    assert count(update, params) == batch * flops.sac_row(5, 2, config)


def test_a_member_s_minibatch_takes_the_products_that_are_counted():
    config = ModelConfig(hidden=(7, 11))
    net = ensemble.network(SPEC, config.hidden)
    params = ensemble.init_member(jax.random.key(0), net, SPEC)
    x, y = jnp.ones((3, 7)), jnp.ones((3, 6))
    loss = lambda p: ensemble.negative_log_likelihood(ensemble.predict(net, p, x), y).mean()  # noqa: E731
    ends = flops.trained(flops.model_sizes(5, 2, config, ends=True))  # the head for ends is there in any case
    assert count(jax.grad(loss), params) == 3 * ends


def test_a_case_is_compiled_once_and_timed():
    calls = []

    def function(x, y):
        calls.append(1)
        return x + y

    row = run(Case({"n": 4}, function, (jnp.zeros(4), jnp.ones(4)), work=4, flops=8, carried=True), repeats=3)
    assert len(calls) == 1 and len(row["seconds"]) == 3
    assert row["per_second"] == pytest.approx(4 / np.median(row["seconds"]))
    assert row["flops_per_second"] == pytest.approx(2 * row["per_second"])


def written(path, factor, case="n"):
    noise = np.random.default_rng(0).uniform(0.95, 1.05, (2, 7))
    rows = [{"settings": {case: i}, "seconds": list(x / (factor if i else 1))} for i, x in enumerate(noise)]
    path.write_text(json.dumps({"benchmark": "toy", "rows": rows, "made": {"environment": {"jax": str(factor)}}}))
    return str(path)


def test_compare_says_what_moved_beyond_the_noise(tmp_path, capsys):
    first, second, slow = (written(tmp_path / f"{f}.json", f) for f in (1.0, 1.5, 0.5))
    assert cli.main(["bench", "compare", first, second]) == 0
    output = capsys.readouterr().out
    assert output.count("faster") == 1 and "slower" not in output and "1.50" in output and "jax: 1.0 -> 1.5" in output
    assert cli.main(["bench", "compare", first, slow]) == 0
    assert capsys.readouterr().out.count("slower") == 1
    assert cli.main(["bench", "compare", first, first]) == 0
    assert "0 of 2 moved" in capsys.readouterr().out


def test_compare_refuses_what_it_cannot_compare(tmp_path, capsys):
    first, other = written(tmp_path / "a.json", 1.0), written(tmp_path / "b.json", 1.0, case="m")
    (tmp_path / "text.json").write_text("[1]")
    for path, message in (
        (other, "no case in common"),
        ("missing.json", "cannot read"),
        ("text.json", "not the result"),
    ):
        assert cli.main(["bench", "compare", first, str(tmp_path / path)]) == 2
        assert message in capsys.readouterr().err


def test_configs_of_the_measurements_are_valid():
    from benchmarks.imagine import config_of
    from branchax.config import check

    check(config_of(100_000, 5, propagation="mean"))
    assert dataclasses.replace(config_of(10_000, 3)).rollouts == 10_000
