"""The kits of the other folders, for the museum: each test runs what once went wrong elsewhere."""

from __future__ import annotations

from address_kit import canary
from engine_kit import make_rig, rig
from journal_kit import bench
from outage_kit import chance, server
from sqlite_kit import opener
from store_kit import shared_yard, yard

__all__ = [
    "bench",
    "canary",
    "chance",
    "make_rig",
    "opener",
    "rig",
    "server",
    "shared_yard",
    "yard",
]
