"""Processes that end with the one that started them."""

import os
import sys
import threading
import time
from collections.abc import Callable, Sequence

from irevla.errors import UserError

ENGINE = "IREVLA_ENGINE"  # variable with the process id of the engine that starts processes
MEETING = "IREVLA_MEETING"  # ... with the folder, this user's alone, in which they find each other


def outlive_nobody(parent: int) -> None:
    """Exit when the parent is gone, even when it was killed while this process is busy or waits."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def obey(run: Callable[[Sequence[str]], None]) -> None:
    """Do what the engine that started this process asks for, and no longer than it lives.

    What a user can mend ends it with one line and exit code 2.
    """
    # Told by the engine: one that died while we imported torch is our parent no more.
    engine = int(os.environ.get(ENGINE, os.getppid()))
    threading.Thread(target=outlive_nobody, args=(engine,), daemon=True).start()
    try:
        run(sys.argv[1:])
    except UserError as error:
        print(f"irevla: {error}", file=sys.stderr)
        sys.exit(2)
