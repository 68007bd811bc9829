"""A handler: the command, address or source that runs a jobtype, and its options, checked.

Options are written as users think of them (durations as ``90s``) and kept as written;
`parse_options` makes of them what the engine works with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec

from slimq.core.duration import RULE as DURATION_RULE
from slimq.core.duration import parse_ms
from slimq.core.language import FUNCTIONS
from slimq.core.limits import (
    BATCH_MAX,
    CONCURRENCY_MAX,
    FUNCTION_CPUS_MAX,
    FUNCTION_CPUS_MIN,
    FUNCTION_MEMORY_MAX,
    FUNCTION_MEMORY_MIN,
    FUNCTION_PROCESSES_MAX,
    FUNCTION_TMP_MAX,
    HTTP_BATCH_MAX,
    MIB,
    REQUIREMENTS_MAX,
    TIMEOUT_MAX_MS,
)
from slimq.core.setting import EID, EID_RULE
from slimq.core.size import RULE as SIZE_RULE
from slimq.core.size import format_bytes, parse_bytes
from slimq.errors import BadHandler

LANGS = ("exec", "http", *FUNCTIONS)


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """Options of a handler, checked and complete. Durations are in milliseconds."""

    batch_size: int = 1  # jobs in one run
    batch_window_ms: int = 0  # how long an incomplete batch waits for more jobs
    concurrency: int | None = None  # batches at a time on all nodes; None: their slots
    timeout_ms: int = 60_000  # of one batch
    retry_on: frozenset[int] = frozenset()  # HTTP codes or exit codes that mean RETRY
    fail_on: frozenset[int] = frozenset()  # and those that mean FAILED
    max_failures: int = 20  # ERROR outcomes until a job is done
    max_age_ms: int = 24 * 3_600_000  # since it was first due, until it is done
    backoff_min_ms: int = 1_000
    backoff_max_ms: int = 600_000
    result: Literal["lines", "exit"] = "lines"  # exec: result lines, or the exit code
    ordered: bool = False  # one job of a type at a time, strictly oldest first
    handler: str = ""  # functions: module.function; '': the usual names
    event: Literal["bytes", "json", "sqs"] = "bytes"  # functions: what they are called with
    job_timeout_ms: int = 0  # functions: of one job; 0: only the batch is timed
    memory: int = 256 * MIB  # functions: bytes of one context
    processes: int = 64  # functions: processes and threads of one context
    cpus: float | None = None  # functions: processors of one context; None: all there are
    tmp: int = 64 * MIB  # functions: bytes of temporary files of one context
    network: bool = False  # functions: whether they may use it, if the operator lets them
    eid: str = ""  # python: the environment that it runs in; '': our own interpreter
    requirements: tuple[str, ...] = ()  # python: packages, as written


class Handler(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a handler. `client` is ``*`` when it serves every client.

    `body` is the URL (http), the words of the command (exec) or the source (functions, see
    `bundle.py`); `written` holds the options as the user wrote them.
    """

    client: str
    jobtype: str
    version: int
    lang: str
    body: str | list[str] | dict[str, Any]
    options: Options
    written: dict[str, Any]
    created_at: int = 0


def bad_field(field: str, rule: str) -> BadHandler:
    return BadHandler(f"{field}: {rule}", extra={"field": field})


def parse_options(lang: str, written: Mapping[str, Any]) -> Options:
    """Return the checked options of a handler of `lang`; raise BadHandler naming the field."""
    values: dict[str, Any] = dict(_defaults(lang, written))
    for name, value in written.items():
        check = _CHECKS.get(name)
        if check is None:
            known = ", ".join(sorted(_CHECKS))
            raise bad_field(f"options.{name[:64]}", f"no such option; there are {known}")
        values.update(check(f"options.{name}", value))
    _check_lang(lang, written)
    options = Options(**values)
    _check_together(lang, options)
    return options


def _defaults(lang: str, written: Mapping[str, Any]) -> dict[str, Any]:
    """A command costs a process: it gets many lines, unless its exit code is the result. A
    function gets many, too; one that was written for SQS as many as it would get there."""
    if written.get("ordered") or lang == "http" or written.get("result", "lines") != "lines":
        return {"batch_size": 1}
    return {"batch_size": 10 if written.get("event") == "sqs" else 100}


_LIMITS = ("job_timeout", "memory", "processes", "cpus", "tmp")
_OF_FUNCTIONS = ("handler", "event", *_LIMITS, "network")
_OF_PYTHON = ("eid", "requirements")
_NOT_OF_FUNCTIONS = ("result", "retry_on", "fail_on")


def _check_lang(lang: str, written: Mapping[str, Any]) -> None:
    is_function = lang in FUNCTIONS
    for name in _OF_PYTHON if lang != "python" else ():
        if name in written:
            raise bad_field(f"options.{name}", f"not for lang {lang}: only Python has it")
    for name in _NOT_OF_FUNCTIONS if is_function else _OF_FUNCTIONS:
        if name in written:
            whose = (
                "functions say what became of a job" if is_function else "only functions have it"
            )
            raise bad_field(f"options.{name}", f"not for lang {lang}: {whose}")


def _check_together(lang: str, options: Options) -> None:
    if options.backoff_min_ms > options.backoff_max_ms:
        raise bad_field("options.backoff", "min must not be above max")
    if lang == "http" and options.batch_size > HTTP_BATCH_MAX:
        raise bad_field("options.batch_size", f"at most {HTTP_BATCH_MAX} for lang http")
    if lang == "http" and options.result != "lines":
        raise bad_field("options.result", "only lang exec has a choice of result")
    if options.ordered and options.batch_size != 1:
        raise bad_field("options.batch_size", "must be 1 when ordered is true")
    if lang == "wasm" and options.event != "bytes":
        raise bad_field("options.event", "a module of lang wasm reads lines: only bytes")
    if options.retry_on & options.fail_on:
        raise bad_field("options.retry_on", "no code may be in both retry_on and fail_on")


def _integer(name: str, low: int, high: int) -> Callable[[str, Any], dict[str, Any]]:
    def check(field: str, value: Any) -> dict[str, Any]:
        if type(value) is not int or not low <= value <= high:
            raise bad_field(field, f"a whole number from {low} to {high}")
        return {name: value}

    return check


def _duration_ms(field: str, value: Any, low: int = 0, high: int = TIMEOUT_MAX_MS) -> int:
    try:
        ms = parse_ms(value) if isinstance(value, str) else -1
    except ValueError:
        ms = -1
    if not low <= ms <= high:
        raise bad_field(field, f"{DURATION_RULE}; from {low} to {high} ms")
    return ms


def _duration(name: str, low: int, high: int) -> Callable[[str, Any], dict[str, Any]]:
    return lambda field, value: {name: _duration_ms(field, value, low, high)}


def _codes(name: str) -> Callable[[str, Any], dict[str, Any]]:
    def check(field: str, value: Any) -> dict[str, Any]:
        legal = isinstance(value, list) and len(value) <= 100
        if not legal or not all(type(code) is int and 1 <= code <= 599 for code in value):
            raise bad_field(field, "a list of up to 100 codes from 1 to 599")
        return {name: frozenset(value)}

    return check


def _backoff(field: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or not value or not value.keys() <= {"min", "max"}:
        raise bad_field(field, 'an object such as {"min": "1s", "max": "10m"}')
    return {
        f"backoff_{end}_ms": _duration_ms(f"{field}.{end}", text, low=1)
        for end, text in value.items()
    }


def _choice(name: str, *choices: str) -> Callable[[str, Any], dict[str, Any]]:
    def check(field: str, value: Any) -> dict[str, Any]:
        if value not in choices:
            raise bad_field(field, " or ".join(f'"{choice}"' for choice in choices))
        return {name: value}

    return check


def _flag(name: str) -> Callable[[str, Any], dict[str, Any]]:
    def check(field: str, value: Any) -> dict[str, Any]:
        if type(value) is not bool:
            raise bad_field(field, "true or false")
        return {name: value}

    return check


def _size(name: str, low: int, high: int) -> Callable[[str, Any], dict[str, Any]]:
    def check(field: str, value: Any) -> dict[str, Any]:
        try:
            size = parse_bytes(value) if isinstance(value, str) else -1
        except ValueError:
            size = -1
        if not low <= size <= high:
            bounds = f"from {format_bytes(low)} to {format_bytes(high)}"
            raise bad_field(field, f"{SIZE_RULE}; {bounds}")
        return {name: size}

    return check


def _cpus(field: str, value: Any) -> dict[str, Any]:
    if type(value) not in (int, float) or not FUNCTION_CPUS_MIN <= value <= FUNCTION_CPUS_MAX:
        raise bad_field(field, f"a number from {FUNCTION_CPUS_MIN} to {FUNCTION_CPUS_MAX}")
    return {"cpus": float(value)}


def _entry(field: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, str) or not value:
        raise bad_field(field, "function or module.function, such as main.handler")
    return {"handler": value}


def _eid(field: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, str) or not EID.fullmatch(value):
        raise bad_field(field, f"the name of an environment: {EID_RULE}")
    return {"eid": value}


def _requirements(field: str, value: Any) -> dict[str, Any]:
    legal = isinstance(value, list) and all(isinstance(each, str) for each in value)
    if not legal or len(value) > REQUIREMENTS_MAX:
        rule = f'a list of at most {REQUIREMENTS_MAX} texts, such as ["Pillow>=11,<12"]'
        raise bad_field(field, rule)
    return {"requirements": tuple(value)}


_CHECKS: dict[str, Callable[[str, Any], dict[str, Any]]] = {
    "batch_size": _integer("batch_size", 1, BATCH_MAX),
    "batch_window": _duration("batch_window_ms", 0, 3_600_000),
    "concurrency": _integer("concurrency", 1, CONCURRENCY_MAX),
    "timeout": _duration("timeout_ms", 1, TIMEOUT_MAX_MS),
    "retry_on": _codes("retry_on"),
    "fail_on": _codes("fail_on"),
    "max_failures": _integer("max_failures", 1, 1_000_000),
    "max_age": _duration("max_age_ms", 1_000, 366 * 24 * 3_600_000),
    "backoff": _backoff,
    "result": _choice("result", "lines", "exit"),
    "ordered": _flag("ordered"),
    "handler": _entry,
    "event": _choice("event", "bytes", "json", "sqs"),
    "job_timeout": _duration("job_timeout_ms", 1, TIMEOUT_MAX_MS),
    "memory": _size("memory", FUNCTION_MEMORY_MIN, FUNCTION_MEMORY_MAX),
    "processes": _integer("processes", 1, FUNCTION_PROCESSES_MAX),
    "cpus": _cpus,
    "tmp": _size("tmp", MIB, FUNCTION_TMP_MAX),
    "network": _flag("network"),
    "eid": _eid,
    "requirements": _requirements,
}

OPTION_NAMES = tuple(_CHECKS)
