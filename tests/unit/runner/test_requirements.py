"""What functions say they need: where it may be said, and what is refused."""

from __future__ import annotations

import pytest

from slimq.core.handler import Options
from slimq.core.requirements import fits, python_needed, requirements_of
from slimq.errors import BadHandler

INLINE = """\
# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "Pillow >= 11, < 12",
# ]
# ///
def handler(event, context): ...
"""


def read(text: str) -> tuple[str, ...]:
    return requirements_of({"main.py": b"", "requirements.txt": text.encode()}, "main", Options())


def test_all_three_places_say_the_same() -> None:
    needed = ("pillow>=11,<12",)
    assert read("Pillow>=11,<12\n") == needed
    assert requirements_of({"a.py": INLINE.encode()}, "a", Options()) == needed
    options = Options(requirements=("Pillow >=11, <12",))
    assert requirements_of({"a.py": b""}, "a", options) == needed


def test_a_function_that_says_nothing_needs_nothing() -> None:
    assert requirements_of({"a.py": b"# /// other\n"}, "a", Options()) == ()
    assert python_needed({"a.py": b""}, "a") == ""


def test_only_the_file_that_the_function_begins_in_says_what_it_needs() -> None:
    files = {"a.py": b"", "lib.py": INLINE.encode()}
    assert requirements_of(files, "a", Options()) == ()


def test_requirements_in_two_places_are_refused() -> None:
    files = {"a.py": INLINE.encode(), "requirements.txt": b"attrs"}
    with pytest.raises(BadHandler, match=r"requirements\.txt and inline metadata"):
        requirements_of(files, "a", Options())


def test_the_same_requirements_are_the_same_however_they_are_written() -> None:
    first = read("# what it needs\nZope.Interface == 5.*  # old\nattrs[ Tests ]>=23 , !=24\n\n")
    second = read("attrs[tests]>=23,!=24\nzope-interface==5.*\n")
    assert first == second == ("attrs[tests]>=23,!=24", "zope-interface==5.*")


def test_a_marker_is_kept() -> None:
    assert read("tomli>=2; python_version < '3.11'") == ("tomli>=2 ; python_version < '3.11'",)


@pytest.mark.parametrize(
    "line",
    [
        "--index-url http://evil.example/",
        "-e .",
        "-r /etc/passwd",
        "pkg @ https://evil.example/pkg.tar.gz",
        "https://evil.example/pkg-1-py3-none-any.whl",
        "git+https://evil.example/pkg",
        "./local",
        "/etc",
        "pkg==1 --hash=sha256:00",
        "pkg==1; os.system('x') or `y`",
        "pkg ==",
        "päckchen",
        "a" * 300,
    ],
)
def test_what_is_more_than_a_name_with_versions_is_refused(line: str) -> None:
    with pytest.raises(BadHandler, match=r"requirements\.txt"):
        read(line)


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("# /// script\n# dependencies = [\n", "ends with"),
        ("# /// script\n#dependencies = []\n# ///\n", "ends with"),
        ("# /// script\n# dependencies = [\n# ///\n", "not TOML"),
        ("# /// script\n# dependencies = 'x'\n# ///\n", "a list of texts"),
        ("# /// script\n# dependencies = [1]\n# ///\n", "a list of texts"),
    ],
)
def test_metadata_that_cannot_be_read_is_refused(source: str, why: str) -> None:
    with pytest.raises(BadHandler, match=why):
        requirements_of({"a.py": source.encode()}, "a", Options())


@pytest.mark.parametrize(
    ("needed", "version", "right"),
    [
        (">=3.11", (3, 11, 4), True),
        (">=3.12", (3, 11, 4), False),
        (">=3.9,<3.12", (3, 11, 4), True),
        (">=3.9, <3.11", (3, 11, 4), False),
        ("==3.11.*", (3, 11, 4), True),
        ("!=3.11.*", (3, 11, 4), False),
        ("==3.11", (3, 11, 4), False),
        (">3.11.4", (3, 11, 4), False),
        ("<=3.11.4", (3, 11, 4), True),
        ("", (3, 11, 4), True),
    ],
)
def test_a_python_that_does_not_fit_is_told(
    needed: str, version: tuple[int, ...], right: bool
) -> None:
    assert fits(version, needed) is right


def test_a_python_that_cannot_be_compared_is_refused() -> None:
    source = INLINE.replace(">=3.11", "three")
    with pytest.raises(BadHandler, match="requires-python"):
        python_needed({"a.py": source.encode()}, "a")
