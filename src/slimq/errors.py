"""Every error slimq raises on purpose: one class per documented problem type.

The HTTP surface answers each as RFC 9457 `application/problem+json` with
`type` = ``/problems/<slug>``; `docs/protocol.md` lists them all (a test compares).
The branches say who must act: the caller (4xx), the operator (5xx), or nobody,
because a lease went to another node (409).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class SlimqError(Exception):
    """Base of all. `detail` names the broken rule and the fix.

    `extra` holds further members of the problem document (for example ``line``),
    `headers` further response headers (for example ``Allow``).
    """

    status = 500
    slug = "internal"
    title = "Internal error"

    def __init__(
        self,
        detail: str,
        *,
        extra: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.extra = dict(extra or {})
        self.headers = dict(headers or {})


# The caller must act.


class CallerError(SlimqError):
    status = 400
    slug = "bad-request"
    title = "Malformed request"


class BadName(CallerError):
    slug = "bad-name"
    title = "Malformed client or jobtype"


class BadParameter(CallerError):
    slug = "bad-parameter"
    title = "Malformed parameter"


class BadBody(CallerError):
    slug = "bad-body"
    title = "Malformed request body"


class BadId(CallerError):
    slug = "bad-id"
    title = "Malformed job id"


class Forbidden(CallerError):
    status = 403
    slug = "forbidden"
    title = "Refused for safety"


class NotFound(CallerError):
    status = 404
    slug = "not-found"
    title = "No such thing"


class NoRoute(CallerError):
    status = 404
    slug = "no-route"
    title = "No such route"


class WrongMethod(CallerError):
    status = 405
    slug = "wrong-method"
    title = "Method not allowed on this route"


class Timeout(CallerError):
    status = 408
    slug = "request-timeout"
    title = "The request did not arrive in time"


class Conflict(CallerError):
    status = 409
    slug = "conflict"
    title = "The job is not in a state that allows this"


class KeyInFlight(CallerError):
    status = 409
    slug = "key-in-flight"
    title = "A request with this Idempotency-Key is still in flight"


class BodyTooLarge(CallerError):
    status = 413
    slug = "body-too-large"
    title = "The body is over the limit"


class LineTooLong(CallerError):
    status = 413
    slug = "line-too-long"
    title = "A line is over the limit"


class KeyReused(CallerError):
    status = 422
    slug = "key-reused"
    title = "This Idempotency-Key was used with another body"


class BadHandler(CallerError):
    """`extra["field"]` is the path of the field, for example ``options.timeout``."""

    status = 422
    slug = "bad-handler"
    title = "The handler cannot be accepted"


class BadPolicy(CallerError):
    """`extra["field"]` is the path of the field, for example ``weight``."""

    status = 422
    slug = "bad-policy"
    title = "The policy of a type cannot be accepted"


class HeaderTooLarge(CallerError):
    status = 431
    slug = "header-too-large"
    title = "The request line or the headers are over the limit"


# A lease went elsewhere: nobody must act, the caller must drop its result.


class LeaseLost(SlimqError):
    status = 409
    slug = "lease-lost"
    title = "The lease on this job belongs to another run"


# The operator must act.


class OperatorError(SlimqError):
    status = 503
    slug = "unavailable"
    title = "Temporarily unavailable"


class StoreUnavailable(OperatorError):
    """The store cannot be read or written now. Accepting goes on.

    `heals` is False where waiting will not do, such as for a wrong password.
    """

    slug = "store-unavailable"
    title = "The store cannot be used now"
    heals = True


class StoreTooNew(StoreUnavailable):
    slug = "store-too-new"
    title = "The store was made by a newer slimq"
    heals = False


class JournalFailed(OperatorError):
    """A write or fsync of the journal failed; a probe write will end this."""

    slug = "journal-failed"
    title = "The journal cannot be written now"


class DurabilityUnmet(OperatorError):
    slug = "durability-unmet"
    title = "The durability level that was asked for cannot be met now"


class NotAccepting(OperatorError):
    """The operator gave the node no role to accept: another one must be asked."""

    slug = "not-accepting"
    title = "This node does not accept jobs"


class NoContext(OperatorError):
    """What runs a function could not be started, so that nothing is known of the function."""

    slug = "no-context"
    title = "No context for a function can be started now"


class ShuttingDown(OperatorError):
    slug = "shutting-down"
    title = "This node is draining"


class DiskFull(OperatorError):
    status = 507
    slug = "disk-full"
    title = "The disk of the journal is full"


# Errors at start and on the command line; never seen over HTTP.


class StartError(SlimqError):
    """The node cannot start. `exit_code` is documented in `docs/operating.md`."""

    slug = "cannot-start"
    exit_code = 1


class ConfigError(StartError):
    slug = "bad-config"
    exit_code = 2


class FolderHeld(StartError):
    """Another process holds the data folder."""

    slug = "folder-held"
    exit_code = 3


class FolderUnusable(StartError):
    slug = "folder-unusable"
    exit_code = 4


class PortInUse(StartError):
    slug = "port-in-use"
    exit_code = 5


class StoreRefused(StartError):
    """The store cannot be used, and waiting will not heal that."""

    slug = "store-refused"
    exit_code = 8


class Unreachable(StartError):
    """The command line cannot reach a node."""

    slug = "unreachable"
    exit_code = 6


class Refused(StartError):
    """The node answered the command line with an error."""

    slug = "refused"
    exit_code = 7
