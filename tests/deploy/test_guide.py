"""docs/DEPLOY.md: what it tells a reader to write or to type fits the chart."""

import re
from pathlib import Path

import pytest
import yaml

from tests.deploy.chart import ROOT, of_kind, rendered, template

GUIDE = (ROOT / "docs" / "DEPLOY.md").read_text()
VALUES = re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)
COMMANDS = "\n".join(re.findall(r"```bash\n(.*?)```", GUIDE, re.DOTALL))
KINDS = {"deployment": "Deployment", "service": "Service", "svc": "Service", "ingress": "Ingress"}


@pytest.mark.parametrize("values", VALUES, ids=[next(iter(yaml.safe_load(each))) for each in VALUES])
def test_the_values_are_accepted(values: str, tmp_path: Path) -> None:
    """Each block of values renders."""
    file = tmp_path / "values.yaml"
    file.write_text(values)
    done = template([file], "llm-router")
    assert done.returncode == 0, done.stderr


def test_the_objects_of_the_commands_are_the_charts() -> None:
    """Each Deployment, Service and Ingress of the router that a command or the table of names has is rendered."""
    told = re.findall(r"\b(deployment|service|svc|ingress)[/ `]+(llm-router[\w-]*)", COMMANDS + GUIDE)
    everything = rendered("defaults", "ingress.enabled=true")
    assert len(told) > 8
    for kind, name in told:
        if (kind, name) != ("deployment", "llm-router"):  # the guide's own, which the table explains
            assert name in of_kind(everything, KINDS[kind]), f"{kind} {name}"


def test_every_file_of_the_project_that_it_names_is_there() -> None:
    """Files and folders in commands and prose."""
    named = set(re.findall(r"(?<![\w./-])(?:deploy|scripts)/[\w./-]*\w", GUIDE))
    assert {"scripts/push_models", "deploy/dynamo/frontend.yaml", "deploy/helm/llm-router"} <= named
    assert not [name for name in named if not (ROOT / name).exists()]
