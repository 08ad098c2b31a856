"""The engine torchrun: several processes of this machine, one for each GPU if there are any.

They find each other through files that are this user's alone: torch unpickles what lies there.
They talk on the loopback interface. One that dies ends all.
"""

import os
import sys
import threading
from tempfile import TemporaryDirectory
from uuid import uuid4

from torch.distributed import run

from irevla.compute.processes import ENGINE, MEETING, outlive_nobody

LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
# torchrun would open a port for addresses, which all the network reaches and nobody here needs.
NO_PORT = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


def main() -> None:
    """`python -m irevla.compute.torchrun PARENT_PID PROCESSES MODULE ARGUMENT ...`."""
    parent, processes, module, *arguments = sys.argv[1:]
    threading.Thread(target=outlive_nobody, args=(int(parent),), daemon=True).start()
    os.environ.update(LOOPBACK | NO_PORT)
    os.environ[ENGINE] = str(os.getpid())
    with TemporaryDirectory() as folder:
        os.environ[MEETING] = folder
        run.main([*meeting(folder), "--nproc-per-node", processes, "--module", module, *arguments])


def meeting(folder: str) -> list[str]:
    """Return the settings with which processes of this machine find each other in a folder."""
    place = ["--rdzv-endpoint", f"{folder}/meeting", "--rdzv-conf", "store_type=file"]
    return ["--rdzv-backend", "c10d", *place, "--rdzv-id", uuid4().hex, "--local-addr", "127.0.0.1"]


if __name__ == "__main__":
    main()
