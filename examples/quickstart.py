"""All of Algorithm 1 on the toy suite, in little: python examples/quickstart.py

The preset as it is, `irevla.preset("pointmass")`, takes a few minutes and solves nearly all.
"""

import tempfile
from dataclasses import replace

import irevla

full = irevla.preset("pointmass", seed=1, rl_tasks=("left-disc-new",), threads=1)
config = replace(
    full,
    expert=replace(full.expert, episodes=10),
    sft=replace(full.sft, steps=200, batch=32, validate_every=200),
    sl=replace(full.sl, steps=50, batch=32, validate_every=50),
    ppo=replace(full.ppo, steps=2_000),
    harvest=replace(full.harvest, episodes=5),
    eval=replace(full.eval, episodes=10, interim=0, videos=False),
)

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as out:  # your own directory: the same call again resumes
        policy = irevla.run(config, out=f"{out}/toy")
    for row in irevla.evaluate(
        policy, "pointmass", tasks=["left-disc", "left-disc-new"], episodes=20
    ):
        print(f"{row.task}: {row.successes} of {row.episodes} solved")
