"""Dynamo on one machine: the real frontend and a worker for each model, without etcd and NATS.

The demo's workers are mockers, engines that answer with nonsense tokens and need neither GPU nor weights.
"""

import itertools
import json
import os
import re
import shlex
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from scripts.local.process import Process, StartError, fetch, require_running, wait_until

_CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_SPECIAL_TOKENS = ("<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
_DISCOVERY = ("--discovery-backend", "file")
_VOCABULARY_SIZE = 4096  # the mocker draws its tokens at random from ids in the low thousands


@dataclass(frozen=True)
class Command:
    """What one process runs, and what it has in its environment besides this one's."""

    name: str
    words: tuple[str, ...]
    environ: Mapping[str, str]

    def shell(self) -> str:
        """As a person would type it."""
        assignments = [f"{name}={shlex.quote(value)}" for name, value in self.environ.items()]
        return " \\\n  ".join([*assignments, shlex.join(self.words)])


class Dynamo:
    """The frontend and one worker for each model, on loopback; they find each other through files under `folder`."""

    def __init__(self, port: int, frontend: Command, workers: Mapping[str, Command], folder: Path) -> None:
        self.port = port
        self.models = tuple(workers)
        self.commands = (frontend, *workers.values())
        self.processes: list[Process] = []
        self._folder = folder

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start all processes; `wait` then waits for them."""
        discovery = _discovery(self._folder)
        if discovery.exists():  # what an earlier run registered is gone
            for path in sorted(discovery.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
        discovery.mkdir(parents=True, exist_ok=True)
        for command in self.commands:
            log = self._folder / "logs" / (re.sub(r"[^\w.-]", "_", command.name) + ".log")
            self.processes.append(Process(command.name, command.words, os.environ | command.environ, log))

    def wait(self, seconds: float = 180.0) -> None:
        """Until each model has answered one request: being listed comes earlier than being routable.

        Raises StartError when a process ends or time runs out.
        """
        for model, process in zip(self.models, self.processes[1:], strict=True):
            wait_until(lambda model=model: self._answers(model), process, seconds)  # type: ignore[misc]

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.stop(grace=5)
        self.processes.clear()

    def _answers(self, model: str) -> bool:
        require_running(self.processes)
        if model not in self._listed():
            return False
        body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
        return fetch(f"{self.url}/v1/chat/completions", 10, json.dumps(body).encode()) is not None

    def _listed(self) -> list[str]:
        answer = fetch(f"{self.url}/v1/models", 10)
        return [model["id"] for model in json.loads(answer)["data"]] if answer else []


class DemoDynamo(Dynamo):
    """A Dynamo of mockers, without GPU and weights.

    `speedup` scales the simulated engine: 1.0 answers at about a GPU's pace. The frontend listens on `host`. `environ`:
    more of all its processes' environment.
    """

    def __init__(
        self,
        port: int,
        models: Iterable[str],
        folder: Path,
        speedup: float = 1.0,
        host: str = "127.0.0.1",
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._hub = folder / "hub"
        environ = {"HF_HUB_CACHE": str(self._hub), "HF_HUB_OFFLINE": "1", **(environ or {})}
        mockers = {}
        for index, model in enumerate(dict.fromkeys(models)):
            words = ["--model-path", model, "--speedup-ratio", str(speedup)]
            name, component = f"dynamo-{model}", f"model{index}"
            mockers[model] = worker_command(name, "dynamo.mocker", component, words, folder, environ)
        environ |= {"DYN_ENABLE_ANTHROPIC_API": "true"}  # /v1/messages, which the frontend leaves out by default
        super().__init__(port, frontend_command(port, folder, environ, host=host), mockers, folder)

    def start(self) -> None:
        for model in self.models:
            write_model_files(self._hub, model)
        super().start()


def frontend_command(
    port: int, folder: Path, environ: Mapping[str, str], python: str = sys.executable, host: str = "127.0.0.1"
) -> Command:
    """Dynamo's OpenAI endpoint on `host`; `python` is one that has the package ai-dynamo."""
    words = (python, "-m", "dynamo.frontend", "--http-host", host, "--http-port", str(port), *_DISCOVERY)
    return Command("dynamo-frontend", words, {**_environ(folder), **environ})


def worker_command(
    name: str,
    module: str,
    component: str,
    words: Iterable[str],
    folder: Path,
    environ: Mapping[str, str],
    python: str = sys.executable,
) -> Command:
    """A worker on an endpoint of its own, named by `component`: two models on one endpoint are silently mixed."""
    endpoint = f"dyn://dynamo.{component}.generate"
    command = (python, "-m", module, *words, "--endpoint", endpoint, *_DISCOVERY)
    return Command(name, command, {**_environ(folder), **environ})


def _environ(folder: Path) -> dict[str, str]:
    """How frontend and workers find each other: files under `folder`, and loopback."""
    sockets = folder / "sockets"
    return {
        "DYN_FILE_KV": str(_discovery(folder)),
        "DYN_TCP_RPC_HOST": "127.0.0.1",
        "DYN_TCP_RESPONSE_STREAM_HOST": "lo",  # an interface, not an address
        # Without a broker each worker publishes its cache events on 0.0.0.0. Nobody subscribes to them here (the
        # frontend deals requests out in turn), so they go to a broker that does not exist.
        "DYN_ZMQ_BROKER_URL": f"xsub=ipc://{sockets}/xsub , xpub=ipc://{sockets}/xpub",
    }


def _discovery(folder: Path) -> Path:
    return folder / "discovery"


def write_model_files(cache: Path, model: str) -> None:
    """Lay out `model` in a Hugging Face cache as far as Dynamo reads it: config, tokenizer, chat template.

    Raises StartError for a name that is no hub name.
    """
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", model):
        raise StartError(f"the demo Dynamo cannot serve a model named {model!r}: not a Hugging Face name")
    folder = cache / f"models--{model.replace('/', '--')}"
    snapshot = folder / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True, exist_ok=True)
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / "main").write_text("0" * 40)
    tokenizer = _tokenizer()
    tokenizer.save(str(snapshot / "tokenizer.json"))
    end = tokenizer.token_to_id("<|end|>")
    (snapshot / "chat_template.jinja").write_text(_CHAT_TEMPLATE)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "vocab_size": tokenizer.get_vocab_size(),
        "max_position_embeddings": 131072,
        "bos_token_id": end,
        "eos_token_id": end,
    }
    (snapshot / "config.json").write_text(json.dumps(config))
    (snapshot / "generation_config.json").write_text(json.dumps({"bos_token_id": end, "eos_token_id": end}))
    tokenizer_config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>", "bos_token": "<|end|>"}
    (snapshot / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))


def _tokenizer() -> Tokenizer:
    """Reads any text byte by byte; its other tokens are pronounceable nonsense for the mocker to answer with."""
    syllables = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
    words = ("\u0120" + "".join(pair) for pair in itertools.product(syllables, repeat=2))  # U+0120: byte-level space
    tokens = [*_SPECIAL_TOKENS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokens += itertools.islice(words, _VOCABULARY_SIZE - len(tokens))
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges=[]))
    tokenizer.add_special_tokens(list(_SPECIAL_TOKENS))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer
