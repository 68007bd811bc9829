"""PostHog GHSA-wqqw-r8c5-j67c, CVAT GHSA-q684-4jjh-83g6 and others: a webhook reached the machine
that sent it and its network, by a spelling that the check did not know (five of them were IPv6
addresses with an IPv4 one inside), or because the name was resolved a second time.

slimq: the address is judged when the socket is opened, and only public ones are allowed.
"""

from __future__ import annotations

import json
from pathlib import Path

from address_kit import SPOILT, TARGETS, Canary
from node_kit import Node

KNOWN_LATER = ("localhost", "localdomain", "example.invalid", "ip6-")
ONCE = {"timeout": "2s", "max_failures": 1}


def test_no_handler_of_a_node_with_its_defaults_talks_to_this_machine(
    tmp_path: Path, canary: Canary
) -> None:
    accepted = []
    with Node(tmp_path, SLIMQ_HTTP__ALLOW="") as node:
        for number, target in enumerate(TARGETS + SPOILT):
            url = target.format(port=canary.port)
            wanted = {"lang": "http", "body": url, "options": ONCE}
            answer = node.ask("PUT", f"/handlers/hook-{number}", json.dumps(wanted).encode())
            assert answer.status in (201, 422), (url, answer)
            if answer.status == 201:
                assert any(name in url for name in KNOWN_LATER), f"{url} is known to be forbidden"
                accepted += node.add(f"hook-{number}", [b"x"])
        statuses = {node.done(id_)["status"] for id_ in accepted}
    assert all(status >= 500 for status in statuses)
    assert (canary.visits, canary.bytes) == (0, 0)
