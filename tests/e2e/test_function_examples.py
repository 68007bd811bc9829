"""The functions in examples/functions, on real input, on a node as it comes."""

from __future__ import annotations

import base64
import json
import shutil
import sqlite3
import struct
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from node_kit import Node, wait_until

from sandbox_kit import need
from slimq.core.bundle import to_body

FUNCTIONS = Path(__file__).parents[2] / "examples" / "functions"
PICTURES = Path("/usr/share")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    need(shutil.which("bwrap") is not None, "bubblewrap is missing: apt-get install bubblewrap")
    with Node(tmp_path) as node:
        yield node


def source(name: str) -> Any:
    path = FUNCTIONS / name
    if path.is_file():
        return {path.name: path.read_text()}
    files = (each for each in path.rglob("*") if each.is_file() and "__pycache__" not in str(each))
    return to_body({each.relative_to(path).as_posix(): each.read_bytes() for each in files})


def deploy(node: Node, jobtype: str, body: Any, **options: Any) -> None:
    node.put(jobtype, lang="python", body=body, options=options)


def png(width: int, height: int) -> bytes:
    """Return a picture of one colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    rows = (b"\0" + b"\x20\x80\xc0" * width) * height
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def size_of(picture: bytes) -> tuple[int, int]:
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", picture[16:24])
    return width, height


def test_thumbnails_of_pictures_of_this_machine(node: Node) -> None:
    body = json.dumps({"lang": "python", "body": source("thumbnail.py")}).encode()
    answer = node.ask("PUT", "/handlers/thumbnail", body, timeout=110)
    is_offline = answer.status == 422 and "cannot be built" in answer.document["detail"]
    need(not is_offline, "Pillow cannot be had here: no package index")
    assert answer.status < 300, answer
    found = (path.read_bytes() for path in PICTURES.rglob("*.png"))
    pictures = [png(640, 320), *(data for data in islice(found, 20) if len(data) < 500_000)]
    ids = node.add("thumbnail", [base64.b64encode(each) for each in pictures] + [b"!", b"aGk="])
    jobs = [node.done(id_) for id_ in ids]
    assert [job["status"] for job in jobs] == [200] * len(pictures) + [400, 400]
    sizes = [size_of(base64.b64decode(job["result"])) for job in jobs[: len(pictures)]]
    assert sizes[0] == (96, 48)
    for picture, (width, height) in zip(pictures, sizes, strict=True):
        assert max(width, height) <= min(96, max(size_of(picture)))


def test_rows_of_csv_are_committed_and_none_is_lost(tmp_path: Path) -> None:
    """Without a sandbox, so that the file stays and can be looked at."""
    file = tmp_path / "prices.db"
    body = source("load_csv.py")
    assert '"/tmp/prices.db"' in body["load_csv.py"]
    body["load_csv.py"] = body["load_csv.py"].replace("/tmp/prices.db", str(file))
    rows = [f'sku-{n},"Item, no. {n}",{n}.50'.encode() for n in range(950)]
    with Node(tmp_path, SLIMQ_FUNCTIONS__SANDBOX="off", SLIMQ_FUNCTIONS__SLOTS="1") as node:
        deploy(node, "load_csv", body, batch_size=1000)
        ids = node.add("load_csv", [*rows, b"no row"])
        jobs = [node.done(id_) for id_ in ids]
        assert [job["status"] for job in jobs] == [200] * 950 + [400]
        assert {job["attempt"] for job in jobs} == {1}
        starts = node.call("GET", "/status")["node"]["functions"]["starts"]
        assert starts["cold"] == 1
    with sqlite3.connect(file) as database:
        (count, cents) = database.execute("SELECT count(*), sum(cents) FROM price").fetchone()
        assert (count, cents) == (950, sum(100 * n + 50 for n in range(950)))
        named = database.execute("SELECT name FROM price WHERE sku = 'sku-7'").fetchone()
        assert named == ("Item, no. 7",)
    database.close()


def test_rows_are_loaded_in_a_sandbox_too(node: Node) -> None:
    deploy(node, "load_csv", source("load_csv.py"))
    jobs = [node.done(id_) for id_ in node.add("load_csv", [b"a,b,1.5"] * 3)]
    assert [job["status"] for job in jobs] == [200] * 3


def test_a_crawler_reads_every_page_of_a_site_once(node: Node) -> None:
    deploy(node, "crawl", source("crawl"))
    (first,) = node.add("crawl", [b"index.html"])
    node.done(first)
    pages = sorted(path.relative_to(FUNCTIONS / "crawl" / "site") for path in SITE_PAGES)
    read: dict[str, Any] = {}
    waiting = [first]
    while waiting:
        parents, waiting = waiting, []
        for parent in parents:
            job = node.done(parent)
            read[job["data"]] = job
            wait_until(node.is_all_in, "its children are in the store")
            waiting += [child["id"] for child in children(node, parent)]
    assert sorted(read) == sorted([*map(str, pages), "news/gone/index.html"])
    assert {job["status"] for path, job in read.items() if "gone" not in path} == {200}
    assert read["news/gone/index.html"]["status"] == 400
    assert json.loads(read["docs/index.html"]["result"])["title"] == "Docs"
    assert len(node.call("GET", "/jobs?jobtype=crawl")["jobs"]) == len(read)


SITE_PAGES = list((FUNCTIONS / "crawl" / "site").rglob("*.html"))


def children(node: Node, parent: str) -> list[Any]:
    jobs = node.call("GET", "/jobs?jobtype=crawl")["jobs"]
    return [job for job in jobs if job.get("parent") == parent]


def test_a_function_that_was_written_for_sqs_runs_as_it_is(node: Node) -> None:
    deploy(
        node,
        "orders",
        source("sqs.py"),
        event="sqs",
        max_failures=2,
        backoff={"min": "1ms", "max": "1ms"},
    )
    orders = [{"order": n, "quantity": n % 5} for n in range(10)]
    ids = node.add("orders", [json.dumps(order).encode() for order in orders])
    jobs = [node.done(id_) for id_ in ids]
    failed = [index for index, job in enumerate(jobs) if job["status"] >= 400]
    assert failed == [0, 5]
    assert [jobs[index]["failures"] for index in failed] == [2, 2]
    assert "slimq" not in (FUNCTIONS / "sqs.py").read_text().partition("import json")[2]
