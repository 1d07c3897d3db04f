"""sharena.SharedMemory between processes that know nothing but a name.

shared_memory.py METHOD CASE
"""

import contextlib
import gc
import os
import signal
import subprocess
import sys

import numpy as np
import support

import sharena

# What a process that is nobody's child of ours does with a name.
STRANGER = """
import os, signal, sys, sharena
os.environ.pop("SHARENA_HEAP", None)
memory = sharena.SharedMemory(sys.argv[1], create=len(sys.argv) > 2, size=1000)
memory.buf[0] += 1
print(memory.size, flush=True)
signal.pause()
"""


def name(of=""):
    return f"test{os.getpid()}{of}"


def stranger(*arguments):
    environment = {k: v for k, v in os.environ.items() if k != "SHARENA_HEAP"}
    process = subprocess.Popen(
        [sys.executable, "-c", STRANGER, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout.readline() == "1000\n"
    return process


def end(process):
    process.kill()
    process.wait()
    process.stdout.close()


def gone(of=""):
    try:
        sharena.SharedMemory(name(of)).close()
    except FileNotFoundError:
        return True
    return False


def case_strangers_meet_by_name(ctx):
    memory = sharena.SharedMemory(name(), create=True, size=1000)
    one, two = stranger(name()), stranger(name())
    assert memory.buf[0] == 2
    end(one)
    end(two)
    assert memory.buf[0] == 2
    memory.close()
    memory.unlink()


def case_a_killed_creator_leaves_nothing(ctx):
    creator = stranger(name(), "create")
    memory = sharena.SharedMemory(name())  # while he lives
    assert memory.buf[0] == 1
    end(creator)
    again = sharena.SharedMemory(name())  # this process has it open
    again.close()
    memory.close()
    assert gone()
    creator = stranger(name(), "create")
    end(creator)
    assert gone()  # nobody has
    memory = sharena.SharedMemory(name(), create=True, size=10)
    assert bytes(memory.buf) == bytes(10)
    memory.close()
    memory.unlink()


def case_the_name_goes_before_the_memory(ctx):
    memory = sharena.SharedMemory(name(), create=True, size=1000)
    other = stranger(name())
    memory.unlink()
    assert gone()
    new = sharena.SharedMemory(name(), create=True, size=5)  # another block
    assert (new.size, memory.buf[0], new.buf[0]) == (5, 1, 0)
    end(other)
    memory.close()
    new.close()
    new.unlink()


def write(memory, other):
    np.frombuffer(memory.buf, "u1")[:3] = [1, 2, 3]
    other[3] = 4


def case_objects_and_arrays_travel(ctx):
    memory = sharena.SharedMemory(create=True, size=8)
    view = np.frombuffer(memory.buf, "u1")
    assert sharena.is_shared(view)
    process = ctx.Process(target=write, args=(memory, view))
    process.start()
    process.join(support.DEADLINE_S)
    assert process.exitcode == 0
    assert view[:4].tolist() == [1, 2, 3, 4]
    del view
    gc.collect()
    memory.close()
    memory.unlink()


def create_until_told(prefix, start, results):
    won = 0
    start.wait(support.DEADLINE_S)
    kept = []
    for i in range(30):
        try:
            kept.append(sharena.SharedMemory(f"{prefix}.{i}", create=True, size=100 + i))
            won += 1
        except FileExistsError:
            kept.append(sharena.SharedMemory(f"{prefix}.{i}"))
        assert kept[-1].size == 100 + i
    results.put(won)
    results.join()


def case_one_of_many_creates(ctx):
    start, results = ctx.Event(), ctx.JoinableQueue()
    processes = [
        ctx.Process(target=create_until_told, args=(name(), start, results)) for _ in range(3)
    ]
    for process in processes:
        process.start()
    start.set()
    assert sum(results.get(timeout=support.DEADLINE_S) for _ in processes) == 30
    for _ in processes:  # they have them open till now
        results.task_done()
    for process in processes:
        process.join(support.DEADLINE_S)
        assert process.exitcode == 0
    assert gone(".3")


def storm(prefix, seed):
    random = np.random.default_rng(seed)
    while True:
        key = f"{prefix}.{random.integers(5)}"
        try:
            memory = sharena.SharedMemory(key, create=bool(random.integers(2)), size=64)
        except (FileExistsError, FileNotFoundError):
            continue
        memory.buf[0] = 1
        if random.integers(2):
            with contextlib.suppress(FileNotFoundError):
                memory.unlink()
        memory.close()


def case_nobody_is_stuck_behind_the_killed(ctx):
    for seed in range(12):
        processes = [ctx.Process(target=storm, args=(name(), 2 * seed + i)) for i in range(2)]
        for process in processes:
            process.start()
        for i in range(20):
            memory = sharena.SharedMemory(name(f"-{i}"), create=True, size=10)
            memory.close()
            memory.unlink()
        for process in processes:
            os.kill(process.pid, signal.SIGKILL)
            process.join(support.DEADLINE_S)
    assert all(gone(f".{i}") for i in range(5))


if __name__ == "__main__":
    support.run_case(globals())
