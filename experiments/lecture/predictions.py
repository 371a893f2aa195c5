"""What the lecture says, as numbers with thresholds. This file is committed before the runs that it speaks of.

Settings and thresholds were chosen by what the seeds of development gave, and those of other experiments (100 to 109);
what is reported comes from seeds that nothing was run on before: those from `REPORTED` on, which `--full` takes.
"""

from __future__ import annotations

from typing import NamedTuple

DEVELOPMENT, REPORTED = 0, 200  # the first seed of quick settings, and of full ones
DESIGN = 2  # raised with every change of a design: what an older one gave is not shown as this one's
LEAST = 10  # seeds, models or blocks; fewer give no verdict


class Prediction(NamedTuple):
    """A number that could come out either way, unless it is `sure`."""

    words: str  # what is predicted, the threshold included
    threshold: float
    at_least: bool = True  # False: at most
    unit: str = ""
    sure: str = ""  # why it could hardly have failed


class Claim(NamedTuple):
    """A claim and what follows from it."""

    name: str
    title: str
    words: str
    intervals: str  # of what the intervals are
    predictions: dict[str, Prediction]
    note: str = ""  # what one has to know before one believes a verdict


ARITHMETIC, THEOREM, BUILT = "arithmetic", "a formula says so", "by construction"
KNOWN = "measured before, far beyond the threshold (results/gradients.json)"

JACOBIANS = Claim(
    name="jacobians",
    title="Products of Jacobians",
    words="Along a rollout the product of Jacobians explodes where eigenvalues are larger than one and vanishes where "
    "they are smaller; a model learned from data may explode where the world does not.",
    intervals="linear systems: over systems; pendulums: medians over 24 policies, each with a model of its own",
    predictions={
        "closed form": Prediction(
            "largest singular value differs from matrix powers by at most 0.01 nat", 0.01, False, "nat", ARITHMETIC
        ),
        "eigenvalues": Prediction(
            "growth per step differs from log of the spectral radius by at most 0.01 nat on average",
            0.01,
            False,
            "nat",
            ARITHMETIC,
        ),
        "pendulum": Prediction(
            "pendulum, 100 steps: model and world differ by at most 0.5 decades (median start)", 0.5, False, "decades"
        ),
        "double pendulum": Prediction(
            "double pendulum, 100 steps: the model's product is at least 0.5 decades larger", 0.5, True, "decades"
        ),
    },
)

ESTIMATORS = Claim(
    name="estimators",
    title="What gradient estimators are worth",
    words="On short or smooth rollouts the pathwise gradient varies far less than the likelihood ratio, on long "
    "chaotic ones far more; the likelihood ratio gets worse as the policy's noise vanishes; more samples buy the "
    "difference back. Finite differences are as good as the pathwise gradient, at a rollout or two for each parameter, "
    "and break where it breaks.",
    intervals="over 64 independent estimates; at 200 steps over 32 blocks of 32 estimates, for heavy tails",
    note="Finite differences share starts and noise on both sides; each takes two rollouts for every parameter.",
    predictions={
        "smooth": Prediction(
            "5 steps: variance of the likelihood ratio is at least 50 times pathwise's (LQR)", 50.0, sure=KNOWN
        ),
        "smooth pendulum": Prediction("the same on the pendulum, 5 steps", 50.0, sure=KNOWN),
        "chaotic": Prediction(
            "pendulum, 200 steps: variance of pathwise is at least 100 times the other's (medians of blocks)",
            100.0,
            sure=KNOWN,
        ),
        "noise": Prediction(
            "LQR: the likelihood ratio's variance falls with noise, log-log slope at most -1", -1.0, False, "", THEOREM
        ),
        "noise, pathwise": Prediction("LQR: pathwise's does not, log-log slope at least -0.5", -0.5, sure=THEOREM),
        "cut": Prediction(
            "LQR, 50 steps: cutting the gradient every 5 steps biases it by at least 10 %", 0.1, sure=BUILT
        ),
        "samples": Prediction(
            "pendulum, 20 steps: the error of pathwise with 8 rollouts takes the likelihood ratio at least 10 times as "
            "many",
            10.0,
            sure=KNOWN,
        ),
        "differences, short": Prediction(
            "pendulum, 5 steps, equal rollouts: variance of the likelihood ratio is at least 3 times that of finite "
            "differences",
            3.0,
            sure=KNOWN,
        ),
        "differences, chaotic": Prediction(
            "pendulum, 200 steps, equal rollouts: variance of finite differences is at least 3 times the likelihood "
            "ratio's (medians of blocks)",
            3.0,
        ),
    },
)

COMPOUNDING = Claim(
    name="compounding",
    title="Errors that compound",
    words="The error of a model's open-loop rollouts grows over the horizon; less so with more data and more members, "
    "more so under another policy. Where nothing amplifies errors the sum of T of them is at most ε T(T+1)/2, and "
    "where they are never repaired the cost of being wrong with probability ε a step is just that.",
    intervals="over 10 models (medians over 64 starts; means of logarithms over models); the chain is exact",
    note="The other policy is a second random network, not one that was improved against the model.",
    predictions={
        "growth, pendulum": Prediction("pendulum: the error after 200 steps is at least 10 times that after 1", 10.0),
        "growth, hopper": Prediction("hopper: the error after 200 steps is at least 10 times that after 1", 10.0),
        "data": Prediction("10 steps: most data over least data, error ratio at most 0.5 (mean of worlds)", 0.5, False),
        "members": Prediction("10 steps: five members over one, error ratio at most 1 (mean of worlds)", 1.0, False),
        "policy": Prediction("10 steps: another policy over the same, error ratio at least 1.5 (mean of worlds)", 1.5),
        "within the law": Prediction("20 steps: summed errors are at most ε T(T+1)/2 (mean of worlds)", 1.0, False),
        "as fast as the law": Prediction(
            "20 steps: the error grows at least as the first power of the steps (mean of worlds)", 1.0
        ),
        "cliff": Prediction(
            "chain: dynamic programming and closed form differ by at most 1e-6", 1e-6, False, "", ARITHMETIC
        ),
        "tight": Prediction("chain, ε 1e-4, T 100: cost is at least 0.99 of ε T(T+1)/2", 0.99, sure=ARITHMETIC),
    },
)

HORIZON = Claim(
    name="horizon",
    title="Where rollouts start, and how long they are",
    words="Short rollouts from initial states never see what happens late in an episode; the same short rollouts from "
    "replayed states do, and learn at equal numbers of model steps what the others cannot. 10 to 20 steps are enough.",
    intervals="over 10 seeds, which all lengths share (pairs); a return is the mean over the second half of a run",
    note="Late states are those that the policy of the 5-step replayed run visits; a buffer holds one epoch.",
    predictions={
        "start": Prediction("5 steps: return from replayed minus from initial states is at least 200", 200.0),
        "longer from the start": Prediction(
            "from initial states: return with 50 steps minus with 5 is at least 200", 200.0
        ),
        "one is too few": Prediction("from replayed states: return with 10 steps minus with 1 is at least 100", 100.0),
        "15 are enough": Prediction(
            "from replayed states: return with 15 steps minus with 50 is at least -100", -100.0
        ),
        "covered from the start": Prediction(
            "5 steps from initial states cover at most 20 % of late states", 0.2, False, "", BUILT
        ),
        "covered from replay": Prediction("5 steps from replayed states cover at least 80 % of late states", 0.8),
        "value error": Prediction("5 steps: value error from replayed over from initial is at most 0.5", 0.5, False),
    },
)

MISMATCH = Claim(
    name="mismatch",
    title="Whose states are those of branched rollouts?",
    words="Branched rollouts visit neither the states of the data nor those of the latest policy, the less so the more "
    "the policy is updated between collections. Off-policy learning gains from more updates all the same; on-policy "
    "learning needs a KL budget.",
    intervals="over 16 seeds (distances) and 10 (returns), which all arms share (pairs); a return is the mean over the "
    "second half of a run",
    note="Distances are of one collection: a seed has the same data, the same model and the same first policy, however "
    "many updates follow.",
    predictions={
        "not the latest policy's": Prediction("PPO, 160 updates: MMD² of branched to latest is at least 0.02", 0.02),
        "not the data's": Prediction("PPO, 160 updates: MMD² of branched to data is at least 0.02", 0.02),
        "grows": Prediction("PPO: MMD² of branched to latest after 160 over after 10 updates is at least 2", 2.0),
        "SAC gains": Prediction("SAC: return with 8 updates a real step minus with 1 is at least 100", 100.0),
        "SAC over PPO": Prediction("return of SAC with 8 updates minus PPO without a budget is at least 200", 200.0),
        "budget": Prediction("PPO: return with a budget of 0.1 nat minus without is at least 100", 100.0),
    },
)

VERSIONS = Claim(
    name="versions",
    title="2.0, 2.5, 3.0, what they became, and no model at all",
    words="At equal real steps, branched short rollouts (3.0) learn more than likelihood ratios on long ones (2.5), "
    "these more than gradients back through long ones (2.0), and 3.0 more than SAC without a model. "
    "DHMBPO joins them: long rollouts spread the states, gradients go back through short ones, half the updates do.",
    intervals="over 10 seeds in each world (12 for 2.0, 2.5 and PPO), which all methods share (pairs), means of worlds",
    note="The area is the mean score over all evaluations of a run. On the pendulum 3.0, DHMBPO and SAC take 800 real "
    "steps, 2.0, 2.5 and PPO 1,000. SAC has the 10 or 20 updates per real step that "
    "were best for it on seeds 100 to 104 (sample_efficiency.json).",
    predictions={
        "3.0 over SAC": Prediction("area of 3.0 minus SAC is at least 0.1 (mean of three worlds)", 0.1),
        "steps to a return": Prediction(
            "3.0 holds the fixed returns after at most 0.8 of SAC's real steps (misses count as the budget)", 0.8, False
        ),
        "3.0 over 2.5": Prediction("last score of 3.0 minus 2.5 is at least 0.1 (on the pendulum)", 0.1),
        "2.5 over 2.0": Prediction("last score of 2.5 minus 2.0 is at least 0.1 (on the pendulum)", 0.1),
        "2.5 over PPO": Prediction(
            "last score of 2.5 minus PPO without a model is at least 0.1 (on the pendulum)", 0.1
        ),
        "DHMBPO over SAC": Prediction("area of DHMBPO minus SAC is at least 0.1 (on the pendulum)", 0.1),
        "DHMBPO and 3.0": Prediction(
            "with half of the updates, area of DHMBPO minus 3.0 is at least -0.15 (on the pendulum)", -0.15
        ),
    },
)

ORACLE = Claim(
    name="oracle",
    title="The simulator in place of the model",
    words="With a perfect model 3.0 learns as it does with the learned one, while long rollouts (2.5) lose to the "
    "model's errors; and backpropagation through 200 steps of the pendulum itself fails as it does through the model.",
    intervals="over 10 seeds (12 for 2.0 and 2.5), which model and simulator share (pairs)",
    predictions={
        "3.0": Prediction("area of 3.0 with the simulator minus with the model is at most 0.2 (pendulum)", 0.2, False),
        "2.5": Prediction("last score of 2.5 with the simulator minus with the model is at least 0.2 (pendulum)", 0.2),
        "2.0": Prediction("2.0 with the simulator scores at most 0.7 (pendulum)", 0.7, False),
    },
)

DATA = Claim(
    name="data",
    title="Real and imagined data, and how much more imagined",
    words="3.0 learns from real and imagined data, and from far more imagined than real: without the imagined it "
    "learns slower, with too little of it as well, and beyond some amount more brings nothing.",
    intervals="over 10 seeds, which all arms share (pairs)",
    note="The learner with real data alone is the same but for what it learns from, updates and all.",
    predictions={
        "imagined helps": Prediction("area with 5 % real minus real alone is at least 0.1", 0.1),
        "real helps": Prediction("area with 5 % real minus imagined alone is at least 0.1", 0.1),
        "mostly imagined": Prediction("area with 5 % real minus 50 % real is at least -0.1", -0.1),
        "much more": Prediction("area with 100 rollouts a real step minus with 1 is at least 0.1", 0.1),
        "enough": Prediction("area with 400 rollouts a real step minus with 100 is at most 0.1", 0.1, False),
    },
)

COMPUTE = Claim(
    name="compute",
    title="Samples bought with compute, in a model",
    words="In a model samples cost compute alone: with enough of them the likelihood ratio gets from the same real "
    "steps a return that it does not get with few, and that gradients back through the model do not get either.",
    intervals="over 10 seeds, which all arms share (pairs)",
    note="2.5 on the pendulum, where rollouts per update are the only difference.",
    predictions={
        "more samples": Prediction("last score with 32 rollouts an update minus with 2 is at least 0.2", 0.2),
        "over 2.0": Prediction("last score with 32 rollouts an update minus 2.0 is at least 0.1", 0.1),
        "saturates": Prediction("last score with 32 rollouts an update minus with 8 is at most 0.2", 0.2, False),
    },
)

CLAIMS = {
    claim.name: claim
    for claim in (ESTIMATORS, JACOBIANS, COMPOUNDING, HORIZON, MISMATCH, VERSIONS, ORACLE, COMPUTE, DATA)
}
