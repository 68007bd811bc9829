from engine_kit import make_rig

__all__ = ["make_rig"]
