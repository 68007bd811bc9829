"""What tests with real nodes may ask for."""

from __future__ import annotations

from outage_kit import chance, server

__all__ = ["chance", "server"]
