"""The options of the RouteLLM proxy, as `scripts/serve` takes them: two models and a threshold make a policy."""

import argparse
import json
import math
import os
from pathlib import Path
from typing import Any, get_args

from classifiers.routellm.mf import EMBEDDED_MF
from gateway.config import AUTOMATIC, ConfigError, Router

_ROUTERS: tuple[str, ...] = get_args(Router)
_POLICY = "routellm"
_SLOW_ROUTER_MS = 10_000  # a large network on a CPU, or an embeddings endpoint far away
_NEED_BOTH = ("router_type", "threshold", "checkpoint_path", "fallback_model", "virtual_model_name")
_UPSTREAM = {"api_base": "${DYNAMO_API_BASE}", "api_key": "${DYNAMO_API_KEY:-}"}


def add_routellm_options(root: argparse.ArgumentParser) -> None:
    """The proxy's options, in a group of their own."""
    group = root.add_argument_group(
        "RouteLLM", "With a strong and a weak model, a policy of type routellm becomes the default one."
    )
    add = group.add_argument
    add("--strong-model", metavar="NAME", help="the strong model, under its name at the upstream")
    add("--weak-model", metavar="NAME", help="the weak model, likewise")
    add("--router-type", choices=_ROUTERS, help="RouteLLM's router (default: mf)")
    add(
        "--threshold",
        type=_share,
        metavar="T",
        help="a win rate of T or more goes to the strong model (default: 0.5; of the embedded mf what sends half of "
        "its training prompts there; scripts/calibrate_threshold finds yours)",
    )
    add("--checkpoint-path", type=_folder, metavar="DIR", help="the router's weights (default for mf: embedded ones)")
    add("--fallback-model", metavar="NAME", help="answers when there is no decision (default: the strong model)")
    add("--virtual-model-name", metavar="NAME", help="the model name that asks for this policy (default: routellm)")


def check_routellm_options(root: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Exits with a usage line unless strong and weak model stand together, and the others not without them."""
    if (options.strong_model is None) != (options.weak_model is None):
        root.error("--strong-model and --weak-model belong together")
    if options.strong_model is not None:
        for name in ("strong_model", "weak_model", "fallback_model"):
            if getattr(options, name) is not None and not getattr(options, name).strip():
                root.error(f"--{name.replace('_', '-')} is empty")
        _require_weights(root, options)
        return
    for name in _NEED_BOTH:
        if getattr(options, name) is not None:
            root.error(f"--{name.replace('_', '-')} needs --strong-model and --weak-model")


def _require_weights(root: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    router = options.router_type or "mf"
    variable = f"ROUTELLM_{router.upper()}_CHECKPOINT"
    if router != "mf" and options.checkpoint_path is None and not os.environ.get(variable):
        root.error(
            f"--router-type {router} needs --checkpoint-path or {variable}; "
            f"scripts/fetch_models routellm_{router} fetches the published weights"
        )


def with_routellm_policy(tree: Any, options: argparse.Namespace) -> dict[str, Any]:
    """A configuration's tree with the options' policy behind its own, as the default one.

    Raises ConfigError when the tree is no configuration, or has a policy of that name.
    """
    if not isinstance(tree, dict) or not isinstance(tree.get("policies", []), list):
        raise ConfigError([f"{options.config}: expected an object with a list of policies"])
    name = options.virtual_model_name or _POLICY
    name = _POLICY if name in AUTOMATIC else name  # `auto` means the default policy, which this one is
    policies = tree.get("policies", [])
    if any(isinstance(policy, dict) and policy.get("name") == name for policy in policies):
        raise ConfigError([f"{options.config}: has a policy {name!r}; --virtual-model-name names another"])
    policy: dict[str, Any] = {
        "name": name,
        "type": "routellm",
        "router": options.router_type or "mf",
        "strong": _UPSTREAM | {"model": options.strong_model},
        "weak": _UPSTREAM | {"model": options.weak_model},
        "threshold": _default_threshold(options) if options.threshold is None else options.threshold,
    }
    if options.fallback_model is not None:
        policy["fallback"] = options.fallback_model
    if policy["router"] != "mf":
        policy["timeout_ms"] = _SLOW_ROUTER_MS
    return {**tree, "default_policy": name, "policies": [*policies, policy]}


def checkpoint_variable(options: argparse.Namespace) -> dict[str, str]:
    """The environment variable by which Triton finds the router's weights, when --checkpoint-path names them."""
    if options.checkpoint_path is None:
        return {}
    router = options.router_type or "mf"
    return {f"ROUTELLM_{router.upper()}_CHECKPOINT": str(options.checkpoint_path.resolve())}


def _default_threshold(options: argparse.Namespace) -> float:
    is_embedded = options.router_type in (None, "mf") and options.checkpoint_path is None
    if not is_embedded or os.environ.get("ROUTELLM_MF_CHECKPOINT"):
        return 0.5
    config = json.loads((EMBEDDED_MF / "config.json").read_text(encoding="utf-8"))
    threshold: float = config["threshold_for_half_of_training_prompts"]
    return threshold


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number between 0 and 1, and got {text!r}")
    return value


def _folder(text: str) -> Path:
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is no folder; scripts/fetch_models fetches published weights")
    return Path(text)
