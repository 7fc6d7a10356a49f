"""Triton's tensors as they travel in gRPC: raw bytes, little-endian, in the order of the outputs. Pure: no I/O.

Without numpy, which costs more than these few numbers do.
"""

import struct
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from google.protobuf.message import Message  # type: ignore[import-untyped]
from tritonclient.grpc import service_pb2

_LENGTH = struct.Struct("<I")
_NONE: Mapping[str, int] = MappingProxyType({})


def question(model: str, outputs: Sequence[str], class_counts: Mapping[str, int] = _NONE) -> Message:
    """A request of `model` for `outputs` that lacks only its one prompt, INPUT BYTES [1, 1].

    Those with a class count come as that many of Triton's classification strings.
    """
    request = service_pb2.ModelInferRequest(model_name=model)
    request.inputs.add(name="INPUT", datatype="BYTES", shape=[1, 1])
    for name in outputs:
        output = request.outputs.add(name=name)
        if name in class_counts:
            output.parameters["classification"].int64_param = class_counts[name]
    return request


def asked(question: Message, text: str, seconds: float) -> Message:
    """`question` of one prompt, which may wait for so long in the queue of a model whose queue policy reads that."""
    request = service_pb2.ModelInferRequest()
    request.CopyFrom(question)
    request.parameters["timeout"].int64_param = int(seconds * 1e6)  # microseconds
    # A lone surrogate, which JSON can carry, has no UTF-8: it becomes a question mark.
    prompt = text.encode(errors="replace")
    request.raw_input_contents.append(_LENGTH.pack(len(prompt)) + prompt)
    return request


def outputs_of(answer: Message) -> dict[str, bytes]:
    """The raw bytes of each output, by its name."""
    return {output.name: raw for output, raw in zip(answer.outputs, answer.raw_output_contents, strict=True)}


def floats(raw: bytes) -> tuple[float, ...]:
    """The elements of an FP32 tensor. Raises struct.error when it is none."""
    return struct.unpack(f"<{len(raw) // 4}f", raw)


def integers(raw: bytes) -> tuple[int, ...]:
    """The elements of an INT32 tensor. Raises struct.error when it is none."""
    return struct.unpack(f"<{len(raw) // 4}i", raw)


def strings(raw: bytes) -> list[str]:
    """The elements of a BYTES tensor. Raises ValueError or struct.error when they are no UTF-8, or cut."""
    found = []
    start = 0
    while start < len(raw):
        (length,) = _LENGTH.unpack_from(raw, start)
        start += _LENGTH.size + length
        if start > len(raw):
            raise ValueError("a string is cut")
        found.append(raw[start - length : start].decode())
    return found
