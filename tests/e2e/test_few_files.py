"""A node that may open few files serves fewer callers, not one."""

from __future__ import annotations

from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

from node_kit import ECHO, Node

FEW = ["/bin/sh", "-c", 'ulimit -n 256 && exec "$@"', "sh"]
CALLERS = 60


def test_with_256_files_callers_keep_their_connections_and_jobs_run(tmp_path: Path) -> None:
    with Node(tmp_path, prefix=FEW) as node, ExitStack() as stack:
        node.put("echo", lang="exec", body=ECHO)
        for _ in range(CALLERS):
            caller = HTTPConnection(urlsplit(node.url).netloc, timeout=30)
            stack.callback(caller.close)
            caller.request("GET", "/status")
            answer = caller.getresponse()
            assert answer.status == 200, answer.read()
            answer.read()
        assert node.done(node.add("echo", [b"x"])[0])["result"] == "x"
        assert node.problems() == ""
