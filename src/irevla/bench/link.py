"""A link as bad as one likes, from this process to a network namespace of the same machine, with
the system's own TCP at both ends. Linux, as root.

Two network devices whose other ends are files (TUN): a process of its own carries packets from one
to the other, late, and drops some.
"""

import fcntl
import heapq
import itertools
import os
import random
import select
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from irevla.errors import UserError

HERE, THERE = "10.213.0.1", "10.213.0.2"  # the addresses of both ends
NAME = "irevla"  # of the namespace, and how those of the devices begin
TUN = "/dev/net/tun"
_SET = 0x400454CA  # TUNSETIFF of linux/if_tun.h
_PLAIN = 0x1001  # packets of IP, nothing before them
_MOST = 65_536  # bytes of a packet


@contextmanager
def bad_link(*, delay: float, loss: float) -> Iterator[list[str]]:
    """Yield what to put before a command so that it runs at the other end, at `THERE`.

    A packet takes `delay` s in either direction, and is lost with the chance `loss`. Raises
    `UserError` where there can be no such link.
    """
    if not may_link():
        raise UserError("a bad link needs Linux, root and /dev/net/tun: leave it out")
    namespace = f"{NAME}-{os.getpid()}"
    devices = [f"{NAME}{os.getpid() % 10_000_000}{end}" for end in "ab"]
    files = [os.open(TUN, os.O_RDWR) for _ in devices]
    carrier = None
    try:
        for file, device in zip(files, devices, strict=True):
            fcntl.ioctl(file, _SET, struct.pack("16sH", device.encode(), _PLAIN))
        _ip("netns", "add", namespace)
        _ip("link", "set", devices[1], "netns", namespace)
        inside = ["ip", "netns", "exec", namespace]
        subprocess.run([*inside, "ip", "link", "set", "lo", "up"], check=True)
        for before, device, own, other in (
            ([], devices[0], HERE, THERE),
            (inside, devices[1], THERE, HERE),
        ):
            address = ["ip", "address", "add", own, "peer", other, "dev", device]
            subprocess.run([*before, *address], check=True)
            subprocess.run([*before, "ip", "link", "set", device, "up"], check=True)
        carrier = subprocess.Popen(
            [sys.executable, "-m", __name__, *map(str, (*files, delay, loss))],
            pass_fds=files,
        )
        yield inside
    finally:
        if carrier is not None:
            carrier.kill()
            carrier.wait()
        for file in files:
            os.close(file)  # the devices go with it
        subprocess.run(["ip", "netns", "delete", namespace], check=False)


def may_link() -> bool:
    """Whether `bad_link` can be made here."""
    return sys.platform.startswith("linux") and os.geteuid() == 0 and os.access(TUN, os.W_OK)


def _ip(*command: str) -> None:
    subprocess.run(["ip", *command], check=True)


def carry(ends: tuple[int, int], *, delay: float, loss: float) -> None:
    """Carry packets between two files, for ever."""
    luck = random.Random(0)
    number = itertools.count()
    under_way: list[tuple[float, int, int, bytes]] = []  # when it arrives, number, where, packet
    parent = os.getppid()
    while os.getppid() == parent:
        due = under_way[0][0] - time.monotonic() if under_way else 1.0
        for end in select.select(ends, [], [], max(0.0, due))[0]:
            packet = os.read(end, _MOST)
            if luck.random() >= loss:
                other = ends[1 - ends.index(end)]
                arrival = time.monotonic() + delay
                heapq.heappush(under_way, (arrival, next(number), other, packet))
        while under_way and under_way[0][0] <= time.monotonic():
            _, _, end, packet = heapq.heappop(under_way)
            with suppress(OSError):  # a packet that does not go out is one that is lost
                os.write(end, packet)


if __name__ == "__main__":
    here, there = map(int, sys.argv[1:3])
    carry((here, there), delay=float(sys.argv[3]), loss=float(sys.argv[4]))
