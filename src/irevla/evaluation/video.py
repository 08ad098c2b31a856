"""Videos that every browser plays."""

from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8

from irevla.config import EnvConfig
from irevla.envs.suite import Suite, TaskEnv
from irevla.errors import UserError
from irevla.storage.disk import writing

SIZE = 256  # pixels
HOLD = 0.5  # seconds that the last image stays, so that the end can be seen


def film(
    suite: Suite,
    task: str,
    actions: Float32[np.ndarray, "T A"],
    *,
    env: EnvConfig,
    seed: int,
) -> tuple[UInt8[np.ndarray, "T_plus_1 H W 3"], bool]:
    """Play an episode again, to the bit: its images at video size, and whether it succeeded."""
    world = suite.make(task, env)
    camera = world.unwrapped
    assert isinstance(camera, TaskEnv)
    camera.draw = False
    world.reset(seed=seed)
    frames = [camera.picture(SIZE)]
    success = False
    for action in actions:
        _, _, _, _, info = world.step(action)
        frames.append(camera.picture(SIZE))
        success = bool(info["success"])
    world.close()
    return np.stack(frames), success


def write_video(path: Path, frames: UInt8[np.ndarray, "T H W 3"], *, fps: int) -> bytes:
    """Write an H.264 mp4 (yuv420p, index in front) and return its bytes.

    Odd sides gain a pixel: 4:2:0 needs even ones. Raises `UserError` where PyAV is missing.
    """
    try:
        import av
    except ModuleNotFoundError as error:
        raise UserError("videos need PyAV: pip install 'irevla[report]'") from error
    assert len(frames) > 0 and fps > 0
    held = np.repeat(frames[-1:], max(1, round(HOLD * fps)), axis=0)
    shown = np.concatenate([frames, held])
    height, width = shown.shape[1:3]
    even = np.pad(shown, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    options = {"crf": "20", "preset": "medium", "threads": "1"}
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        writing(path) as aside,
        av.open(str(aside), "w", format="mp4", options={"movflags": "faststart"}) as container,
    ):
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.height = even.shape[1]
        stream.width = even.shape[2]
        stream.pix_fmt = "yuv420p"
        for image in even:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path.read_bytes()
