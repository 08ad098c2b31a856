"""A picture in a file, as models want it."""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from irevla.errors import UserError


def read_picture(path: Path, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """The PNG or JPEG in `path`, squeezed to a square of `size` pixels. Raises `UserError` where it
    is none."""
    try:
        with Image.open(path) as opened:
            picture = opened.convert("RGB")
    except FileNotFoundError as error:
        raise UserError(f"there is no file {path}: name a PNG or JPEG") from error
    except (
        OSError,
        Image.DecompressionBombError,
    ) as error:  # Pillow's UnidentifiedImageError is an OSError
        raise UserError(f"{path} is not a picture that can be read: name a PNG or JPEG") from error
    return np.asarray(picture.resize((size, size), Image.Resampling.BOX), np.uint8)
