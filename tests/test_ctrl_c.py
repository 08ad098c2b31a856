"""Ctrl-C stops the program, also where Python drops what it raises."""

import gc
import os
import signal
from collections.abc import Iterator

import pytest

from irevla.ctrl_c import ctrl_c_is_kept, heed_ctrl_c
from irevla.progress import bar


class Finalized:
    """Ctrl-C comes while it goes."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):  # until the signal is handled
            pass


@pytest.fixture(autouse=True)
def _terminal() -> Iterator[None]:
    """A shell that starts us in the background lets its children ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_one_that_got_lost_stops_the_next_bar() -> None:
    with ctrl_c_is_kept(), bar("Work", 2) as advance:
        advance(1, "")
        thing = Finalized()
        del thing
        gc.collect()
        with pytest.raises(KeyboardInterrupt):
            advance(2, "")
    heed_ctrl_c()  # nothing is left of it
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_one_that_is_heard_is_raised_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), ctrl_c_is_kept():
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):
            pass
    heed_ctrl_c()


def test_who_has_a_handler_keeps_it() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with ctrl_c_is_kept():
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
