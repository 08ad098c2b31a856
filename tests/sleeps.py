"""What an engine starts that only sleeps, where somebody looks for its process."""

import os
import sys
import threading
import time
from pathlib import Path

from irevla.compute.processes import outlive_nobody


def run(arguments: list[str]) -> None:
    (Path(arguments[0]) / f"pid-{os.getpid()}").touch()
    time.sleep(100)


if __name__ == "__main__":
    threading.Thread(target=outlive_nobody, args=(os.getppid(),), daemon=True).start()
    run(sys.argv[1:])
