"""`/openapi.json`: what the gateway itself accepts and answers, as an OpenAPI 3.1 document, written as data.

Bodies are described as far as the gateway reads them; all else is the upstream's to judge, and passes.
"""

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse

_JSON = "application/json"
_STREAM = "text/event-stream"


def _ref(kind: str, name: str) -> dict[str, str]:
    return {"$ref": f"#/components/{kind}/{name}"}


_MESSAGES = {"type": "array", "minItems": 1, "items": _ref("schemas", "Message")}
_TEXT_OR_LIST = {"type": ["string", "array"]}
_ITEMS = {"anyOf": [{"type": "string"}, {"type": "array", "items": _ref("schemas", "Message")}]}

_ERRORS = {
    "400": "the request is wrong; `param` names where",
    "404": "no such path, policy, llm or model",
    "413": "the body is longer than 32 MiB",
    "429": "too many requests; `Retry-After` says when to come back",
    "502": "the model's server cannot be reached, or broke off before it answered",
    "503": "not ready yet",
    "504": "the model's server did not begin to answer in time",
}
_HEADERS = {
    "X-Chosen-Classifier": "the label; of a RouteLLM policy `strong` or `weak`",
    "x-routellm-routed-model": "the model that answers",
    "x-router-policy": "the policy that decided",
    "x-router-reason": "`decided`, `manual`, `passthrough`, `cached`, `low_confidence`, or why a fallback answers",
    "x-router-decision-ms": "how long Triton was asked, in milliseconds",
}


def _body(required: str = "", **fields: Any) -> dict[str, Any]:
    """An object with the fields that the gateway reads, of which one may be required, and any others."""
    schema = {"type": "object", "properties": fields, "additionalProperties": True}
    return {"required": True, "content": {_JSON: {"schema": schema | ({"required": [required]} if required else {})}}}


def _routed(required: str = "", **fields: Any) -> dict[str, Any]:
    return _body(required, **fields, **{"model": _ref("schemas", "Model"), "nim-llm-router": _ref("schemas", "Router")})


def _answers(*errors: str, content: tuple[str, ...] = (_JSON,), decided: bool = False) -> dict[str, Any]:
    """A 200 of those media types, with the decision's headers when there is one, and errors by their status."""
    headers = {name: _ref("headers", name) for name in ("x-request-id", *(_HEADERS if decided else ()))}
    answer = {"description": "the answer", "headers": headers, "content": {each: {} for each in content}}
    return {"200": answer, **{status: _ref("responses", status) for status in errors}}


def _forwarded(summary: str, body: dict[str, Any]) -> dict[str, Any]:
    """A POST whose answer is the upstream's own: any status of its, too."""
    answers = _answers("400", "404", "413", "429", "502", "504", content=(_JSON, _STREAM), decided=True)
    return {
        "post": {
            "summary": summary,
            "requestBody": body,
            "responses": answers | {"default": {"description": "the upstream's own answer, untouched"}},
        }
    }


def _get(summary: str, *errors: str, content: str = _JSON) -> dict[str, Any]:
    return {"get": {"summary": summary, "responses": _answers(*errors, content=(content,))}}


PATHS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": _forwarded("a chat, routed, streamed or whole", _routed("messages", messages=_MESSAGES)),
    "/v1/completions": _forwarded("a completion, routed by its `prompt`", _routed("prompt", prompt=_TEXT_OR_LIST)),
    "/v1/responses": _forwarded("a response, routed by its `input`", _routed("input", input=_ITEMS)),
    "/v1/messages": _forwarded("Anthropic's messages, routed as a chat", _routed("messages", messages=_MESSAGES)),
    "/v1/embeddings": _forwarded(
        "embeddings by the model that `model` names, never routed",
        _body("model", model={"type": "string", "minLength": 1, "maxLength": 512}),
    ),
    "/completions": _forwarded(
        "the blueprint's alias: a chat when there are `messages`, else a completion",
        _routed(messages=_MESSAGES, prompt=_TEXT_OR_LIST),
    ),
    "/v1/route": {
        "post": {
            "summary": "the decision for the body of any routed path; nothing is forwarded",
            "requestBody": _routed(messages=_MESSAGES, prompt=_TEXT_OR_LIST, input=_ITEMS),
            "responses": _answers("400", "404", "413", "429", decided=True),
        }
    },
    "/v1/models": _get("the upstreams' models, `auto`, and the policies"),
    "/health": _get("200 while the process lives"),
    "/health/live": _get("200 while the process lives"),
    "/health/ready": _get("200 once Triton has made a decision and an upstream has answered", "503"),
    "/": _get("the playground: a page to try the router in a browser", "404", content="text/html"),
    "/playground.css": _get("its looks", "404", content="text/css"),
    "/playground.js": _get("its script", "404", content="text/javascript"),
    "/config": _get("the configuration in force, keys redacted"),
    "/metrics": _get("Prometheus", content="text/plain"),
    "/decisions": _get("the latest decisions, and how often each model was chosen: names and figures, no content"),
    "/openapi.json": _get("this document"),
}

DOCUMENT: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {
        "title": "LLM router",
        "version": "1",
        "description": "Requests go to the model that a policy chooses. Fields that are not described here pass on.",
    },
    "paths": PATHS,
    "components": {
        "schemas": {
            "Model": {
                "type": ["string", "null"],
                "maxLength": 512,
                "description": "empty, missing or `auto`: the default policy decides; a policy's name: that one does; "
                "`router-<router>-<threshold>`: a RouteLLM policy, by that threshold; else the model itself",
            },
            "Router": {
                "type": "object",
                "description": "what is asked of the router; removed before the request goes on",
                "properties": {
                    "policy": {"type": ["string", "null"]},
                    "routing_strategy": {"enum": ["triton", "manual", "", None]},
                    "model": {"type": ["string", "null"], "description": "for `manual`: the llm's name"},
                    "threshold": {
                        "type": ["number", "null"],
                        "minimum": 0,
                        "maximum": 1,
                        "description": "for a RouteLLM policy",
                    },
                },
            },
            "Message": {
                "type": "object",
                "properties": {
                    "role": {"type": "string"},
                    "content": {"type": ["string", "array", "null"], "items": {"type": "object"}},
                },
            },
            "Error": {
                "type": "object",
                "required": ["error"],
                "properties": {
                    "error": {
                        "type": "object",
                        "required": ["message", "type", "param", "code"],
                        "properties": {
                            "message": {"type": "string"},
                            "type": {"type": "string"},
                            "param": {"type": ["string", "null"]},
                            "code": {"type": ["string", "null"]},
                        },
                    }
                },
            },
        },
        "headers": {
            name: {"description": what, "schema": {"type": "string"}}
            for name, what in {**_HEADERS, "x-request-id": "the request's own or a new one"}.items()
        },
        "responses": {
            status: {"description": what, "content": {_JSON: {"schema": _ref("schemas", "Error")}}}
            for status, what in _ERRORS.items()
        },
    },
}


async def openapi(request: Request) -> JSONResponse:
    return JSONResponse(DOCUMENT)
