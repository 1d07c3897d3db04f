"""The command line, looked at from outside."""

import json
import os
import subprocess
import sys
import uuid

import numpy as np
import pytest

import sharena
from sharena import _cli, _survey


class Holder:
    """programs/holder.py, while a test looks at its heaps."""

    def __init__(self, name, program):
        environment = {**os.environ, "SHARENA_TRACE": "1"}
        environment.pop("SHARENA_HEAP", None)
        self.name = name
        self.process = subprocess.Popen(
            [sys.executable, program, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        ready, pid, stopped, self.uuid = self.process.stdout.readline().split()
        assert ready == "ready"
        self.pid, self.stopped = int(pid), int(stopped)


@pytest.fixture
def name():
    name = f"test-{uuid.uuid4().hex[:12]}"
    yield name
    _survey.file_of(name).unlink(missing_ok=True)


@pytest.fixture
def holder(name, request):
    holder = Holder(name, request.path.parent / "programs" / "holder.py")
    yield holder
    holder.process.stdin.close()
    assert holder.process.wait(20) == 0


@pytest.fixture
def cli(run_python):
    return lambda *arguments: run_python("-m", "sharena", *arguments)


def listed(cli, *arguments):
    done = cli("ls", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return {heap["name"] or heap["uuid"]: heap for heap in json.loads(done.stdout)}


def test_ls_finds_named_and_unnamed_heaps(cli, holder):
    heaps = listed(cli)
    named, unnamed = heaps[holder.name], heaps[holder.uuid]
    assert named["live_bytes"] >= 300 * 1000 * 8
    assert named["names"] == 1
    assert [process["pid"] for process in named["processes"]].count(holder.pid) == 1
    assert unnamed["name"] is None
    assert unnamed["live_bytes"] >= 150_000 * 8
    assert unnamed["limit_bytes"] > unnamed["live_bytes"]
    [ticket] = unnamed["tickets"]
    assert ticket["uses"] == 1
    assert ticket["exporter"] == holder.pid
    assert ticket["size_bytes"] >= 50_000 * 8


def test_ls_says_who_holds_a_heap(cli, holder):
    processes = {p["pid"]: p for p in listed(cli)[holder.uuid]["processes"]}
    assert set(processes) == {holder.pid, holder.stopped}
    main, child = processes[holder.pid], processes[holder.stopped]
    assert main["alive"]
    assert child["alive"]
    assert not main["stopped"]
    assert child["stopped"]
    assert "holder.py" in main["command"] or "python" in main["command"]
    assert main["bytes"] >= 100_000 * 8
    assert child["blocks"] >= 1
    assert 0 <= main["age_s"] < 60


def test_ls_shows_the_largest_blocks_and_their_lines(cli, holder):
    blocks = listed(cli, "--blocks", "1")[holder.uuid]["largest_blocks"]
    assert len(blocks) == 1
    assert blocks[0]["size_bytes"] >= 100_000 * 8
    assert sorted(blocks[0]["holders"]) == sorted([holder.pid, holder.stopped])
    assert "holder.py:" in blocks[0]["site"]


def test_ls_for_people(cli, holder):
    done = cli("ls", "--blocks")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert holder.name in lines
    assert f"(unnamed) {holder.uuid}" in lines
    text = done.stdout
    assert f"pid {holder.stopped}" in text
    assert "[stopped]" in text
    assert "handle on its way" in text
    assert "of unknown channel" in text
    assert "held by" in text
    assert "Traceback" not in done.stderr


def test_ls_does_not_disturb(cli, holder):
    """No block, handle or process of a heap is touched by looking."""
    with sharena.Heap.attach(holder.name) as heap:
        before = heap.stats().live_bytes, heap.stats().processes
        for _ in range(3):
            cli("ls")
        heap.reap()
        assert (heap.stats().live_bytes, heap.stats().processes) == before


def test_ls_leaves_out_its_own_heap(run_python):
    text = (
        "import sharena, sharena._cli\n"
        "sharena._cli.main(['ls', '--json'])\n"
        "print(sharena.Heap.default().uuid)\n"
    )
    heaps, _, own = run_python("-c", text).stdout.strip().rpartition("\n")
    uuids = {heap["uuid"] for heap in json.loads(heaps)}
    assert sharena.Heap.default().uuid in uuids  # this process's is seen
    assert own not in uuids


def test_ls_shows_what_it_cannot_attach(cli, name):
    _survey.file_of(name).write_bytes(b"not a heap" * 1000)
    assert "error" in listed(cli)[name]
    done = cli("ls")
    assert done.returncode == 0
    assert "not attached" in done.stdout


def test_ls_says_when_the_counts_cannot_be_true(cli, name):
    """A word of the control page is overwritten: no terabytes, but what to do."""
    path = _survey.file_of(name)
    with sharena.Heap.create(name, limit="24MiB") as heap:
        heap["x"] = np.ones(1000)
        stats = heap.stats()
        count = stats.metadata_bytes.to_bytes(8, "little")
        with open(path, "rb") as file:
            file.seek(4096)
            page = file.read(61440)
        assert page.count(count) == 1
        assert not listed(cli)[name]["damaged"]
        with open(path, "r+b") as file:
            file.seek(4096 + page.index(count))
            file.write(b"\x5a" * 7 + b"\0")
        done = cli("ls")
        lines = done.stdout.splitlines()
        assert done.returncode == 0, done.stderr
        at = lines.index(name)
        assert lines[at + 1] == f"  damaged? its counts can't be true: run check {name}"
        assert "TiB committed" not in done.stdout
        assert listed(cli)[name]["damaged"]
        checked = cli("check", name)
        assert checked.returncode == 1
        assert checked.stdout


def test_names_that_no_terminal_shows(cli, name):
    """A file of such a name is listed, found and removed; nothing is obeyed or crashes."""
    odd = f"{name}-\udcff\x1b[2J"
    path = _survey.file_of(odd)
    path.write_bytes(b"no heap" * 1000)
    try:
        done = cli("ls")
        assert done.returncode == 0, done.stderr
        assert f"{name}-\\udcff\\x1b[2J" in done.stdout
        assert "\x1b" not in done.stdout
        assert odd in listed(cli)
        for command in ("rm", "check"):
            refused = cli(command, odd)
            assert refused.returncode == 1
            assert "Traceback" not in refused.stderr
            assert "\x1b" not in refused.stdout + refused.stderr
        assert path.exists()
        assert cli("rm", "--force", odd).returncode == 0
        assert not path.exists()
    finally:
        path.unlink(missing_ok=True)


def test_rm(cli, name):
    sharena.Heap.create(name).close()
    assert cli("rm", name).returncode == 0
    with pytest.raises(sharena.HeapNotFoundError):
        sharena.Heap.attach(name)
    again = cli("rm", name)
    assert again.returncode == 2
    assert name in again.stderr


def test_rm_is_refused_while_others_are_attached(cli, holder):
    refused = cli("rm", holder.name)
    assert refused.returncode == 1
    assert "--force" in refused.stderr
    assert "they keep the memory" in refused.stderr
    assert refused.stderr.count("(") == 1
    assert _survey.file_of(holder.name).exists()
    forced = cli("rm", "--force", holder.name)
    assert forced.returncode == 0, forced.stderr
    assert not _survey.file_of(holder.name).exists()


def test_rm_of_what_is_no_heap_needs_force(cli, name):
    _survey.file_of(name).write_bytes(b"x" * 5000)
    assert cli("rm", name).returncode == 1
    assert _survey.file_of(name).exists()
    assert cli("rm", "--force", name).returncode == 0
    assert not _survey.file_of(name).exists()


def test_check(cli, holder):
    for which in (holder.name, holder.uuid, holder.uuid[:8]):
        done = cli("check", which)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "no faults" in done.stdout
    missing = cli("check", "no-such-heap")
    assert missing.returncode == 2
    assert "no-such-heap" in missing.stderr


def test_wrong_usage(cli):
    for arguments in ((), ("frobnicate",), ("rm",), ("demo", "--workers", "0")):
        done = cli(*arguments)
        assert done.returncode == 2
        assert done.stderr


def test_alone_it_prints_the_help(cli):
    alone, asked = cli(), cli("--help")
    assert asked.returncode == 0
    assert alone.returncode == 2
    assert alone.stderr == asked.stdout
    for command in ("ls", "rm", "check", "demo"):
        assert f"\n    {command} " in alone.stderr


def test_version(cli):
    assert cli("--version").stdout.strip() == f"sharena {sharena.__version__}"


def test_the_uuid_is_read_from_where_the_heap_has_it(name):
    with sharena.Heap.create(name) as heap:
        [backing] = [b for b in _survey.backings() if b.name == name]
        assert backing.uuid == heap.uuid


def test_states_of_processes():
    me = _survey.process(os.getpid())
    assert me.parent == os.getppid()
    assert not me.stopped
    assert _survey.Process("T", 1).stopped
    assert _survey.Process("S", 1).orphaned([5, 6])
    assert not _survey.Process("S", 1).orphaned([1, 5, 6])
    assert not _survey.Process("S", 5).orphaned([5, 6])
    assert _survey.process(2**22 + 5) is None


def test_what_others_wrote_is_no_order_to_the_terminal():
    text = "caf\N{LATIN SMALL LETTER E WITH ACUTE} \x1b[2J\n\udcc3"
    assert _cli._printable(text) == "caf\N{LATIN SMALL LETTER E WITH ACUTE} \\x1b[2J\\n\\udcc3"


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (5 << 30, "5.0 GiB"), (3 << 40, "3.0 TiB")],
)
def test_sizes(size, text):
    assert _cli._size(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59, "59 s"), (60, "1 min"), (7200, "2 h"), (2e5, "2 d")]
)
def test_ages(seconds, text):
    assert _cli._age(seconds) == text
