"""Huey on Redis or SQLite. It has no call for many jobs at once."""

from __future__ import annotations

from collections.abc import Callable

from hits import hit
from huey import RedisHuey, SqliteHuey
from serving import DATA, ROLE, URL, ThreadsClient, serve

if URL.startswith("redis:"):
    queue = RedisHuey("bench", url=URL, results=False)
else:
    queue = SqliteHuey("bench", filename=f"{URL}/huey.db", results=False, fsync=True)


@queue.task()
def nothing(line: str) -> None:
    hit(line)


class Huey(ThreadsClient):
    package, batch = "huey", 100

    def bulk_of(self, count: int, delay_s: int) -> None:
        for _ in range(count):
            if delay_s:
                nothing.schedule((DATA,), delay=delay_s)
            else:
                nothing(DATA)

    def one(self, data: str) -> None:
        nothing(data)

    def caller(self) -> Callable[[], object]:
        return lambda: nothing(DATA)


if __name__ == "__main__" and ROLE == "client":
    import huey_program  # a task is named after its module: as the worker knows it

    serve(huey_program.Huey())
