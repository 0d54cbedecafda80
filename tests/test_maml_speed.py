"""The speed of an iteration: what it is compared with takes real steps, and the table shows ratios."""

import torch as th

from benchmarks import maml_speed
from benchmarks.maml_loop import TARGET_KL, TaskLoop


def test_the_loop_over_tasks_takes_a_step_within_the_trust_region():
    th.manual_seed(0)
    loop = TaskLoop(maml_speed.ENV_ID, num_tasks=2, num_rows=3, num_steps=6, width=8)
    before, after, returns = loop.play()
    theta = dict(loop.actor.named_parameters())
    first, _ = loop._loss(theta, before, after, create_graph=False)
    loop._outer_step(theta, before, after)
    second, divergence = loop._loss(theta, before, after, create_graph=False)

    assert second.item() < first.item()
    assert 0 < divergence.item() <= TARGET_KL
    assert all(total < 0 for pair in returns for total in pair)


def test_the_table_shows_ratios():
    result = maml_speed.measure(1, 2, 5, 4, 8)
    assert [(row["threads"], row["thinning"]) for row in result["rows"]] == [(1, 1), (1, 5)]
    assert th.get_num_threads() == 1
    result["rows"] = [{"threads": 2, "thinning": 5, "at once": [2.0, 1.0], "loop": [10.0, 3.0]}]

    assert "| 2 | one of 5 episodes | 10.00 | 2.00 | 5.0x | 3.0x |" in maml_speed.render(result)
