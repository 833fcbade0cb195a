"""What the frontend is not: a process that imports what workers need."""

import subprocess
import sys


def test_the_frontend_imports_nothing_heavy() -> None:
    packages = ("torch", "numpy", "pyarrow", "PIL", "httpx", "cryptography")
    heavy = {*packages, "satrap.serving.context", "satrap.middleware"}
    code = f"import sys, satrap.cli.app, satrap.serving.server; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-P", "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"
