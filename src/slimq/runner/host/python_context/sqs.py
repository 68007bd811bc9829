"""Functions that were written for SQS: what Lambda would give them, and what they answer."""

from __future__ import annotations

from .values import NoResult

TYPE_CHECKING = False  # see values.py
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from .context import About, Batch

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~"  # of ids


class NotProcessed(Exception):
    """A message that the function could not process."""


def event_of(about: About, batch: Batch) -> dict[str, Any]:
    """Return the event that Lambda makes of a batch of messages."""
    jobs = zip(batch.ids, batch.attempts, batch.data, strict=True)
    return {"Records": [_record(about, *job) for job in jobs]}


def _record(about: About, name: str, attempt: int, data: bytes) -> dict[str, Any]:
    sent_at = str(_sent_ms(name))
    return {
        "messageId": name,
        "receiptHandle": f"{name}:{attempt}",
        "body": data.decode("utf-8", "surrogateescape"),
        "attributes": {
            "ApproximateReceiveCount": str(attempt),
            "SentTimestamp": sent_at,
            "SenderId": about.client,
            "ApproximateFirstReceiveTimestamp": sent_at,
        },
        "messageAttributes": {},
        "md5OfBody": _md5(data),
        "eventSource": "aws:sqs",
        "eventSourceARN": f"arn:aws:sqs:local:000000000000:{about.jobtype}",
        "awsRegion": "local",
    }


def failures(value: Any, ids: Sequence[str]) -> list[NotProcessed | None] | None:
    """Return what became of each job by the answer of a function; None when it says of none
    that it failed. As in Lambda, an answer that names no message of the batch fails all."""
    named = value.get("batchItemFailures") if isinstance(value, dict) else None
    if not named:
        return None
    try:
        failed = {each["itemIdentifier"] for each in named}
    except (TypeError, KeyError):
        failed = {None}
    if not failed <= set(ids):
        raise NoResult("batchItemFailures names what is no message of this batch")
    error = NotProcessed("named in batchItemFailures")
    return [error if name in failed else None for name in ids]


def _sent_ms(name: str) -> int:
    """Return when a job was accepted: the first seven characters of its id say it."""
    ms = 0
    for char in name[:7]:
        ms = 64 * ms + _ALPHABET.find(char)
    return ms


def _md5(data: bytes) -> str:
    from hashlib import md5  # not for safety: SQS has it so

    return md5(data, usedforsecurity=False).hexdigest()
