"""Which addresses a handler may be reached at: public ones, and those the config allows.

Asked at connect time, for the very address a socket is made for, because a name may
resolve to something else at every question. Sources: the IANA special-purpose address
registries (RFC 6890 and its updates), kept here and not taken from the interpreter alone,
whose `is_global` changed between patch releases (CVE-2024-4032).
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Network = IPv4Network | IPv6Network

_DENIED_4 = [
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this host: Linux connects it to loopback
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier NAT; also a metadata service
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's host agent, though a public number
        "169.254.0.0/16",  # link-local; the usual metadata service
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
]

# All global unicast lies in here: IPv4-mapped, ::/96, NAT64 (64:ff9b::/96 and
# 64:ff9b:1::/48), 5f00::/16, fc00::/7, fe80::/10, fec0::/10 and ff00::/8 do not.
_GLOBAL_6 = IPv6Network("2000::/3")

_DENIED_6 = [
    IPv6Network(text)
    for text in (
        "2001::/23",  # Teredo, benchmarks, ORCHID: protocol assignments
        "2001:db8::/32",
        "2002::/16",  # 6to4: an IPv4 address in disguise
        "3fff::/20",
    )
]


class AddressPolicy:
    """Permits public addresses, and all in the networks of `allow`."""

    def __init__(self, allow: Sequence[Network] = ()) -> None:
        self._allow = list(allow)

    def permits(self, address: str) -> bool:
        """Return whether an address (text, as the system prints it; an IPv6 zone is
        ignored) may be connected to. What is not an address may not."""
        try:
            parsed = ip_address(address.partition("%")[0])
        except ValueError:
            return False
        return self._allowed(parsed) or _is_public(parsed)

    def _allowed(self, address: IPv4Address | IPv6Address) -> bool:
        if isinstance(address, IPv6Address) and address.ipv4_mapped:
            # The kernel would speak IPv4 to it, so it is that IPv4 address.
            return self._allowed(address.ipv4_mapped)
        return any(address in network for network in self._allow)


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv4Address):
        listed = any(address in network for network in _DENIED_4)
    else:
        listed = address not in _GLOBAL_6 or any(address in network for network in _DENIED_6)
    return not listed and address.is_global and not address.is_multicast
