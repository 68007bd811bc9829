"""Every promise of docs/guarantees.md has a proof that exists."""

from __future__ import annotations

import re
from collections.abc import Iterator

from doc_pages import ROOT, missing_places
from planted import PLANTED

PAGE = (ROOT / "docs" / "guarantees.md").read_text("utf-8")
HEADING = re.compile(r"^## (.+)$", re.M)
PROMISE = re.compile(r"^\*\*([A-Z]\d+)\*\* ", re.M)
PROOF = re.compile(r"^- `tests/[\w./-]+\.py::\w+`$")
WITHOUT_PROOF = "Not proved yet"


def parts(pattern: re.Pattern[str], text: str) -> Iterator[tuple[str, str]]:
    """Yield what a heading says and what stands below it."""
    pieces = pattern.split(text)[1:]
    yield from zip(pieces[::2], pieces[1::2], strict=True)


def promises(*, proved: bool) -> dict[str, str]:
    """Return the promises that are (not) said to be proved, by name."""
    return {
        name: body
        for title, text in parts(HEADING, PAGE)
        if (title != WITHOUT_PROOF) is proved
        for name, body in parts(PROMISE, text)
    }


def proofs(body: str) -> list[str]:
    """Return the items of the list below a promise."""
    return [line for line in body.splitlines() if line.startswith("- ")]


def test_there_are_promises_of_every_kind_and_each_has_its_own_name() -> None:
    names = PROMISE.findall(PAGE)
    assert len(set(names)) == len(names)
    assert {name[0] for name in names} == set("BADOULFN")
    for letter in "BADOULFN":
        numbers = [int(name[1:]) for name in names if name[0] == letter]
        assert numbers == list(range(1, len(numbers) + 1)), letter


def test_every_promise_has_a_proof() -> None:
    for name, body in promises(proved=True).items():
        lines = proofs(body)
        assert lines, name
        for line in lines:
            assert PROOF.fullmatch(line), f"{name}: {line}"


def test_every_proof_exists() -> None:
    assert missing_places(PAGE) == []


def test_the_proofs_that_find_planted_bugs_are_named_with_their_promise() -> None:
    promised = promises(proved=True)
    for bug in PLANTED:
        if bug.promise:
            assert f"- `{bug.test.partition('[')[0]}`" in proofs(promised[bug.promise]), bug.name


def test_most_kinds_of_promises_have_a_planted_bug() -> None:
    assert {bug.promise[:1] for bug in PLANTED} >= set("BADULF")


def test_what_is_not_proved_says_so_and_points_at_no_test() -> None:
    for name, body in promises(proved=False).items():
        assert name.startswith("N")
        assert not proofs(body), name
    assert all(not name.startswith("N") for name in promises(proved=True))


def test_every_promise_that_a_page_points_at_exists() -> None:
    pointed = set(re.findall(r"\(([A-Z]\d)\)", PAGE)) | set(re.findall(r"of ([A-Z]\d)\b", PAGE))
    assert pointed <= set(PROMISE.findall(PAGE))
