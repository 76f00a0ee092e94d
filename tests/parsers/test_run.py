from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest

from parsers import ParserFailed, Unsupported
from parsers import run as runner
from parsers.run import Answer
from tests.parsers.conftest import Parse

LINUX = sys.platform == "linux"


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return not LINUX or "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()


def test_a_parser_gets_bytes_and_arguments_and_returns_values_and_blobs(parse: Parse) -> None:
    data = os.urandom(3_000_000)
    answer = parse(
        "return {'n': len(data), 'a': arguments}, [data[:2_000_000], b'', data[2_000_000:]]", data, {"x": [1, "é"]}
    )
    assert answer == Answer({"n": 3_000_000, "a": {"x": [1, "é"]}}, [data[:2_000_000], b"", data[2_000_000:]])


def test_T91_the_environment_is_empty_and_the_folder_temporary(parse: Parse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S3_SECRET_KEY", "secret")
    before = set(os.listdir(tempfile.gettempdir()))
    values = parse(
        "open('left', 'w').close(); return {'env': dict(os.environ), 'cwd': os.getcwd()}, []", locked=False
    ).values
    assert set(values["env"]) <= {
        "TMPDIR",
        "HOME",
        "LANG",
        "MALLOC_ARENA_MAX",
        "OPENBLAS_NUM_THREADS",
        "LC_CTYPE",
        "__CF_USER_TEXT_ENCODING",
    }
    assert os.path.realpath(values["env"]["TMPDIR"]) == os.path.realpath(values["cwd"])
    assert not os.path.exists(values["cwd"])
    assert not {
        name for name in set(os.listdir(tempfile.gettempdir())) - before if name == os.path.basename(values["cwd"])
    }


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("os.abort()", "crashed"),
        ("os._exit(3)", "unexpectedly"),
        ("return bytearray(3 << 30) and {}, []", "memory"),
        ("raise RuntimeError('/secret/path 0x7f00')", r"can't be read \(RuntimeError\)"),
        ("return {'x': float('nan')}, []", "unexpectedly"),
        ("return {'x': object()}, []", "unexpectedly"),
        ("return {}, [bytes(40 << 20)]", "too large"),
        ("return {'x': 'y' * (9 << 20)}, []", "too large"),
        ("sys.stdout.write('noise'); os.write(1, b'noise'); raise ValueError", "ValueError"),
    ],
)
def test_T91_crashes_raise_parser_failed(parse: Parse, code: str, reason: str) -> None:
    with pytest.raises(ParserFailed, match=reason) as failed:
        parse(code)
    assert "secret" not in failed.value.reason


def test_T91_cpu_time_is_limited(parse: Parse) -> None:
    with pytest.raises(ParserFailed, match="processor time"):
        parse("while True: pass", cpu_seconds=1, wall_seconds=60)


def test_T91_the_wall_limit_kills_the_process_group(parse: Parse, tmp_path: Path) -> None:
    with pytest.raises(ParserFailed, match="longer than 2 seconds"):
        # The grandchild keeps the pipe open, so the wait ends only if the group is killed.
        parse(
            """
            if os.fork() == 0:
                time.sleep(300)
            os.makedirs('x', exist_ok=True)
            time.sleep(300)
            """,
            locked=False,
            wall_seconds=2,
        )
    if LINUX:
        left = subprocess.run(
            ["pgrep", "-f", str(tmp_path)], capture_output=True, text=True, check=False
        ).stdout.split()
        assert not [pid for pid in left if alive(int(pid))]


def test_T91_grandchildren_are_killed_after_the_answer(parse: Parse) -> None:
    pid = parse(
        """
        child = os.fork()
        if child == 0:
            time.sleep(300)
        return {'pid': child}, []
        """,
        locked=False,
    ).values["pid"]
    deadline = time.monotonic() + 10
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(pid)


def test_T91_files_and_descriptors_are_limited(parse: Parse) -> None:
    values = parse(
        """
        import resource
        names = ('CORE', 'FSIZE', 'NOFILE', 'CPU', 'AS')
        return {name: resource.getrlimit(getattr(resource, 'RLIMIT_' + name))[0] for name in names}, []
        """
    ).values
    assert (values["CORE"], values["FSIZE"], values["NOFILE"], values["CPU"]) == (0, 64 << 20, 64, 10)
    assert not LINUX or values["AS"] == 1 << 30


def test_T91_input_over_the_limit_is_refused(parse: Parse) -> None:
    with pytest.raises(ParserFailed, match="larger than 1 MiB"):
        parse("return {}, []", bytes(1_048_577), max_input=1 << 20)
    assert parse("return {'n': len(data)}, []", bytes(1_048_576), max_input=1 << 20).values == {"n": 1_048_576}


def test_a_child_that_dies_while_it_reads_its_input(parse: Parse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "_START", "raise SystemExit")
    with pytest.raises(ParserFailed, match="unexpectedly"):
        runner.run("probe", io.BytesIO(bytes(20_000_000)), {})


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("os.abort()", "The parser crashed"),
        ("raise ParserFailed('No picture')", "No picture"),
        ("raise MemoryError", "The file needs too much memory"),
        ("return {'x': 1}, [bytes(40 << 20)]", "The parser's answer is too large"),
    ],
)
def test_T91_what_a_parser_told_before_it_failed_is_kept(parse: Parse, code: str, reason: str) -> None:
    answer = parse(f"yield {{'metadata': {{'width': 7}}}}, 'picture'\n{code}", head="from parsers import ParserFailed")
    assert answer == Answer({"metadata": {"width": 7}, "failed": {"picture": reason}}, [])


def test_a_parser_that_tells_its_values_in_parts_returns_all(parse: Parse) -> None:
    assert parse("yield {'a': 1}, 'picture'\nreturn {'b': 2}, [b'x']") == Answer({"b": 2}, [b"x"])


@pytest.mark.parametrize("told", ["5", "'x'", "[[]]"])
def test_T91_what_was_told_before_a_failure_is_checked_too(parse: Parse, told: str) -> None:
    with pytest.raises(ParserFailed, match="can't be read"):
        parse(f"yield {told}, []\nos.abort()")


def test_unsupported_and_parser_failed_are_passed_on(parse: Parse) -> None:
    with pytest.raises(Unsupported, match="not mine"):
        parse("from parsers import Unsupported; raise Unsupported('not mine')")
    with pytest.raises(ParserFailed, match="is broken") as failed:
        parse("from parsers import ParserFailed; raise ParserFailed('is broken')")
    assert not isinstance(failed.value, Unsupported)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\0\0",
        b"\xff\xff\xff\xff",
        b"\0\0\0\x02[]",
        b"\0\0\0\x02{}",
        b"\0\0\0\x03nul",
        b"\0\0\0\x1a" + json.dumps({"values": {}, "blobs": [-1]}).encode(),
        b"\0\0\x9c\x40" + b"[" * 40_000,
    ],
)
def test_T91_malformed_answers_raise_parser_failed(
    parse: Parse, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    monkeypatch.setattr(runner, "_START", f"import sys; sys.stdin.buffer.read(); sys.stdout.buffer.write({answer!r})")
    with pytest.raises(ParserFailed):
        runner.run("probe", io.BytesIO(b"x"), {})


def test_errors_of_the_source_pass_through_and_leave_no_child(parse: Parse) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise ConnectionError("bucket")

    before = _children()
    with pytest.raises(ConnectionError):
        runner.run("image", Broken(), {"sizes": [], "format": "webp"})
    assert _children() == before


def _children() -> set[int]:
    """This process's children, zombies included; servers of other tests may be among them."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == os.getpid():
                found.add(int(stat.parent.name))
    return found
