"""Images of any size as the squares that policies see: recordings and environments alike."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image


def square(image: UInt8[np.ndarray, "H W 3"], size: int) -> UInt8[np.ndarray, "size size 3"]:
    """Return all of `image`, scaled to fit, in a square of `size` pixels; black bars fill the rest.

    Nothing is cut off: what a task is about may lie at the edge.
    """
    height, width = image.shape[:2]
    if height == width == size:
        return image
    scale = size / max(height, width)
    rows = max(1, round(height * scale))
    columns = max(1, round(width * scale))
    scaled = Image.fromarray(image).resize((columns, rows), Image.Resampling.BILINEAR)
    result = np.zeros((size, size, 3), np.uint8)
    top = (size - rows) // 2
    left = (size - columns) // 2
    result[top : top + rows, left : left + columns] = np.asarray(scaled)
    return result
