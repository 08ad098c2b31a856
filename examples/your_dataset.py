"""Demonstrations that others recorded with LeRobot, instead of a scripted expert: python
examples/your_dataset.py [PATH]

PATH is a LeRobotDataset v3 for the toy suite; without one, the tests' own, recorded by LeRobot
itself. On the command line: irevla data PATH; irevla run pointmass --expert.dataset PATH
"""

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import irevla
from irevla.data.summary import summarize

TINY = Path(__file__).parents[1] / "tests" / "data" / "lerobot" / "images"

if __name__ == "__main__":
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else TINY
    for task in summarize(path).tasks:
        print(f"{task.episodes} episodes of {task.instruction!r}")

    toy = irevla.preset("pointmass", method="sft", threads=1)
    config = replace(  # stage 0 and success rates: minute ones
        toy,
        expert_tasks=("left-disc", "right-disc"),  # whose instructions the dataset has
        expert=replace(toy.expert, dataset=str(path)),
        sft=replace(toy.sft, steps=100, batch=32, validate_every=100),
        eval=replace(toy.eval, episodes=5, videos=False),
    )
    with tempfile.TemporaryDirectory() as out:
        policy = irevla.run(config, out=f"{out}/run")
    for row in irevla.evaluate(policy, "pointmass", tasks=["left-disc", "right-disc"], episodes=5):
        print(f"{row.task}: {row.successes} of {row.episodes} solved")
