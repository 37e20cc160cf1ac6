"""`python -m tests.support.imports serve …`: tusserver, whose workers say on standard error what they import.

All should have been imported before they were forked: the files may be those of another version later.
"""

from __future__ import annotations

import os
import sys

from tusserver.__main__ import main


def _tell(event: str, arguments: tuple[object, ...]) -> None:
    if event == "import":
        os.write(2, f"imported {arguments[0]}\n".encode())


os.register_at_fork(after_in_child=lambda: sys.addaudithook(_tell))

if __name__ == "__main__":
    sys.exit(main())
