"""Validates Kubernetes manifests by their schemas. Runs in the tools' environment, which has the schemas.

Reads from stdin a JSON object: `crds`, CustomResourceDefinitions, and `manifests`, each with its `version` of
Kubernetes, its `source` and the `manifest` itself. Prints one: `faults`, and `unknown`, the kinds without a schema.
"""

from __future__ import annotations

import functools
import importlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jsonschema
import kubernetes_validate
from kubernetes_validate import utils

# Where a package on PyPI has an operator's own schema, as pydantic models.
PACKAGED = {
    "monitoring.coreos.com/v1": "cloudcoil.models.prometheus_operator.v1",
    "keda.sh/v1alpha1": "cloudcoil.models.keda.v1alpha1",
}

Schemas = Mapping[tuple[str, str], Mapping[str, Any]]


def main() -> None:
    given = json.load(sys.stdin)
    # It reads its 5 MB of definitions anew for each manifest.
    utils.schema_contents = functools.lru_cache(utils.schema_contents)
    own = {key: schema for crd in given["crds"] for key, schema in crd_schemas(crd)}
    faults, unknown = [], set()
    for each in given["manifests"]:
        manifest = each["manifest"]
        try:
            found = list(validate(manifest, each["version"], own))
        except kubernetes_validate.SchemaNotFoundError:
            unknown.add(f"{manifest['kind']} ({manifest['apiVersion']})")
            continue
        name = f"{manifest['kind']} {manifest['metadata'].get('name', '')}"
        faults += [f"{each['source']}, Kubernetes {each['version']}: {name}: {fault}" for fault in found]
    json.dump({"faults": faults, "unknown": sorted(unknown)}, sys.stdout)


def validate(manifest: Mapping[str, Any], version: str, own: Schemas) -> Iterator[str]:
    """What is wrong with a manifest. Raises SchemaNotFoundError."""
    key = manifest["apiVersion"], manifest["kind"]
    schema = own.get(key) or packaged_schema(*key)
    if schema is not None:
        validator = jsonschema.Draft202012Validator(schema)
        yield from (describe(error) for error in validator.iter_errors(manifest))
        return
    try:
        kubernetes_validate.validate(manifest, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        yield describe(error)


def describe(error: jsonschema.ValidationError) -> str:
    """The innermost of what an error is made of says it best."""
    best = jsonschema.exceptions.best_match([error])
    return f"{'.'.join(map(str, best.absolute_path))}: {best.message}"


@functools.lru_cache
def packaged_schema(api_version: str, kind: str) -> Mapping[str, Any] | None:
    module = PACKAGED.get(api_version)
    model = getattr(importlib.import_module(module), kind, None) if module else None
    return strict(model.model_json_schema()) if model else None


def crd_schemas(crd: Mapping[str, Any]) -> Iterable[tuple[tuple[str, str], Mapping[str, Any]]]:
    spec = crd["spec"]
    for version in spec["versions"]:
        schema = version["schema"]["openAPIV3Schema"]
        properties = {"apiVersion": {}, "kind": {}, "metadata": {"type": "object"}, **schema["properties"]}
        key = f"{spec['group']}/{version['name']}", spec["names"]["kind"]
        yield key, strict({**schema, "properties": properties})


def strict(schema: Any) -> Any:
    """The schema with unknown fields refused, which an API server would drop without a word."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        closed.setdefault("additionalProperties", False)
    return closed


if __name__ == "__main__":
    main()
