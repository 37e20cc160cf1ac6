from __future__ import annotations

import pytest

from tests.contracts.hooks import Connect, HooksContract
from tests.support.hooks import MemoryHooks


class TestMemory(HooksContract):
    @pytest.fixture
    def connect(self) -> Connect:
        return MemoryHooks
