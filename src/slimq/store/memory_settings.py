"""What people set in a memory store: handlers with all their versions, and policies."""

from __future__ import annotations

import msgspec

from slimq.core.handler import Handler
from slimq.store.base import Control, Policy

_Name = tuple[str, str]  # client, jobtype


class Settings:
    """`version` changes with every change."""

    def __init__(self) -> None:
        self.version = 0
        self._handlers: dict[_Name, dict[int, Handler]] = {}
        self._current: dict[_Name, int] = {}
        self._last: dict[_Name, int] = {}  # outlives the versions: no number means two handlers
        self._policies: dict[_Name, Policy] = {}

    def control(self) -> Control:
        handlers = [
            self._handlers[name][version] for name, version in sorted(self._current.items())
        ]
        policies = [policy for _, policy in sorted(self._policies.items())]
        return Control(self.version, handlers, policies)

    def versions(self, name: _Name) -> list[Handler]:
        return list(reversed(self._handlers.get(name, {}).values()))

    def put_handler(self, handler: Handler, now: int) -> Handler:
        name = (handler.client, handler.jobtype)
        version = self._last.get(name, 0) + 1
        created_at = handler.created_at or now
        stored = msgspec.structs.replace(handler, version=version, created_at=created_at)
        self._handlers.setdefault(name, {})[version] = stored
        self._last[name] = self._current[name] = version
        self.version += 1
        return stored

    def delete_handler(self, name: _Name) -> bool:
        if self._handlers.pop(name, None) is None:
            return False
        del self._current[name]
        self.version += 1
        return True

    def rollback_handler(self, name: _Name, version: int | None) -> Handler | None:
        versions = self._handlers.get(name, {})
        if version is None:
            older = [number for number in versions if number < self._current[name]]
            version = max(older, default=0)
        if version not in versions:
            return None
        self._current[name] = version
        self.version += 1
        return versions[version]

    def put_policy(self, policy: Policy) -> None:
        self._policies[policy.client, policy.jobtype] = policy
        self.version += 1
