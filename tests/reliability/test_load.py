import pytest

from tests.reliability.load import End, judge, judge_stream

_FIRST = b'data: {"id": "1", "model": "m", "choices": [{"finish_reason": null}]}\n\n'
_LAST = b'data: {"id": "1", "model": "m", "choices": [{"finish_reason": "length"}]}\n\n'
_OTHER = _FIRST.replace(b'"1"', b'"2"')
_DONE = b"data: [DONE]\n\n"


@pytest.mark.parametrize(
    ("raw", "end"),
    [
        (_FIRST + _LAST + _DONE, "answered"),
        (b": comment\n\n" + _FIRST + _LAST + _DONE, "answered"),
        (_FIRST + _LAST, "wrong"),
        (_FIRST + _DONE, "wrong"),
        (_FIRST + _OTHER + _LAST + _DONE, "wrong"),
        (_FIRST + _LAST + _LAST + _DONE, "wrong"),
        (_FIRST.replace(b'"m"', b'"n"') + _LAST.replace(b'"m"', b'"n"') + _DONE, "wrong"),
        (_FIRST[:30] + _LAST + _DONE, "wrong"),
        (_FIRST + b'event: error\ndata: {"message": "dead"}\n\n', "error"),
        (_DONE, "wrong"),
        (b"", "wrong"),
    ],
)
def test_streams(raw: bytes, end: End) -> None:
    """A stream counts as answered only when it is one model's one answer up to `[DONE]`."""
    assert judge_stream(raw, "m") == end


@pytest.mark.parametrize(
    ("status", "raw", "end"),
    [
        (200, b'{"model": "m", "choices": [{"finish_reason": "length"}]}', "answered"),
        (200, b'{"model": "n", "choices": [{"finish_reason": "length"}]}', "wrong"),
        (200, b'{"model": "m", "choices": [{"finish_reason": null}]}', "wrong"),
        (200, b'{"model": "m", "cho', "wrong"),
        (502, b'{"error": {"message": "gone"}}', "error"),
        (404, b'{"message": "Model not found"}', "error"),
        (500, b"Internal Server Error", "wrong"),
        (404, b"", "error"),
        (502, b"", "wrong"),
    ],
)
def test_whole_answers(status: int, raw: bytes, end: End) -> None:
    """A whole answer is finished and the named model's; an error says so in JSON."""
    assert judge(status, raw, "m") == end
