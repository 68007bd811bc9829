from sqlite_kit import opener

__all__ = ["opener"]
