"""Model repositories for tests, made of the project's own."""

import shutil
from pathlib import Path

from scripts.local.triton import ROOT


def copy_repository(folder: Path) -> Path:
    """The project's model repository under `folder`."""
    shutil.copytree(ROOT / "model_repository", folder)
    return folder


_SCORED = """
name: "scored_ensemble"
platform: "ensemble"
max_batch_size: 64
input [ { name: "INPUT" data_type: TYPE_STRING dims: [ 1 ] } ]
output [
  { name: "OUTPUT" data_type: TYPE_FP32 dims: [ 12 ] },
  { name: "tokens" data_type: TYPE_INT32 dims: [ 2 ] },
  { name: "checkpoint" data_type: TYPE_STRING dims: [ 1 ] }
]
ensemble_scheduling {
  step [
    {
      model_name: "prompt_classifier"
      model_version: -1
      input_map { key: "INPUT" value: "INPUT" }
      output_map { key: "task_scores" value: "OUTPUT" }
      output_map { key: "tokens" value: "tokens" }
      output_map { key: "checkpoint" value: "checkpoint" }
    }
  ]
}
"""


def repository_with_foreign_ensembles(folder: Path) -> Path:
    """The project's repository and two of the task ensemble under names unknown to the gateway.

    `renamed_ensemble` is it as it is; `scored_ensemble` answers with probabilities, and has tokens and checkpoint.
    """
    copy_repository(folder)
    shutil.copytree(folder / "task_router_ensemble", folder / "renamed_ensemble")
    config = folder / "renamed_ensemble" / "config.pbtxt"
    config.write_text(config.read_text().replace('name: "task_router_ensemble"', 'name: "renamed_ensemble"'))
    (folder / "scored_ensemble" / "1").mkdir(parents=True)
    (folder / "scored_ensemble" / "config.pbtxt").write_text(_SCORED)
    return folder
