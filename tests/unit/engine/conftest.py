from engine_kit import make_rig, rig

__all__ = ["make_rig", "rig"]
