"""Environments as people have them, each with a habit of its own; registered by their import, `strange_envs:Id-v0`."""

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.classic_control import CartPoleEnv, PendulumEnv

MADE, CLOSED = [], []  # one entry for each environment that was made, and that was closed


class Base(gymnasium.Env):
    """A point that decays; rewarded for being near zero."""

    observation_space, action_space = spaces.Box(-10, 10, (2,)), spaces.Box(-1, 1, (1,))

    def __new__(cls, *arguments, **named):
        MADE.append(cls.__name__)
        return super().__new__(cls)

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.state = self.np_random.uniform(-1, 1, 2)
        return self.seen(), {}

    def seen(self):
        return self.state.astype(np.float32)

    def step(self, action):
        self.state = 0.9 * self.state + 0.1 * float(np.asarray(action).ravel()[0])
        return self.seen(), self.reward(), self.over(), False, {}

    def reward(self):
        return -float(self.state @ self.state)

    def over(self):
        return False

    def close(self):
        CLOSED.append(type(self).__name__)


class Buffer(Base):
    """Writes its observations into one array."""

    def __init__(self):
        self.buffer = np.zeros(2, np.float32)

    def seen(self):
        self.buffer[:] = self.state
        return self.buffer


class Hidden(Base):
    """Ends itself by a counter that is not in its state, and pays for a goal that it drew at its reset."""

    def reset(self, seed=None, options=None):
        self.steps = 0
        found = super().reset(seed=seed)
        self.goal = self.np_random.normal()
        return found

    def step(self, action):
        self.steps += 1
        obs, reward, over, _, info = super().step(action)
        return obs, reward + self.goal, over, self.steps >= 23, info


class Opaque(Base):
    """Keeps where it is in a running generator, which nobody can read."""

    def reset(self, seed=None, options=None):
        found = super().reset(seed=seed)
        self.running = self.runs(self.state.copy())
        next(self.running)
        return found

    def runs(self, place):
        for steps in range(1, 32):
            push = yield place, steps == 31
            place = 0.9 * place + 0.1 * push

    def step(self, action):
        self.state, over = self.running.send(float(np.asarray(action).ravel()[0]))
        return self.seen(), self.reward(), over, False, {}


class Deep(Base):
    """Holds a list of lists of lists, deeper than anyone can read."""

    def __init__(self):
        self.inner = []
        for _ in range(5_000):
            self.inner = [self.inner]


class Broken(PendulumEnv):
    """Loses its simulator at the 137th step that is taken in the process; at another, the reward is NaN."""

    count, fatal, spoiled = 0, 137, 0

    def step(self, action):
        Broken.count += 1
        if Broken.count == self.fatal:
            raise RuntimeError("the simulator lost its connection")
        obs, reward, *others = super().step(action)
        return obs, float("nan") if Broken.count == self.spoiled else reward, *others


class ManyDiscrete(Base):
    """Two wheels of three and four positions; observations in a dict, with a Discrete that begins at 5."""

    observation_space = spaces.Dict({"place": Base.observation_space, "kind": spaces.Discrete(3, start=5)})
    action_space = spaces.MultiDiscrete([3, 4])

    def seen(self):
        return {"place": super().seen(), "kind": 6}

    def step(self, action):
        assert action.shape == (2,) and (action >= 0).all() and (action < [3, 4]).all()
        return super().step(action[:1] / 2)


class Shared(Base):
    """Shares its random generator with a part of it."""

    def reset(self, seed=None, options=None):
        found = super().reset(seed=seed)
        self.wind = Wind(self.np_random)
        return found

    def step(self, action):
        self.state = self.state + self.wind.rng.normal(size=2) + self.np_random.normal(size=2)
        return super().step(action)


class Wind:
    def __init__(self, rng):
        self.rng = rng


class Grid(Base):
    """Keeps its place in a tuple that it looks up in a set, and shows it by a property that nobody can set."""

    place = property(lambda self: self.at)

    def reset(self, seed=None, options=None):
        found = super().reset(seed=seed)
        self.at, Grid.resets = (0, 0), Grid.resets + 1
        return found

    resets = 0

    def step(self, action):
        self.at = self.at[0] + 1, (self.at[1] + 3) % 4
        obs, _, _, _, info = super().step(action)
        return obs, float(self.place in {(3, 1), (1, 3)}), np.array([self.at[0] == 10]), np.array(False), info


class RewardArray(Base):
    def reward(self):
        return np.array([-1.5])


class RewardNone(Base):
    def reward(self):
        return None


class RewardVector(Base):
    def reward(self):
        return np.zeros(2)


class DoneText(Base):
    def over(self):
        return "no"


class WrongShape(Base):
    observation_space = spaces.Box(-10, 10, (3,))


class SwappedParts(Base):
    """Its parts have each other's shapes, so that they are as many numbers in all."""

    observation_space = spaces.Dict({"x": spaces.Box(-1, 1, (2, 3)), "y": spaces.Box(-1, 1, (6, 1))})

    def seen(self):
        return {"x": np.zeros((6, 1)), "y": np.zeros((2, 3))}


class BesideTheStates(Base):
    observation_space = spaces.Discrete(4)

    def seen(self):
        return -1


class BesideTheWheels(Base):
    observation_space = spaces.Tuple([spaces.MultiDiscrete([2, 3], start=[1, 0])])

    def seen(self):
        return (np.array([1, 3]),)


class NoSpace(Base):
    observation_space = None


class OldSpace(Base):
    """One of another library's."""

    class Box:
        low, high, shape = -1.0, 1.0, (1,)

    action_space = Box()


class NoActions(Base):
    action_space = spaces.Tuple([])


class Leaves(Base):
    """Ends the whole process, as programs do that were never meant to be a part of one."""

    def over(self):
        raise SystemExit("the licence has expired")


class FloatMaximum(Base):
    action_space = spaces.Box(-3.4e38, 3.4e38, (1,))


class IntegerMaximum(Base):
    action_space = spaces.Box(0, 2**63 - 1, (1,), np.int64)


class OldStep(Base):
    def step(self, action):
        obs, reward, over, _, info = super().step(action)
        return obs, reward, over, info


class OldReset(Base):
    def reset(self, seed=None, options=None):
        return super().reset(seed=seed)[0]


class NoSeed(Base):
    def reset(self):
        self.state = np.zeros(2)
        return self.seen(), {}


class RaisesInInit(Base):
    def __init__(self):
        raise RuntimeError("no simulator at port 5005")


class NeedsArgument(Base):
    def __init__(self, goal):
        self.goal = goal


class Unbounded(Base):
    action_space = spaces.Box(-np.inf, 1.0, (1,))


class Mixed(Base):
    action_space = spaces.Dict({"push": spaces.Box(-1, 1, (1,)), "kind": spaces.Discrete(2)})


def remembering():
    """Wrappers with memories: stacked frames, running statistics that outlive an episode, and a limit of their own."""
    env = gymnasium.wrappers.FrameStackObservation(Base(), 3)
    env = gymnasium.wrappers.NormalizeObservation(env)
    env = gymnasium.wrappers.NormalizeReward(env)
    return gymnasium.wrappers.TimeLimit(env, 17)


for env in list(globals().values()):
    if isinstance(env, type) and issubclass(env, gymnasium.Env) and env.__module__ == __name__:
        gymnasium.register(f"{env.__name__}-v0", entry_point=env, max_episode_steps=50)
gymnasium.register("Remembering-v0", entry_point=remembering, max_episode_steps=40)
gymnasium.register("Limited-v0", entry_point=lambda: gymnasium.wrappers.TimeLimit(CartPoleEnv(), 12))
