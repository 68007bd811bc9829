"""What is wrong with a PostgreSQL, in one line without secrets, and whether waiting heals it."""

from __future__ import annotations

import re

import psycopg
from psycopg import conninfo, errors

SECRET_MIN = 4  # characters of a password; a shorter one may be in any word

# What a server says before it knows who asks has no code, only words. Those that are not
# known here, as in other languages, are taken for what may heal.
_LASTING_WORDS = re.compile(
    r"password authentication failed|authentication failed for user|no password supplied"
    r"|no pg_hba\.conf entry|pg_hba\.conf rejects|is not permitted to log in"
    r"|(?:database|role|user) \S+ does not exist|no such (?:database|user)"
    r"|permission denied for database|is not currently accepting connections"
    r"|does not support SSL|certificate verify failed|invalid \S+ value|invalid port"
    r"|(?:root )?certificate file|private key file|auth(?:entication)? method"
)
_LASTING = (
    errors.InsufficientPrivilege,
    errors.InvalidSchemaName,
    errors.UndefinedTable,
    errors.UndefinedFunction,
    errors.UndefinedColumn,
    psycopg.ProgrammingError,
)
_ATTEMPT = re.compile(r"^- host: (.+?), port: (.+?), hostaddr: .+?: ", re.MULTILINE)
_WHERE = re.compile(r'^connection to server at "')
_PREFIX = re.compile(r"^(?:connection failed|connection is bad): ")


def said(error: psycopg.Error, url: str = "") -> str:
    """Return what went wrong on one line, without the password of the URL."""
    primary = error.diag.message_primary
    text = primary or "; ".join(_of_attempts(str(error))) or type(error).__name__
    for secret in _secrets(url):
        text = text.replace(secret, "***")
    return text


def may_heal(error: psycopg.Error) -> bool:
    """Whether waiting may be all that is needed. Of several hosts, one is enough."""
    if error.sqlstate is not None or not isinstance(error, psycopg.OperationalError):
        return not isinstance(error, _LASTING)
    return not all(_LASTING_WORDS.search(reason) for reason in _of_attempts(str(error)) or [""])


def _of_attempts(text: str) -> list[str]:
    """Return what each host of the URL said; hints of libpq have lines of their own."""
    parts = _ATTEMPT.split(text)
    if len(parts) == 1:
        return [_reason(text)] if text.strip() else []
    hosts, ports, reasons = parts[1::3], parts[2::3], parts[3::3]
    return [
        reason if _WHERE.match(reason) else f"{host.strip(chr(39))}:{port.strip(chr(39))}: {reason}"
        for host, port, reason in zip(hosts, ports, map(_reason, reasons), strict=True)
    ]


def _reason(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line and not line.startswith("\t")]
    return "; ".join(" ".join(_PREFIX.sub("", line).split()) for line in lines)


def _secrets(url: str) -> list[str]:
    try:
        given = conninfo.conninfo_to_dict(url) if url else {}
    except psycopg.Error:  # then nobody has connected with it
        return []
    found = [str(given.get(name) or "") for name in ("password", "sslpassword")]
    return [secret for secret in found if len(secret) >= SECRET_MIN]
