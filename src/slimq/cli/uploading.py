"""The upload of a function, and meanwhile what the builder of its packages says."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from slimq.cli.caller import Caller, part
from slimq.core.limits import BUILD_TIMEOUT_S
from slimq.errors import SlimqError

_LOOK_S = 0.3
_GRACE_S = 60.0  # for what comes after the build: a first context


def upload(
    node: Caller, jobtype: str, client: str, handler: Mapping[str, Any], tell: Callable[[str], None]
) -> Any:
    """Put a function; return what the node answers. `tell` gets each new line of builders."""
    patient = Caller(node.url, timeout_s=BUILD_TIMEOUT_S + _GRACE_S)
    ended = threading.Event()
    looking = threading.Thread(target=_look, args=(node, ended, tell), daemon=True)
    looking.start()
    try:
        path = f"/handlers/{part(jobtype)}"
        return patient.send_json("PUT", path, {"client": client}, handler)
    finally:
        ended.set()
        looking.join()


def _look(node: Caller, ended: threading.Event, tell: Callable[[str], None]) -> None:
    told: list[str] = []
    while not ended.wait(_LOOK_S):
        try:
            functions = node.get("/status")["node"]["functions"] or {}
        except SlimqError:  # the upload itself says what is wrong
            continue
        said = functions.get("building", [])
        for line in said:
            if line not in told:
                tell(line)
        told = said
