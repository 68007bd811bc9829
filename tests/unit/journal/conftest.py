from journal_kit import bench

__all__ = ["bench"]
