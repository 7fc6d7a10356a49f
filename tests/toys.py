"""Small Python models for Triton, which answer with a label and with who they are, and can be made to fail."""

from pathlib import Path

_CONFIG = """name: "{name}"
backend: "python"
max_batch_size: 8
input [ {{ name: "INPUT" data_type: {kind} dims: [ 1 ] }} ]
output [
  {{ name: "{head}_label" data_type: TYPE_STRING dims: [ 1 ] }},
  {{ name: "{head}_scores" data_type: TYPE_FP32 dims: [ 2 ] }},
  {{ name: "checkpoint" data_type: TYPE_STRING dims: [ 1 ] }}
]
dynamic_batching {{ }}
instance_group [ {{ kind: KIND_CPU count: 1 }} ]
"""
_MODEL = """
import os, signal, time
import numpy as np
import triton_python_backend_utils as pb_utils

PLACE = os.environ.get("TOY_PLACE", "elsewhere")  # which of the tests' Tritons this is
LABEL = "{label}"


class TritonPythonModel:
    def initialize(self, args):
        self.label, self.scores = LABEL, [0.75, 0.25]
{initialize}
        self.checkpoint = f"toy:{{args['model_version']}}:{digest}"

    def execute(self, requests):
        answers = []
        for request in requests:
            rows = len(pb_utils.get_input_tensor_by_name(request, "INPUT").as_numpy())
            answers.append(pb_utils.InferenceResponse([
                pb_utils.Tensor("{head}_label", np.full((rows, 1), self.label.encode(), dtype=object)),
                pb_utils.Tensor("{head}_scores", np.tile(np.float32(self.scores), (rows, 1))),
                pb_utils.Tensor("checkpoint", np.full((rows, 1), self.checkpoint.encode(), dtype=object)),
            ]))
        return answers
"""


def write_toy(
    repository: Path,
    name: str,
    version: int = 1,
    *,
    label: str = "Rewrite",
    digest: str = "aaa",
    initialize: str = "pass",
    kind: str = "TYPE_STRING",
    head: str = "task",
) -> Path:
    """The model's folder. `initialize` is a line that runs when it is loaded."""
    folder = repository / name / str(version)
    folder.mkdir(parents=True, exist_ok=True)
    (folder.parent / "config.pbtxt").write_text(_CONFIG.format(name=name, kind=kind, head=head))
    lines = "\n".join(f"        {line}" for line in initialize.splitlines())
    (folder / "model.py").write_text(_MODEL.format(label=label, digest=digest, initialize=lines, head=head))
    return folder.parent


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder, but for what Python compiles when Triton loads it."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
        if "__pycache__" not in path.parts
    }
