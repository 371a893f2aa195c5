"""Worlds with finitely many states, given by tables. The optimal Q function is computed by linear solves."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from branchax.types import Key
from branchax.worlds.base import World, WorldSpec, make_world, never


class MDP(NamedTuple):
    """A Markov decision process of S states and A actions. Rows of probabilities sum to 1."""

    transition: np.ndarray  # [S, A, S], the probability of each next state
    reward: np.ndarray  # [S, A, S], of the step that goes there
    terminal: np.ndarray  # [S] bool: entering the state ends the episode
    start: np.ndarray  # [S], the probability that an episode starts here


def tabular_world(name: str, mdp: MDP, episode_length: int) -> World:
    """The process as a world: `obs [S]` is the one-hot vector of the state, `action [A]` that of the action."""
    size, actions, _ = mdp.transition.shape
    # The logarithm of a zero probability is -inf, so that the state is never drawn.
    log_transition, log_start = jnp.log(jnp.asarray(mdp.transition)), jnp.log(jnp.asarray(mdp.start))
    rewards, terminal = jnp.asarray(mdp.reward), jnp.asarray(mdp.terminal)

    def termination(obs: jax.Array, action: jax.Array, next_obs: jax.Array) -> jax.Array:
        del obs, action
        return terminal[jnp.argmax(next_obs)]

    def reset(key: Key) -> tuple[jax.Array, jax.Array]:
        state = jax.random.categorical(key, log_start)
        return state, jax.nn.one_hot(state, size)

    def step(key: Key, state: jax.Array, action: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        choice = jnp.argmax(action)
        after = jax.random.categorical(key, log_transition[state, choice])
        return after, jax.nn.one_hot(after, size), rewards[state, choice, after], terminal[after]

    spec = WorldSpec(
        name=name,
        obs_size=size,
        action_size=actions,
        episode_length=episode_length,
        discrete=True,
        differentiable=False,
        termination=termination if mdp.terminal.any() else never,
        tabular=True,
    )
    return make_world(spec, reset, step)


def optimal_q(mdp: MDP, discount: float) -> np.ndarray:
    """The optimal action values `[S, A]` without a time limit, in float64; those of terminal states are 0.

    By policy iteration (Howard 1960), each policy evaluated by solving, with g(s') = 0 for terminal s' and 1 otherwise,

        q(s, a) = sum_s' p(s' | s, a) (r(s, a, s') + discount g(s') q(s', policy(s')))

    `discount` is below 1.
    """
    states, alive = np.arange(len(mdp.start)), ~mdp.terminal
    reward, onward = (mdp.transition * mdp.reward).sum(-1), discount * mdp.transition * alive
    policy = np.zeros_like(states)
    while True:
        value = np.linalg.solve(np.eye(len(states)) - onward[states, policy], reward[states, policy])
        q = reward + onward @ value
        better = q.max(-1) > value + 1e-12 * np.abs(q).max()  # by more than rounding, otherwise it would never converge
        if not better.any():
            return q * alive[:, None]
        policy = np.where(better, q.argmax(-1), policy)


MAZE = """
.......#G
..#....#.
S.#....#.
..#......
.....#...
.........
"""
MOVES = ((-1, 0), (1, 0), (0, 1), (0, -1))  # up, down, right, left


def dyna_maze() -> MDP:
    """The maze of Sutton and Barto 2018, Example 8.1: 47 free cells, numbered row by row, and four moves (`MOVES`).

    A move into a wall or out of the maze leaves the state as it is. Reaching the goal has reward 1 and ends the
    episode; all other rewards are 0. The shortest way from the start has 14 moves.
    """
    marks = {(i, j): mark for i, row in enumerate(MAZE.split()) for j, mark in enumerate(row) if mark != "#"}
    index = {cell: state for state, cell in enumerate(marks)}
    transition = np.zeros((len(marks), len(MOVES), len(marks)))
    for (i, j), state in index.items():
        for action, (down, right) in enumerate(MOVES):
            transition[state, action, index.get((i + down, j + right), state)] = 1.0
    start, goal = (np.array([mark == which for mark in marks.values()]) for which in "SG")
    return MDP(transition, np.broadcast_to(goal.astype(float), transition.shape), goal, start.astype(float))


def gridworld(episode_length: int = 2000) -> World:
    """`dyna_maze` as a world.

    The book's episodes have no limit. A random walk takes 869 steps to the goal on average, and 91 % of random walks
    reach it within the default length. Shorter episodes would hide the reward from an agent that has not found it yet.
    """
    return tabular_world("classic/gridworld", dyna_maze(), episode_length)


def slippery_chain() -> MDP:
    """The chain of Strens 2000 ("A Bayesian framework for reinforcement learning"): 5 states, forward (0) and back (1).

    Forward goes to the next state with reward 0, and stays in the last one with reward 10; back goes to the first state
    with reward 2. With probability 0.2 the action slips and the opposite action is taken. It starts in the first state
    and never ends. At discounts of 0.85 and more, it is best to always go forward, which earns 3.677 per step in the
    long run.
    """
    first, following = np.eye(5)[[0] * 5], np.eye(5)[[1, 2, 3, 4, 4]]  # [S, S]: where back and forward lead
    transition = np.stack([0.8 * following + 0.2 * first, 0.2 * following + 0.8 * first], 1)
    reward = np.zeros_like(transition)
    reward[:, :, 0] = 2.0  # only going back leads to the first state
    reward[4, :, 4] = 10.0
    return MDP(transition, reward, np.zeros(5, bool), np.eye(5)[0])


def chain(episode_length: int = 100) -> World:
    """`slippery_chain` as a world; its episodes end only by the time limit."""
    return tabular_world("classic/chain", slippery_chain(), episode_length)


TABULAR: dict[str, Callable[..., World]] = {"gridworld": gridworld, "chain": chain}
