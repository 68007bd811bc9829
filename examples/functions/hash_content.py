"""The SHA-256 of what a line holds in base64. `make demo` deploys it."""

import base64
import hashlib


def handler(event, context):
    return hashlib.sha256(base64.b64decode(event, validate=True)).hexdigest()
