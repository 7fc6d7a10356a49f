"""Both kinds of checkpoint, loaded once: the embedded one, and a tiny one laid out as published."""

from __future__ import annotations

import os

import pytest

# Before transformers is imported, which reads it then: nothing here may ask the hub.
os.environ["HF_HUB_OFFLINE"] = "1"

from classifiers.checkpoint import EMBEDDED
from scripts.local.published import write_published_checkpoint
from tests.classifiers.loaded import Loaded, load


@pytest.fixture(scope="session")
def embedded() -> Loaded:
    return load(EMBEDDED)


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return load(write_published_checkpoint(tmp_path_factory.mktemp("published")))


@pytest.fixture(scope="session", params=["embedded", "published"])
def loaded(request: pytest.FixtureRequest) -> Loaded:
    """Each kind in turn."""
    chosen: Loaded = request.getfixturevalue(request.param)
    return chosen
