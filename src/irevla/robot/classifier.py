"""Is the task done? A reward for robots that nobody watches, learnt from labelled images.

The classifier is a policy whose one action says yes (1) or no (-1), so it is built, trained, kept
and loaded like every other: it starts from the VLM of a policy that is there already, with a new
head; least squares on the labels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from math import ceil
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8

from irevla.compute.device import find_device, seeded
from irevla.config import AugmentConfig, MixtureConfig, SFTConfig
from irevla.data.episodes import Frames
from irevla.data.mixture import Mixture, held_out
from irevla.errors import UserError
from irevla.learners.sft import SFT
from irevla.models.image_file import read_image
from irevla.models.policy import VLAPolicy, build_policy
from irevla.types import Observation

LABELS = {"failure": -1.0, "success": 1.0}  # the folders of labelled images
STRETCH = 10  # images that follow each other are much alike: they are held out together
FEWEST = 50  # images of each label: five stretches, one of which is held out
# Above 0, which is the middle: a false alarm is what RL exploits, a miss only costs time.
THRESHOLD = 0.5
TRAINING = SFTConfig(steps=600, batch=64, lr=1e-3, augment=AugmentConfig(colour_share=0.3))
MIXTURE = MixtureConfig(validation=0.2)
SEED = 0
CHUNK = 64  # images that are graded at once
SUFFIXES = (".png", ".jpg", ".jpeg")


class Classifier:
    """A trained one, as a robot's environment asks it."""

    def __init__(self, path: Path | str, *, threshold: float = THRESHOLD) -> None:
        self._policy = VLAPolicy.from_pretrained(path, device=find_device("auto"))
        self._threshold = threshold
        if self._policy.action_dim != 1:
            raise UserError(
                f"{path} is a policy, not a classifier: name what `irevla classifier` wrote"
            )

    @property
    def image_size(self) -> int:
        """Side of the images that it judges, pixels."""
        return self._policy.image_size

    def __call__(self, image: UInt8[np.ndarray, "H W 3"], instruction: str) -> bool:
        """Return whether the task is done."""
        return bool(self._policy.act(image, instruction)[0] > self._threshold)


@dataclass(frozen=True)
class Grade:
    """How the classifier does on the images that were held out."""

    missed: int  # of `successes`: called failures
    successes: int
    false_alarms: int  # of `failures`: called successes, which is what RL would exploit
    failures: int

    def __str__(self) -> str:
        missed = f"{self.missed}/{self.successes} successes missed"
        return f"held out: {missed}, {self.false_alarms}/{self.failures} false"


def train_classifier(
    folder: Path,
    instruction: str,
    policy: VLAPolicy,
    config: SFTConfig = TRAINING,
    *,
    on_step: Callable[[int], None] = lambda done: None,
) -> tuple[VLAPolicy, Grade]:
    """Return a classifier learnt from the images in FOLDER/success and FOLDER/failure, with its
    grade.

    It starts from the VLM of `policy`, which is not changed. `on_step` is told the steps done.
    Raises `UserError` where there are too few images, or one cannot be read.
    """
    frames = labelled(folder, instruction, policy.image_size)
    with seeded(SEED):
        classifier = build_policy(
            policy.config, action_dim=1, image_size=policy.image_size, device=policy.device
        )
    classifier.vlm.load_state_dict(policy.vlm.state_dict())
    mixture = Mixture(frames, None, MIXTURE, seed=SEED)
    learner = SFT(classifier, config, parts="all", seed=SEED)
    while learner.updates < config.steps:
        learner.update(mixture.batch(learner.updates, config.batch))
        on_step(learner.updates)
    classifier.eval()
    return classifier, _grade(classifier, frames)


def labelled(folder: Path, instruction: str, size: int) -> Frames:
    """Return the images as what supervised learning reads.

    The label is the action, and a task of its own, so that both are sampled equally often. In the
    order of their names, every `STRETCH` are one episode.
    """
    paths = {label: _images(folder / label) for label in LABELS}
    counts = [len(found) for found in paths.values()]
    images = np.stack([read_image(path, size) for path in chain(*paths.values())])
    episodes = [np.arange(count) // STRETCH for count in counts]
    # Of so many episodes that follow each other one is held out: none of both labels.
    cell = round(1 / MIXTURE.validation)
    episodes[1] += ceil((int(episodes[0][-1]) + 1) / cell) * cell
    return Frames(
        images=images,
        actions=np.repeat(np.array(list(LABELS.values()), np.float32), counts)[:, None],
        instruction=np.zeros(len(images), np.int64),
        task=np.repeat(np.arange(len(LABELS)), counts),
        episode=np.concatenate(episodes),
        instructions=(instruction,),
        tasks=tuple(LABELS),
    )


def _images(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES)
    if len(found) < FEWEST:
        raise UserError(
            f"{folder} has {len(found)} images (PNG or JPEG), and at least {FEWEST} are needed"
        )
    return found


@torch.no_grad()
def _grade(classifier: VLAPolicy, frames: Frames) -> Grade:
    """Grade the classifier on the images that `Mixture` holds out."""
    index = np.flatnonzero(held_out(frames.episode, MIXTURE.validation, store="expert"))
    texts = [frames.instructions[i] for i in frames.instruction[index]]
    observation = Observation.of(frames.images[index], texts)
    answers = [
        classifier.mean(classifier.encode(observation[start : start + CHUNK]))[:, 0].cpu()
        for start in range(0, len(index), CHUNK)
    ]
    said = torch.cat(answers).numpy() > THRESHOLD
    done = frames.actions[index, 0] > 0
    return Grade(
        missed=int((done & ~said).sum()),
        successes=int(done.sum()),
        false_alarms=int((~done & said).sum()),
        failures=int((~done).sum()),
    )
