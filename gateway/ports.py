"""Routes that are there on one of the server's ports only."""

from collections.abc import Callable, Iterable, Iterator

from starlette.routing import Match, Route
from starlette.types import Scope

Ports = Callable[[int | None], bool]
"""Whether a route is there on a port."""


class PortRoute(Route):
    """A route that some ports do not have. The port is the socket's own: no header can claim another."""

    def __init__(self, route: Route, ports: Ports) -> None:
        super().__init__(route.path, route.endpoint, methods=list(route.methods or ()))
        self.route = route
        self.ports = ports

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        server = scope.get("server")
        if not self.ports(server[1] if server else None):
            return Match.NONE, {}
        return self.route.matches(scope)


def split(api: Iterable[Route], management: Iterable[Route], management_port: int | None) -> Iterator[Route]:
    """All routes; with a management port, the management ones are there alone, and the API's everywhere else."""
    if management_port is None:
        yield from (*api, *management)
        return
    yield from (PortRoute(route, lambda port: port != management_port) for route in api)
    yield from (PortRoute(route, lambda port: port == management_port) for route in management)
