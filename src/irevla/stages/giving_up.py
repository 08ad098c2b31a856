"""A stage 1 that made the policy worse: what it began with is better than what it brought."""

from collections.abc import Mapping

from torch import Tensor

from irevla.evaluation.stats import newcombe
from irevla.models.policy import VLAPolicy
from irevla.progress import console
from irevla.runs.run import Run
from irevla.tasks import Stage


def give_up_if_worse(
    run: Run, policy: VLAPolicy, stage: Stage, before: Mapping[str, Tensor]
) -> None:
    """Give the policy the head from `before` stage 1 where the harvest succeeded less often than
    the zero-shot episodes did, beyond noise (Newcombe's interval of 95 %); say so.

    Only where both were played, by the mean, without noise and told the task's own words: after
    SAC. What was harvested stays in D_RL.
    """
    first = run.journal.done(stage.then("zero-shot").name)
    last = run.journal.done(stage.then("harvest").name)
    if first is None or last is None or "words" in first or run.config.harvest.noise:
        return
    had, has = ((record["kept"], record["tried"]) for record in (first, last))
    if not had[1] or not has[1] or newcombe(had, has)[1] >= 0:
        return
    policy.action_head.load_state_dict(before)
    event = f"given up {stage.name}"
    if run.journal.done(event) is None:
        note = (
            f"stage 1 made {stage.target} worse, {had[0]} of {had[1]} episodes before and "
            f"{has[0]} of {has[1]} after it: stage 2 begins with the head from before; explore "
            "less (--sac.std) or stay nearer to what it can do (--sac.anchor)"
        )
        console.print(note, soft_wrap=True)
        run.journal.append(event, note=note)
