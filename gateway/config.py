"""The configuration file: the blueprint's `config.yaml`, checked in full before anything starts."""

import os
import re
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args
from urllib.parse import SplitResult, urlsplit

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    SecretStr,
    Tag,
    ValidationError,
)

from gateway.files import fingerprint
from gateway.labels import known_labels
from gateway.prompt import Rule
from gateway.tls import upstream_context
from gateway.traffic import Snapshot, SnapshotError, language_of, load_snapshot

_T = TypeVar("_T")
_VARIABLE = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}")
_TRITON_PATH = re.compile(r"/v2/models/(?P<model>[^/]+)(?:/versions/[^/]+)?/infer/?")
_URL_CHARACTERS = re.compile(r"[\x21-\x7e]+")
_GRPC_TARGET = re.compile(r"[^\s/]+:\d{1,5}|(dns|ipv4|ipv6|unix):[\x21-\x7e]+")
Router = Literal["mf", "bert", "causal_llm", "sw_ranking"]
"""RouteLLM's routers, each the Triton model `routellm_<router>`."""

ROUTELLM = "routellm_"
ROUTELLM_MODELS = frozenset(f"{ROUTELLM}{router}" for router in get_args(Router))
"""Their names at Triton."""
_UNCLASSIFIED = ("Unknown", "No-Label-Reason")
_LONGEST_KEY = 65_536  # no header is longer
AUTOMATIC = ("", "auto")
"""The model names that mean the default policy."""


class ConfigError(Exception):
    """The file cannot be used; `faults` has one line for each thing wrong with it."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


def _upstream_base(url: str) -> str:
    """An upstream's base without the `/v1` that both styles of configuration may or may not carry."""
    if _split(url).query:
        raise ValueError("expected a URL without a query")
    return url.rstrip("/").removesuffix("/v1").rstrip("/")


def _split(url: str) -> SplitResult:
    """The parts of an HTTP URL. Raises ValueError for anything that is none, or carries credentials or a fragment."""
    parts = urlsplit(url)  # raises ValueError for a broken IPv6 address
    if parts.scheme not in ("http", "https") or not parts.hostname or not _URL_CHARACTERS.fullmatch(url):
        raise ValueError("expected an http:// or https:// URL")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise ValueError("expected a URL without credentials or fragment; keys go into api_key")
    _ = parts.port  # raises ValueError when it is no port
    return parts


def _triton_url(url: str) -> str:
    if not _TRITON_PATH.fullmatch(_split(url).path):
        raise ValueError("expected http://HOST:PORT/v2/models/MODEL/infer")
    return url


def _grpc_host(url: str) -> str:
    host = urlsplit(url).hostname
    assert host is not None  # validated
    return f"[{host}]" if ":" in host else host


def _grpc_target(target: str) -> str:
    if not _GRPC_TARGET.fullmatch(target):
        raise ValueError("expected HOST:PORT, without a scheme")
    return target


def _ca_file(name: str) -> Path:
    upstream_context(Path(name))
    return Path(name)


def _key(value: Any) -> Any:
    """A key as it goes into a header: an empty YAML value is none, and a mounted file's last newline is no part."""
    if value is None:
        return ""
    if isinstance(value, str) and not (value := value.strip()).isprintable():
        raise ValueError("expected a key without control characters")
    return value


def _number(value: Any) -> Any:
    if isinstance(value, bool):  # which pydantic takes for 0 or 1
        raise ValueError("expected a number")
    return value


def _not_empty(items: tuple[_T, ...]) -> tuple[_T, ...]:
    # Pydantic's own min_length also complains of items that are there but wrong.
    if not items:
        raise ValueError("expected at least one")
    return items


def _names(names: tuple[str, ...]) -> tuple[str, ...]:
    if not all(name.strip() for name in names):
        raise ValueError("expected names that are not empty")
    return names


_Price = Annotated[float, BeforeValidator(_number), Field(ge=0, allow_inf_nan=False)]


class Cost(BaseModel):
    """What a model's tokens cost, in any currency, if it is the same one throughout."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: _Price = Field(description="a million tokens of prompts")
    output: _Price = Field(description="a million tokens of answers")


class Upstream(BaseModel):
    """A model, and where it is served."""

    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=())

    api_base: Annotated[str, AfterValidator(_upstream_base)] = Field(
        description="the upstream's base URL, with or without /v1"
    )
    api_key: Annotated[SecretStr, BeforeValidator(_key)] = Field(
        default=SecretStr(""), description="sent upstream as a bearer token; empty or missing: the client's own goes on"
    )
    api_key_file: Path | None = Field(
        default=None, description="a file that holds the key, in place of `api_key`: a mounted secret"
    )
    model: str = Field(min_length=1, description="the name under which the upstream serves it")
    fallbacks: Annotated[tuple[str, ...], AfterValidator(_names)] = Field(
        default=(),
        description="who answers, in this order, when this model can't: names of the policy's other llms (`strong`, "
        "`weak`), or of other models at the same `api_base`",
    )
    context_length: int | None = Field(
        default=None,
        ge=1,
        description="tokens that the model can hold, prompt and answer together: a request that is too long for it "
        "goes to the first fallback that has room",
    )
    cost: Cost | None = Field(
        default=None,
        description="what a million tokens cost, as in `{input: 0.5, output: 1.5}`: of prompts, and of answers; "
        "metrics, the log and estimates use it, and nothing is routed by it",
    )

    def beside(self, model: str) -> Self:
        """Another model that is served where this one is. Of its length, cost and fallbacks nobody said anything."""
        return self.model_copy(update={"model": model, "context_length": None, "cost": None, "fallbacks": ()})


class Llm(Upstream):
    """One label's model."""

    name: str = Field(min_length=1, description="the label that this model answers")


class BasePolicy(BaseModel):
    """What both kinds of policy have."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, description="how requests name it")
    input: Rule = Field(
        default="last_user",
        description="the text that decides: `last_user`, `first_user` (keeps a conversation on one model) "
        "or `conversation`",
    )
    timeout_ms: int = Field(default=1000, ge=1, le=60_000, description="how long a decision may take, in milliseconds")
    snapshot: Path | None = Field(
        default=None,
        description="a calibration snapshot, by its path from this file's folder: `/metrics` then shows the traffic "
        "beside it",
    )

    @property
    @abstractmethod
    def upstreams(self) -> Mapping[str, Upstream]:
        """Every model that may answer, by the name under which a request may ask for it."""

    def in_order(self, upstream: Upstream) -> tuple[Upstream, ...]:
        """`upstream` and its fallbacks, each model once.

        A fallback is one of the policy's by its name, else by its model, else a model served where `upstream` is.
        """
        if not upstream.fallbacks:
            return (upstream,)
        by_name = {each.model: each for each in self.upstreams.values()} | dict(self.upstreams)
        found = {(upstream.api_base, upstream.model): upstream}
        for name in upstream.fallbacks:
            other = by_name.get(name) or upstream.beside(name)
            found.setdefault((other.api_base, other.model), other)
        return tuple(found.values())


class Policy(BasePolicy):
    """Which Triton model decides, and which upstream model each of its labels goes to."""

    type: Literal["classification"] = Field(default="classification", description="the kind of policy")
    url: Annotated[str, AfterValidator(_triton_url)] = Field(
        description="the blueprint's form, http://HOST:PORT/v2/models/MODEL/infer; host and model are taken, "
        "and asked over gRPC"
    )
    llms: Annotated[tuple[Llm, ...], AfterValidator(_not_empty)] = Field(description="the models, one for each label")
    fallback: str | None = Field(
        default=None,
        description="the llm that answers when there is no decision, or none for its label; "
        "by default the one for `Unknown` or `No-Label-Reason`, else the first",
    )
    min_confidence: Annotated[float | None, BeforeValidator(_number)] = Field(
        default=None,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="with a likeliest label less probable than this the policy abstains, and `on_abstain` answers",
    )
    on_abstain: str | None = Field(
        default=None,
        pattern=r"\S",
        description="what answers then: an llm's name, or another model's, served where the fallback is; "
        "by default the fallback",
    )

    @property
    def triton_model(self) -> str:
        """The Triton model in `url`."""
        match = _TRITON_PATH.fullmatch(urlsplit(self.url).path)
        assert match is not None  # validated
        return match["model"]

    @property
    def triton_host(self) -> str:
        """The host in `url`, ready for a gRPC target."""
        return _grpc_host(self.url)

    @property
    def upstreams(self) -> Mapping[str, Upstream]:
        """Every model that may answer, by the name under which a request may ask for it."""
        by_name = {llm.name: llm for llm in self.llms}
        if self.on_abstain is None or self.on_abstain in by_name:
            return by_name
        return by_name | {self.on_abstain: self.abstention_llm}

    @property
    def fallback_llm(self) -> Llm:
        """The llm that answers when there is no decision."""
        by_name = {llm.name: llm for llm in self.llms}
        names = [self.fallback] if self.fallback else _UNCLASSIFIED
        return next((by_name[name] for name in names if name in by_name), self.llms[0])

    @property
    def abstention_llm(self) -> Llm:
        """The llm that answers when the decision is not confident enough."""
        if self.on_abstain is None:
            return self.fallback_llm
        by_name = {llm.model: llm for llm in self.llms} | {llm.name: llm for llm in self.llms}
        return by_name.get(self.on_abstain) or self.fallback_llm.beside(self.on_abstain)

    def llms_by_label(self, labels: tuple[str, ...]) -> dict[str, Llm]:
        """The llm of each label of the Triton model.

        By name when every llm's name is a label; by position, as the blueprint does, when none is and the numbers
        agree. Raises ValueError, naming the llm, for anything between.
        """
        known = frozenset(labels)
        named = [llm for llm in self.llms if llm.name in known]
        if len(named) == len(self.llms):
            return {llm.name: llm for llm in self.llms}
        if not named and len(self.llms) == len(labels):
            return dict(zip(labels, self.llms, strict=True))
        stranger = next(llm for llm in self.llms if llm.name not in known)
        raise ValueError(f"llm {stranger.name!r} is no label of model {self.triton_model!r} ({', '.join(labels)})")


class RouteLLMPolicy(BasePolicy):
    """A strong and a weak model: the strong one answers when its win rate, by RouteLLM, reaches the threshold."""

    type: Literal["routellm"] = Field(description="the kind of policy")
    router: Router = Field(default="mf", description="RouteLLM's router: `mf`, `bert`, `causal_llm` or `sw_ranking`")
    strong: Upstream = Field(description="the strong model: `api_base`, `api_key`, `model`, as in an llm")
    weak: Upstream = Field(description="the weak model, likewise")
    threshold: Annotated[float, BeforeValidator(_number)] = Field(
        ge=0, le=1, allow_inf_nan=False, description="a win rate of this much or more goes to the strong model"
    )
    target_strong_share: Annotated[float | None, BeforeValidator(_number)] = Field(
        default=None,
        gt=0,
        lt=1,
        allow_inf_nan=False,
        description="the share of decisions for the strong model: the threshold then follows the traffic, "
        "from `threshold` on",
    )
    url: Annotated[str, AfterValidator(_triton_url)] | None = Field(
        default=None,
        description="where Triton is, in the blueprint's form; the host alone is taken (`localhost` when missing)",
    )
    fallback: str = Field(
        default="strong",
        pattern=r"\S",
        description="what answers when there is no decision: `strong`, `weak`, or another model's name, "
        "served where the strong one is",
    )

    @property
    def triton_model(self) -> str:
        """The Triton model of the router."""
        return f"{ROUTELLM}{self.router}"

    @property
    def triton_host(self) -> str:
        """The host in `url`, ready for a gRPC target."""
        return _grpc_host(self.url) if self.url else "localhost"

    @property
    def upstreams(self) -> Mapping[str, Upstream]:
        """Every model that may answer, by the name under which a request may ask for it."""
        return {"strong": self.strong, "weak": self.weak, self.fallback: self.fallback_llm}

    @property
    def fallback_llm(self) -> Upstream:
        """The model that answers when there is no decision."""
        by_name = {self.weak.model: self.weak, self.strong.model: self.strong, "strong": self.strong, "weak": self.weak}
        named = by_name.get(self.fallback)
        return named or self.strong.beside(self.fallback)


def _kind(value: Any) -> str | None:
    if not isinstance(value, dict):
        return "classification"  # whose own complaint is the clearer one
    kind = value.get("type", "classification")
    return kind if isinstance(kind, str) else None


AnyPolicy = Annotated[
    Annotated[Policy, Tag("classification")] | Annotated[RouteLLMPolicy, Tag("routellm")],
    Discriminator(
        _kind,
        custom_error_type="policy_type",
        custom_error_message="type: expected 'classification' or 'routellm'",
    ),
]


_Seconds = Annotated[float, BeforeValidator(_number), Field(gt=0, le=86_400, allow_inf_nan=False)]


class Settings(BaseModel):
    """Bounds of the gateway itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_requests: int = Field(
        default=2048, ge=1, description="requests answered at once, running streams included; 429 beyond"
    )
    connect_seconds: _Seconds = Field(default=5.0, description="how long connecting to an upstream may take")
    silence_seconds: _Seconds = Field(
        default=600.0, description="how long an upstream may be silent, before its answer and within it"
    )
    answer_seconds: _Seconds = Field(default=3600.0, description="how long an answer may take in all; it is cut then")
    cache_entries: int = Field(
        default=10_000, ge=0, le=10_000_000, description="decisions remembered, by a hash of the prompt; 0: none"
    )
    cache_seconds: _Seconds = Field(default=300.0, description="how long a decision is remembered")
    playground: bool = Field(default=True, description="whether `/` is a page to try the router in a browser")


class File(BaseModel):
    """The file's top level."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    default_policy: str | None = Field(default=None, description="the policy of requests that name none; the first")
    policies: Annotated[tuple[AnyPolicy, ...], AfterValidator(_not_empty)] = Field(description="the policies")
    gateway: Settings = Field(default=Settings(), description="bounds of the gateway itself")


@dataclass(frozen=True)
class Config:
    """A checked configuration and what its environment adds."""

    default_policy: Policy | RouteLLMPolicy
    policies: Mapping[str, Policy | RouteLLMPolicy]
    upstream: str | None
    """`DYNAMO_API_BASE`: where models that no llm names go."""
    triton_grpc_url: str | None
    """`TRITON_GRPC_URL`: host:port in place of every policy's own."""
    warnings: tuple[str, ...]
    settings: Settings = Settings()
    files: Mapping[Path, bytes] = field(default_factory=dict)
    """What it was read from, key files and snapshots too, with their fingerprints."""
    snapshots: Mapping[str, Snapshot] = field(default_factory=dict)
    """What the traffic of a policy is compared with, by the policy's name."""
    upstream_ca_file: Path | None = None
    """`UPSTREAM_CA_FILE`: authorities that upstreams' certificates may come from, besides the system's."""
    triton_ca_file: Path | None = None
    """`TRITON_CA_FILE`: the authorities of Triton's certificate; without it gRPC is not encrypted."""

    def triton_target(self, policy: Policy | RouteLLMPolicy) -> str:
        """Where `policy`'s Triton listens for gRPC."""
        return self.triton_grpc_url or f"{policy.triton_host}:8001"

    def redacted(self) -> dict[str, Any]:
        """The configuration in force, for people: keys never leave."""
        policies = []
        for policy in self.policies.values():
            shown = policy.model_dump(mode="json")
            if isinstance(policy, RouteLLMPolicy):
                shown |= {name: _redacted(getattr(policy, name)) for name in ("strong", "weak")}
            else:
                shown["llms"] = [_redacted(llm) for llm in policy.llms]
            policies.append(shown)
        return {
            "default_policy": self.default_policy.name,
            "policies": policies,
            "gateway": self.settings.model_dump(mode="json"),
            "upstream": self.upstream,
            "triton_grpc_url": self.triton_grpc_url,
            "upstream_ca_file": self.upstream_ca_file and str(self.upstream_ca_file),
            "triton_ca_file": self.triton_ca_file and str(self.triton_ca_file),
        }


def _redacted(upstream: Upstream) -> dict[str, Any]:
    shown = upstream.model_dump(mode="json")
    for key in upstream.model_extra or ():  # unknown keys may hold anything
        shown[key] = "[REDACTED]" if shown[key] else shown[key]
    return shown | {"api_key": "[REDACTED]" if upstream.api_key.get_secret_value() else ""}


def load_config(path: Path, environ: Mapping[str, str] = os.environ) -> Config:
    """Read, expand and check a configuration file.

    Raises ConfigError with every fault that can be found in one go.
    """
    files = {path: fingerprint(path)}
    tree = read_yaml(path)
    unset: dict[str, list[str]] = {}
    try:
        tree = _expand(tree, environ, "", unset)
    except RecursionError:
        raise ConfigError([f"{path}: is nested too deeply, or an alias refers to itself"]) from None
    faults, warnings = _judge_unset(unset)
    _read_key_files(tree, files, faults)
    _leave_out_notes(tree, warnings)
    try:
        file = File.model_validate(tree)
    except ValidationError as error:
        emptied = {place for places in unset.values() for place in places}
        details = error.errors(include_input=False, include_url=False)
        faults += [fault for place, fault in map(_fault, details) if place not in emptied]
        raise ConfigError([f"{path}: {fault}" for fault in faults]) from None
    faults += _check_names(file)
    snapshots = _load_snapshots(file, path.parent, files, faults, warnings)
    for index, policy in enumerate(file.policies):
        if isinstance(policy, RouteLLMPolicy):
            _check_routellm(policy, f"policies[{index}]", faults, warnings)
        else:
            _check_llms(policy, f"policies[{index}]", faults, warnings)
        warnings += _cost_warnings(policy, f"policies[{index}]")
    upstream = _variable(environ, "DYNAMO_API_BASE", _upstream_base, faults)
    triton_grpc_url = _variable(environ, "TRITON_GRPC_URL", _grpc_target, faults)
    upstream_ca_file = _variable(environ, "UPSTREAM_CA_FILE", _ca_file, faults)
    triton_ca_file = _variable(environ, "TRITON_CA_FILE", _ca_file, faults)
    if faults:
        raise ConfigError([f"{path}: {fault}" for fault in faults])
    policies = {policy.name: policy for policy in file.policies}
    return Config(
        default_policy=policies[file.default_policy or file.policies[0].name],
        policies=policies,
        upstream=upstream,
        triton_grpc_url=triton_grpc_url,
        settings=file.gateway,
        files=files,
        snapshots=snapshots,
        upstream_ca_file=upstream_ca_file,
        triton_ca_file=triton_ca_file,
        warnings=tuple(f"{path}: {warning}" for warning in dict.fromkeys(warnings)),
    )


def _variable(environ: Mapping[str, str], name: str, check: Callable[[str], _T], faults: list[str]) -> _T | None:
    """A checked environment variable, or None when it is unset or empty."""
    if not (value := environ.get(name)):
        return None
    try:
        return check(value)
    except ValueError as error:
        faults.append(f"environment variable {name}: {error}")
        return None


class _Loader(yaml.SafeLoader):
    """YAML as PyYAML reads it, with a key that stands twice refused instead of lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> Any:
    """A file's YAML, nothing expanded yet. Raises ConfigError when it can't be read or is none."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from None
    except UnicodeDecodeError:
        raise ConfigError([f"{path}: is not valid UTF-8"]) from None
    except yaml.MarkedYAMLError as error:  # its own text quotes the line, which may hold a key
        place = error.problem_mark or error.context_mark
        where = f"line {place.line + 1}, column {place.column + 1}: " if place else ""
        raise ConfigError([f"{path}: is not valid YAML: {where}{error.problem or error.context}"]) from None
    except yaml.YAMLError as error:
        raise ConfigError([f"{path}: is not valid YAML: {type(error).__name__}"]) from None
    except (RecursionError, ValueError, TypeError) as error:  # too deep; a date that is none; an unhashable key
        raise ConfigError([f"{path}: is not valid YAML: {type(error).__name__}: {error}"]) from None


def _expand(node: Any, environ: Mapping[str, str], place: str, unset: dict[str, list[str]]) -> Any:
    """Replace `${VAR}` and `${VAR:-default}` in every string value, noting in `unset` what has neither.

    After parsing, so that a value can't become structure.
    """
    if isinstance(node, dict):
        return {
            key: _expand(value, environ, f"{place}.{key}" if place else str(key), unset) for key, value in node.items()
        }
    if isinstance(node, list):
        return [_expand(item, environ, f"{place}[{index}]", unset) for index, item in enumerate(node)]
    if not isinstance(node, str):
        return node

    def replace(match: re.Match[str]) -> str:
        value = environ.get(match["name"])
        if not value and match["default"] is not None:  # as a shell's :- does
            return match["default"]
        if value is None:
            unset.setdefault(match["name"], []).append(place)
        return value or ""

    return _VARIABLE.sub(replace, node)


def _read_key_files(tree: Any, files: dict[Path, bytes], faults: list[str]) -> None:
    """Puts the content of each `api_key_file` in `tree` where its `api_key` would stand, and notes the file."""
    for place, upstream in _upstreams_in(tree):
        name = upstream.get("api_key_file")
        if not isinstance(name, str):
            continue  # missing, or a fault of another kind
        if upstream.get("api_key"):
            faults.append(f"{place}.api_key_file: there is an api_key, too; expected one of them")
            continue
        path = Path(name)
        files[path] = fingerprint(path)
        try:
            with path.open(encoding="utf-8") as file:
                upstream["api_key"] = file.read(_LONGEST_KEY).strip()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "is not valid UTF-8"
            faults.append(f"{place}.api_key_file: {name} cannot be read: {reason}")
            continue
        if not upstream["api_key"]:
            faults.append(f"{place}.api_key_file: {name} is empty")


def _leave_out_notes(tree: Any, warnings: list[str]) -> None:
    """Takes each `cost` out of `tree` that is a note of somebody's own, from before the key meant anything."""
    for place, upstream in _upstreams_in(tree):
        if upstream.get("cost") is not None and not isinstance(upstream["cost"], dict):
            del upstream["cost"]
            warnings.append(f"{place}.cost: not {{input, output}}: ignored")


def _upstreams_in(tree: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object of an unchecked file that would be an llm, a strong or a weak model, and its place."""
    policies = tree.get("policies") if isinstance(tree, dict) else None
    for index, policy in enumerate(policies if isinstance(policies, list) else ()):
        if not isinstance(policy, dict):
            continue
        llms = policy.get("llms")
        named = {f"llms[{number}]": llm for number, llm in enumerate(llms if isinstance(llms, list) else ())}
        for name, upstream in (named | {"strong": policy.get("strong"), "weak": policy.get("weak")}).items():
            if isinstance(upstream, dict):
                yield f"policies[{index}].{name}", upstream


def _judge_unset(unset: Mapping[str, list[str]]) -> tuple[list[str], list[str]]:
    """Faults and warnings, one for each variable: an api_key may stay empty, nothing else may."""
    faults, warnings = [], []
    for name, places in unset.items():
        needed = [place for place in places if not place.endswith(".api_key")]
        if needed:
            others = f" and {len(needed) - 1} more" if len(needed) > 1 else ""
            faults.append(f"{needed[0]}{others}: environment variable {name} is not set")
        else:
            warnings.append(f"environment variable {name} is not set: requests go upstream without that api_key")
    return faults, warnings


def _fault(detail: Any) -> tuple[str, str]:
    """A fault of pydantic's: the key's path, and one line with what was expected there."""
    path = detail["loc"]
    if len(path) > 2 and path[0] == "policies":  # the third part is the kind of policy, which no file spells there
        path = path[:2] + path[3:]
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
    message = {"extra_forbidden": "unknown key", "missing": "missing"}.get(detail["type"], detail["msg"])
    message = message.removeprefix("Value error, ")
    return place, f"{place}: {message}" if place else message


def _load_snapshots(
    file: File, folder: Path, files: dict[Path, bytes], faults: list[str], warnings: list[str]
) -> dict[str, Snapshot]:
    """The snapshot of each policy that has one, by the policy's name; notes their files."""
    snapshots = {}
    for index, policy in enumerate(file.policies):
        if policy.snapshot is None:
            continue
        path = folder / policy.snapshot
        files[path] = fingerprint(path)
        try:
            snapshot = snapshots[policy.name] = load_snapshot(path)
        except SnapshotError as error:
            faults += [f"policies[{index}].snapshot: {fault}" for fault in error.faults]
            continue
        if snapshot.doubt is not None:
            warnings.append(f"policies[{index}].snapshot: {path}: {snapshot.doubt}")
    if snapshots:
        language_of("")  # what tells languages is loaded now, and not while a request waits
    return snapshots


def _check_names(file: File) -> list[str]:
    faults = []
    names = [policy.name for policy in file.policies]
    for index, name in enumerate(names):
        if name in names[:index]:
            faults.append(f"policies[{index}].name: policy {name!r} is defined twice")
        if name in AUTOMATIC:
            faults.append(f"policies[{index}].name: {name!r} means the default policy, and cannot name one")
    if file.default_policy and file.default_policy not in names:
        faults.append(f"default_policy: there is no policy {file.default_policy!r}; there are {', '.join(names)}")
    return faults


def _check_routellm(policy: RouteLLMPolicy, place: str, faults: list[str], warnings: list[str]) -> None:
    for name in ("strong", "weak"):
        unknown = getattr(policy, name).model_extra or ()
        warnings += [f"{place}.{name}.{key}: unknown key, ignored" for key in unknown]
    if policy.target_strong_share is not None and policy.input == "first_user":
        faults.append(
            f"{place}.target_strong_share: moves the threshold, and 'input: first_user' needs a fixed one "
            "to keep a conversation on one model"
        )


def _cost_warnings(policy: Policy | RouteLLMPolicy, place: str) -> Iterator[str]:
    costs: dict[tuple[str, str], Cost | None] = {}
    names: dict[tuple[str, str], str] = {}
    for name, upstream in policy.upstreams.items():
        for each in policy.in_order(upstream):
            model = (each.api_base, each.model)
            costs.setdefault(model, each.cost)
            names.setdefault(model, name if each is upstream else each.model)
    without = [names[model] for model, cost in costs.items() if cost is None]
    if 0 < len(without) < len(costs):
        yield f"{place}: policy {policy.name!r} has no cost for {', '.join(without)}: what they take is not counted"


def _check_llms(policy: Policy, place: str, faults: list[str], warnings: list[str]) -> None:
    names = [llm.name for llm in policy.llms]
    for index, llm in enumerate(policy.llms):
        if llm.name in names[:index]:
            faults.append(f"{place}.llms[{index}].name: {llm.name!r} is defined twice in policy {policy.name!r}")
        warnings += [f"{place}.llms[{index}].{key}: unknown key, ignored" for key in llm.model_extra or ()]
    if policy.fallback and policy.fallback not in names:
        faults.append(f"{place}.fallback: policy {policy.name!r} has no llm {policy.fallback!r}")
    _check_on_abstain(policy, place, faults, warnings)
    if policy.triton_model in ROUTELLM_MODELS:
        faults.append(f"{place}.url: {policy.triton_model} answers with a win rate; expected 'type: routellm'")
    labels = known_labels(policy.triton_model)
    if labels is None:
        return
    try:
        by_label = policy.llms_by_label(labels)
    except ValueError as error:
        faults.append(f"{place}.llms: policy {policy.name!r}: {error}")
        return
    warnings.extend(_label_warnings(policy, place, labels, by_label))


def _check_on_abstain(policy: Policy, place: str, faults: list[str], warnings: list[str]) -> None:
    name = policy.on_abstain
    if name is None:
        return
    if policy.min_confidence is None:
        faults.append(f"{place}.on_abstain: policy {policy.name!r} never abstains; expected a min_confidence, too")
    if any(name in (llm.name, llm.model) for llm in policy.llms):
        return
    if name in (known_labels(policy.triton_model) or ()):
        faults.append(f"{place}.on_abstain: {name!r} is a label, and no llm of policy {policy.name!r}")
    else:
        warnings.append(f"{place}.on_abstain: {name!r} is no llm: taken as a model at {policy.fallback_llm.api_base}")


def _label_warnings(policy: Policy, place: str, labels: tuple[str, ...], by_label: Mapping[str, Llm]) -> Iterator[str]:
    if not any(llm.name in labels for llm in policy.llms):
        yield (
            f"{place}.llms: policy {policy.name!r}: no llm is named after a label of {policy.triton_model!r}; "
            "they are taken in the labels' order"
        )
    missing = [label for label in labels if label not in by_label]
    if missing:
        yield (
            f"{place}.llms: policy {policy.name!r} has no llm for {', '.join(missing)}; "
            f"the fallback {policy.fallback_llm.name!r} answers"
        )
