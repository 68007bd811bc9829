"""No spelling of an address makes the runner talk to this machine or its network."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from ipaddress import ip_network

from address_kit import SPOILT, TARGETS, Canary
from runner_kit import Target, answer, batch_of, on_loop, run_once

from slimq.core import status
from slimq.core.job import Ran
from slimq.errors import BadHandler
from slimq.runner.http import HttpRunner

MakeRunner = Callable[..., HttpRunner]


def test_the_table_is_long() -> None:
    assert len(TARGETS) + len(SPOILT) >= 60


def test_no_target_of_the_table_is_talked_to(canary: Canary, http_runner: MakeRunner) -> None:
    urls = [target.format(port=canary.port) for target in TARGETS + SPOILT]

    async def all_of_them() -> list[Ran]:
        runner = http_runner(allow=[])
        batches = [batch_of("http", url, [b"x"], timeout="2s") for url in urls]
        done = await asyncio.gather(*map(runner.run, batches))
        await runner.close()
        return done

    rans = on_loop(all_of_them)
    answered = [url for url, ran in zip(urls, rans, strict=True) if ran.results[0].status < 500]
    assert answered == []
    assert (canary.visits, canary.bytes) == (0, 0)


def test_the_canary_would_have_noticed(canary: Canary, http_runner: MakeRunner) -> None:
    for host in ("127.0.0.1", "2130706433", "0x7f.1", "[::1]", "[::ffff:127.0.0.1]", "localhost"):
        before = canary.visits
        runner = http_runner(allow=[ip_network("127.0.0.0/8"), ip_network("::1/128")])
        run_once(runner, batch_of("http", f"http://{host}:{canary.port}/", [b"x"], timeout="2s"))
        assert canary.visits > before, host
    assert canary.bytes > 0


ACCEPTED_LATER = ("example.invalid", "localdomain", "x.localhost", "ip6-")


def refused_field(runner: HttpRunner, url: str) -> str | None:
    try:
        runner.check(batch_of("http", url, [b""]).handler)
    except BadHandler as refused:
        return str(refused.extra["field"])
    return None


def test_a_handler_is_refused_for_what_can_be_known_before(
    canary: Canary, http_runner: MakeRunner
) -> None:
    runner = http_runner(allow=[])
    for target in TARGETS + SPOILT:
        url = target.format(port=canary.port)
        if any(name in url for name in ACCEPTED_LATER) and "@" not in url.partition("#")[0]:
            continue  # does not resolve now: it is judged when it does
        assert refused_field(runner, url) == "body", url
    on_loop(runner.close)
    assert canary.visits == 0


def test_a_name_that_changes_its_address_after_the_check_is_not_talked_to(
    canary: Canary, http_runner: MakeRunner
) -> None:
    runner = http_runner(allow=[], resolve=lambda host: ["93.184.216.34"])
    batch = batch_of("http", f"http://localhost:{canary.port}/", [b"x"])
    runner.check(batch.handler)
    result = run_once(runner, batch).results[0]
    assert result.status == status.NO_RESULT
    assert "address refused" in result.error
    assert canary.visits == 0


def test_the_networks_that_are_allowed_are_reached(http_runner: MakeRunner) -> None:
    target = Target({"it": lambda _, seen: answer(b"")})
    with target.serving():
        runner = http_runner(allow=[ip_network("127.0.0.1/32")])
        batch = batch_of("http", target.url("it"), [b"x"])
        runner.check(batch.handler)
        assert run_once(runner, batch).results[0].status == 200
