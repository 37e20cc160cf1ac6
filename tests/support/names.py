"""File names as clients may send them."""

from __future__ import annotations

from hypothesis import strategies as st

HOSTILE = [
    "",
    ".",
    "..",
    "../../etc/passwd",
    "/etc/passwd",
    "C:\\Windows\\system32",
    "\\\\server\\share",
    "a\0b",
    "a\nb\r\n",
    "CON",
    "com1.txt",
    "aux.tar.gz",
    "-rf",
    "~/.ssh/authorized_keys",
    "$(reboot)",
    "`reboot`",
    "{id}",
    "{0.__class__}",
    "%2e%2e%2f",
    "a" * 5000,
    "é" * 5000,
    "a." + "b" * 5000,
    "." * 300,
    " " * 300,
    "name. . .",
    "\u202egpj.exe",
    "e\u0301" * 200,
    "\ud800",
    "\ufeff",
    "🎉" * 100 + ".tar.gz",
]

NAMES = st.text(max_size=300) | st.text("./\\: ~\0\n\u202e\ud800é🎉aCON", max_size=30) | st.sampled_from(HOSTILE)
