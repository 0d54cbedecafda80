"""Meta-SGD (Li, Zhou, Chen & Li 2017, arXiv 1707.09835): the sizes of inner steps are meta-learned too.

As MAML, with a step size for each number of theta, and both moved by line 8:

    6          theta_k' = theta - alpha * grad_theta L(theta, D_k)               (a product element by element)
    8      (theta, alpha) <- the outer step on (1/K) * sum_k L'(theta_k'(theta, alpha), D_k')

Differs from the paper: alpha begins at one number for all, where the paper draws it; it may become negative, as there.
"""

from collections.abc import Mapping, Sequence

import torch as th
from typing_extensions import override

from metagym.algos.maml_learner import GradientMetaLearner
from metagym.algos.maml_policy import PolicyFunction
from metagym.algos.maml_start import LearnedRates, Start

__all__ = ["MetaSGD"]


class MetaSGD(GradientMetaLearner):
    """Meta-SGD: MAML with a learned step size, and sign, for each parameter.

    Its arguments, attributes, logs and errors are those of `GradientMetaLearner`; ``inner_learning_rate`` is where the
    step sizes begin.
    """

    @override
    def _make_start(self, function: PolicyFunction, names: Sequence[str], units: Mapping[str, th.Tensor]) -> Start:
        return LearnedRates(function, names, units, self.inner_learning_rate)
