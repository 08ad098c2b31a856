"""An image in a file, as models want it."""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from irevla.errors import UserError


def read_image(path: Path, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """Return the PNG or JPEG in `path`, squeezed to a square of `size` pixels.

    Raises `UserError` where it is none.
    """
    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
    except FileNotFoundError as error:
        raise UserError(f"there is no file {path}: name a PNG or JPEG") from error
    # Pillow's UnidentifiedImageError is an OSError; SyntaxError is what it raises for a broken PNG.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} is not an image that can be read: name a PNG or JPEG") from error
    return np.asarray(image.resize((size, size), Image.Resampling.BOX), np.uint8)
