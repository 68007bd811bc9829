from store_kit import yard

__all__ = ["yard"]
