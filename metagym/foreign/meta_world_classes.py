"""The fifty environment classes of Meta-World: where their random vectors lie, and the published benchmarks."""

from typing import NamedTuple

__all__ = ["CLASSES", "ML10_TEST", "ML10_TRAIN", "ML45_TEST", "ML45_TRAIN", "SawyerClass"]


class SawyerClass(NamedTuple):
    """Where the random vector of a class lies: uniform in a box, but for pairs of positions that are too close."""

    low: tuple[float, ...]
    """Lower corner, 3 or 6 numbers: a position in metres, or that of the object and that of its target."""
    high: tuple[float, ...]
    """Upper corner."""
    distance: float = 0.0
    """The least distance in the plane between object and target; closer pairs are no tasks."""


# `_random_reset_space` and the `while` of `reset_model` in metaworld/envs/sawyer_*_v3.py, metaworld 3.1.1.
CLASSES: dict[str, SawyerClass] = {
    "assembly-v3": SawyerClass((0.0, 0.6, 0.02, -0.1, 0.75, 0.1), (0.0, 0.6, 0.02, 0.1, 0.85, 0.1), 0.1),
    "basketball-v3": SawyerClass((-0.1, 0.6, 0.0299, -0.1, 0.85, 0.0), (0.1, 0.7, 0.0301, 0.1, 0.9000001, 0.0), 0.15),
    "bin-picking-v3": SawyerClass(
        (-0.21, 0.65, 0.02, 0.1199, 0.699, -0.001), (-0.03, 0.75, 0.02, 0.1201, 0.701, 0.001)
    ),
    "box-close-v3": SawyerClass((-0.05, 0.5, 0.02, -0.1, 0.7, 0.133), (0.05, 0.55, 0.02, 0.1, 0.8, 0.133), 0.25),
    "button-press-topdown-v3": SawyerClass((-0.1, 0.8, 0.115), (0.1, 0.9, 0.115)),
    "button-press-topdown-wall-v3": SawyerClass((-0.1, 0.8, 0.115), (0.1, 0.9, 0.115)),
    "button-press-v3": SawyerClass((-0.1, 0.85, 0.115), (0.1, 0.9, 0.115)),
    "button-press-wall-v3": SawyerClass((-0.05, 0.85, 0.1149), (0.05, 0.9, 0.1151)),
    "coffee-button-v3": SawyerClass((-0.1, 0.8, -0.001), (0.1, 0.9, 0.001)),
    "coffee-pull-v3": SawyerClass(
        (-0.05, 0.7, -0.001, -0.1, 0.55, -0.001), (0.05, 0.75, 0.001, 0.1, 0.65, 0.001), 0.15
    ),
    "coffee-push-v3": SawyerClass(
        (-0.1, 0.55, -0.001, -0.05, 0.7, -0.001), (0.1, 0.65, 0.001, 0.05, 0.75, 0.001), 0.15
    ),
    "dial-turn-v3": SawyerClass((-0.1, 0.7, 0.0), (0.1, 0.8, 0.0)),
    "disassemble-v3": SawyerClass((0.0, 0.6, 0.025, -0.1, 0.6, 0.1699), (0.1, 0.75, 0.02501, 0.1, 0.75, 0.1701), 0.1),
    "door-close-v3": SawyerClass((0.0, 0.85, 0.15), (0.1, 0.95, 0.15)),
    "door-lock-v3": SawyerClass((-0.1, 0.8, 0.15), (0.1, 0.85, 0.15)),
    "door-open-v3": SawyerClass((0.0, 0.85, 0.15), (0.1, 0.95, 0.15)),
    "door-unlock-v3": SawyerClass((-0.1, 0.8, 0.15), (0.1, 0.85, 0.15)),
    "hand-insert-v3": SawyerClass((-0.1, 0.6, 0.05, -0.04, 0.8, -0.0201), (0.1, 0.7, 0.05, 0.04, 0.88, -0.0199), 0.15),
    "drawer-close-v3": SawyerClass((-0.1, 0.9, 0.0), (0.1, 0.9, 0.0)),
    "drawer-open-v3": SawyerClass((-0.1, 0.9, 0.0), (0.1, 0.9, 0.0)),
    "faucet-open-v3": SawyerClass((-0.05, 0.8, 0.0), (0.05, 0.85, 0.0)),
    "faucet-close-v3": SawyerClass((-0.1, 0.8, 0.0), (0.1, 0.85, 0.0)),
    "hammer-v3": SawyerClass((-0.1, 0.4, 0.0), (0.1, 0.5, 0.0)),
    "handle-press-side-v3": SawyerClass((-0.35, 0.65, -0.001), (-0.25, 0.75, 0.001)),
    "handle-press-v3": SawyerClass((-0.1, 0.8, -0.001), (0.1, 0.9, 0.001)),
    "handle-pull-side-v3": SawyerClass((-0.35, 0.65, 0.0), (-0.25, 0.75, 0.0)),
    "handle-pull-v3": SawyerClass((-0.1, 0.8, -0.001), (0.1, 0.9, 0.001)),
    "lever-pull-v3": SawyerClass((-0.1, 0.7, 0.0), (0.1, 0.8, 0.0)),
    "pick-place-wall-v3": SawyerClass(
        (-0.05, 0.6, 0.015, -0.05, 0.85, 0.05), (0.05, 0.65, 0.015, 0.05, 0.9, 0.3), 0.15
    ),
    "pick-out-of-hole-v3": SawyerClass((0.0, 0.75, 0.02, -0.1, 0.5, 0.15), (0.0, 0.75, 0.02, 0.1, 0.6, 0.3), 0.15),
    "pick-place-v3": SawyerClass((-0.1, 0.6, 0.02, -0.1, 0.8, 0.05), (0.1, 0.7, 0.02, 0.1, 0.9, 0.3), 0.15),
    "plate-slide-v3": SawyerClass((0.0, 0.6, 0.0, -0.1, 0.85, 0.0), (0.0, 0.6, 0.0, 0.1, 0.9, 0.0)),
    "plate-slide-side-v3": SawyerClass((0.0, 0.6, 0.0, -0.3, 0.54, 0.0), (0.0, 0.6, 0.0, -0.25, 0.66, 0.0)),
    "plate-slide-back-v3": SawyerClass((0.0, 0.85, 0.0, -0.1, 0.6, 0.015), (0.0, 0.85, 0.0, 0.1, 0.6, 0.015)),
    "plate-slide-back-side-v3": SawyerClass((-0.25, 0.6, 0.0, -0.05, 0.6, 0.015), (-0.25, 0.6, 0.0, 0.15, 0.6, 0.015)),
    "peg-insert-side-v3": SawyerClass((0.0, 0.5, 0.02, -0.35, 0.4, -0.001), (0.2, 0.7, 0.02, -0.25, 0.7, 0.001), 0.1),
    "peg-unplug-side-v3": SawyerClass((-0.25, 0.6, -0.001), (-0.15, 0.8, 0.001)),
    "soccer-v3": SawyerClass((-0.1, 0.6, 0.03, -0.1, 0.8, 0.0), (0.1, 0.7, 0.03, 0.1, 0.9, 0.0), 0.15),
    "stick-push-v3": SawyerClass(
        (-0.08, 0.58, 0.0, 0.399, 0.55, 0.1319), (-0.03, 0.62, 0.001, 0.401, 0.6, 0.1321), 0.1
    ),
    "stick-pull-v3": SawyerClass((-0.1, 0.55, 0.0, 0.35, 0.45, 0.0199), (0.0, 0.65, 0.001, 0.45, 0.55, 0.0201), 0.1),
    "push-v3": SawyerClass((-0.1, 0.6, 0.02, -0.1, 0.8, 0.01), (0.1, 0.7, 0.02, 0.1, 0.9, 0.02), 0.15),
    "push-wall-v3": SawyerClass((-0.05, 0.6, 0.015, -0.05, 0.85, 0.01), (0.05, 0.65, 0.015, 0.05, 0.9, 0.02), 0.15),
    "push-back-v3": SawyerClass((-0.1, 0.8, 0.02, -0.1, 0.6, 0.0199), (0.1, 0.85, 0.02, 0.1, 0.7, 0.0201), 0.15),
    "reach-v3": SawyerClass((-0.1, 0.6, 0.02, -0.1, 0.8, 0.05), (0.1, 0.7, 0.02, 0.1, 0.9, 0.3), 0.15),
    "reach-wall-v3": SawyerClass((-0.05, 0.6, 0.015, -0.05, 0.85, 0.05), (0.05, 0.65, 0.015, 0.05, 0.9, 0.3), 0.15),
    "shelf-place-v3": SawyerClass((-0.1, 0.5, 0.019, -0.1, 0.8, 0.299), (0.1, 0.6, 0.021, 0.1, 0.9, 0.301), 0.1),
    "sweep-into-v3": SawyerClass(
        (-0.1, 0.6, 0.02, -0.001, 0.8399, 0.0199), (0.1, 0.7, 0.02, 0.001, 0.8401, 0.0201), 0.15
    ),
    "sweep-v3": SawyerClass((-0.1, 0.6, 0.02), (0.1, 0.7, 0.02)),
    "window-open-v3": SawyerClass((-0.1, 0.7, 0.16), (0.1, 0.9, 0.16)),
    "window-close-v3": SawyerClass((0.0, 0.75, 0.2), (0.0, 0.9, 0.2)),
}

# metaworld/env_dict.py: ML10_V3 and ML45_V3.
ML10_TRAIN = (
    "reach-v3",
    "push-v3",
    "pick-place-v3",
    "door-open-v3",
    "drawer-close-v3",
    "button-press-topdown-v3",
    "peg-insert-side-v3",
    "window-open-v3",
    "sweep-v3",
    "basketball-v3",
)
ML10_TEST = ("drawer-open-v3", "door-close-v3", "shelf-place-v3", "sweep-into-v3", "lever-pull-v3")
ML45_TEST = ("bin-picking-v3", "box-close-v3", "hand-insert-v3", "door-lock-v3", "door-unlock-v3")
ML45_TRAIN = tuple(name for name in CLASSES if name not in ML45_TEST)
