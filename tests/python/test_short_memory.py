"""Where memory is short: an exception that tells what to do, and nobody is killed.

The programs run in memory cgroups, mount namespaces and limits of their own, made as root; where
that is not to be had they are skipped.  What C alone can show (many blocks freed by another
process, 60 processes, many threads, core dumps) is in tests/core/test_short.c and
test_strand.c; fragmentation is a case of bench/run.py.
"""

import contextlib
import json
import resource
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from sharena import _survey

MIB = 1 << 20
V1 = Path("/sys/fs/cgroup/memory")
ROOM = "short_room.py"
FULL = "short_full.py"


def mounts(kind):
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return [Path(fields[1]) for fields in map(str.split, lines) if fields[2] == kind]


class Group:
    """A memory cgroup, v1 or v2."""

    def __init__(self, path, limit, version):
        self.path, self.version = path, version
        path.mkdir()
        if limit is not None:
            name = "memory.limit_in_bytes" if version == 1 else "memory.max"
            (path / name).write_text(str(limit))

    @property
    def inside(self):
        """A command that runs another one in here."""
        return ["sh", "-c", f'echo $$ > {self.path}/cgroup.procs && exec "$0" "$@"']

    @property
    def kills(self):
        events = "memory.oom_control" if self.version == 1 else "memory.events"
        lines = (self.path / events).read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))


@contextlib.contextmanager
def groups(root, version):
    made = []

    def make(limit, parent=None):
        path = (parent.path if parent else root) / f"sharena-test-{uuid.uuid4().hex[:8]}"
        try:
            group = Group(path, limit, version)
        except OSError as error:
            pytest.skip(f"no memory cgroup can be made here: {error}")
        made.append(group)
        return group

    try:
        yield make
        assert [group.kills for group in made] == [0] * len(made), "the kernel killed"
    finally:
        for group in reversed(made):
            # The program's session is dead by now; what is left of it leaves by itself.
            for pid in (group.path / "cgroup.procs").read_text().split():
                with contextlib.suppress(OSError):
                    (root / "cgroup.procs").write_text(pid)
            with contextlib.suppress(OSError):
                group.path.rmdir()


@pytest.fixture
def group():
    """Makes v1 memory cgroups, and sees that the kernel killed nobody in them."""
    if not (V1 / "memory.limit_in_bytes").exists():
        pytest.skip("no v1 memory cgroups here")
    with groups(V1, 1) as make:
        yield make


@pytest.fixture
def group_v2():
    for root in mounts("cgroup2"):
        if "memory" in (root / "cgroup.controllers").read_text().split():
            with contextlib.suppress(OSError):
                (root / "cgroup.subtree_control").write_text("+memory")
            with groups(root, 2) as make:
                yield make
            return
    pytest.skip("the v2 hierarchy here has no memory controller")


@pytest.fixture
def namespace(tmp_path):
    """Commands that run another one in a mount namespace with some mounts of its own."""

    def inside(*mounts):
        steps = " && ".join(("mount --make-rprivate /", *mounts, 'exec "$0" "$@"'))
        return ["unshare", "-m", "sh", "-c", steps]

    try:
        subprocess.run([*inside(), "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no mount namespace can be made here")
    return inside


def limited(which, amount):
    """For preexec_fn: a limit of the process."""
    return lambda: resource.setrlimit(which, (amount, amount))


# ---- memory cgroups ------------------------------------------------------------------------


@pytest.mark.parametrize("limit", ["1GiB", "80MiB"])
def test_request_in_a_small_cgroup(run_program, group, limit):
    run_program(ROOM, "request", limit, 100, inside=group(100 * MIB).inside)


def test_request_in_a_nested_cgroup(run_program, group):
    outer = group(100 * MIB)
    middle = group(None, outer)
    inner = group(400 * MIB, middle)
    run_program(ROOM, "request", "1GiB", 100, inside=inner.inside)


def test_request_in_a_small_cgroup_v2(run_program, group_v2):
    outer = group_v2(100 * MIB)
    run_program(ROOM, "request", "1GiB", 100, inside=outer.inside)


def test_default_heap_in_a_small_cgroup(run_program, group):
    run_program(ROOM, "default", 100, inside=group(100 * MIB).inside)


@pytest.mark.parametrize("size", [64, 1000, 10_000, 100_000, MIB, 8 * MIB])
def test_fill_a_small_cgroup(run_program, group, size):
    run_program(ROOM, "fill", size, 100, inside=group(100 * MIB).inside)


@pytest.mark.parametrize("size", [100_000, 10_000_000])
def test_several_fill_a_small_cgroup(run_program, group, size):
    run_program(ROOM, "several", size, inside=group(120 * MIB).inside)


def test_worker_in_a_smaller_cgroup(run_program, group):
    run_program(ROOM, "worker", group(100 * MIB).path, 100)


# ---- a full file system, limits, a small machine -------------------------------------------

TMPFS = "mount -t tmpfs -o size=32m tmpfs /dev/shm"


@pytest.mark.parametrize("size", [64, 1000, 100_000, MIB, 8 * MIB, 300 * MIB])
def test_fill_the_file_system(run_program, namespace, size):
    run_program(ROOM, "tmpfs", size, inside=namespace(TMPFS))


def test_file_system_filled_by_others(run_program, namespace):
    run_program(ROOM, "filled_by_others", inside=namespace(TMPFS))


def test_address_space_limit(run_program):
    run_program(ROOM, "address_space", preexec_fn=limited(resource.RLIMIT_AS, 3072 * MIB))


def test_file_size_limit(run_program):
    run_program(ROOM, "file_size", preexec_fn=limited(resource.RLIMIT_FSIZE, 512 * MIB))


def test_machine_with_little_memory(run_program, namespace, tmp_path):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 8388608 kB\nMemFree: 1024 kB\nMemAvailable: 102400 kB\n")
    run_program(ROOM, "machine", inside=namespace(f"mount --bind {meminfo} /proc/meminfo"))


# ---- a heap at its limit -------------------------------------------------------------------


@pytest.mark.parametrize("what", ["live_arrays", "tickets", "small_tickets", "retained"])
def test_heap_full_of(run_program, what):
    run_program(FULL, what)


# ---- a sparse heap of 1 TiB ----------------------------------------------------------------


@pytest.fixture
def sparse():
    """programs/short_sparse.py: (its order-giving function, the heap's name)."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    program = str(Path(__file__).parent / "programs" / "short_sparse.py")
    child = subprocess.Popen(
        [sys.executable, program, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    def order(text):
        child.stdin.write(text + "\n")
        child.stdin.flush()
        before, after = child.stdout.readline().split()
        return int(before), int(after)

    try:
        assert child.stdout.readline().startswith("ready")
        yield order, name
        child.stdin.close()
        assert child.wait(20) == 0
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
        _survey.file_of(name).unlink(missing_ok=True)


def test_looking_at_a_sparse_heap_commits_nothing(sparse, run_python):
    order, name = sparse
    for what in ("stats", "check", "handles", "blocks", "tickets", "processes", "names"):
        before, after = order(what)
        assert before == after, what
    start, _ = order("committed")
    for arguments in (["ls"], ["check", name], ["ls", "--json"]):
        done = run_python("-m", "sharena", *arguments)
        assert done.returncode == 0, done.stderr
    assert name in [heap["name"] for heap in json.loads(done.stdout)]
    _, end = order("reap")  # ls may have reaped already: it attaches
    assert end == start
    for what in ("check", "handles", "stats"):
        before, after = order(what)
        assert before == after == end, what


# ---- the retained budget -------------------------------------------------------------------


def peak(most):
    """A peak that this machine can bear; the size asked for is 4 GiB."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    available = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    return min(most, available * 1024 // 3 // (256 * MIB) * 256 * MIB)


@pytest.mark.parametrize(
    ("most", "size", "calls"),
    [(4096 * MIB, 64 * MIB, (100, 400_000)), (128 * MIB, 64, (100, 1000))],
    ids=["large", "64-byte"],
)
def test_retained_budget(run_program, most, size, calls):
    print(run_program(FULL, "decay", peak(most), size, *calls))
