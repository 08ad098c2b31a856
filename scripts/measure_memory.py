"""How much memory supervised learning takes on a dataset far larger than that.

python scripts/measure_memory.py [FOLDER] makes 25,000 episodes of 25 frames of 64 pixels in FOLDER
(/tmp/irevla-large: 0.5 GB, and 8 GB more while it learns), takes 200 steps of 64 and prints how
much memory the process has.

Of the process's memory, what lies in a mapped file may be dropped at any time: "anonymous" is what
it cannot do without. To see that it can, run it in a control group of 2 GiB.
"""

import sys
import time
from pathlib import Path

import numpy as np
import torch

from irevla.config import AugmentConfig, MixtureConfig, ModelConfig, SFTConfig
from irevla.data.episodes import EpisodeStore
from irevla.data.mixture import Mixture
from irevla.data.store_spec import StoreSpec
from irevla.learners.sft import SFT
from irevla.models.policy import build_policy
from irevla.types import Episode, Provenance

EPISODES = 25_000
FRAMES = 25
SIZE = 64
STEPS = 200


def episode(number: int) -> Episode:
    """Return an episode whose images compress well: each has one colour of its own."""
    colours = np.random.default_rng(number).integers(0, 256, (FRAMES, 1, 1, 3), np.uint8)
    return Episode(
        images=np.broadcast_to(colours, (FRAMES, SIZE, SIZE, 3)).copy(),
        actions=np.zeros((FRAMES, 4), np.float32),
        rewards=np.zeros(FRAMES, np.float32),
        instruction="open the drawer",
        success=True,
        provenance=Provenance("large", f"task-{number % 25}", number, "expert", 0.0, ""),
    )


def make(root: Path) -> EpisodeStore:
    """Return the dataset, made where it is not whole yet."""
    spec = StoreSpec(suite="large", image_shape=(SIZE, SIZE, 3), action_dim=4, fps=10)
    store = EpisodeStore(root, spec)
    while len(store) < EPISODES:
        first = len(store)
        store.extend([episode(number) for number in range(first, first + 500)])
    return store


def memory(name: str) -> float:
    """Return a line of /proc/self/status, GiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 2**20


def main() -> None:
    """Make the dataset, learn, print."""
    root = Path(sys.argv[1] if len(sys.argv) > 1 else "/tmp/irevla-large")
    store = make(root)
    start = time.perf_counter()
    frames = store.read()
    decoded = time.perf_counter() - start
    torch.manual_seed(0)
    policy = build_policy(ModelConfig(), action_dim=4, image_size=SIZE)
    config = SFTConfig(steps=STEPS, batch=64, augment=AugmentConfig())
    learner = SFT(policy, config, parts="all", seed=0)
    mixture = Mixture(frames, None, MixtureConfig(), seed=0)
    start = time.perf_counter()
    for step in range(STEPS):
        learner.update(mixture.batch(step, config.batch))
    each = (time.perf_counter() - start) / STEPS
    print(f"{len(store)} episodes, {frames.images.nbytes / 2**30:.1f} GiB of images")
    print(f"decoded in {decoded:.0f} s; {1e3 * each:.1f} ms a step of {config.batch}")
    print(f"anonymous {memory('RssAnon'):.2f}, with mapped files at most {memory('VmHWM'):.2f} GiB")


if __name__ == "__main__":
    main()
