"""Standard Webhooks 1.0 signatures: https://www.standardwebhooks.com"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence

SECRET_PREFIX = "whsec_"  # noqa: S105 the standard names it


def secret_key(secret: str) -> bytes:
    """Return the key that a ``whsec_`` secret holds; raise ValueError."""
    return base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)


def signature(keys: Sequence[bytes], id_: str, timestamp: int, body: bytes) -> str:
    """Return the `webhook-signature` header: one signature for each key, for rotation."""
    content = f"{id_}.{timestamp}.".encode() + body
    digests = (hmac.digest(key, content, hashlib.sha256) for key in keys)
    return " ".join(f"v1,{base64.b64encode(digest).decode()}" for digest in digests)
