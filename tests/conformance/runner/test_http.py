"""What only HTTP targets can do to their runner, and what they are sent."""

from __future__ import annotations

import asyncio
import errno
import gzip
import hashlib
import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from runner_kit import (
    SECRET,
    Seen,
    Target,
    answer,
    batch_of,
    id_of,
    make_http_runner,
    on_loop,
    run_once,
)
from standardwebhooks import Webhook

from slimq import __version__
from slimq.core import status
from slimq.core.job import Ran
from slimq.core.limits import RESPONSE_MAX, RESULT_MAX
from slimq.runner.http import HttpRunner

NOW_MS = 1_800_000_000_123


class StillClock:
    def wall_ms(self) -> int:
        return NOW_MS

    def boot_ms(self) -> int:
        return 0


MakeRunner = Callable[..., HttpRunner]
Call = Callable[..., Ran]


@pytest.fixture
def call(http_runner: MakeRunner) -> Call:
    """Sends one job in the single form."""

    def send(target: Target, path: str = "it", data: bytes = b"x", **written: Any) -> Ran:
        return run_once(http_runner(), batch_of("http", target.url(path), [data], **written))

    return send


def answers(target: Target, code: str, *headers: str, body: bytes = b"") -> None:
    target.behaviours["it"] = lambda _, seen: answer(body, code, *headers)


# What is sent.


def test_the_single_form_is_the_data_with_headers_that_name_the_job(
    target: Target, http_runner: MakeRunner
) -> None:
    answers(target, "200 OK", body=b"thanks")
    trace = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    batch = batch_of("http", target.url("it?q=1"), [b"\x00 data\xff\r"])
    batch.jobs[0].trace = trace
    batch.jobs[0].attempt = 7
    ran = run_once(http_runner(), batch)
    assert (ran.results[0].status, ran.results[0].text, ran.results[0].error) == (
        200,
        b"thanks",
        "",
    )
    (seen,) = target.seen
    assert seen.body == b"\x00 data\xff\r"
    assert seen.target == "/it?q=1"
    wanted = {
        "content-type": "application/octet-stream",
        "content-length": "8",
        "accept-encoding": "identity",
        "user-agent": f"slimq/{__version__}",
        "webhook-id": id_of(0),
        "idempotency-key": id_of(0),
        "slimq-type": "acme/mail",
        "slimq-attempt": "7",
        "traceparent": trace,
    }
    assert {name: seen.one(name) for name in wanted} == wanted
    assert not seen.all("expect")


def test_a_traceparent_that_is_none_is_not_sent_on(target: Target, http_runner: MakeRunner) -> None:
    answers(target, "200 OK")
    batch = batch_of("http", target.url("it"), [b"x"])
    batch.jobs[0].trace = "evil\r\nX-Injected: 1"
    run_once(http_runner(), batch)
    assert not target.seen[0].all("traceparent")
    assert not target.seen[0].all("x-injected")


def test_the_batch_form_names_every_job_in_order(target: Target, http_runner: MakeRunner) -> None:
    datas = [b"job %d" % index for index in range(250)]
    target.behaviours["it"] = lambda _, seen: answer(b"200\n" * 250)
    ran = run_once(http_runner(), batch_of("http", target.url("it"), datas, batch_size=500))
    assert [result.status for result in ran.results] == [200] * 250
    (seen,) = target.seen
    assert seen.body == b"".join(data + b"\n" for data in datas)
    assert seen.one("content-type") == "text/plain"
    assert seen.one("slimq-count") == "250"
    lines = seen.all("slimq-job-ids")
    assert [line.count(",") + 1 for line in lines] == [100, 100, 50]
    assert ",".join(lines).split(",") == [id_of(index) for index in range(250)]
    attempts = ",".join(seen.all("slimq-attempt")).split(",")
    assert attempts == [str(index + 1) for index in range(250)]


def test_a_batch_of_one_job_still_has_the_form_of_a_batch(
    target: Target, http_runner: MakeRunner
) -> None:
    target.behaviours["it"] = lambda _, seen: answer(b"404 not there\n")
    ran = run_once(http_runner(), batch_of("http", target.url("it"), [b"x"], batch_size=2))
    assert (ran.results[0].status, ran.results[0].text) == (404, b"not there")
    assert target.seen[0].body == b"x\n"


def test_the_id_of_a_batch_is_stable_and_its_own(target: Target, http_runner: MakeRunner) -> None:
    target.behaviours["it"] = lambda _, seen: answer(b"200\n" * 3)
    for datas in ([b"1", b"2"], [b"1", b"2"], [b"1", b"2", b"3"]):
        run_once(http_runner(), batch_of("http", target.url("it"), datas, batch_size=9))
    first, second, third = (seen.one("webhook-id") for seen in target.seen)
    assert first == second != third
    assert first.startswith("batch_")
    assert target.seen[0].one("idempotency-key") == first


def verified(seen: Seen, secret: str) -> bool:
    """Ask the reference library, at the time of the request."""
    webhook = Webhook(secret)
    names = ("webhook-id", "webhook-timestamp")
    when = datetime.fromtimestamp(int(seen.one("webhook-timestamp")), UTC)
    signed = webhook.sign(seen.one(names[0]), when, seen.body.decode("latin-1"))
    return signed in seen.one("webhook-signature").split(" ")


@pytest.mark.parametrize("form", [{}, {"batch_size": 5}])
def test_requests_are_signed_by_every_secret(
    target: Target, form: dict[str, Any], http_runner: MakeRunner
) -> None:
    answers(target, "200 OK")
    old, new = SECRET, "whsec_" + "B" * 48
    runner = http_runner(secrets=[old, new], clock=StillClock())
    run_once(runner, batch_of("http", target.url("it"), [b'{"a": 1}'], **form))
    (seen,) = target.seen
    assert seen.one("webhook-timestamp") == str(NOW_MS // 1000)
    assert verified(seen, old)
    assert verified(seen, new)
    assert not verified(seen, "whsec_" + "C" * 48)


def test_without_a_secret_nothing_is_signed(target: Target, http_runner: MakeRunner) -> None:
    answers(target, "200 OK")
    run_once(http_runner(secrets=[]), batch_of("http", target.url("it"), [b"x"]))
    assert target.seen[0].one("webhook-id")
    assert not target.seen[0].all("webhook-signature")


@pytest.mark.parametrize("data", [b"", bytes(b for b in range(256) if b != 10), b"z" * 2**20])
def test_the_single_form_carries_any_content(target: Target, data: bytes, call: Call) -> None:
    target.behaviours["it"] = lambda _, seen: answer(hashlib.sha256(seen.body).hexdigest().encode())
    ran = call(target, data=data)
    assert ran.results[0].text == hashlib.sha256(data).hexdigest().encode()


# What is answered.


@pytest.mark.parametrize(
    ("code", "wanted"),
    {
        **{code: code for code in (200, 204, 299, 400, 404, 418, 500, 502, 599)},
        **dict.fromkeys((408, 425, 429, 503), status.RETRY_LATER),
        **dict.fromkeys((301, 304, 600, 999), status.NO_RESULT),
    }.items(),
)
def test_the_code_is_the_status(target: Target, code: int, wanted: int, call: Call) -> None:
    answers(target, f"{code} Whatever")
    result = call(target).results[0]
    assert result.status == wanted
    assert bool(result.error) is not (200 <= code < 300)


def test_a_handler_may_give_codes_another_meaning(target: Target, call: Call) -> None:
    answers(target, "404 Not Found")
    assert call(target, retry_on=[404]).results[0].status == status.RETRY_LATER
    answers(target, "500 Oops")
    assert call(target, fail_on=[500]).results[0].status == status.FAILED


@pytest.mark.parametrize("said", ["102", "422", "500", "201"])
def test_a_2xx_may_say_another_status(target: Target, said: str, call: Call) -> None:
    answers(target, "200 OK", f"sLiMq-StAtUs: {said}", body=b"why")
    result = call(target).results[0]
    assert (result.status, result.text) == (int(said), b"why")


@pytest.mark.parametrize("said", ["", "99", "302", "0200", "2e2", "600", "200, 500", "٢٠٠"])
def test_a_malformed_status_header_is_no_answer(target: Target, said: str, call: Call) -> None:
    target.behaviours["it"] = lambda _, seen: answer(b"").replace(
        b"\r\n\r\n", b"\r\nSlimq-Status: " + said.encode() + b"\r\n\r\n"
    )
    assert call(target).results[0].status == status.NO_RESULT


def test_the_status_header_of_a_failure_changes_nothing(target: Target, call: Call) -> None:
    answers(target, "500 Oops", "Slimq-Status: 200")
    assert call(target).results[0].status == 500


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("120", 120_000),
        ("0", 0),
        (format_datetime(datetime.fromtimestamp(NOW_MS // 1000 + 90, UTC), usegmt=True), 89_877),
        (format_datetime(datetime.fromtimestamp(NOW_MS // 1000 - 90, UTC), usegmt=True), 0),
        ("soon", None),
        ("-5", None),
    ],
)
@pytest.mark.parametrize("form", [{}, {"batch_size": 5}])
def test_a_retry_after_is_honoured(
    target: Target, value: str, wanted: int | None, form: dict[str, Any], http_runner: MakeRunner
) -> None:
    answers(target, "429 Slow Down", f"Retry-After: {value}")
    batch = batch_of("http", target.url("it"), [b"x"], **form)
    result = run_once(http_runner(clock=StillClock()), batch).results[0]
    assert (result.status, result.retry_after_ms) == (status.RETRY_LATER, wanted)


def test_a_retry_after_counts_for_retries_only(target: Target, call: Call) -> None:
    answers(target, "200 OK", "Retry-After: 5", "Slimq-Status: 102")
    assert call(target).results[0].retry_after_ms == 5_000
    answers(target, "500 Oops", "Retry-After: 5")
    assert call(target).results[0].retry_after_ms is None


def test_a_failed_batch_fails_every_job_whatever_its_lines_say(
    target: Target, http_runner: MakeRunner
) -> None:
    answers(target, "404 Not Found", body=b"200\n200\n")
    ran = run_once(http_runner(), batch_of("http", target.url("it"), [b"1", b"2"], batch_size=2))
    assert [result.status for result in ran.results] == [404, 404]


@pytest.mark.parametrize("code", ["200 OK", "200 OK: fine"])
def test_the_headers_of_an_interim_answer_do_not_count(
    target: Target, code: str, call: Call
) -> None:
    interim = b"HTTP/1.1 103 Early Hints\r\nSlimq-Status: 500\r\n\r\n"
    target.behaviours["it"] = lambda _, seen: interim + answer(b"fine", code)
    assert call(target).results[0].status == 200


def test_the_text_is_bounded(target: Target, call: Call) -> None:
    answers(target, "200 OK", body=b"x" * (RESULT_MAX + 1))
    assert len(call(target).results[0].text) == RESULT_MAX


# Hostile targets.


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("where", ["{}", "//127.0.0.1/", "file:///etc/passwd", "/caught"])
def test_no_redirect_is_followed(target: Target, code: int, where: str, call: Call) -> None:
    caught = Target({"caught": lambda _, seen: answer(b"caught")})
    with caught.serving():
        answers(target, f"{code} Moved", f"Location: {where.format(caught.url('caught'))}")
        result = call(target).results[0]
    assert result.status == status.NO_RESULT
    assert "not followed" in result.error
    assert len(target.seen) == 1
    assert caught.connections == 0


def test_a_gzip_bomb_is_not_decoded(target: Target, call: Call) -> None:
    bomb = gzip.compress(bytes(RESPONSE_MAX * 4))
    answers(target, "200 OK", "Content-Encoding: gzip", body=bomb)
    result = call(target).results[0]
    assert (result.status, result.text) == (200, bomb[:RESULT_MAX])


@pytest.mark.parametrize("length", ["", f"Content-Length: {10 * 2**30}\r\n"])
def test_an_endless_body_is_cut_at_its_bound(target: Target, length: str, call: Call) -> None:
    sent = 0

    def endless(wire: socket.socket, _: Seen) -> None:
        nonlocal sent
        wire.sendall(f"HTTP/1.1 200 OK\r\n{length}\r\n".encode())
        while True:
            sent += wire.send(b"x" * 65_536)

    target.behaviours["it"] = endless
    result = call(target).results[0]
    assert result.status == status.NO_RESULT
    assert result.error == f"the answer is over {RESPONSE_MAX} bytes"
    assert target.closed.acquire(timeout=5)
    assert sent < 32 * RESPONSE_MAX


def test_ten_thousand_headers_are_an_error(target: Target, call: Call) -> None:
    answers(target, "200 OK", *[f"X-{index}: {'y' * 50}" for index in range(10_000)])
    result = call(target).results[0]
    assert result.status == status.NO_RESULT
    assert result.error


def test_an_endless_header_is_an_error(target: Target, call: Call) -> None:
    def endless(wire: socket.socket, _: Seen) -> None:
        wire.sendall(b"HTTP/1.1 200 OK\r\nX: ")
        while True:
            wire.sendall(b"y" * 65_536)

    target.behaviours["it"] = endless
    assert call(target).results[0].status == status.NO_RESULT


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 2x0 OK",
        b"HTTP/1.1 20",
        b"HTTP/1.1 20000 OK",
        b"HTTP/1.1 20000 OK: fine",
        b"HTTP/9.9 200 OK",
        b"220 smtp.example ESMTP",
        b"\x00\xff\x00",
        b"HTTP/1.1 -200 OK",
        b"HTTP/1.1 099 Low",
    ],
)
def test_what_is_not_an_http_answer_is_an_error(target: Target, head: bytes, call: Call) -> None:
    target.behaviours["it"] = lambda wire, _: wire.sendall(head + b"\r\n\r\nbody")
    result = call(target).results[0]
    assert result.status == status.NO_RESULT
    assert result.error.isprintable()


def test_an_answer_that_stops_half_way_is_an_error(target: Target, http_runner: MakeRunner) -> None:
    target.behaviours["it"] = lambda wire, _: wire.sendall(
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n200\n"
    )
    ran = run_once(http_runner(), batch_of("http", target.url("it"), [b"1", b"2"], batch_size=2))
    assert [result.status for result in ran.results] == [status.NO_RESULT] * 2


@pytest.mark.parametrize("named", ["http_proxy", "https_proxy", "all_proxy", "HTTPS_PROXY"])
def test_no_proxy_of_the_environment_is_used(target: Target, named: str, call: Call) -> None:
    proxy = Target({})
    answers(target, "200 OK")
    with proxy.serving():
        os.environ[named] = proxy.url("")
        try:
            assert call(target).results[0].status == 200
        finally:
            del os.environ[named]
    assert proxy.connections == 0


def test_no_cookie_is_kept(target: Target, http_runner: MakeRunner) -> None:
    answers(target, "200 OK", "Set-Cookie: a=b")

    async def twice() -> None:
        runner = http_runner()
        for _ in range(2):
            await runner.run(batch_of("http", target.url("it"), [b"x"]))
        await runner.close()

    on_loop(twice)
    assert not target.seen[1].all("cookie")


# Connections.


def test_connections_are_kept_and_used_again(target: Target, http_runner: MakeRunner) -> None:
    answers(target, "200 OK")

    async def many() -> None:
        runner = http_runner()
        for _ in range(50):
            await runner.run(batch_of("http", target.url("it"), [b"x"]))
        await runner.close()

    on_loop(many)
    assert len(target.seen) == 50
    assert target.connections == 1


def test_a_host_gets_no_more_connections_than_its_bound_and_waiting_costs_no_timeout(
    target: Target, http_runner: MakeRunner
) -> None:
    running, most, lock = 0, 0, threading.Lock()
    three = threading.Barrier(3)

    def slow(_: socket.socket, seen: Seen) -> bytes:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        three.wait(10)  # also shows that three do run at a time
        threading.Event().wait(0.15)
        with lock:
            running -= 1
        return answer(b"")

    target.behaviours["it"] = slow

    async def many() -> list[Ran]:
        runner = http_runner(connections_per_host=3)
        batch = batch_of("http", target.url("it"), [b"x"], timeout="400ms")
        done = await asyncio.gather(*(runner.run(batch) for _ in range(12)))
        await runner.close()
        return done

    rans = on_loop(many)  # four rounds of 150 ms: the last waits longer than its timeout
    assert [ran.results[0].status for ran in rans] == [200] * 12
    assert most == 3
    assert target.connections == 3


def test_a_connection_that_was_closed_meanwhile_is_made_anew(
    target: Target, http_runner: MakeRunner
) -> None:
    target.behaviours["it"] = lambda wire, _: wire.sendall(answer(b""))  # and then closes

    async def twice() -> list[Ran]:
        runner = http_runner()
        done = []
        for _ in range(2):
            done.append(await runner.run(batch_of("http", target.url("it"), [b"x"])))
            await asyncio.to_thread(target.closed.acquire, timeout=5)
        await runner.close()
        return done

    assert [ran.results[0].status for ran in on_loop(twice)] == [200, 200]


def test_a_socket_of_the_runner_is_not_inherited_by_commands(
    target: Target, http_runner: MakeRunner
) -> None:
    inheritable: list[str] = []

    async def look() -> None:
        runner = http_runner()
        await runner.run(batch_of("http", target.url("order"), [b"x"]))
        for link in Path("/proc/self/fd").iterdir():
            fd = int(link.name)
            if (
                fd > 2
                and link.exists()
                and "socket" in str(link.readlink())
                and os.get_inheritable(fd)
            ):
                inheritable.append(link.name)
        await runner.close()

    on_loop(look)
    assert inheritable == []


def test_a_refused_connection_is_an_error_that_shows_no_query(http_runner: MakeRunner) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    batch = batch_of("http", f"http://127.0.0.1:{port}/path?token=canary", [b"x"])
    result = run_once(http_runner(), batch).results[0]
    assert result.status == status.NO_RESULT
    assert "connect" in result.error
    assert "canary" not in result.error


def test_a_name_that_does_not_resolve_is_an_error_that_shows_no_query(
    http_runner: MakeRunner,
) -> None:
    batch = batch_of("http", "http://no-such-host.invalid/path?token=canary", [b"x"])
    result = run_once(http_runner(), batch).results[0]
    assert result.status == status.NO_RESULT
    assert "no-such-host.invalid" in result.error
    assert "canary" not in result.error


@pytest.mark.parametrize(
    "body", ["file:///etc/passwd", "gopher://127.0.0.1/", "ftp://127.0.0.1/", "http://", "\u2460"]
)
def test_a_handler_that_was_never_checked_is_an_error_and_not_an_exception(
    body: str, http_runner: MakeRunner
) -> None:
    result = run_once(http_runner(), batch_of("http", body, [b"x"])).results[0]
    assert result.status == status.NO_RESULT
    assert result.error


class Unopened:
    """The sockets of a machine that has none to give."""

    def __init__(self, code: int) -> None:
        self._code = code

    def __call__(self, family: int, kind: int, protocol: int) -> socket.socket:
        raise OSError(self._code, os.strerror(self._code))


@pytest.mark.parametrize(
    ("code", "meant"),
    [
        (errno.EMFILE, status.RETRY_LATER),
        (errno.ENFILE, status.RETRY_LATER),
        (errno.EAFNOSUPPORT, status.NO_RESULT),
    ],
)
def test_a_shortage_of_sockets_costs_no_failure_and_is_said(
    target: Target,
    http_runner: MakeRunner,
    capfd: pytest.CaptureFixture[str],
    code: int,
    meant: int,
) -> None:
    ran = run_once(
        http_runner(new_socket=Unopened(code)), batch_of("http", target.url("it"), [b"x"])
    )
    assert ran.results[0].status == meant
    assert "cannot open a socket: " in ran.results[0].error
    assert os.strerror(code) in ran.results[0].error
    assert capfd.readouterr().err == ""


# TLS.


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    names = ["-subj", "/CN=nobody", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(folder / "both.pem"), "-out", str(folder / "certificate.pem")]
    subprocess.run([*command.split(), *names, *files], check=True, capture_output=True)
    with (folder / "both.pem").open("a") as both:
        both.write((folder / "certificate.pem").read_text())
    return folder


@pytest.fixture
def secure(certificate: Path) -> Iterator[Target]:
    yield from _secure(certificate, ssl.TLSVersion.TLSv1_2)


def _secure(certificate: Path, most: ssl.TLSVersion) -> Iterator[Target]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.load_cert_chain(certificate / "both.pem")
    context.minimum_version = ssl.TLSVersion.TLSv1_2 if most >= ssl.TLSVersion.TLSv1_2 else most
    context.maximum_version = most
    target = Target({"it": lambda _, seen: answer(b"secure")})
    with target.serving(wrap=lambda wire: context.wrap_socket(wire, server_side=True)):
        yield target


def over_tls(target: Target, **changes: Any) -> Ran:
    url = target.url("it").replace("http:", "https:")
    return run_once(make_http_runner("plain", **changes), batch_of("http", url, [b"x"]))


def test_a_trusted_certificate_is_accepted(secure: Target, certificate: Path) -> None:
    ran = over_tls(secure, ca_file=str(certificate / "certificate.pem"))
    assert (ran.results[0].status, ran.results[0].text) == (200, b"secure")


def test_a_certificate_of_nobody_is_refused(secure: Target) -> None:
    result = over_tls(secure).results[0]
    assert result.status == status.NO_RESULT
    assert "certificate" in result.error
    assert secure.seen == []


def test_a_certificate_of_another_host_is_refused(secure: Target, certificate: Path) -> None:
    url = secure.url("it").replace("http://127.0.0.1", "https://localhost")
    runner = make_http_runner("plain", ca_file=str(certificate / "certificate.pem"))
    result = run_once(runner, batch_of("http", url, [b"x"])).results[0]
    assert result.status == status.NO_RESULT
    assert "localhost" in result.error
    assert secure.connections == 1
    assert secure.seen == []


def test_the_runner_needs_no_loop_to_be_made_and_closed(http_runner: MakeRunner) -> None:
    async def unused() -> None:
        await http_runner().close()

    on_loop(unused)
