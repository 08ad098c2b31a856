"""The scripted suite lies with the tests of the environments."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "envs"))
