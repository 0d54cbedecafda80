"""Laws of reference returns, and of the tables of tabular families."""

from typing import Any

import numpy as np

from metagym.checks.distributions import chi_square_excess
from metagym.checks.laws import Law, require
from metagym.checks.probe import Probe
from metagym.tabular import DenseTable, TabularFamily
from metagym.types import Array, Bool, Float

__all__ = ["LIMIT_LAWS", "TABLE_LAWS", "simulated_returns"]

_TASKS = 8
_ERRORS = 5.0
_CLOSE = 1e-9
_GRID = 2000


# --- returns ---------------------------------------------------------------------------------------------------------


def _reference_returns(probe: Probe) -> str | None:
    found = False
    for region in probe.regions:
        params = probe.tasks(_TASKS, region)
        limits = {name: getattr(probe.family, name)(params) for name in ("optimal_return", "random_return")}
        for name, value in limits.items():
            if value is not None:
                _require_returns(value, f"{name} in {region!r}")
                few = np.arange(2)
                alone = getattr(probe.family, name)(params.take(few))
                require(np.allclose(alone, value[:2], rtol=1e-9, atol=_CLOSE), f"{name} of two tasks, alone and among "
                        "others", alone.tolist(), str(value[:2].tolist()))  # fmt: skip
                found = True
        best, chance = limits["optimal_return"], limits["random_return"]
        if best is not None and chance is not None:
            worse = np.flatnonzero(best < chance - _CLOSE * (1.0 + np.abs(chance)))
            where = f"optimal_return of {probe.family.name} in {region!r}"
            require(not worse.size, where, best[worse].tolist(), f"at least random_return, {chance[worse].tolist()}")
    return None if found else "neither return is given"


def _require_returns(value: Any, where: str) -> None:
    holds = isinstance(value, np.ndarray) and value.shape == (_TASKS,) and value.dtype == np.float64
    require(holds and np.isfinite(value).all(), where, value, f"None, or finite floats of shape ({_TASKS},)")


def simulated_returns(probe: Probe, params: Any) -> tuple[Float, Float, float]:
    """Returns of one episode of uniformly random actions, simulated.

    Returns:
        Means and their standard errors, each (len(params),); the largest return, or difference of two, of all tasks.
    """
    family, rng = probe.family, probe.rng("simulated")
    each = max(2, probe.num_episodes // len(params))
    tasks = params.take(np.repeat(np.arange(len(params)), each))
    num_rows = len(tasks)
    state = family.initial(tasks, rng.random((num_rows, family.num_initial_draws)))
    total, running = np.zeros(num_rows), np.ones(num_rows, np.bool_)
    for _ in range(family.episode_length):
        noise = rng.random((num_rows, family.num_step_draws))
        step = family.step(state, probe.uniform_actions(rng, num_rows), tasks, noise)
        total += np.where(running, step.reward, 0.0)
        running &= ~step.terminated
        state = step.state
        if not running.any():
            break
    returns = total.reshape(-1, each)
    size = max(float(np.ptp(returns)), float(np.abs(returns).max()))
    return returns.mean(axis=1), returns.std(axis=1) / np.sqrt(each), size


def _simulated_random_return(probe: Probe) -> str | None:
    params = probe.tasks(_TASKS)
    stated, best = probe.family.random_return(params), probe.family.optimal_return(params)
    if stated is None and best is None:
        return "neither return is given"
    mean, error, size = simulated_returns(probe, params)
    each = max(2, probe.num_episodes // _TASKS)
    if best is not None:
        excess = mean - best
        allowed = _ERRORS * error + _CLOSE * (1.0 + np.abs(best))
        row = int(np.argmax(excess - allowed))
        require((excess <= allowed).all(), "mean return of random actions", f"{mean[row]:.6g} +- {error[row]:.2g}",
                f"at most the optimal return, {best[row]:.6g}")  # fmt: skip
    if stated is None:
        return None
    # Rare events may all be missed, and then show no variance: the mean of k events of one size varies as sqrt(k).
    size = max(size, float(np.abs(stated).max()), 0.0 if best is None else float(np.abs(best - stated).max()))
    error = np.maximum(error, np.sqrt(np.abs(mean - stated) * size / each))
    for tasks in (slice(None), *(slice(row, row + 1) for row in range(_TASKS))):
        difference = float((mean[tasks] - stated[tasks]).mean())
        allowed = _ERRORS * np.sqrt((error[tasks] ** 2).sum()) / len(mean[tasks])
        allowed += _CLOSE * (1.0 + np.abs(stated[tasks]).max())
        where = "mean return of random actions" + (" of one task" if tasks.stop else f" of {_TASKS} tasks")
        require(abs(difference) <= allowed, where, f"{mean[tasks].mean():.6g} in {each} episodes",
                f"random_return, {stated[tasks].mean():.6g}, to within {allowed:.2g}")  # fmt: skip
    return None


def _bayes_return(probe: Probe) -> str | None:
    family = probe.family
    value = family.bayes_return(1)
    if value is None:
        return "bayes_return is not given"
    shaped = isinstance(value, np.ndarray) and value.shape == (1,) and np.isfinite(value).all()
    require(shaped, "bayes_return(1)", value, "one finite number")
    params = probe.tasks(256)
    for name, sign in (("optimal_return", 1.0), ("random_return", -1.0)):
        limits = getattr(family, name)(params)
        if limits is not None:
            error = _ERRORS * limits.std() / np.sqrt(len(limits)) + _CLOSE * (1.0 + np.abs(limits).max())
            side = "at most" if sign > 0 else "at least"
            require(sign * (value[0] - limits.mean()) <= error, "bayes_return(1)", float(value[0]),
                    f"{side} the mean of {name}, {limits.mean():.6g}, to within {error:.2g}")  # fmt: skip
    return None


# --- tables ----------------------------------------------------------------------------------------------------------


def _dense(probe: Probe) -> DenseTable | None:
    if not isinstance(probe.family, TabularFamily):
        return None
    return probe.family.dense(_few_tasks(probe))


def _few_tasks(probe: Probe) -> Any:
    sets = [probe.tasks(2, region) for region in probe.regions]
    columns = {name: np.concatenate([part.columns()[name] for part in sets]) for name in sets[0].columns()}
    return type(sets[0])(**columns)


_NOT_TABULAR = "the family is not tabular"


def _table_shape(family: TabularFamily[Any]) -> tuple[int, int, int]:
    num_states, num_effects, num_outcomes = family.successors.shape
    return num_states, num_effects, num_outcomes


def _table_entries(probe: Probe) -> str | None:
    family = probe.family
    if not isinstance(family, TabularFamily):
        return _NOT_TABULAR
    params = _few_tasks(probe)
    num_states, num_effects, num_outcomes = _table_shape(family)
    _require_index(family.successors, num_states, "successors", "states")
    if family.leads is not None:
        require(family.leads.shape == (len(family.cells), num_states), "leads", family.leads.shape, "shape (C, S)")
        _require_index(family.leads, num_states, "leads", "states")
    _require_index(family.kind_table(params).astype(np.int64), len(family.cells), "kinds", "kinds of cells")
    _require_index(family.effect_table(params), num_effects, "effects", "effects")
    _require_index(family.starts(params), num_states, "starts", "states")
    probabilities = family.probabilities(params)
    accepted = f"{num_outcomes} arrays ({len(params)},), one for each outcome of successors"
    shaped = len(probabilities) == num_outcomes and all(column.shape == (len(params),) for column in probabilities)
    require(shaped, "probabilities", [column.shape for column in probabilities], accepted)
    return None


def _require_index(values: Array, size: int, where: str, what: str) -> None:
    wrong = values[(values < 0) | (values >= size)] if values.dtype.kind in "iu" else values
    require(not wrong.size, where, wrong.reshape(-1)[:5].tolist(), f"integers below {size}, the number of {what}")


def _rows_sum_to_one(probe: Probe) -> str | None:
    dense = _dense(probe)
    if dense is None:
        return _NOT_TABULAR
    require((dense.probability >= 0.0).all(), "the smallest probability", float(dense.probability.min()), "at least 0")
    sums = dense.probability.sum(axis=-1)
    worst = sums.reshape(-1)[np.abs(sums - 1.0).argmax()]
    require(abs(worst - 1.0) <= 1e-12, "the sum of an action's probabilities", float(worst), "1 to within 1e-12")
    return None


def _absorbing(probe: Probe) -> str | None:
    family, dense = probe.family, _dense(probe)
    if not isinstance(family, TabularFamily) or dense is None:
        return _NOT_TABULAR
    if family.leads is not None:
        return "the state after an end may be any, where states lead on"
    over: Bool = np.asarray(dense.terminated.all(axis=(2, 3)))
    # States in which every action ends the episode: after that end, nothing more may be earned.
    stays = dense.successor == np.arange(dense.successor.shape[1])[None, :, None, None]
    closed = over & stays.all(axis=(2, 3))
    paid = dense.reward[closed]
    require(not paid.any(), "rewards in states that are never left", paid[paid != 0.0][:3].tolist(),
            "0 in terminal states")  # fmt: skip
    entered = np.zeros(over.shape, np.bool_)
    for row in range(len(over)):
        ends = dense.terminated[row] & (dense.probability[row] > 0.0)
        entered[row, dense.successor[row][ends]] = True
    left = entered & ~closed
    require(not left.any(), "states in which an episode has ended", np.argwhere(left)[:3].tolist(),
            "(task, state) pairs that absorb: all actions stay there")  # fmt: skip
    return None


def _reachable(probe: Probe) -> str | None:
    family, dense = probe.family, _dense(probe)
    if not isinstance(family, TabularFamily) or dense is None:
        return _NOT_TABULAR
    if not family.has_success:
        return "success is not defined"
    params = _few_tasks(probe)
    kinds = family.kind_table(params).astype(np.int64)
    wins = np.array([cell.success for cell in family.cells])[kinds]
    effects, starts = family.effect_table(params), family.starts(params)
    for row in range(len(params)):
        seen = _visited(dense, row, starts[row])
        actions = family.successors[np.flatnonzero(seen)[:, None], effects[row][seen]]
        possible = dense.probability[row][seen] > 0.0
        open_ended = ~dense.terminated[row].all(axis=(1, 2))[seen]
        entered = actions[open_ended][possible[open_ended]]
        require(wins[row][entered].any(), "states of success that can be entered from the start", "none",
                "at least one under every task")  # fmt: skip
    return None


def _visited(dense: DenseTable, row: int, starts: Array) -> Bool:
    """States that can be reached, (S,)."""
    seen = np.zeros(dense.successor.shape[1], np.bool_)
    seen[starts] = True
    while True:
        possible = (dense.probability[row] > 0.0) & seen[:, None, None]
        grown = seen.copy()
        grown[dense.successor[row][possible]] = True
        if (grown == seen).all():
            return seen
        seen = grown


def _starts_agree(probe: Probe) -> str | None:
    family = probe.family
    if not isinstance(family, TabularFamily):
        return _NOT_TABULAR
    params, num_states = _few_tasks(probe), len(family.successors)
    # One draw on a regular grid gives shares that are exact to within one grid point; several draws do not.
    is_grid = family.num_initial_draws <= 1
    starts = family.starts(params)
    size = starts.shape[1] * max(1, _GRID // starts.shape[1])
    grid = ((np.arange(size) + 0.5) / size)[:, None][:, : family.num_initial_draws]
    noise = grid if is_grid else probe.rng("starts").random((size, family.num_initial_draws))
    for row in range(len(params)):
        begun = family.initial(params.take(np.full(size, row)), noise).cell
        counts = np.bincount(begun, minlength=num_states)
        share = np.bincount(starts[row], minlength=num_states) / starts.shape[1]
        never = np.flatnonzero((counts > 0) & (share == 0.0))
        require(not never.size, "states in which episodes start", never.tolist(), f"those of starts, {starts[row]}")
        away = np.abs(counts - size * share).max() if is_grid else chi_square_excess(counts, share)
        found = f"{away:.1f} {'grid points' if is_grid else 'standard deviations'} away from starts"
        require(away <= (2.0 if is_grid else _ERRORS), "how often episodes start in each state", found, "chance alone")
    return None


def _steps_agree(probe: Probe) -> str | None:
    family, dense = probe.family, _dense(probe)
    if not isinstance(family, TabularFamily) or dense is None:
        return _NOT_TABULAR
    params, rng = _few_tasks(probe), probe.rng("steps")
    open_ended: Bool = ~np.asarray(dense.terminated.all(axis=(2, 3)))
    # Noise on a regular grid: the shares of the outcomes are then the probabilities, to within one grid point each.
    noise = np.repeat((np.arange(_GRID)[:, None] + 0.5) / _GRID, family.num_step_draws, axis=1)
    for row in range(len(params)):
        states = np.flatnonzero(open_ended[row])
        many = params.take(np.full(_GRID, row))
        for state in rng.choice(states, min(6, len(states)), replace=False):
            action = int(rng.integers(dense.probability.shape[2]))
            start = type(family.initial(many, np.zeros((_GRID, family.num_initial_draws))))(np.full(_GRID, state))
            step = family.step(start, np.full(_GRID, action), many, noise)
            where = f"step in state {state} with action {action}"
            _same_law(step, DenseTable(*(column[row, state, action] for column in dense)), where)
    return None


def _same_law(step: Any, expected: DenseTable, where: str) -> None:
    shares: dict[tuple[int, float, bool], float] = {}
    columns = (expected.successor, expected.reward, expected.terminated, expected.probability)
    for state, reward, over, probability in zip(*(column.tolist() for column in columns), strict=True):
        shares[state, reward, over] = shares.get((state, reward, over), 0.0) + probability
    found = dict.fromkeys(shares, 0.0)
    for outcome in zip(step.state.cell.tolist(), step.reward.tolist(), step.terminated.tolist(), strict=True):
        require(outcome in shares, where, f"(state, reward, terminated) = {outcome}", f"one of {sorted(shares)}")
        found[outcome] += 1.0 / _GRID
    for outcome, share in shares.items():
        close = abs(found[outcome] - share) <= 2.0 / _GRID
        require(close, f"how often {where} gives {outcome}", round(found[outcome], 4), f"{share}, by dense")


LIMIT_LAWS = (
    Law("reference returns", "the optimal return is at least the random one; both are finite", _reference_returns),
    Law("simulated returns", "random actions earn random_return, and no more than optimal_return",
        _simulated_random_return),
    Law("bayes return", "an agent that does not know the task is between random and optimal", _bayes_return),
)  # fmt: skip
TABLE_LAWS = (
    Law("table entries", "tables name states, kinds and effects that exist", _table_entries),
    Law("table probabilities", "probabilities of outcomes are at least 0 and sum to 1", _rows_sum_to_one),
    Law("absorbing states", "terminal states are never left, and pay nothing", _absorbing),
    Law("reachable success", "a state of success can be reached under every task", _reachable),
    Law("table of starts", "initial starts episodes in the states of starts, each as often", _starts_agree),
    Law("table of steps", "step gives the outcomes of the tables, with their probabilities", _steps_agree),
)
