"""A command for an `exec` handler: every line names a file, every answer is its SHA-256.

slimq writes the lines of a batch to stdin and reads one result line a job from stdout, in
the same order: a status, a space, and a text that is kept with the job.

    200 <sha256>                   OK: done
    422 no such file               FAILED: done; to try again would not help
    500 Input/output error         ERROR: slimq tries again later
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path


def result(name: bytes) -> str:
    """Return the result line of one job."""
    path = Path(os.fsdecode(name))
    try:
        if not path.is_file():
            return "422 no such file"
        with path.open("rb") as file:
            return f"200 {hashlib.file_digest(file, 'sha256').hexdigest()}"
    except PermissionError:
        return "422 may not be read"
    except OSError as error:
        return f"500 {error.strerror}"


def main() -> None:
    for line in sys.stdin.buffer:  # bytes: a file name need not be valid UTF-8
        print(result(line.removesuffix(b"\n")), flush=True)  # what is answered stays answered


if __name__ == "__main__":
    main()
