from __future__ import annotations

import json

import pytest

from slimq.api.problem import prefers_text, render
from slimq.errors import BadName, DiskFull, LineTooLong, WrongMethod


def test_an_error_is_a_problem_document_with_its_own_type():
    answer = render(BadName("too long", extra={"field": "client"}))
    assert ("content-type", "application/problem+json") in answer.headers
    assert json.loads(answer.body) == {
        "type": "/problems/bad-name",
        "title": "Malformed client or jobtype",
        "status": 400,
        "detail": "too long",
        "field": "client",
    }


def test_an_error_is_one_line_of_text_for_those_who_prefer_it():
    answer = render(LineTooLong("line 3 has more than 1 MiB"), "text/plain")
    assert answer.body == b"A line is over the limit: line 3 has more than 1 MiB\n"
    assert ("x-content-type-options", "nosniff") in answer.headers


def test_what_the_operator_must_end_says_when_to_come_again():
    assert ("retry-after", "1") in render(DiskFull("full")).headers
    assert ("retry-after", "9") in render(DiskFull("full", headers={"Retry-After": "9"})).headers
    assert "retry-after" not in dict(render(BadName("x")).headers)


def test_further_headers_of_an_error_are_sent():
    assert ("allow", "GET") in render(WrongMethod("no", headers={"Allow": "GET"})).headers


@pytest.mark.parametrize(
    ("accept", "text"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain", True),
        ("TEXT/PLAIN; charset=utf-8", True),
        ("text/*", True),
        ("text/plain, */*", True),
        ("application/json, text/plain, */*", False),
        ("application/json;q=0.5, text/plain", True),
        ("text/plain;q=0.5, application/json", False),
        ("text/plain;q=0", False),
        ("text/plain;q=2", True),
        ("text/plain;q=nonsense", True),
        ("text/html,application/xhtml+xml,*/*;q=0.8", False),
        (",,;;=", False),
    ],
)
def test_text_is_sent_only_to_those_who_ask_for_it_above_json(accept: str, text: bool):
    assert prefers_text(accept) is text
