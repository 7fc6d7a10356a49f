from openapi_spec_validator import validate
from starlette.routing import Route

from gateway.app import create_app
from gateway.config import load_config
from gateway.openapi import DOCUMENT, PATHS
from tests.conftest import DEFAULT_CONFIG
from tests.gateway.client import Gateway


def test_it_is_valid() -> None:
    """The document is valid OpenAPI."""
    validate(DOCUMENT)


def test_it_describes_every_route() -> None:
    """Its paths and methods are the application's, no more and no fewer."""
    config = load_config(DEFAULT_CONFIG, {"DYNAMO_API_BASE": "http://dynamo:8000"})
    routes = create_app(config, DEFAULT_CONFIG).routes
    served = {
        (route.path, method)
        for route in routes
        if isinstance(route, Route)
        for method in route.methods or ()
        if method != "HEAD"  # Starlette's own company of GET
    }
    assert served == {(path, method.upper()) for path, methods in PATHS.items() for method in methods}


def test_it_is_served(gateway: Gateway) -> None:
    """The gateway shows the document."""
    answer = gateway.get("/openapi.json")
    assert answer.status_code == 200 and answer.json() == DOCUMENT
