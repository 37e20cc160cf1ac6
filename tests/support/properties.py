"""Settings of property tests: no time limit of a single example, as machines may be busy. `conftest.py` loads them."""

from __future__ import annotations

import hypothesis

hypothesis.settings.register_profile("unhurried", deadline=None)
hypothesis.settings.load_profile("unhurried")
