"""What a runner refuses before it is ever run."""

from __future__ import annotations

from typing import Any

import pytest

from slimq.core.handler import Handler, parse_options
from slimq.core.limits import ARGV_BYTES_MAX, ARGV_MAX, URL_MAX
from slimq.errors import BadHandler
from slimq.runner.address import AddressPolicy
from slimq.runner.command import CommandRunner
from slimq.runner.target import check_target, resolve


def exec_handler(body: Any) -> Handler:
    return Handler(
        client="*",
        jobtype="x",
        version=1,
        lang="exec",
        body=body,
        options=parse_options("exec", {}),
        written={},
    )


def test_any_command_that_could_exist_is_accepted() -> None:
    for body in (["no-such-command-yet"], ["x"] * ARGV_MAX, ["grün", "a b", "\n"], ["x" * 65_536]):
        CommandRunner().check(exec_handler(body))


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ([], "body"),
        ("ls -l", "body"),
        (["x"] * (ARGV_MAX + 1), "body"),
        (["x" * (ARGV_BYTES_MAX // 2)] * 2 + ["y"], "body"),
        ([""], "body[0]"),
        (["ls", ""], "body[1]"),
        (["ls", "a\0b"], "body[1]"),
        (["ls", 1], "body[1]"),
        (["ls", None], "body[1]"),
        (["ls", ["-l"]], "body[1]"),
        (["ls", "\ud800"], "body[1]"),
    ],
)
def test_what_can_be_no_command_is_refused_naming_the_field(body: Any, field: str) -> None:
    with pytest.raises(BadHandler) as refused:
        CommandRunner().check(exec_handler(body))
    assert refused.value.extra["field"] == field


@pytest.mark.parametrize("name", ["", "A=B", "A\0"])
def test_an_environment_that_cannot_be_set_is_refused_at_once(name: str) -> None:
    with pytest.raises(ValueError, match="environment"):
        CommandRunner({name: "x"})


def public(_: str) -> list[str]:
    return ["93.184.216.34"]


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com",
        "https://example.com:8443/a/b?c=d&e=%20#f",
        "HTTPS://EXAMPLE.com/",
        "http://xn--bcher-kva.example/",
        "http://[2606:4700::1111]/",
        "http://example.com/" + "x" * (URL_MAX - 19),
    ],
)
def test_a_url_with_a_public_host_is_accepted(url: str) -> None:
    check_target(url, AddressPolicy(), public)


@pytest.mark.parametrize(
    "url",
    [
        None,
        ["http://example.com"],
        "",
        "http://",
        "http:///path",
        "http://:80/",
        "http://example.com/" + "x" * (URL_MAX - 18),
        "http://example.com/a b",
        "http://example.com/\n",
        "http://example.com/\r\nX: y",
        "http://example.com/\x7f",
        "http://example.com/\0",
        "http://bücher.example/",
        "http://example.com\\@x/",
        "http://user@example.com/",
        "http://user:password@example.com/",
        "http://@example.com/",
        "http://example.com:0/",
        "http://example.com:65536/",
        "http://example.com:x/",
        "http://[::1/",
        "http://[fe80::1%25eth0]/",
        "http://exa%6dple.com/",
        "ftp://example.com/",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "example.com",
    ],
)
def test_what_is_no_plain_url_is_refused(url: Any) -> None:
    with pytest.raises(BadHandler) as refused:
        check_target(url, AddressPolicy(), public)
    assert refused.value.extra["field"] == "body"
    assert (
        "password" not in refused.value.detail or "without user or password" in refused.value.detail
    )


def test_a_host_is_refused_when_all_its_addresses_are_forbidden() -> None:
    check_target("http://mixed.example/", AddressPolicy(), lambda _: ["10.0.0.1", "8.8.8.8"])
    with pytest.raises(BadHandler, match="public"):
        check_target("http://inner.example/", AddressPolicy(), lambda _: ["10.0.0.1", "::1"])


def test_a_name_that_does_not_resolve_now_is_accepted() -> None:
    check_target("http://later.example/", AddressPolicy(), lambda _: [])


def test_resolving_never_raises() -> None:
    assert resolve("127.0.0.1") == ["127.0.0.1"]
    assert resolve("0x7f.1") == ["127.0.0.1"]
    for name in ("no-such-host.invalid", "x" * 300, "a..b", ""):
        assert isinstance(resolve(name), list)
