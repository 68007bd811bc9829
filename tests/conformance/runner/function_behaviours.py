"""Sources of functions, by what they do. The names are those of HTTP_BEHAVIOURS."""

from __future__ import annotations

FUNCTION_BEHAVIOURS = {
    "digest": """
import hashlib
def handler(event, context):
    return b"%d %s" % (len(event), hashlib.sha256(event).hexdigest().encode())
""",
    "order": "def handler(event, context): return event\n",
    "garbage": """
def handle_batch(events, context):
    return [object(), (999, "no"), {1, 2}, handle_batch] * len(events)
""",
    "one_bad": """
def handle_batch(events, context):
    return ["fine", object()] + ["fine"] * (len(events) - 2)
""",
    "too_few": "def handle_batch(events, context): return ['fine'] * (len(events) - 1)\n",
    "too_many": "def handle_batch(events, context): return ['fine'] * (len(events) + 3)\n",
    "nothing": "def handle_batch(events, context): return []\n",
    "statuses": """
SAID = [(102, "later"), "done", (422, "no"), (503, "broken")]
def handle_batch(events, context): return SAID
""",
    "children": """
def handle_batch(events, context):
    first, second = context.jobs
    first.enqueue("bill", "for 0")
    second.enqueue("bill")
    try:
        second.enqueue("not legal", "x")
    except ValueError as error:
        print(error)
    context.log("# a log line")
    second.enqueue("log", b"end")
""",
    "hang": """
import signal
def handler(event, context): signal.pause()
""",
    "drip": """
import time
def handler(event, context):
    while True:
        print("2", end="", flush=True)
        time.sleep(0.02)
""",
    "flood": """
import os
def handler(event, context):
    while True:
        os.write(1, b"200 flood\\n" * 6000)
""",
    "crash": """
import os, signal
def handler(event, context): os.kill(os.getpid(), signal.SIGSEGV)
""",
}
