from __future__ import annotations

import tests.support.properties  # noqa: F401 - loads the settings of property tests
