"""The caller of all URLs that `http_plain` does not take, https above all: libcurl."""

from __future__ import annotations

import socket

import pycurl

from slimq.core.limits import IDLE_CONNECTIONS_MAX
from slimq.runner.address import AddressPolicy
from slimq.runner.caller import NewSocket, Request, Response
from slimq.runner.transfer import Transfer


class CurlCaller:
    """See `Caller`. On the loop of the first call. `ca_file` holds the certificate
    authorities (default: those of the machine)."""

    def __init__(
        self,
        policy: AddressPolicy,
        *,
        ca_file: str | None = None,
        new_socket: NewSocket = socket.socket,
    ) -> None:
        self._policy = policy
        self._ca_file = ca_file
        self._socket = new_socket
        self._multi = pycurl.AsyncCurlMulti()
        self._multi.setopt(pycurl.M_MAXCONNECTS, IDLE_CONNECTIONS_MAX)
        self._idle: list[Transfer] = []

    def takes(self, url: str) -> bool:
        return True

    async def call(self, request: Request) -> Response:
        transfer = self._take()
        try:
            transfer.prepare(request)
            await self._multi.add_handle(transfer.curl)
            response = transfer.response()
        except pycurl.error as error:
            response = transfer.failure(error)
        except BaseException:  # cancelled: the transfer is aborted, its connection closed
            transfer.close()
            raise
        transfer.forget()
        self._idle.append(transfer)
        return response

    async def close(self) -> None:
        """May wait for name lookups that are still under way."""
        await self._multi.aclose()
        while self._idle:
            self._idle.pop().close()

    def _take(self) -> Transfer:
        if self._idle:
            return self._idle.pop()
        return Transfer(self._policy, self._ca_file, self._socket)
