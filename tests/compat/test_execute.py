"""`satrap exec SCRIPT ARGS` beside `python SCRIPT ARGS`: the same in everything but the import path."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from satrap.compat.execute import plan
from satrap.compat.shims_path import SHIMS, put_first

slow = pytest.mark.slow

OURS = [sys.executable, "-m", "satrap.cli", "exec"]
PYTHON = [sys.executable]


def run(
    command: Sequence[str], *args: str, cwd: Path, stdin: str = "", env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **(env or {})}
    return subprocess.run(
        [*command, *args], cwd=cwd, input=stdin, env=environment, capture_output=True, text=True, timeout=60
    )


def both(tmp_path: Path, *args: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run it both ways, compare all that can be seen, and return it."""
    ours = run(OURS, *args, cwd=tmp_path, stdin=stdin)
    theirs = run(PYTHON, *args, cwd=tmp_path, stdin=stdin)
    assert (ours.returncode, ours.stdout, ours.stderr) == (theirs.returncode, theirs.stdout, theirs.stderr)
    return ours


@slow
def test_arguments_and_main(tmp_path: Path) -> None:
    (tmp_path / "neighbour.py").write_text("where = 'next to the script'\n")
    (tmp_path / "script.py").write_text(
        "import sys, neighbour\n"
        "print(sys.argv, __name__, __file__, __spec__, __package__, neighbour.where)\n"
        "print(sys.modules['__main__'].__dict__ is globals())\n"
        "print(sorted(name for name in sys.modules if name.startswith(('satrap', 'typer', 'persia'))))\n"
    )
    result = both(tmp_path, "script.py", "--help", "-v", "a b", "--", "-x")
    assert result.stdout.startswith("['script.py', '--help', '-v', 'a b', '--', '-x'] __main__ ")
    assert result.stdout.endswith("True\n[]\n")


@slow
@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("", 0),
        ("raise SystemExit(7)", 7),
        ("import sys; sys.exit('the reason')", 1),
        ("def f():\n    raise ValueError('why')\nf()", 1),
        ("x = = 1", 1),
        ("raise KeyboardInterrupt", -signal.SIGINT),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
        ("import threading; threading.Thread(target=print, args=['late']).start()", 0),
        ("import atexit; atexit.register(print, 'at exit')", 0),
    ],
)
def test_ends(tmp_path: Path, body: str, status: int) -> None:
    (tmp_path / "script.py").write_text(body + "\n")
    assert both(tmp_path, "script.py").returncode == status


@slow
def test_standard_input_missing_file_and_folder(tmp_path: Path) -> None:
    result = both(tmp_path, "-", "arg", stdin="import sys; print(sys.argv, __name__)\n")
    assert result.stdout == "['-', 'arg'] __main__\n"
    assert both(tmp_path, "missing.py").returncode == 2
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "__main__.py").write_text("import sys; print(sys.argv, __name__)\n")
    assert both(tmp_path, "app").stdout == "['app'] __main__\n"


@slow
def test_import_path_and_child_processes(tmp_path: Path) -> None:
    real = tmp_path / "real"
    link = tmp_path / "bin"
    real.mkdir()
    link.mkdir()
    (real / "script.py").write_text(
        "import multiprocessing, sys\n"
        "def work(n):\n"
        "    import persia.service\n"
        "    return n + 1, persia.__file__\n"
        "if __name__ == '__main__':\n"
        "    print(*sys.path[:3], sep='\\n')\n"
        "    with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        "        print(pool.apply(work, [1]))\n"
    )
    (link / "command").symlink_to(real / "script.py")
    result = run(OURS, str(link / "command"), cwd=tmp_path, env={"PYTHONPATH": str(tmp_path / "given")})
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[:3] == [str(SHIMS), str(real), str(tmp_path / "given")]
    assert lines[3] == str((2, str(SHIMS / "persia" / "__init__.py")))


@slow
def test_ours_win_over_installed_packages(tmp_path: Path) -> None:
    for name in ("persia", "ts"):
        (tmp_path / "installed" / name).mkdir(parents=True)
        (tmp_path / "installed" / name / "__init__.py").write_text("raise ImportError('the installed one')\n")
    script = tmp_path / "script.py"
    script.write_text(
        "import persia.service, ts.utils.util\nprint(persia.service.get_embedding_worker_services())\n"
    )
    env = {"PYTHONPATH": str(tmp_path / "installed"), "EMBEDDING_WORKER_SERVICE": ""}
    result = run(OURS, "script.py", cwd=tmp_path, env=env)
    assert (result.returncode, result.stdout) == (0, "['embedding_worker:8887']\n"), result.stderr

    script.write_text("import satrap.compat.persia\nimport persia\nprint(persia.__file__)\n")
    result = run(PYTHON, "script.py", cwd=tmp_path, env=env)
    assert result.stdout == f"{SHIMS / 'persia' / '__init__.py'}\n"


@slow
def test_nothing_but_the_path_changes(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        "import sys\n"
        "before = set(sys.modules), list(sys.meta_path), list(sys.path_hooks)\n"
        "import satrap.compat.persia\n"
        "added = {name for name in set(sys.modules) - before[0] if not name.startswith('satrap')}\n"
        "print(any(name.split('.')[0] in ('persia', 'ts') for name in added))\n"
        "print(before[1:] == (sys.meta_path, sys.path_hooks))\n"
    )
    assert run(PYTHON, "script.py", cwd=tmp_path).stdout == "False\nTrue\n"


def test_plan_keeps_the_environment() -> None:
    planned = plan("a/s.py", ["-x"], {"HOME": "/h", "PYTHONPATH": f"/one:{SHIMS}:/two"}, "/a")
    assert planned.arguments == [sys.executable, "-P", "a/s.py", "-x"]
    assert planned.environment == {"HOME": "/h", "PYTHONPATH": f"{SHIMS}:/a:/one:/two"}


def test_plan_for_a_folder_that_pythonpath_cannot_hold() -> None:
    planned = plan("s.py", [], {}, "/a:b")
    assert planned.arguments == [sys.executable, "s.py"]
    assert planned.environment == {"PYTHONPATH": str(SHIMS)}


def test_put_first_moves_rather_than_repeats() -> None:
    path = ["/a", str(SHIMS), "/b"]
    put_first(path)
    put_first(path)
    assert path == [str(SHIMS), "/a", "/b"]


def test_shims_are_plain_packages_and_modules() -> None:
    assert not (SHIMS / "__init__.py").exists()
    names = {path.name for path in SHIMS.iterdir() if path.name != "__pycache__"}
    assert names == {"base_handler.py", "persia", "ts"}
