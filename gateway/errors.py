"""Everything that can go wrong with a request, and what the client is told.

GatewayError                    one of ours; `status` and an OpenAI-shaped body
├── BadRequest            400   the request itself is wrong; `param` names where
├── InvalidKey            401   it carries none of the client keys
├── NotFound              404   it names a policy, llm or model that is not there
├── BodyTooSlow           408   its body did not come in time
├── BodyTooLarge          413   it is longer than the gateway reads
├── TooManyRequests       429   the gateway has as many requests in hand as it takes
├── UpstreamUnavailable   502   the model's server refused or broke off before it answered
├── ShuttingDown          503   the gateway ended before an answer began
└── UpstreamTimeout       504   the model's server did not begin to answer in time

DecisionFailed                  Triton gave no decision: never reaches the client, the policy's fallback answers
├── DecisionTimeout             it did not answer within the policy's deadline
├── DecisionPaused              it has not several times in a row, and is left alone for a moment
└── TritonUnavailable           it cannot be reached, or does not serve the model
    └── ModelNotServed          it answers, and does not serve the model

ClientGone                      nobody is left to answer
"""

import json
from typing import Any, ClassVar

from starlette.responses import JSONResponse

from gateway.reasons import Reason


class AsciiJSONResponse(JSONResponse):
    """JSON in ASCII: names that clients and upstreams choose may hold lone surrogates, which have no UTF-8."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


class GatewayError(Exception):
    """An error that the client is told about, in OpenAI's shape."""

    status: ClassVar[int]
    type: ClassVar[str]
    default_code: ClassVar[str | None] = None

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or self.default_code

    def response(self) -> AsciiJSONResponse:
        """The answer to the client."""
        return error_response(self.status, self.message, self.type, self.param, self.code)


class BadRequest(GatewayError):
    status = 400
    type = "invalid_request_error"


class InvalidKey(GatewayError):
    status = 401
    type = "invalid_request_error"
    default_code = "invalid_api_key"

    def response(self) -> AsciiJSONResponse:
        response = super().response()
        response.headers["www-authenticate"] = "Bearer"
        return response


class NotFound(GatewayError):
    status = 404
    type = "invalid_request_error"


class BodyTooSlow(GatewayError):
    status = 408
    type = "invalid_request_error"
    default_code = "body_too_slow"

    def response(self) -> AsciiJSONResponse:
        response = super().response()
        response.headers["connection"] = "close"  # the rest of the body is not waited for
        return response


class BodyTooLarge(GatewayError):
    status = 413
    type = "invalid_request_error"
    default_code = "body_too_large"


class TooManyRequests(GatewayError):
    status = 429
    type = "rate_limit_error"
    default_code = "gateway_overloaded"

    def response(self) -> AsciiJSONResponse:
        response = super().response()
        response.headers["retry-after"] = "1"
        return response


class UpstreamUnavailable(GatewayError):
    status = 502
    type = "upstream_error"
    default_code = "upstream_unavailable"


class ShuttingDown(GatewayError):
    status = 503
    type = "internal_error"
    default_code = "shutting_down"


class UpstreamTimeout(GatewayError):
    status = 504
    type = "upstream_error"
    default_code = "upstream_timeout"


class DecisionFailed(Exception):
    """Triton gave no decision; `reason` is what `x-router-reason` says."""

    reason: ClassVar[Reason] = "decision_failed"


class DecisionTimeout(DecisionFailed):
    reason: ClassVar[Reason] = "decision_timeout"


class DecisionPaused(DecisionFailed):
    reason: ClassVar[Reason] = "triton_paused"


class TritonUnavailable(DecisionFailed):
    reason: ClassVar[Reason] = "triton_unavailable"


class ModelNotServed(TritonUnavailable):
    pass


class ClientGone(Exception):
    """The client closed its connection before the answer."""


def error_response(
    status: int, message: str, type: str, param: str | None = None, code: str | None = None
) -> AsciiJSONResponse:
    """An error in OpenAI's shape."""
    return AsciiJSONResponse(
        {"error": {"message": message, "type": type, "param": param, "code": code}}, status_code=status
    )
