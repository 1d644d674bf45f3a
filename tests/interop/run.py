"""Installs the packages of requirements.txt into a virtual environment of their own and runs a program of this folder in it.

    python3 tests/interop/run.py validate_openapi.py
    python3 tests/interop/run.py agree.py -- target/debug/authpi emulate --json --listen 127.0.0.1:0 --retry-delays 50ms,50ms

Needs Python 3.11 and, the first time, a package index. The environment lies in the target folder and is kept as long as
requirements.txt is the same; several runs at once wait for each other.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
REQUIREMENTS = HERE / "requirements.txt"


def environment() -> Path:
    """The Python of the environment, which is made if it is not there."""
    target = Path(os.environ.get("CARGO_TARGET_DIR") or HERE.parents[1] / "target")
    digest = hashlib.sha256(REQUIREMENTS.read_bytes() + sys.version.encode()).hexdigest()[:12]
    place = target / "interop" / digest
    place.parent.mkdir(parents=True, exist_ok=True)
    python = place / "bin" / "python"
    with open(place.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = place / "installed"
        if not done.exists():
            venv.create(place, clear=True, with_pip=True)
            pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement", REQUIREMENTS]
            subprocess.run(pip, check=True, stdout=sys.stderr)
            done.touch()
    return python


def main() -> int:
    if len(sys.argv) < 2 or sys.version_info < (3, 11):
        print(__doc__, file=sys.stderr)
        return 2
    program, *arguments = sys.argv[1:]
    return subprocess.run([environment(), "-B", HERE / program, *arguments]).returncode


if __name__ == "__main__":
    sys.exit(main())
