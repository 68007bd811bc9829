"""celery/celery#1628 and OasisLMF/OasisPlatform#975: a task whose worker was killed, by the OOM
killer or a segfault, was acknowledged and lost; with reject_on_worker_lost it ran for ever.
celery/celery#10462: a MemoryError blocked the whole pool.

slimq: the job is tried three times and then done with 520. The others of its batch are run
again without it and lose no failure, and what runs commands goes on.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from node_kit import ECHO, Node


@pytest.mark.parametrize("signal", ["KILL", "SEGV"])
def test_a_poison_job_takes_none_of_its_batch_with_it(tmp_path: Path, signal: str) -> None:
    script = (
        f'while read -r line; do [ "$line" = poison ] && kill -{signal} $$; echo "200 $line"; done'
    )
    backoff = {"min": "1ms", "max": "1ms"}
    with Node(tmp_path) as node:
        node.put("mixed", lang="exec", body=["sh", "-c", script], options={"backoff": backoff})
        node.put("others", lang="exec", body=ECHO)
        ids = node.add("mixed", [b"a", b"b", b"poison", b"c"])
        jobs = [node.done(id_) for id_ in ids]
        assert [job["status"] for job in jobs] == [200, 200, 520, 200]
        assert [job["failures"] for job in jobs] == [0, 0, 0, 0]
        assert jobs[2]["crashes"] == 3
        (other,) = node.add("others", [b"still here"])
        assert node.done(other)["result"] == "still here"
