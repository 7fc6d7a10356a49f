"""The demo Dynamo as a container's program: `python -m scripts.cluster.dynamo PORT MODEL ...`, until SIGTERM.

/tmp/ready is there once every model has answered.
"""

import signal
import sys
import tempfile
from pathlib import Path

from scripts.local.dynamo import DemoDynamo


def main(port: str, *models: str) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with tempfile.TemporaryDirectory() as folder:
        dynamo = DemoDynamo(int(port), models, Path(folder), host="0.0.0.0")
        try:
            dynamo.start()
            dynamo.wait()
            Path("/tmp/ready").touch()
            signal.pause()
        finally:
            dynamo.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
