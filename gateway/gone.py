"""A client that leaves ends what is done for it."""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class CancelWhenGone:
    """ASGI middleware: once a request's body has been read, its task is cancelled when the client hangs up.

    A handler that only awaits is not told of a disconnect; without this, Triton and the upstream would go on working
    for nobody. A task that the server cancels is left to the server.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        watch = _Watch(receive)
        try:
            await self.app(scope, watch.receive, send)
        except asyncio.CancelledError:
            if not watch.gone:
                raise
        finally:
            watch.end()


class _Watch:
    """A request's messages as they are received, and after the last one of its body an eye on the client."""

    def __init__(self, receive: Receive) -> None:
        self.gone = False
        self._receive = receive
        self._waiting: asyncio.Task[None] | None = None

    async def receive(self) -> Message:
        message = await self._receive()
        if self._waiting is None and message["type"] == "http.request" and not message.get("more_body", False):
            task = asyncio.current_task()
            assert task is not None  # every request has one
            self._waiting = asyncio.create_task(self._wait(task))
        return message

    def end(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()

    async def _wait(self, task: asyncio.Task[object]) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.gone = True
        task.cancel()
