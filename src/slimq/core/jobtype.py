"""Names: a client, a jobtype, and the type ``client/jobtype`` made of both."""

from __future__ import annotations

import re

from slimq.core.limits import NAME_MAX
from slimq.errors import BadName

DEFAULT_CLIENT = "main"
EVERY_CLIENT = "*"  # in handlers and policies: holds for clients that have none of their own
NAME_RULE = (
    "a name starts with a letter or digit, goes on with letters, digits, '.', '_' or '-', "
    f"and has at most {NAME_MAX} characters"
)
_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{NAME_MAX - 1}}}", re.ASCII)


def is_name(text: str) -> bool:
    return _NAME.fullmatch(text) is not None


def check_name(text: str, what: str) -> str:
    """Return `text` if it is a legal `what` ("client" or "jobtype"); raise BadName."""
    if not is_name(text):
        raise BadName(f"{what} is missing or malformed: {NAME_RULE}", extra={"field": what})
    return text


def make_type(client: str, jobtype: str) -> str:
    """Return the type of two checked names; raise BadName."""
    return f"{check_name(client, 'client')}/{check_name(jobtype, 'jobtype')}"


def split_type(type_: str) -> tuple[str, str]:
    """Return (client, jobtype) of a stored type."""
    client, _, jobtype = type_.partition("/")
    return client, jobtype
