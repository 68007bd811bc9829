"""docs/protocol.md and the code say the same: routes, parameters, problems, options."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from slimq import errors
from slimq.api.accept import Acceptor
from slimq.api.app import route_table
from slimq.api.jobs import BULK_PARAMETERS, LIST_PARAMETERS, Waits
from slimq.api.jobs_in import MEMBERS as JOB_MEMBERS
from slimq.api.options import ADD_PARAMETERS
from slimq.api.ports import NodePort
from slimq.api.types import POLICY_MEMBERS
from slimq.core import status as statuses
from slimq.core.handler import LANGS, OPTION_NAMES
from slimq.core.lifecycle import State
from slimq.core.status import Outcome, outcome_of, status_of_exit, status_of_http

TEXT = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text("utf-8")


def table(*head: str) -> dict[str, list[str]]:
    """Return the rows of the table with this head, by their first cell without quotes."""
    lines = iter(TEXT.splitlines())
    for line in lines:
        if line.startswith("| " + " | ".join(head)):
            break
    else:
        raise AssertionError(f"there is no table {head}")
    next(lines)
    rows: dict[str, list[str]] = {}
    for line in lines:
        if not line.startswith("|"):
            break
        first, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        rows |= {name.strip("` "): cells for name in first.split(", ")}
    return rows


def http_errors(base: type[errors.SlimqError] = errors.SlimqError) -> Iterator[Any]:
    yield base
    for kind in base.__subclasses__():
        if kind is not errors.StartError:
            yield from http_errors(kind)


def test_every_route_has_a_heading_and_no_other_is_documented():
    headings = "\n".join(line for line in TEXT.splitlines() if line.startswith("### "))
    documented = set(re.findall(r"`([A-Z]+) (/[^`]*)`", headings))
    nothing = object()
    routes = route_table(cast(NodePort, nothing), cast(Acceptor, nothing), Waits())
    assert documented == {(method, path) for path, methods in routes.items() for method in methods}


def test_every_problem_type_is_listed_with_its_status():
    rows = table("type", "status", "means")
    assert {slug: int(cells[0]) for slug, cells in rows.items()} == {
        kind.slug: kind.status for kind in http_errors()
    }


def test_every_option_of_a_handler_is_listed():
    assert tuple(table("option", "says")) == OPTION_NAMES
    assert tuple(table("lang", "body")) == LANGS


def test_every_parameter_and_member_is_listed():
    assert tuple(table("parameter", "says")) == ADD_PARAMETERS
    assert set(table("member", "says |")) == set(JOB_MEMBERS)
    assert tuple(table("member", "says", "bounds")) == POLICY_MEMBERS
    listed = {*table("parameter", "only jobs"), "limit", "all"}
    assert listed == {*LIST_PARAMETERS, *BULK_PARAMETERS}
    assert set(table("durability", "the answer")) == {"journal", "buffered", "store"}


def test_every_state_of_the_store_is_named():
    (cells,) = [cells for name, cells in table("parameter", "only jobs").items() if name == "state"]
    assert set(re.findall(r"`(\w+)`", cells[0])) == set(State)


def test_the_outcomes_are_those_of_the_code():
    rows = table("outcome", "status", "exec")
    assert {name.lower() for name in rows} == set(Outcome)
    for name, (status, codes, answers, _) in rows.items():
        assert outcome_of(int(status[0]) * 100) is Outcome(name.lower())
        for code in re.findall(r"\d+", codes):
            assert outcome_of(status_of_exit(int(code))) is Outcome(name.lower())
        for code in re.findall(r"\b\d\d\d\b", answers):
            assert outcome_of(status_of_http(int(code))) is Outcome(name.lower())
    for code, outcome in ((299, "ok"), (404, "failed"), (500, "error"), (302, "error")):
        assert outcome_of(status_of_http(code)) is Outcome(outcome)


def test_the_statuses_of_slimq_itself_are_those_of_the_code():
    assert {int(status) for status in table("status", "means")} == {
        statuses.EXPIRED,
        statuses.CANCELLED,
        statuses.NO_RESULT,
        statuses.TIMEOUT,
        statuses.CRASHED,
        statuses.ABANDONED,
    }
