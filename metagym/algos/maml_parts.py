"""What a gradient meta-learner is made of, built from its arguments and the plain learner that holds its policy."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch as th
from gymnasium import spaces

from metagym.algos.maml_actions import ActionLaw, law_of
from metagym.algos.maml_baselines import Baseline, LinearBaseline, ValueNet
from metagym.algos.maml_inner import InnerLoop
from metagym.algos.maml_outer import AdamStep, OuterStep, TrustRegionStep
from metagym.algos.maml_policy import PolicyFunction, policy_function
from metagym.algos.maml_rollout import Collector
from metagym.algos.maml_start import Start, half_widths, rate_units

if TYPE_CHECKING:
    from metagym.algos.maml_learner import GradientMetaLearner

__all__ = ["Parts", "make_parts"]


@dataclass
class Parts:
    """What a learner is made of.

    Attributes:
        function: what its policy computes.
        law: how actions are distributed.
        start: what is meta-learned.
        inner: steps within tasks.
        outer: steps of the meta-parameters.
        baseline: what returns are compared with.
        critic: trains the value network; None leaves it alone.
        collector: plays training tasks; made when they are.
    """

    function: PolicyFunction
    law: ActionLaw
    start: Start
    inner: InnerLoop
    outer: OuterStep
    baseline: Baseline
    critic: AdamStep | None
    collector: Collector | None = None


def make_parts(agent: "GradientMetaLearner") -> Parts:
    """The parts of a learner whose plain learner is made.

    Raises:
        ConfigError: if its policy or its actions are of a kind that is not known.
    """
    law, function = law_of(agent.action_space), policy_function(agent.learner.policy)
    scaled = agent.normalize_actions and isinstance(agent.action_space, spaces.Box)
    if scaled and "log_std_init" not in agent.policy_kwargs:
        with th.no_grad():
            function.policy.log_std.copy_(half_widths(agent.action_space).log())
    with_critic = agent.baseline == "value_net"
    names = function.actor_names + (function.critic_names if with_critic else ())
    units = rate_units(function.parameters(names), agent.action_space if scaled else spaces.Discrete(1))
    start = agent._make_start(function, names, units)
    inner = InnerLoop(
        function,
        law,
        objective=agent.inner_objective,
        ent_coef=agent.ent_coef,
        vf_coef=agent.vf_coef if with_critic else None,
    )
    critic = AdamStep(list(function.parameters(function.critic_names).values()), agent.n_epochs)
    return Parts(
        function, law, start, inner, _outer_step(agent, start),
        ValueNet(function) if with_critic else LinearBaseline(agent.gamma), critic if with_critic else None,
    )  # fmt: skip


def _outer_step(agent: "GradientMetaLearner", start: Start) -> OuterStep:
    if agent.outer == "ppo":
        return AdamStep(list(start.tensors.values()), agent.n_epochs)
    return TrustRegionStep(
        target_kl=agent.target_kl,
        cg_max_steps=agent.cg_max_steps,
        cg_damping=agent.cg_damping,
        line_search_max_iter=agent.line_search_max_iter,
        line_search_shrinking_factor=agent.line_search_shrinking_factor,
    )
