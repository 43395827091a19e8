"""The check value that the firmware puts beside a sealed register page: the processor's own (`hw/crc.py`)."""

from __future__ import annotations

from sevlab.hw.crc import POLYNOMIAL, crc64

__all__ = ["POLYNOMIAL", "crc64"]
