"""One of the processes that compute a job: what torchrun or Ray starts, as often as the config
says, on this machine or another.

It reads the job from its share, goes on from the newest checkpoint there, and writes there how it
fares; the first process does, the others only learn.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from irevla.compute.device import threads
from irevla.compute.processes import obey
from irevla.compute.ranks import Ranks, joined
from irevla.data.mixture import Mixture
from irevla.data.shared_frames import get_frames
from irevla.learners.sft import SFT
from irevla.models.files import parse, peft_root
from irevla.models.fingerprint import check_same
from irevla.models.lora import lora_layers
from irevla.models.policy import VLAPolicy
from irevla.stages.fit import fit, in_scale
from irevla.stages.job import SHARD, Job, JobFolder
from irevla.storage.share import Share
from irevla.tasks import Parts


def train(
    folder: JobFolder[Job], ranks: Ranks, device: torch.device, *, shard: bool = False
) -> None:
    """Take all steps of the job that are left, with the other `ranks`.

    To `shard` is to keep a part of the VLM's frozen weights on each.
    """
    job = folder.job
    files = folder.load(job.policy)
    if shard:
        policy = _sharded(files, job.parts, ranks, device)
    else:
        policy = VLAPolicy.from_files(files, device=device)
    learner = SFT(policy, job.sft, parts=job.parts, seed=job.seed, words=job.words, ranks=ranks)
    scale = policy.action_scale
    expert = in_scale(get_frames(folder.share, job.expert, keep=True), scale)
    online = None
    if job.online:
        online = in_scale(get_frames(folder.share, job.online, keep=False), scale)
    mixture = Mixture(expert, online, job.mixture, seed=job.seed, chunk=policy.chunk)
    progress = folder.progress()
    if progress.updates:
        files = folder.load(progress.files)
        policy.load_files(files)
        learner.load_state(files)
    rows = [row for row in progress.rows if row["step"] <= learner.updates]

    def point(metrics: Mapping[str, float], validated: bool) -> None:
        nonlocal progress
        rows.append({"step": learner.updates, **metrics})
        files = {**policy.files(), **learner.state()} if validated else {}  # takes all ranks
        if validated and ranks.is_first:
            progress = folder.publish(learner.updates, rows, files)
        elif ranks.is_first:
            folder.note(progress, rows)

    with threads(job.threads):
        fit(learner, mixture, point=point, advance=lambda done, note: None)


def _sharded(
    files: Mapping[str, Any], parts: Parts, ranks: Ranks, device: torch.device
) -> VLAPolicy:
    """Return the policy with its VLM shared out. The whole of it is in the CPU's memory alone.

    Raises `UserError` where it acts otherwise here than where it was saved.
    """
    policy = VLAPolicy.from_files(files, accept_difference=True)
    policy.trainable(parts)
    ranks.share_weights(policy.get_submodule(peft_root(policy.vlm)))
    policy.to(device)
    for layer in lora_layers(policy.vlm):  # as where it is built on the device: see `add_lora`
        layer.cast_input_dtype_enabled = device.type != "cuda"
    known = parse(files).fingerprint
    if known is not None:
        check_same(known, policy.fingerprint())
    return policy


def run(arguments: Sequence[str]) -> None:
    """Compute the job that `arguments` name: the share's place and the job's name, and maybe
    `SHARD`.

    What a user can mend is written to the job, and raised.
    """
    place, name, *how = arguments
    folder = JobFolder(Share(place), name, Job.of_text)
    with folder.failing(), joined(folder.job.device) as (ranks, device):
        train(folder, ranks, device, shard=SHARD in how)


def main() -> None:
    """`python -m irevla.stages.trainer PLACE NAME`, as torchrun starts it."""
    obey(run)


if __name__ == "__main__":
    main()
