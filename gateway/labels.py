"""The labels of the ensembles that this project ships. Other models' labels are learnt from Triton's answers."""

import json
from functools import cache
from importlib import resources

_CONFIG_KEYS = {"task_router_ensemble": "task_labels", "complexity_router_ensemble": "complexity_labels"}


def known_labels(triton_model: str) -> tuple[str, ...] | None:
    """The labels of `triton_model` in their order, or None for a model that is not ours."""
    key = _CONFIG_KEYS.get(triton_model)
    return tuple(_embedded_config()[key]) if key else None


@cache
def _embedded_config() -> dict[str, list[str]]:
    # The order stands once, in the embedded checkpoint's config; reading it takes neither torch nor its weights.
    config: dict[str, list[str]] = json.loads(
        resources.files("classifiers").joinpath("embedded/config.json").read_text()
    )
    return config
