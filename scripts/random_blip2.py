"""Write a BLIP-2 with random weights into a folder that `--model.vlm` reads, as one from the Hub.

To try a machine, not to learn with: Algorithm 1 costs what it would cost with BLIP-2 2.7B, and
nothing is downloaded. On a GPU, 7 GiB:

    python scripts/random_blip2.py /tmp/blip2
    irevla run panda-sim --model.vlm /tmp/blip2 --model.lora.rank 16 --env.image-size 224
"""

from pathlib import Path
from typing import Literal

import torch
import tyro

from irevla.bench.blip2 import FULL, SMALL, model, processor

SIZES = {"full": FULL, "small": SMALL}


def write(folder: Path, *, image_size: int = 224, size: Literal["full", "small"] = "full") -> None:
    """Write it: bfloat16 on a GPU, float32 on a CPU. Small: the same architecture in miniature."""
    cuda = torch.cuda.is_available()
    torch.manual_seed(0)
    made = model(
        SIZES[size],
        torch.device("cuda" if cuda else "cpu"),
        torch.bfloat16 if cuda else torch.float32,
    )
    made.save_pretrained(folder)
    processor(image_size).save_pretrained(folder)


def main(
    folder: tyro.conf.Positional[Path],
    image_size: int = 224,
    size: Literal["full", "small"] = "full",
) -> None:
    """Write a BLIP-2 with random weights into FOLDER."""
    write(folder, image_size=image_size, size=size)
    print(f"{folder}: BLIP-2 with random weights, images of {image_size} pixels")


if __name__ == "__main__":
    tyro.cli(main)
