"""Chromium for the tests that need it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.browser.browser import JS, Browser
from tests.conftest import InstallPackages


@pytest.fixture(scope="session")
def browser_packages(install_packages: InstallPackages) -> Path:
    """Where the driver of the browser, and the clients that run in it, are installed."""
    return install_packages(JS)


@pytest.fixture
def browser(browser_packages: Path, tmp_path: Path) -> Browser:
    """Runs scenarios in Chromium."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs Chromium")
    return Browser(browser_packages, chromium, tmp_path)
