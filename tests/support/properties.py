"""Settings of property tests: importing this lifts the time limit of a single example, as machines may be busy."""

from __future__ import annotations

import hypothesis

hypothesis.settings.register_profile("unhurried", deadline=None)
hypothesis.settings.load_profile("unhurried")
