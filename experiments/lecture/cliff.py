"""A worked case in which the eps T^2 bound on compounding errors is exact: a road of T steps beside a cliff.

On the road a step costs 0, below the cliff it costs 1, and nobody climbs back. The policy that built the model (or the
expert who is imitated) never falls. A model (or an imitator) that is wrong with probability eps at a step, on the road
itself, falls at that step. So it is below by the end of step t with probability 1 - (1 - eps)^t, and its cost is

    C(T) = sum_{t=1..T} [1 - (1 - eps)^t] = T - (1 - eps) (1 - (1 - eps)^T) / eps                                  (1)

Two chains whose steps differ in total variation by eps can be coupled so that they are still together after t steps
with probability at least (1 - eps)^t >= 1 - t eps, and cost at most 1 a step apart afterwards; hence in general

    |C - C'| <= sum_{t=1..T} min(1, t eps) <= eps T (T + 1) / 2                                                    (2)

which is the T^2 eps of Ross and Bagnell 2010 (AISTATS, theorem 2.1; Ross et al. 2011, arXiv:1011.0686) with its
constant, and, with 1 / (1 - gamma) for T, the first term of Janner et al. 2019 (MBPO, arXiv:1906.08253, theorem 4.1).
The road meets (2) as eps T -> 0: C(T) / (eps T (T + 1) / 2) = 1 - eps (T - 1) / 3 + O((eps T)^2).

Rollouts that branch off real states every k steps (Janner et al., section 4.2) are put back on the road as often:

    C_k(T) = (T / k) C(k) <= eps T (k + 1) / 2                                                                     (3)

linear in T. Everything is computed twice: by these formulas, and by dynamic programming over all states.
"""

from __future__ import annotations

import numpy as np


def closed_form(eps: float, steps: int) -> float:
    """(1), with log1p and expm1 where powers of 1 - eps would round."""
    return steps + (1 - eps) * np.expm1(steps * np.log1p(-eps)) / eps


def bound(eps: float, steps: int) -> float:
    """(2)."""
    return eps * steps * (steps + 1) / 2


def by_programming(eps: float, steps: int, branch: int | None = None) -> float:
    """The cost from the start by backward induction over position and cliff; with `branch` (k), back on the road after
    every k steps.

    V_T = 0,  V_t(s) = sum_s' P_t(s' | s) (cost(s') + V_{t+1}(s')), states 0 .. T (positions) and T + 1 (below).
    """
    below = steps + 1
    move = np.zeros((steps + 2, steps + 2))
    for place in range(steps):
        move[place, place + 1], move[place, below] = 1 - eps, eps
    move[steps, steps] = move[below, below] = 1.0
    cost = np.zeros(steps + 2)
    cost[below] = 1.0
    value = np.zeros(steps + 2)
    for t in reversed(range(steps)):
        if branch is not None and (t + 1) % branch == 0 and t + 1 < steps:
            value = np.append(value[:below], value[t + 1])  # whoever is below goes on from the road
        value = move @ (cost + value)
    return float(value[0])
