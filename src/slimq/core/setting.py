"""Kinds of settings: what may be written for each, and what it means.

A kind reads a value as TOML gives it (`read`), and turns the text of an environment
variable or a flag into such a value (`from_text`). Both raise ValueError with the rule.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from typing import Any, Protocol
from urllib.parse import urlsplit

from slimq.core.duration import format_ms, parse_ms
from slimq.core.size import format_bytes, parse_bytes

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

SECRET_PREFIX = "whsec_"  # noqa: S105 -- https://www.standardwebhooks.com names it
SECRET_BYTES_MIN = 24  # the same standard: between 24 and 64 bytes
SECRET_BYTES_MAX = 64
_DATABASE_URL = re.compile(r"postgres(?:ql)?://(?:[^@:/?#]*(?::[^@:/?#]*)?@)?[^@]*")
EID = re.compile(r"[a-z][a-z0-9_]{0,62}", re.ASCII)  # the name of an environment
EID_RULE = "a small letter, then small letters, digits and _, at most 63 in all"
_INTEGER = re.compile(r"-?\d{1,18}", re.ASCII)


class Kind(Protocol):
    """`rule` says what is legal. `suffix` is the unit that the attribute's name ends in."""

    suffix: str
    secret: bool

    @property
    def rule(self) -> str: ...

    def read(self, written: Any) -> Any: ...

    def from_text(self, text: str) -> Any: ...


class _Kind:
    suffix = ""
    secret = False

    @property
    def rule(self) -> str:
        raise NotImplementedError

    def from_text(self, text: str) -> Any:
        return text


class Text(_Kind):
    """Text on one line."""

    def __init__(self, *, may_be_empty: bool = False) -> None:
        self._may_be_empty = may_be_empty

    @property
    def rule(self) -> str:
        return "text on one line" + (", or empty" if self._may_be_empty else ", not empty")

    def read(self, written: Any) -> str:
        legal = isinstance(written, str) and (written.isprintable())
        if not legal or not (written or self._may_be_empty):
            raise ValueError(self.rule)
        return str(written)


class DatabaseUrl(_Kind):
    """Where a PostgreSQL is. Its password is not shown; libpq also takes it from ~/.pgpass."""

    secret = True

    @property
    def rule(self) -> str:
        return (
            "a URL postgresql://user@host:5432/database, or empty; in a password, @ : / ? # and % "
            "are percent-encoded"
        )

    def read(self, written: Any) -> str:
        if not isinstance(written, str) or not written.isprintable():
            raise ValueError(self.rule)
        if written and not _is_database_url(written):
            raise ValueError(self.rule)
        return written


def _is_database_url(text: str) -> bool:
    """Return whether user, password and host can be told apart: else a part of the password
    would be shown."""
    try:
        urlsplit(text)
    except ValueError:
        return False
    return _DATABASE_URL.fullmatch(text) is not None


def without_password(url: str) -> str:
    """Return the URL of a database as it may be shown."""
    parts = urlsplit(url)
    user = f"{parts.username}@" if parts.username else ""
    return f"{parts.scheme}://{user}{parts.netloc.rpartition('@')[2]}{parts.path}"


class Choice(_Kind):
    def __init__(self, *choices: str) -> None:
        self._choices = choices

    @property
    def rule(self) -> str:
        return f"one of {', '.join(self._choices)}"

    def read(self, written: Any) -> str:
        if not isinstance(written, str) or written not in self._choices:
            raise ValueError(self.rule)
        return written


class Integer(_Kind):
    def __init__(self, low: int, high: int) -> None:
        self._low = low
        self._high = high

    @property
    def rule(self) -> str:
        return f"a whole number from {self._low} to {self._high}"

    def read(self, written: Any) -> int:
        if type(written) is not int or not self._low <= written <= self._high:
            raise ValueError(self.rule)
        return written

    def from_text(self, text: str) -> Any:
        return int(text) if _INTEGER.fullmatch(text) else text


class Duration(_Kind):
    """Read as milliseconds."""

    suffix = "_ms"

    def __init__(self, low: str, high: str) -> None:
        self._low = parse_ms(low)
        self._high = parse_ms(high)

    @property
    def rule(self) -> str:
        return f"a duration from {format_ms(self._low)} to {format_ms(self._high)}"

    def read(self, written: Any) -> int:
        try:
            ms = parse_ms(written) if isinstance(written, str) else -1
        except ValueError as error:
            raise ValueError(f"{self.rule}: {error}") from error
        if not self._low <= ms <= self._high:
            raise ValueError(self.rule)
        return ms


class Size(_Kind):
    """Read as bytes."""

    def __init__(self, low: str, high: str) -> None:
        self._low = parse_bytes(low)
        self._high = parse_bytes(high)

    @property
    def rule(self) -> str:
        return f"a size from {format_bytes(self._low)} to {format_bytes(self._high)}"

    def read(self, written: Any) -> int:
        try:
            size = parse_bytes(written) if isinstance(written, str) else -1
        except ValueError as error:
            raise ValueError(f"{self.rule}: {error}") from error
        if not self._low <= size <= self._high:
            raise ValueError(self.rule)
        return size


class _List(_Kind):
    """A list of TOML; in a variable or flag, its items with commas between them."""

    def read(self, written: Any) -> tuple[Any, ...]:
        if not isinstance(written, list) or not all(isinstance(item, str) for item in written):
            raise ValueError(self.rule)
        return tuple(self._item(item) for item in written)

    def from_text(self, text: str) -> Any:
        return [item.strip() for item in text.split(",")] if text.strip() else []

    def _item(self, text: str) -> Any:
        raise NotImplementedError


class Choices(_List):
    """One or more of some words, each once."""

    def __init__(self, *choices: str) -> None:
        self._choices = choices

    @property
    def rule(self) -> str:
        return f"a list of one or more of {', '.join(self._choices)}"

    def read(self, written: Any) -> tuple[Any, ...]:
        read = super().read(written)
        if not read or len(set(read)) != len(read):
            raise ValueError(self.rule)
        return read

    def _item(self, text: str) -> str:
        if text not in self._choices:
            raise ValueError(self.rule)
        return text


class Interpreter(_Kind):
    """A table with the one member `python`; in a variable, its value."""

    @property
    def rule(self) -> str:
        return 'a table such as { python = "/srv/imaging" }: a virtualenv or an interpreter'

    def read(self, written: Any) -> str:
        path = written.get("python") if isinstance(written, dict) else None
        if not isinstance(path, str) or not path or not path.isprintable() or len(written) != 1:
            raise ValueError(self.rule)
        return path

    def from_text(self, text: str) -> Any:
        return {"python": text}


class Networks(_List):
    """Address ranges, read as networks of `ipaddress`."""

    @property
    def rule(self) -> str:
        return 'a list of address ranges, for example ["10.0.0.0/8", "fd00::/8", "127.0.0.1"]'

    def _item(self, text: str) -> Network:
        try:
            return ipaddress.ip_network(text)
        except ValueError as error:
            raise ValueError(f"{self.rule}: {error}") from error


class Secrets(_List):
    """Signing secrets as the Standard Webhooks write them; kept as text."""

    secret = True

    @property
    def rule(self) -> str:
        sizes = f"{SECRET_BYTES_MIN} to {SECRET_BYTES_MAX} bytes"
        return f"a list of secrets, each {SECRET_PREFIX} followed by {sizes} in base 64"

    def _item(self, text: str) -> str:
        encoded = text.removeprefix(SECRET_PREFIX)
        try:
            size = len(base64.b64decode(encoded, validate=True))
        except (binascii.Error, ValueError):
            size = 0
        if encoded == text or not SECRET_BYTES_MIN <= size <= SECRET_BYTES_MAX:
            raise ValueError(self.rule) from None
        return text
