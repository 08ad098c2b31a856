"""Videos that every browser plays."""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from irevla.errors import UserError

HOLD = 0.5  # seconds that the last picture stays, so that the end can be seen


def write_video(path: Path, frames: UInt8[np.ndarray, "T H W 3"], *, fps: int) -> bytes:
    """Write an H.264 mp4 (yuv420p, index in front) and return its bytes. Odd sides gain a pixel:
    4:2:0 needs even ones.

    Raises `UserError` where PyAV is missing.
    """
    try:
        import av
    except ModuleNotFoundError as error:
        raise UserError("videos need PyAV: pip install 'irevla[report]'") from error
    assert len(frames) > 0 and fps > 0
    held = np.concatenate([frames, np.repeat(frames[-1:], max(1, round(HOLD * fps)), axis=0)])
    even = np.pad(
        held, ((0, 0), (0, held.shape[1] % 2), (0, held.shape[2] % 2), (0, 0)), mode="edge"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}")
    with av.open(str(aside), "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream = container.add_stream(
            "libx264", rate=fps, options={"crf": "20", "preset": "medium", "threads": "1"}
        )
        stream.height, stream.width, stream.pix_fmt = even.shape[1], even.shape[2], "yuv420p"
        for picture in even:
            container.mux(
                stream.encode(
                    av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
                )
            )
        container.mux(stream.encode())
    aside.replace(path)
    return path.read_bytes()
