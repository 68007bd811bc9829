"""Which addresses an http handler may be at: judged at connect time, whatever a name says."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Ranges that `is_global` lets pass, or that lead to other addresses.
_DENIED = [
    ipaddress.ip_network(text)
    for text in (
        "168.63.129.16/32",  # the host agent of Azure
        "192.88.99.0/24",
        "::/96",
        "2002::/16",  # 6to4
        "2001::/32",  # Teredo
        "64:ff9b::/96",
        "64:ff9b:1::/48",
        "fec0::/10",
        "5f00::/16",
    )
]


class AddressPolicy:
    """Global unicast addresses, and the networks in `allow`."""

    def __init__(self, allow: Sequence[Network]) -> None:
        self._allow = list(allow)

    def permits(self, text: str) -> bool:
        """Judge an address as the system prints it; one with a zone is never permitted."""
        try:
            address: Address = ipaddress.ip_address(text)
        except ValueError:
            return False
        if isinstance(address, ipaddress.IPv6Address):
            if address.scope_id:
                return False
            address = address.ipv4_mapped or address
        if any(address in network for network in self._allow):
            return True
        if any(address in network for network in _DENIED):
            return False
        return address.is_global and not address.is_multicast
