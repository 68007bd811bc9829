"""How a type is shown: its counts, and what holds for it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from slimq.api.query import Target
from slimq.api.render import View, time_text
from slimq.core.handler import Handler
from slimq.core.jobtype import EVERY_CLIENT, split_type
from slimq.store.base import Control, Load, Policy, TypeView


class Settings:
    """The current handlers and policies, to be looked up by type."""

    def __init__(self, control: Control) -> None:
        self._handlers = {(each.client, each.jobtype): each for each in control.handlers}
        self._policies = {(each.client, each.jobtype): each for each in control.policies}

    def handler(self, target: Target) -> Handler | None:
        """Return the handler that serves a type."""
        own = self._handlers.get(target)
        return own or self._handlers.get((EVERY_CLIENT, target.jobtype))

    def policies(self, target: Target) -> list[Policy]:
        """Return the policies that hold for a type, its own first."""
        keys = dict.fromkeys(((target.client, target.jobtype), (EVERY_CLIENT, target.jobtype)))
        return [self._policies[key] for key in keys if key in self._policies]

    def names(self, target: Target) -> bool:
        """Return whether anything is set that holds for a type."""
        return self.handler(target) is not None or bool(self.policies(target))


def type_view(type_: TypeView, settings: Settings, now: int) -> View:
    target = Target(*split_type(type_.type))
    view: View = {
        "type": type_.type,
        "client": target.client,
        "jobtype": target.jobtype,
        "waiting": type_.waiting,
        "running": type_.running,
        "ok": type_.ok,
        "failed": type_.failed,
        "error": type_.error,
        "oldest_wait_ms": _oldest_wait_ms(type_, now),
        "next_at": None if type_.next_at is None else time_text(type_.next_at),
        "hold_until": time_text(type_.hold_until) if type_.hold_until > now else None,
    }
    return view | _settings_view(settings.handler(target), settings.policies(target))


def load_view(target: Target, load: Load, now: int) -> View:
    return {
        "type": f"{target.client}/{target.jobtype}",
        "client": target.client,
        "jobtype": target.jobtype,
        "ready": load.ready,
        "oldest_wait_ms": 0 if load.since is None else max(0, now - load.since),
    }


def empty_type(target: Target) -> TypeView:
    """Return what is known of a type that never had a job."""
    name = f"{target.client}/{target.jobtype}"
    return TypeView(type=name, waiting=0, running=0, ok=0, failed=0, error=0, next_at=None)


def sum_types(target: Target, types: Sequence[TypeView]) -> TypeView | None:
    """Return the counts of several types as those of one; None when there are none."""
    if not types:
        return None
    total = empty_type(target)
    for each in types:
        total.waiting += each.waiting
        total.running += each.running
        total.ok += each.ok
        total.failed += each.failed
        total.error += each.error
    total.next_at = min((t.next_at for t in types if t.next_at is not None), default=None)
    return total


def _oldest_wait_ms(type_: TypeView, now: int) -> int:
    """Return how long the first waiting job has been due."""
    return 0 if type_.next_at is None else max(0, now - type_.next_at)


def _settings_view(handler: Handler | None, policies: list[Policy]) -> View:
    options = handler.options if handler else None
    concurrency = _first(policy.concurrency for policy in policies)
    batch_size = _first(policy.batch_size for policy in policies)
    if options is not None:
        concurrency = concurrency if concurrency is not None else options.concurrency
        batch_size = batch_size if batch_size is not None else options.batch_size
        if options.ordered:
            concurrency = batch_size = 1
    return {
        "handler": _handler_member(handler),
        "paused": bool(_first(policy.paused for policy in policies)),
        "weight": _first(policy.weight for policy in policies) or 1,
        "concurrency": concurrency,
        "batch_size": batch_size,
    }


def _handler_member(handler: Handler | None) -> View | None:
    if handler is None:
        return None
    return {"client": handler.client, "version": handler.version, "lang": handler.lang}


def _first(values: Iterable[int | None]) -> int | None:
    return next((value for value in values if value is not None), None)
