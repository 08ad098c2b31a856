"""Write the datasets of tests/data/lerobot with the real LeRobot 0.6.1, in an environment of its
own: python scripts/record_lerobot.py tests/data/lerobot

Each image says which frame it is: red is 40 times the episode, green 10 times the frame, blue in
the left half alone. The wrist camera's is the negative. So does each action: episode / 10, frame /
50.
"""

import shutil
import sys
from pathlib import Path

import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset

HEIGHT, WIDTH = 32, 48
FRAMES = (8, 9, 10, 8)  # of each episode; the last one fails


def record(root: Path, *, dtype: str, fps: int, cameras: tuple[str, ...], success: bool) -> None:
    """Write one dataset."""
    image = {"dtype": dtype, "shape": (HEIGHT, WIDTH, 3), "names": ["height", "width", "channels"]}
    features = {f"observation.images.{camera}": image for camera in cameras}
    features["observation.state"] = {"dtype": "float32", "shape": (3,), "names": None}
    features["action"] = {"dtype": "float32", "shape": (2,), "names": ["x", "y"]}
    if success:
        features["next.success"] = {"dtype": "bool", "shape": (1,), "names": None}
    shutil.rmtree(root, ignore_errors=True)
    dataset = LeRobotDataset.create(
        f"irevla/{root.name}", fps, features, root=root, use_videos=dtype == "video"
    )
    for episode, length in enumerate(FRAMES):
        for frame in range(length):
            dataset.add_frame(_frame(episode, frame, cameras, success=success))
        dataset.save_episode()
    dataset.finalize()
    shutil.rmtree(root / "images", ignore_errors=True)


def _frame(
    episode: int, frame: int, cameras: tuple[str, ...], *, success: bool
) -> dict[str, object]:
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[..., 0] = 40 * episode
    image[..., 1] = 10 * frame
    image[:, : WIDTH // 2, 2] = 200
    images = {f"observation.images.{camera}": image for camera in cameras}
    if "wrist" in cameras:
        images["observation.images.wrist"] = 255 - image
    outcome = {"next.success": np.array([episode < 3 and frame == FRAMES[episode] - 1])}
    return {
        **images,
        **(outcome if success else {}),
        "observation.state": np.zeros(3, np.float32),
        "action": np.array([episode / 10, frame / 50], np.float32),
        "task": "Reach the left disc." if episode % 2 else "reach the right disc",
    }


if __name__ == "__main__":
    out = Path(sys.argv[1])
    record(out / "videos", dtype="video", fps=30, cameras=("front", "wrist"), success=True)
    record(out / "images", dtype="image", fps=10, cameras=("front",), success=False)
