"""What later stages did to what was learnt before, as numbers.

Backward transfer is Lopez-Paz and Ranzato's (2017), forgetting that of Chaudhry et al. (2018). A
demonstrated task is learnt by stage 0, an RL task at the end of its own (last) turn. Tasks that the
last stage trains are not earlier ones.
"""

from collections.abc import Sequence

from irevla.evaluation.stats import Change, Count, Results, change
from irevla.tasks import SFT, Category, Stage

LEARNT = (Category.EXPERT, Category.RL)
EXPLAINED = (
    "Backward transfer: of tasks that were learnt earlier, the rate at the end less that right "
    "after they were learnt. Forgetting: the best rate since then less that at the end; the best "
    "of several rates of few episodes is a little too high. An expert task is learnt by stage 0, "
    "an RL task at the end of its own turn."
)


def backward_transfer(results: Results, category: Category) -> Change | None:
    """Return the end less right after the training, over earlier tasks of a category.

    None where there are no such tasks, or where one was not evaluated after its training.
    """
    curves = _curves(results, category)
    if not curves:
        return None
    first = _together([curve[0] for curve in curves])
    return change(first, _together([curve[-1] for curve in curves]))


def forgotten(results: Results, category: Category) -> float | None:
    """Return the best rate since the training less that at the end, the mean over earlier tasks.

    None as for `backward_transfer`.
    """
    curves = _curves(results, category)
    if not curves:
        return None
    lost = [max(count.rate for count in curve[:-1]) - curve[-1].rate for curve in curves]
    return sum(lost) / len(lost)


def earlier_tasks(results: Results, category: Category) -> tuple[str, ...]:
    """Return the tasks of a category that were learnt before the last stage."""
    last = results.last
    if last is None or category not in LEARNT:
        return ()
    return tuple(task for task in results.tasks(category) if not last.trains(task))


def _curves(results: Results, category: Category) -> list[list[Count]]:
    """Return the counts of each earlier task, from the end of its training to the last stage."""
    curves = [_curve(results, task, category) for task in earlier_tasks(results, category)]
    return curves if all(len(curve) > 1 for curve in curves) else []


def _curve(results: Results, task: str, category: Category) -> list[Count]:
    stages = results.stages
    learnt = _learnt_by(stages, task) if category == Category.RL else SFT
    if learnt not in stages:
        return []
    counts = [results.count(stage, task=task) for stage in stages[stages.index(learnt) :]]
    return [count for count in counts if count is not None]


def _learnt_by(stages: Sequence[Stage], task: str) -> Stage | None:
    own = [stage for stage in stages if stage.trains(task)]
    return own[-1] if own else None


def _together(counts: Sequence[Count]) -> Count:
    return Count(
        successes=sum(count.successes for count in counts),
        episodes=sum(count.episodes for count in counts),
        tasks=len(counts),
        mean=sum(count.rate for count in counts) / len(counts),
    )
