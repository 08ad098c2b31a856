"""The engine torchrun: several processes of this machine, one for each GPU if there are any.

They meet on the loopback interface. One that dies ends all.
"""

import os
import sys
import threading

from torch.distributed import run

from irevla.compute.processes import outlive_nobody

LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}


def main() -> None:
    """`python -m irevla.compute.torchrun PARENT_PID PROCESSES MODULE ARGUMENT ...`."""
    parent, processes, module, *arguments = sys.argv[1:]
    threading.Thread(target=outlive_nobody, args=(int(parent),), daemon=True).start()
    os.environ.update(LOOPBACK)
    settings = ["--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", processes]
    run.main([*settings, "--module", module, *arguments])


if __name__ == "__main__":
    main()
