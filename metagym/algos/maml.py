"""Model-agnostic meta-learning (Finn, Abbeel & Levine 2017, arXiv 1703.03400), Algorithm 3, on policies of SB3.

     1  initialise theta
     2  for iteration = 1, 2, ... do
     3      sample tasks tau_1, ..., tau_K
     4      for all k do                                                                    (at once)
     5          sample episodes D_k with pi_theta in tau_k
     6          theta_k' = theta - alpha * grad_theta L(theta, D_k)                         (maml_inner.py)
     7          sample episodes D_k' with pi_theta_k' in tau_k
     8      theta <- the outer step on (1/K) * sum_k L'(theta_k'(theta), D_k')              (maml_outer.py)

L is minus the mean of log pi(a | s) * advantage, L' the same with likelihood ratios, as TRPO and PPO have it. With
``n_inner_steps`` steps, lines 5 and 6 are repeated. FOMAML takes theta_k' - theta for a constant in line 8.

Differs from the paper: Hessian-vector products are exact, where the authors' code takes finite differences; PPO may
replace TRPO in line 8; steps count in the width of the action space, which the authors' code gets by scaling actions
outside of the policy (cbfinn/maml_rl, ``normalize(env)``); advantages are normalised per task, as there.
"""

from typing import Any

from stable_baselines3.common.policies import BasePolicy

from metagym.algos.maml_learner import GradientMetaLearner

__all__ = ["FOMAML", "MAML"]


class MAML(GradientMetaLearner):
    """MAML: parameters whose gradient steps on a new task lead far, trained through those steps, curvature included.

    Its arguments, attributes, logs and errors are those of `GradientMetaLearner`.
    """


class FOMAML(GradientMetaLearner):
    """First-order MAML: inner gradients count as constants in the outer step, which makes iterations cheaper.

    Args:
        policy: as in `GradientMetaLearner`.
        env: as there.
        first_order: True.
        **kwargs: as there.
    """

    def __init__(self, policy: str | type[BasePolicy], env: Any, *, first_order: bool = True, **kwargs: Any) -> None:
        super().__init__(policy, env, first_order=first_order, **kwargs)
