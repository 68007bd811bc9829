"""What a caller may say about the jobs it adds: query parameters, and headers."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Literal
from urllib.parse import parse_qsl

import msgspec

from slimq.core.duration import RULE as DURATION_RULE
from slimq.core.duration import parse_ms
from slimq.core.jobtype import DEFAULT_CLIENT, make_type
from slimq.core.limits import DELAY_MAX_MS, IDEMPOTENCY_KEY_MAX
from slimq.errors import BadParameter

Durability = Literal["journal", "buffered", "store"]
ADD_PARAMETERS = ("jobtype", "client", "delay", "at", "durability", "ids")
AT_RULE = (
    "an RFC 3339 time with its offset, for example 2026-11-24T09:30:00Z, or epoch milliseconds"
)
_DURABILITIES: dict[str, Durability] = {
    "journal": "journal",
    "buffered": "buffered",
    "store": "store",
}
_PARAMETERS_MAX = 16
_CACHED_QUERY_MAX = 512
_CACHED_QUERIES_MAX = 4096
# An unescaped "+" of an offset arrives in a query as a space.
_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(\.\d{1,9})?(?:([Zz])|([+ -])(\d\d:\d\d))", re.ASCII
)
_EPOCH_MS = re.compile(r"\d{12,15}", re.ASCII)  # fewer digits are seconds, taken for ms
_KEY = re.compile(rb"[\x20-\x7e]{1,%d}" % IDEMPOTENCY_KEY_MAX)
# https://www.w3.org/TR/trace-context/#traceparent-header-field-values, version 00
_TRACE = re.compile(rb"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


class When(msgspec.Struct, frozen=True):
    """When a job is due: `delay_ms` after it is accepted, or at `at_ms` if that is later."""

    delay_ms: int = 0
    at_ms: int = 0

    def due_at(self, now: int) -> int:
        """Return the due time in ms; raise BadParameter for one that is too far off.

        A time in the past is now: it must not put a job in front of older ones.
        """
        due = now + self.delay_ms if not self.at_ms else max(now, self.at_ms)
        if due - now > DELAY_MAX_MS:
            raise _bad("at" if self.at_ms else "delay", "at most 366 days ahead")
        return due


NOW = When()


class AddOptions(msgspec.Struct, frozen=True):
    """The query of `POST /add`, checked."""

    type: str
    when: When = NOW
    durability: Durability = "journal"
    all_ids: bool = False


class AddOptionsReader:
    """Reads queries of `POST /add`. Busy callers send the same one again and again: it is
    read once and remembered."""

    def __init__(self) -> None:
        self._known: dict[bytes, AddOptions] = {}

    def read(self, query: bytes) -> AddOptions:
        """Return the options that a raw query says. Raises BadParameter, BadName."""
        options = self._known.get(query)
        if options is None:
            options = add_options(read_parameters(query, ADD_PARAMETERS))
            if len(query) <= _CACHED_QUERY_MAX:
                if len(self._known) >= _CACHED_QUERIES_MAX:
                    self._known.clear()
                self._known[query] = options
        return options


def read_parameters(query: bytes, known: Collection[str]) -> dict[str, str]:
    """Return the parameters of a raw query. Raises BadParameter for one that is not
    `known`, repeated, or not UTF-8."""
    try:
        pairs = parse_qsl(
            query.decode("ascii"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=_PARAMETERS_MAX,
        )
    except ValueError as error:
        raise BadParameter(
            f"a query has at most {_PARAMETERS_MAX} parameters, percent-encoded UTF-8"
        ) from error
    parameters: dict[str, str] = {}
    for name, value in pairs:
        if name not in known:
            raise BadParameter(
                f"there is no such parameter; there are {', '.join(known)}",
                extra={"parameter": name[:64]},
            )
        if name in parameters:
            raise _bad(name, "must not be repeated")
        parameters[name] = value
    return parameters


def add_options(parameters: Mapping[str, str]) -> AddOptions:
    """Return the options that the parameters of `POST /add` say."""
    type_ = make_type(parameters.get("client", DEFAULT_CLIENT), parameters.get("jobtype", ""))
    return AddOptions(
        type_,
        read_when(parameters),
        read_durability(parameters),
        read_all_ids(parameters),
    )


def read_when(parameters: Mapping[str, str]) -> When:
    """Return what `delay` and `at` say. Raises BadParameter."""
    delay, at = parameters.get("delay"), parameters.get("at")
    if delay is not None and at is not None:
        raise BadParameter("delay and at exclude each other", extra={"parameter": "at"})
    try:
        if delay is not None:
            when = When(delay_ms=parse_ms(delay))
            when.due_at(0)
            return when
        return When(at_ms=parse_at(at)) if at is not None else NOW
    except ValueError as error:
        rule = DURATION_RULE if delay is not None else AT_RULE
        raise _bad("delay" if delay is not None else "at", rule) from error


def read_durability(parameters: Mapping[str, str]) -> Durability:
    durability = _DURABILITIES.get(parameters.get("durability", "journal"))
    if durability is None:
        raise _bad("durability", "journal, buffered or store")
    return durability


def read_all_ids(parameters: Mapping[str, str]) -> bool:
    ids = parameters.get("ids")
    if ids not in (None, "all"):
        raise _bad("ids", "the only value is all")
    return ids == "all"


def parse_at(text: str) -> int:
    """Return the ms since the epoch that `text` means; raise ValueError. See AT_RULE."""
    if _EPOCH_MS.fullmatch(text):
        return int(text)
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError(f"a time is {AT_RULE}")
    date, clock, fraction, zulu, sign, offset = match.groups()
    zone = "+00:00" if zulu else f"{'-' if sign == '-' else '+'}{offset}"
    seconds = int(datetime.fromisoformat(f"{date}T{clock}{zone}").timestamp())
    return max(0, seconds * 1000 + int((fraction or ".")[1:].ljust(3, "0")[:3]))


def read_key(fields: Mapping[bytes, bytes]) -> str:
    """Return the Idempotency-Key of a request, or ''. Raises BadParameter."""
    key = fields.get(b"idempotency-key")
    if key is None:
        return ""
    if _KEY.fullmatch(key) is None:
        raise BadParameter(
            f"Idempotency-Key has 1 to {IDEMPOTENCY_KEY_MAX} printable ASCII characters",
            extra={"parameter": "Idempotency-Key"},
        )
    return key.decode("ascii")


def read_trace(fields: Mapping[bytes, bytes]) -> str:
    """Return the traceparent of a request, or '' when there is none or it is malformed:
    the standard says to ignore it then."""
    trace = fields.get(b"traceparent")
    return trace.decode("ascii") if trace is not None and _TRACE.fullmatch(trace) else ""


def _bad(parameter: str, rule: str) -> BadParameter:
    return BadParameter(f"{parameter}: {rule}", extra={"parameter": parameter})
