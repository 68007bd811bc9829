"""Calls made from the OpenAPI document, right and wrong ones, at a node as it is: no answer is an
error of slimq itself or undocumented, and no job is there that was not acknowledged."""

from __future__ import annotations

import json
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openapi_check as api
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from node_kit import Node, wait_until
from schemathesis import Case, GenerationMode

from proof_kit import Proof

CALLERS = 32
ENDS = "/quit"  # it is right to end then
EVERY = settings(
    deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)


def cases() -> st.SearchStrategy[Case]:
    """Calls of all routes, by the document and against it."""
    schema = schemathesis.openapi.from_dict(api.document())
    found = [each.ok() for each in schema.get_all_operations()]
    return st.one_of(
        operation.as_strategy(generation_mode=mode)
        for operation in found
        if operation is not None and operation.path != ENDS
        for mode in GenerationMode
    )


class Callers:
    """Callers that call at a time, because some answers wait, and keep what was acknowledged."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._sessions = threading.local()
        self.acknowledged: set[str] = set()

    def call_all(self, cases: list[Case]) -> Counter[int]:
        """Make all calls; return how many answers there are of each status."""
        with ThreadPoolExecutor(CALLERS) as pool:
            return Counter(pool.map(self._call, cases))

    def _call(self, case: Case) -> int:
        if not hasattr(self._sessions, "mine"):
            self._sessions.mine = requests.Session()
        answer = case.call(base_url=self._node.url, session=self._sessions.mine, timeout=70)
        status, body = answer.status_code, answer.content
        assert status < 500, f"{case.as_curl_command()}: {body!r}"
        api.check_reply(case.method, case.path, status, answer.headers["content-type"][0], body)
        if status == 202:
            self.acknowledged.update(json.loads(body)["ids"])
        return status


@pytest.mark.proof("T5")
def test_no_call_gets_an_error_of_slimq_or_leaves_a_job_without_an_acknowledgement(
    tmp_path: Path, proof: Proof
) -> None:
    count = proof.size(submission=500, release=10_000)
    # It runs nothing: what is generated may be the name of a command.
    with Node(tmp_path, SLIMQ_SERVER__ROLES="accept") as node:
        callers = Callers(node)
        made: list[Case] = []  # first: what makes them parses code, which CPython 3.11 does not
        # let several threads do (https://github.com/python/cpython/issues/106905)

        @seed(proof.seed)
        @settings(EVERY, max_examples=count)
        @given(cases())
        def make(case: Case) -> None:
            made.append(case)

        make()
        statuses = callers.call_all(made)
        wait_until(node.is_all_in, "the journal is in the store")
        there = {job["id"] for job in node.jobs()}
        assert there == callers.acknowledged
        assert statuses[202] > 0
        assert node.quit() == 0
    proof.report(calls=statuses.total(), acknowledged=statuses[202], errors=0)
