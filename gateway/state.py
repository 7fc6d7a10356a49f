"""What lives as long as the server: the configuration in force, the clients, and what is learnt on the way."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import aiohttp

from gateway.cache import DecisionCache
from gateway.config import Config, Policy, RouteLLMPolicy
from gateway.decision import Asking, TritonClient, unwatched
from gateway.forward import open_session
from gateway.limit import Load
from gateway.policy import all_targets
from gateway.share import HeldShare
from gateway.targets import Eligibility


@dataclass(frozen=True, slots=True)
class Hooks:
    """Those who watch what is asked of others, unknown to the steps that ask."""

    upstreams: Sequence[aiohttp.TraceConfig] = ()
    triton: Asking = unwatched


@dataclass(slots=True)
class State:
    """Shared by all requests. For one event loop."""

    config: Config
    """Read once by each request: a reload replaces it while requests are in hand."""
    session: aiohttp.ClientSession
    tritons: dict[str, TritonClient] = field(default_factory=dict)
    """By address; those of configurations before are kept for the requests that began with them."""
    shares: dict[str, HeldShare] = field(default_factory=dict)
    """Of the policies that hold a share of strong calls, by name."""
    cache: DecisionCache = field(default_factory=lambda: DecisionCache(0, 1.0))
    eligibility: Eligibility = field(default_factory=Eligibility)
    load: Load = field(default_factory=Load)
    decided_once: bool = False
    """Whether any decision has succeeded since the start: what readiness waits for."""
    upstream_answered: bool = False
    """Whether any upstream has answered anything since the start: readiness waits for that, too."""
    reloads: dict[str, int] = field(default_factory=lambda: {"adopted": 0, "refused": 0})
    """How often a changed configuration was adopted, or refused."""
    faults: list[str] = field(default_factory=list)
    """Of the configuration file as it is now, when it was refused."""
    hooks: Hooks = field(default_factory=Hooks)

    def adopt(self, config: Config) -> None:
        """`config` is in force from now on; requests in hand go on with the one that they began with."""
        for target in {config.triton_target(policy) for policy in config.policies.values()} - self.tritons.keys():
            self.tritons[target] = TritonClient(target, config.triton_ca_file, self.hooks.triton)
        self.shares = _held_shares(config, self.shares)
        settings = config.settings
        if (self.cache.entries, self.cache.seconds) != (settings.cache_entries, settings.cache_seconds):
            self.cache = DecisionCache(settings.cache_entries, settings.cache_seconds)
        self.eligibility.follow(all_targets(config))
        self.config = config

    def triton_of(self, policy: Policy | RouteLLMPolicy) -> TritonClient:
        return self.tritons[self.config.triton_target(policy)]

    async def close(self) -> None:
        for client in self.tritons.values():
            await client.close()


@asynccontextmanager
async def open_state(config: Config, workers: int = 1, hooks: Hooks | None = None) -> AsyncIterator[State]:
    """Clients for every Triton and upstream in `config`, closed in the end; for one of so many workers."""
    hooks = hooks or Hooks()
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(open_session(config.upstream_ca_file, hooks.upstreams))
        state = State(config, session, load=Load(workers=workers), hooks=hooks)
        stack.push_async_callback(state.close)
        state.adopt(config)
        yield state


def _held_shares(config: Config, before: dict[str, HeldShare]) -> dict[str, HeldShare]:
    """One for each policy that holds a share; what was learnt before stays with a policy that wants the same."""
    held = {}
    for name, policy in config.policies.items():
        if isinstance(policy, RouteLLMPolicy) and policy.target_strong_share is not None:
            new = HeldShare(policy.target_strong_share, policy.threshold)
            old = before.get(name, new)
            held[name] = old if (old.target, old.first) == (new.target, new.first) else new
    return held
