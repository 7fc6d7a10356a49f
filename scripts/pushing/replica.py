"""One Triton that serves from the volume, asked over gRPC: a load over HTTP would keep its inferences waiting."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

from scripts.pushing.errors import PushError, ReplicaBusy, ReplicaGone

Answer = Mapping[str, NDArray[Any]]

LOAD_SECONDS = 900.0  # gigabytes from a network volume
_ANSWER_SECONDS = 60.0
_CALL_SECONDS = 15.0
_GONE = {"StatusCode.UNAVAILABLE", "StatusCode.DEADLINE_EXCEEDED", "StatusCode.CANCELLED"}
_BATCH = 32
_RESTRICTED = "protocol is restricted"
# A proxy that the environment names is for elsewhere; long texts and large batches are nothing special here.
_CHANNEL_ARGUMENTS = [
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
]


class Replica:
    """`name` is what it is called in messages; `headers` go with what is asked about models, and not with prompts."""

    def __init__(self, name: str, url: str, headers: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.url = url
        self.headers = dict(headers or {})
        self._client = InferenceServerClient(url, channel_args=_CHANNEL_ARGUMENTS)

    def close(self) -> None:
        self._client.close()

    def is_live(self) -> bool:
        try:
            return bool(self._client.is_server_live(client_timeout=_CALL_SECONDS))
        except InferenceServerException:
            return False

    def versions(self, model: str) -> dict[int, tuple[str, str]]:
        """State and reason of each version of a model that it has ever loaded."""
        index = self._control("its index", self._client.get_model_repository_index, client_timeout=_CALL_SECONDS)
        return {
            int(each.version): (each.state, each.reason)
            for each in index.models
            if each.name == model and each.version.isdigit()
        }

    def served(self, model: str) -> int | None:
        """The highest version that it answers with."""
        ready = [version for version, (state, _) in self.versions(model).items() if state == "READY"]
        return max(ready, default=None)

    def load(self, model: str) -> None:
        """Makes it read the model's folder; what is served goes on meanwhile."""
        self._control(f"a load of {model}", self._client.load_model, model, client_timeout=LOAD_SECONDS)

    def unload(self, model: str) -> None:
        self._control(f"an unload of {model}", self._client.unload_model, model, client_timeout=_CALL_SECONDS)

    def settle(self, model: str) -> None:
        """Waits until it is not busy with the model: nobody may touch a folder that is read."""
        deadline = time.monotonic() + LOAD_SECONDS
        while any(state in ("LOADING", "UNLOADING") for state, _ in self.versions(model).values()):
            if time.monotonic() > deadline:
                raise ReplicaBusy(f"{self.name} is still busy with {model}")
            time.sleep(0.1)

    def ask(self, model: str, prompts: Sequence[str], most: int) -> list[Answer]:
        """All outputs for each prompt, in their order; `most` is the model's max_batch_size."""
        batched, size = most > 0, max(1, min(most, _BATCH))
        answers: list[Answer] = []
        for start in range(0, len(prompts), size):
            rows = prompts[start : start + size]
            # A lone surrogate, which JSON can carry, has no UTF-8: it becomes a question mark, as in the gateway.
            texts = np.array([text.encode(errors="replace") for text in rows], dtype=np.object_)
            tensor = InferInput("INPUT", [len(rows), 1] if batched else [1], "BYTES")
            tensor.set_data_from_numpy(texts.reshape(-1, 1) if batched else texts)
            result = self._call(
                f"a prompt to {model}", self._client.infer, model, [tensor], client_timeout=_ANSWER_SECONDS
            )
            outputs = {each.name: result.as_numpy(each.name) for each in result.get_response().outputs}
            answers += [
                {name: values[row] if batched else values for name, values in outputs.items()}
                for row in range(len(rows))
            ]
        return answers

    def _control(self, what: str, function: Any, *arguments: Any, **options: Any) -> Any:
        return self._call(what, function, *arguments, headers=self.headers, **options)

    def _call(self, what: str, function: Any, *arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options)
        except InferenceServerException as error:
            text = shorten(error.message())
            if _RESTRICTED in text:  # it says that as if it were not there
                raise PushError(
                    f"{self.name} refuses {what}: its model control is for those who know its token"
                ) from None
            if str(error.status()) in _GONE:
                raise ReplicaGone(f"{self.name} does not answer {what} ({text})") from None
            raise PushError(f"{self.name} refuses {what}: {text}") from None


def shorten(message: str) -> str:
    """One line of what Triton says, without the Python frames that follow the reason."""
    text = " ".join(re.split(r"\n\s*\n?At:", message)[0].split())
    return text if len(text) <= 400 else f"{text[:397]}..."
