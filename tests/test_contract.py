"""The checker finds each breach of the contract, and none where there is none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from branchax import cli, worlds
from branchax.worlds import contract
from branchax.worlds.base import WorldSpec, make_world
from branchax.worlds.contract import CONTRACT, check_world


def fell(obs, action, next_obs):
    return jnp.abs(next_obs[0]) > 1.0


def ball(**changes):
    """A ball on a line that is pushed about, with `make_world`'s arguments replaced."""

    def reset(key):
        x = jax.random.uniform(key, (2,), minval=-0.5, maxval=0.5)
        return x, x

    def step(key, x, action):
        y = x + 0.2 * jnp.stack([x[1], jnp.clip(action[0], -1.0, 1.0)])
        return y, y, -(y**2).sum(), fell(x, action, y)

    parts = {"spec": WorldSpec("ball", 2, 1, 20, termination=fell), "reset": reset, "step": step} | changes
    return make_world(parts["spec"], parts["reset"], parts["step"])


def stepping(change):
    """The ball with `change(state, action, after, transition) -> (after, transition)` after each step."""
    world = ball()

    def step(key, state, action):
        return change(state, action, *world.step(key, state, action))

    return world._replace(step=step)


CALLS = np.zeros(())


def count(shape):
    CALLS[...] += 1
    return np.full(shape, CALLS, np.float32)


def by_callback(state, action, after, t):
    noise = jax.pure_callback(
        lambda r: count(r.shape), jax.ShapeDtypeStruct((), jnp.float32), t.reward, vmap_method="expand_dims"
    )
    return after, t._replace(reward=t.reward + noise)


def refuse(state, action, after, t):
    assert isinstance(state, float)


BREACHES = {
    "an assertion without a word": (2, lambda: stepping(refuse)),
    "a reward of another shape": (1, lambda: stepping(lambda s, a, n, t: (n, t._replace(reward=t.reward[None])))),
    "an integer reward": (1, lambda: stepping(lambda s, a, n, t: (n, t._replace(reward=jnp.int32(1))))),
    "python control flow": (2, lambda: stepping(lambda s, a, n, t: (n, t) if t.reward > 0 else (s, t))),
    "a state that changes its dtype": (2, lambda: stepping(lambda s, a, n, t: (n._replace(time=n.time * 1.0), t))),
    "a step that keeps count elsewhere": (3, lambda: stepping(by_callback)),
    "next_obs of the next episode": (
        5,
        lambda: stepping(lambda s, a, n, t: (n, t._replace(next_obs=jnp.where(t.truncated, 0.0, t.next_obs)))),
    ),
    "the obs after the step": (5, lambda: stepping(lambda s, a, n, t: (n, t._replace(obs=t.next_obs)))),
    "a reward that is NaN now and then": (
        6,
        lambda: stepping(lambda s, a, n, t: (n, t._replace(reward=jnp.where(s.time == 7, jnp.nan, t.reward)))),
    ),
    "a predicate with a misplaced parenthesis": (
        7,
        lambda: ball(spec=WorldSpec("ball", 2, 1, 20, termination=lambda o, a, n: jnp.abs(n[0] > 1.0))),
    ),
    "a clock that is late": (8, lambda: stepping(lambda s, a, n, t: (n, t._replace(truncated=n.time >= 22)))),
    "a time limit called a termination": (
        8,
        lambda: stepping(lambda s, a, n, t: (n, t._replace(truncated=t.truncated | t.terminated))),
    ),
    "an action that is not borne": (
        9,
        lambda: stepping(lambda s, a, n, t: (n, t._replace(reward=jnp.sqrt(1.5 - jnp.abs(a[0]))))),
    ),
    "a state that is not one-hot": (
        10,
        lambda: ball(spec=WorldSpec("ball", 2, 1, 20, termination=fell, tabular=True)),
    ),
}


@pytest.mark.parametrize("name", BREACHES)
def test_finds_the_breach(name):
    line, make = BREACHES[name]
    found = {violation.line for violation in check_world(make(), steps=60, batch=4) if violation.sure}
    assert found == {line}


def test_every_line_is_put_to_the_test():
    assert set(CONTRACT) == {line for line, _ in BREACHES.values()} | {4}


def test_one_start_for_all_keys_is_a_question():
    world = ball(reset=lambda key: (jnp.zeros(2), jnp.zeros(2)))
    assert [(v.line, v.sure) for v in check_world(world, 60, 4)] == [(4, False)]


@pytest.mark.parametrize("name", ["classic/cartpole", "classic/mountain_car", "classic/chain", "probe/discounting"])
def test_the_librarys_own_worlds_keep_it(name):
    assert not [violation for violation in check_world(worlds.make(name)) if violation.sure]


def test_the_command_names_the_line(capsys, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(worlds, "make", lambda *_: BREACHES["a clock that is late"][1]())
        assert cli.main(["check-world", "classic/pendulum"]) == 1
    captured = capsys.readouterr()
    assert "BAD  8  an episode is truncated at episode_length" in captured.out
    assert "not truncated after 20 of 20 steps" in captured.out
    assert "breaks 1 of 10 lines" in captured.err
    assert cli.main(["check-world", "classic/pendulm"]) == 2
    assert "did you mean classic/pendulum" in capsys.readouterr().err


def test_the_docs_have_the_lines():
    from pathlib import Path

    text = " ".join((Path(__file__).parents[1] / "docs" / "worlds.md").read_text().split())
    for number, line in CONTRACT.items():
        assert f"{number}. {line}" in text


def test_what_differs_in_a_world_of_small_units_differs():
    x = np.array([1e-6, 2e-6])
    assert not contract._close(x, np.array([1e-6, 2.1e-6])) and contract._close(x, x * (1 + 1e-6))
