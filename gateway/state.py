"""What lives as long as the server: the configuration and the clients, made in the lifespan."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import aiohttp

from gateway.config import Config, Policy, RouteLLMPolicy
from gateway.decision import TritonClient
from gateway.forward import open_session
from gateway.share import HeldShare


@dataclass(slots=True)
class State:
    """Shared by all requests."""

    config: Config
    session: aiohttp.ClientSession
    tritons: dict[str, TritonClient]
    shares: dict[str, HeldShare]
    """Of the policies that hold a share of strong calls, by name."""
    decided_once: bool = False
    """Whether any decision has succeeded since the start: what readiness waits for."""

    def triton_of(self, policy: Policy | RouteLLMPolicy) -> TritonClient:
        return self.tritons[self.config.triton_target(policy)]


@asynccontextmanager
async def open_state(config: Config) -> AsyncIterator[State]:
    """Clients for every Triton and upstream in `config`, closed in the end."""
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(open_session(config.upstream_ca_file))
        tritons = {}
        for target in {config.triton_target(policy) for policy in config.policies.values()}:
            tritons[target] = TritonClient(target, config.triton_ca_file)
            stack.push_async_callback(tritons[target].close)
        yield State(config, session, tritons, _held_shares(config))


def _held_shares(config: Config) -> dict[str, HeldShare]:
    return {
        name: HeldShare(policy.target_strong_share, policy.threshold)
        for name, policy in config.policies.items()
        if isinstance(policy, RouteLLMPolicy) and policy.target_strong_share is not None
    }
