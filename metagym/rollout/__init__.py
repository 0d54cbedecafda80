"""Collecting whole trials, and learning from them, inside SB3's on-policy algorithms.

To SB3 an episode is what ends with ``dones``; here that is a *trial*. A rollout is continuous in every row: a trial
that is unfinished at its end is carried over, whole, to the next one. So everything trained on is a complete trial
that starts from the zero memory, no memory crosses trials, and no step is thrown away.
"""

from metagym.rollout.buffer import TrialBuffer, Trials, split_by_size
from metagym.rollout.collect import TrialRollouts, uninterrupted
from metagym.rollout.credits import Credits
from metagym.rollout.tasks import TaskReader, env_layers
from metagym.rollout.trust_region import TrialTRPO

__all__ = [
    "Credits",
    "TaskReader",
    "TrialBuffer",
    "TrialRollouts",
    "TrialTRPO",
    "Trials",
    "env_layers",
    "split_by_size",
    "uninterrupted",
]
