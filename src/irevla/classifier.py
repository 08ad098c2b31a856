"""Is the task done? A reward for robots that nobody watches, learnt from labelled pictures.

The classifier is a policy whose one action says yes (1) or no (-1), so it is built, trained, kept
and loaded like every other: it starts from the VLM of a policy that is there already, with a new
head; least squares on the labels.
"""

from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8

from irevla.config import SFTConfig
from irevla.data.episodes import Frames
from irevla.data.mixture import Mixture
from irevla.errors import UserError
from irevla.learners.sft import OnStep, fit
from irevla.models.build import build_policy
from irevla.models.picture_file import read_picture
from irevla.models.policy import VLAPolicy

LABELS = {"failure": -1.0, "success": 1.0}  # the folders of labelled pictures
STRETCH = 10  # pictures that follow each other are much alike: they are held out together
FEWEST = 50  # pictures of each label: five stretches, one of which is held out
THRESHOLD = (
    0.5  # over 0, which is the middle: a false alarm is what RL exploits, a miss only costs time
)
SFT = SFTConfig(steps=600, batch=64, lr=1e-3, colour_share=0.3, validation=0.2, validate_every=100)
SEED = 0
PICTURES = (".png", ".jpg", ".jpeg")


class Classifier:
    """A trained one, as a robot's environment asks it."""

    def __init__(self, path: Path | str) -> None:
        self._policy = VLAPolicy.from_pretrained(path)
        if self._policy.action_dim != 1:
            raise UserError(
                f"{path} is a policy, not a classifier: name what `irevla classifier` wrote"
            )

    def __call__(self, picture: UInt8[np.ndarray, "H W 3"], instruction: str) -> bool:
        """Whether the task is done."""
        return bool(self._policy.act(picture, instruction)[0] > THRESHOLD)


@dataclass(frozen=True)
class Verdict:
    """How the classifier does on the pictures that were held out."""

    missed: int  # of `successes`: called failures
    successes: int
    false_alarms: int  # of `failures`: called successes, which is what RL would exploit
    failures: int

    def __str__(self) -> str:
        return f"held out: {self.missed}/{self.successes} successes missed, {self.false_alarms}/{self.failures} false"


def train_classifier(
    folder: Path,
    instruction: str,
    policy: VLAPolicy,
    config: SFTConfig = SFT,
    *,
    on_step: OnStep | None = None,
) -> tuple[VLAPolicy, Verdict]:
    """A classifier learnt from the pictures in FOLDER/success and FOLDER/failure. It starts from
    the VLM of `policy`, which is not changed.

    The verdict is a little too kind: the weights that are kept were chosen by the same pictures.
    Raises `UserError` where there are too few, or one cannot be read.
    """
    frames = labelled(folder, instruction, policy.image_size)
    torch.manual_seed(SEED)
    classifier = build_policy(
        policy.config, action_dim=1, image_size=policy.image_size, device=policy.device
    )
    classifier.vlm.load_state_dict(policy.vlm.state_dict())
    mixture = Mixture(frames, validation=config.validation)
    fit(classifier, mixture, config, seed=SEED, trainable="all", on_step=on_step)
    return classifier.eval(), _verdict(classifier.eval(), mixture)


def labelled(folder: Path, instruction: str, size: int) -> Frames:
    """The pictures as what supervised learning reads: the label is the action, and a task of its
    own, so that both are drawn equally often. In the order of their names, every `STRETCH` are one
    episode."""
    paths = {label: _pictures(folder / label) for label in LABELS}
    counts = [len(found) for found in paths.values()]
    images = np.stack([read_picture(path, size) for path in chain(*paths.values())])
    episodes = [np.arange(count) // STRETCH for count in counts]
    of_cell = round(
        1 / SFT.validation
    )  # of so many episodes one is held out: no cell may have both labels
    episodes[1] += -(-(episodes[0][-1] + 1) // of_cell) * of_cell
    return Frames(
        images=images,
        actions=np.repeat(np.array(list(LABELS.values()), np.float32), counts)[:, None],
        instruction=np.zeros(len(images), np.int64),
        task=np.repeat(np.arange(len(LABELS)), counts),
        episode=np.concatenate(episodes),
        instructions=(instruction,),
        tasks=tuple(LABELS),
    )


def _pictures(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.glob("*") if path.suffix.lower() in PICTURES)
    if len(found) < FEWEST:
        raise UserError(
            f"{folder} has {len(found)} pictures (PNG or JPEG), and at least {FEWEST} are needed"
        )
    return found


@torch.no_grad()
def _verdict(classifier: VLAPolicy, mixture: Mixture) -> Verdict:
    batches = list(mixture.validation()["expert"])
    truth = torch.cat([batch.actions[:, 0] for batch in batches]) > 0
    answers = [classifier(batch.images, batch.instructions)[:, 0].cpu() for batch in batches]
    said = torch.cat(answers) > THRESHOLD
    return Verdict(
        int((truth & ~said).sum()),
        int(truth.sum()),
        int((~truth & said).sum()),
        int((~truth).sum()),
    )
