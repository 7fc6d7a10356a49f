"""For measuring only: the blueprint's behaviour, which scripts/benchmark compares with."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from blueprint_router import BlueprintRouter as TritonPythonModel  # noqa: F401
