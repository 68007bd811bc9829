"""How long a job waits before it runs again: exponential, capped, with full jitter.

Full jitter spreads a herd best: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
"""

from __future__ import annotations


def backoff_ms(tries: int, min_ms: int, max_ms: int, chance: float) -> int:
    """Return the delay after the `tries`-th try (1 is the first).

    `chance` is uniform in [0, 1). The delay is uniform between 0 and
    ``min_ms * 2 ** (tries - 1)``, which is capped at `max_ms`.
    """
    ceiling = min(max_ms, min_ms << min(max(tries, 1) - 1, 40))
    return int(ceiling * chance)
