"""Uploads that are past their time, on a server that has not swept them away."""

from __future__ import annotations

from dataclasses import dataclass

from tests.support.tus import Tus

CONTENT = b"0123456789"
"""Of the complete one."""


@dataclass(frozen=True, slots=True)
class Expired:
    """URLs of such uploads. A test may remove what is named after it, and nothing else."""

    tus: Tus
    unfinished: str
    part: str
    to_be_deleted: str
    complete: str
