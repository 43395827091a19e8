"""Every attack runs on every chip, against a guest that does as it is told."""

from attack_rig import box

__all__ = ["box"]
