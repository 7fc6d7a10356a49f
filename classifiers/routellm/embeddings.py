"""Embeddings of texts from an OpenAI-compatible endpoint: what RouteLLM's published `mf` and `sw_ranking` read.

Over urllib3, whose Retry knows Retry-After: it is imported in a tenth of the time of the `openai` package, is a
twentieth of its size, and tritonclient needs it anyway.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import urllib3
from numpy.typing import NDArray

DEFAULT_BASE_URL = "https://api.openai.com/v1"
DEFAULT_MODEL = "text-embedding-3-small"  # whose vectors RouteLLM's published weights were trained on

# A request of OpenAI's may hold 2048 texts and 300,000 tokens, and a text 8,191 tokens. A token is at least one byte.
_MOST_TEXTS = 64
_MOST_BYTES = 300_000
_MOST_TEXT_BYTES = 8_191

# A prompt waits for this: three tries take at most about a minute.
_TIMEOUT = urllib3.Timeout(connect=5, read=10)
_RETRIES = 2
_LONGEST_WAIT_SECONDS = 5
_RETRIED = (408, 429, 500, 502, 503, 504)

_TOO_LONG = (400, 413)
_STAND_IN = "."
_ERROR_CODE = re.compile(r"[a-z][a-z0-9_]{0,63}")


class EmbeddingsError(Exception):
    """One line: which endpoint, and what is wrong with its settings or its answer. Never a key, never a prompt."""


class EmbeddingsEndpoint:
    """POST {base_url}/embeddings. May be used by several threads at once.

    A failed connection and the statuses 408, 429, 500, 502, 503 and 504 are tried again, twice, after what Retry-After
    says, but at most five seconds.
    """

    def __init__(self, base_url: str, key: str, model: str) -> None:
        """Asks for one embedding, to learn `dimensions` and that address, key and model are right.

        Raises EmbeddingsError: they are not, or the endpoint gives no embedding.
        """
        self._url = _embeddings_url(base_url)
        # http.client puts a header that it refuses into its error, and this one holds the key.
        if not re.fullmatch(r"[!-~]+", key):
            raise EmbeddingsError("OPENAI_API_KEY should be printable ASCII without spaces")
        self._model = model
        self._pool = urllib3.PoolManager(
            headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
            timeout=_TIMEOUT,
            retries=urllib3.Retry(
                total=_RETRIES,
                redirect=False,
                allowed_methods=None,  # asking again for an embedding does no harm, POST or not
                status_forcelist=_RETRIED,
                raise_on_status=False,
                backoff_factor=0.5,
                backoff_max=_LONGEST_WAIT_SECONDS,
                retry_after_max=_LONGEST_WAIT_SECONDS,
            ),
        )
        self.dimensions: int = self._request([_STAND_IN], None).shape[1]

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> EmbeddingsEndpoint:
        """The endpoint at OPENAI_BASE_URL (OpenAI's own when it is unset or empty), with the key in OPENAI_API_KEY and
        the model in ROUTELLM_EMBEDDING_MODEL (text-embedding-3-small).

        Raises EmbeddingsError: the key is unset, or what the constructor raises.
        """
        key = environ.get("OPENAI_API_KEY")
        if not key:
            raise EmbeddingsError(
                "OPENAI_API_KEY is unset and should be the embeddings endpoint's key (any word if none)"
            )
        base_url = environ.get("OPENAI_BASE_URL") or DEFAULT_BASE_URL
        return cls(base_url, key, environ.get("ROUTELLM_EMBEDDING_MODEL") or DEFAULT_MODEL)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The embeddings [N, dimensions] of the texts, as the endpoint gives them.

        OpenAI refuses an empty text, and with it the whole request (RouteLLM fails on it): a blank one is sent as a
        full stop. It refuses a text of more than 8,191 tokens as well: when a request is refused, its texts of more
        than 8,191 bytes are cut to their head and tail, and it is sent once more.

        Raises EmbeddingsError: the endpoint can't be reached, or answers anything but the embeddings.
        """
        parts = [self._embed(part) for part in _parts([text if text.strip() else _STAND_IN for text in texts])]
        return np.concatenate([np.empty((0, self.dimensions), dtype=np.float32), *parts])

    def _embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        try:
            return self._request(texts, self.dimensions)
        except _RefusedError:
            shorter = [_cut(text) for text in texts]
            if shorter == texts:
                raise
        return self._request(shorter, self.dimensions)

    def _request(self, texts: Sequence[str], dimensions: int | None) -> NDArray[np.float32]:
        body = json.dumps({"input": texts, "model": self._model, "encoding_format": "base64"}).encode()
        try:
            response = self._pool.request("POST", self._url, body=body)
        except urllib3.exceptions.MaxRetryError as error:
            raise EmbeddingsError(f"{self._url} can't be reached ({type(error.reason).__name__})") from None
        except urllib3.exceptions.HTTPError as error:
            raise EmbeddingsError(f"{self._url} can't be asked ({type(error).__name__})") from None
        if response.status != 200:
            fault = _RefusedError if response.status in _TOO_LONG else EmbeddingsError
            raise fault(
                f"{self._url} answered {response.status}{_error_code(response.data)} "
                f"when asked for embeddings by {self._model}"
            )
        try:
            return _read_embeddings(response.data, len(texts), dimensions)
        except ValueError as error:
            raise EmbeddingsError(f"{self._url} answered {error}") from None


class _RefusedError(EmbeddingsError):
    """The endpoint does not take these texts: it may take shorter ones."""


def _embeddings_url(base_url: str) -> str:
    try:
        url = urllib3.util.parse_url(base_url)
    except urllib3.exceptions.LocationParseError:
        url = urllib3.util.Url()
    if url.scheme not in ("http", "https") or not url.host or url.auth or url.query or url.fragment:
        raise EmbeddingsError("OPENAI_BASE_URL should be like https://api.openai.com/v1, with no password in it")
    return f"{url.url.rstrip('/')}/embeddings"


def _parts(texts: Sequence[str]) -> Iterator[list[str]]:
    """The texts in requests that are neither too many nor too long; a text that is too long alone goes alone."""
    part: list[str] = []
    size = 0
    for text in texts:
        length = len(text.encode())
        if part and (len(part) == _MOST_TEXTS or size + length > _MOST_BYTES):
            yield part
            part, size = [], 0
        part.append(text)
        size += length
    if part:
        yield part


def _cut(text: str) -> str:
    """Head and tail, half and half: instructions often stand last. At most _MOST_TEXT_BYTES of UTF-8."""
    encoded = text.encode()
    if len(encoded) <= _MOST_TEXT_BYTES:
        return text
    half = _MOST_TEXT_BYTES // 2
    return encoded[:half].decode(errors="ignore") + encoded[-half:].decode(errors="ignore")


def _error_code(body: bytes) -> str:
    """OpenAI's `error.code`, like invalid_api_key. Its message is not shown: it may hold parts of key and prompt."""
    try:
        code = json.loads(body)["error"]["code"]
    except (ValueError, TypeError, KeyError):
        return ""
    return f" ({code})" if isinstance(code, str) and _ERROR_CODE.fullmatch(code) else ""


def _read_embeddings(body: bytes, count: int, dimensions: int | None) -> NDArray[np.float32]:
    """The embeddings [count, dimensions] of an answer, in the order of the texts.

    Raises ValueError: in what way it is no such answer.
    """
    try:
        answer: Any = json.loads(body)
    except ValueError:
        raise ValueError("with something else than JSON") from None
    data = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(data, list) or not all(isinstance(each, dict) for each in data):
        raise ValueError("without a list 'data' of embeddings")
    if len(data) != count:
        raise ValueError(f"with {len(data)} embeddings for {count} texts")
    places = [each.get("index", number) for number, each in enumerate(data)]
    if any(not isinstance(place, int) for place in places) or sorted(places) != list(range(count)):
        raise ValueError(f"with embeddings whose 'index' does not count from 0 to {count - 1}")
    vectors = [_read_vector(each.get("embedding")) for each in data]
    expected = dimensions or len(vectors[0])
    wrong = {len(vector) for vector in vectors} - {expected}
    if wrong:
        raise ValueError(f"with an embedding of {min(wrong)} dimensions where {expected} were expected")
    rows = np.empty((count, expected), dtype=np.float32)
    rows[places] = vectors
    if not np.isfinite(rows).all():
        raise ValueError("with an embedding that is not of finite numbers")
    return rows


def _read_vector(value: object) -> NDArray[np.float32]:
    """Little-endian float32 in base64, as asked for, or a list of numbers, which some servers give all the same."""
    try:
        if isinstance(value, str):
            vector = np.frombuffer(base64.b64decode(value, validate=True), dtype="<f4")
        elif isinstance(value, list):
            with np.errstate(over="ignore"):  # infinite is refused where all are
                vector = np.array(value, dtype=np.float64).astype(np.float32)
        else:
            raise ValueError
    except (ValueError, TypeError, OverflowError):
        raise ValueError("with an embedding that is neither base64 of float32 nor a list of numbers") from None
    if vector.ndim != 1 or not len(vector):
        raise ValueError("with an embedding that is no row of numbers")
    return vector
