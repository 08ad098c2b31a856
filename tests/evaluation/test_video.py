import io
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from irevla.errors import UserError
from irevla.evaluation.video import write_video


def frames(*, side: int = 64, count: int = 10) -> np.ndarray:
    pictures = np.zeros((count, side, side, 3), np.uint8)
    for t in range(count):
        pictures[t, :, : side // 2] = (20 * t, 40, 200)
    return pictures


def test_a_video_that_browsers_play(tmp_path: Path) -> None:
    data = write_video(tmp_path / "videos" / "push.mp4", frames(), fps=10)
    assert data == (tmp_path / "videos" / "push.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # the index in front
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == 10
        pictures = [
            frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(stream)
        ]
    assert len(pictures) == 10 + 5  # half a second longer
    assert abs(pictures[0][32, 10] - [0, 40, 200]).max() < 12
    assert abs(pictures[-1][32, 10] - [180, 40, 200]).max() < 12


def test_odd_sides_gain_a_pixel(tmp_path: Path) -> None:
    with av.open(
        io.BytesIO(write_video(tmp_path / "x.mp4", frames(side=33, count=2), fps=5))
    ) as container:
        assert (container.streams.video[0].width, container.streams.video[0].height) == (34, 34)


def test_missing_av_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"irevla\[report\]"):
        write_video(tmp_path / "x.mp4", frames(), fps=10)
