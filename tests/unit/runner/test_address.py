from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimq.runner.address import AddressPolicy

PUBLIC = ["8.8.8.8", "93.184.216.34", "1.1.1.1", "223.255.255.255", "2606:4700::1111", "2a00::1"]
FORBIDDEN = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.0",
    "10.255.255.255",
    "100.64.0.0",
    "100.127.255.255",
    "127.0.0.1",
    "127.255.255.255",
    "168.63.129.16",
    "169.254.0.0",
    "169.254.169.254",
    "172.16.0.0",
    "172.31.255.255",
    "192.0.0.0",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.0",
    "192.168.255.255",
    "198.18.0.0",
    "198.19.255.255",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::8.8.8.8",
    "::ffff:8.8.8.8",
    "::ffff:127.0.0.1",
    "::ffff:0:8.8.8.8",
    "64:ff9b::8.8.8.8",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:0:7f00:1::",
    "2001:2::1",
    "2001:10::1",
    "2001:20::1",
    "2001:db8::1",
    "2002::1",
    "2002:7f00:1::",
    "3fff::1",
    "4000::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "feff::1",
    "ff02::1",
    "ff0e::1",
]
NO_ADDRESSES = ["", "localhost", "127.1", "0x7f.1", "1.2.3", "8.8.8.8.", "①.①.①.①", "8.8.8.8/32"]


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_permitted(address: str) -> None:
    assert AddressPolicy().permits(address)


@pytest.mark.parametrize("address", FORBIDDEN)
def test_all_others_are_forbidden(address: str) -> None:
    assert not AddressPolicy().permits(address)


@pytest.mark.parametrize("text", NO_ADDRESSES)
def test_what_is_not_an_address_is_forbidden_even_when_everything_is_allowed(text: str) -> None:
    assert not AddressPolicy([ip_network("0.0.0.0/0"), ip_network("::/0")]).permits(text)


def test_an_allowed_network_is_permitted_and_nothing_beside_it() -> None:
    policy = AddressPolicy([ip_network("10.1.0.0/16"), ip_network("fd00::/64")])
    assert policy.permits("10.1.255.255")
    assert policy.permits("fd00::1")
    assert not policy.permits("10.2.0.0")
    assert not policy.permits("fd00:0:0:1::1")


def test_a_mapped_address_is_judged_as_the_allowed_one_it_maps() -> None:
    policy = AddressPolicy([ip_network("127.0.0.0/8")])
    assert policy.permits("::ffff:127.0.0.1")
    assert not policy.permits("::ffff:10.0.0.1")
    assert not policy.permits("::127.0.0.1")


def test_a_zone_does_not_hide_an_address() -> None:
    policy = AddressPolicy([ip_network("fe80::/10")])
    assert policy.permits("fe80::1%eth0")
    assert not AddressPolicy().permits("fe80::1%eth0")


@given(st.ip_addresses(v=4))
def test_no_forbidden_ipv4_address_is_reached_in_the_disguise_of_ipv6(address: IPv4Address) -> None:
    policy, number = AddressPolicy(), int(address)
    disguises = [
        IPv6Address(number),  # compatible
        IPv6Address(0xFFFF << 32 | number),  # mapped
        IPv6Address(0xFFFF << 48 | number),  # translated
        IPv6Address(0x64FF9B << 96 | number),  # NAT64
        IPv6Address(0x2002 << 112 | number << 80),  # 6to4
        IPv6Address(0x2001 << 112 | number << 64),  # Teredo
    ]
    assert not any(policy.permits(str(disguise)) for disguise in disguises)


@given(st.ip_addresses())
def test_what_the_interpreter_holds_for_private_is_forbidden(
    address: IPv4Address | IPv6Address,
) -> None:
    special = not address.is_global or address.is_multicast or address.is_reserved
    assert not (special and AddressPolicy().permits(str(address)))
