"""What single ids do not keep, as data: each with the reason."""

LAWS = {
    "MetaTMaze-v0": {"hidden task": "the cue, which is the task, is seen at the start: remembering it is the problem"},
}
"""Laws of `check_family` that an id breaks by definition."""

UNBOUNDED = {
    "MetaAntDir-v0": "speeds of a simulated body have no bound that its source states",
    "MetaAntGoal-v0": "speeds of a simulated body have no bound that its source states",
    "MetaHalfCheetahDir-v0": "speeds of a simulated body have no bound that its source states",
    "MetaHalfCheetahVel-v0": "speeds of a simulated body have no bound that its source states",
    "MetaHopperParams-v0": "positions of a simulated body have no bound that its source states",
    "MetaHumanoidDir-v0": "speeds of a simulated body have no bound that its source states",
    "MetaWalker2DParams-v0": "positions of a simulated body have no bound that its source states",
}
"""Ids whose observation spaces have infinite bounds."""

NO_OOD = {
    "MetaAntDir-v0": "every direction on the circle is a training task",
    "MetaHalfCheetahDir-v0": "forwards and backwards are all directions there are",
    "MetaHumanoidDir-v0": "every direction on the circle is a training task",
}
"""Ids without an ood region for their default keywords."""

FEW_TASKS = {
    "MetaHalfCheetahDir-v0": "there are two tasks",
    "MetaTwoStep-v0": "there are two tasks",
}
"""Ids with so few tasks that rows of one batch share them."""
