"""Holds heaps for the command line to look at: holder.py NAME.

Says "ready PID" when everything is in place, and ends when its standard input does.
"""

import os
import signal
import sys

import sharena


def stopped_child(a):
    pid = os.fork()
    if pid == 0:
        assert (a == 1).all()
        os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)
    return pid


def main(name):
    a = sharena.ones(100_000)
    waiting = sharena.handle(sharena.zeros(50_000))
    named = sharena.Heap.create(name)
    b = sharena.ones((300, 1000), heap=named)
    named["kept"] = b
    pid = stopped_child(a)
    print("ready", os.getpid(), pid, sharena.Heap.default().uuid, flush=True)
    sys.stdin.read()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    del waiting


if __name__ == "__main__":
    main(sys.argv[1])
