"""Open a dataset that irevla wrote with the real LeRobot 0.6.1, in an environment of its own:
python scripts/open_in_lerobot.py DATASET

Fails where LeRobot warns of anything in it, and where frames or instructions are missing.
"""

import logging
import sys
import warnings

from lerobot.datasets.lerobot_dataset import LeRobotDataset

said: list[str] = []


class Listener(logging.Handler):
    """Keeps what is said as a warning or worse."""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one message."""
        said.append(record.getMessage())


if __name__ == "__main__":
    logging.getLogger().addHandler(Listener(logging.WARNING))
    warnings.simplefilter("error")
    dataset = LeRobotDataset("irevla/dataset", root=sys.argv[1])
    frames = [dataset[index] for index in range(len(dataset))]
    assert len(frames) == dataset.meta.total_frames > 0
    assert all(frame["task"] for frame in frames)
    of_dataset = [message for message in said if "torchcodec" not in message]  # of the environment
    assert not of_dataset, of_dataset
    print(f"{dataset.num_episodes} episodes, {len(frames)} frames, no warning")
