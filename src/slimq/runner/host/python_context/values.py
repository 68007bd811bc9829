"""What functions give back, as bytes; and what they may raise."""

from __future__ import annotations

TYPE_CHECKING = False  # importing typing would take a third of a cold start
if TYPE_CHECKING:
    from typing import Any

LINE_MAX = 1024 * 1024  # data of a child
TRACEBACK_MAX = 8 * 1024
_NAME_MAX = 128


class Retry(Exception):
    """Not now: the job runs again after `after` seconds, or a backoff; it costs no failure."""

    def __init__(self, why: str = "", after: float | None = None) -> None:
        super().__init__(why)
        self.after = after


class Failed(Exception):
    """The job ran, and cannot succeed: it is done."""


class NoResult(Exception):
    """What a function returned is no result."""


def kind(value: object) -> str:
    return f"a value of type {type(value).__name__}"


def to_text(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


def to_bytes(value: Any) -> bytes:
    """Return what a function gave as bytes: text in UTF-8, anything else as JSON."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    if isinstance(value, str):
        return to_text(value)
    import json

    try:
        return json.dumps(value, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise NoResult(f"{kind(value)} is neither bytes, text nor JSON: {error}") from None


def read_json(data: bytes) -> Any:
    """Return what a line says in JSON, or the line itself when it says nothing in it."""
    import json

    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return data


def child(jobtype: object, data: object) -> bytes:
    """Return a new job as an answer holds it. Raises ValueError."""
    line = to_bytes(data)
    if b"\n" in line or len(line) > LINE_MAX:
        raise ValueError(f"the data of a job is one line of at most {LINE_MAX} bytes")
    if not isinstance(jobtype, str) or not _is_name(jobtype):
        raise ValueError(f"{jobtype!r} is no name of a jobtype")
    return jobtype.encode() + b"|" + line


def _is_name(text: str) -> bool:
    if not 0 < len(text) <= _NAME_MAX or not text.isascii() or not text[0].isalnum():
        return False
    return text.replace(".", "a").replace("_", "a").replace("-", "a").isalnum()


def summary(error: BaseException) -> str:
    """Return an error on one line."""
    try:
        why = str(error)
    except Exception:
        why = "?"
    name = type(error).__name__
    return f"{name}: {why}" if why else name


def trace_of(error: BaseException, folder: str, own: str) -> str:
    """Return the traceback of an error without the frames above the function, which are of
    files below `own`, and with paths as they are in the function's `folder`."""
    import traceback

    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(own):
        trace = trace.tb_next
    lines = traceback.format_exception(type(error), error, trace)
    return "".join(lines).replace(folder + "/", "")
