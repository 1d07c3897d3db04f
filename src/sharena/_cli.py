"""The command line: what heaps there are, who holds them, and tidying up.

Exit status: 0 done; 1 refused, or faults were found; 2 wrong usage, or no such heap.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from . import _survey
from ._core import Heap, HeapBusyError, HeapNotFoundError, SharenaError, __version__

DONE, REFUSED, USAGE = 0, 1, 2


class Report(NamedTuple):
    """One heap as `ls` shows it."""

    backing: _survey.Backing
    heap: Heap | None
    error: str  # why it could not be attached


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.run is None:
        parser.print_help(sys.stderr)
        return USAGE
    try:
        status: int = options.run(options)
    except BrokenPipeError:  # `ls | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except KeyboardInterrupt:
        return 130  # what a shell expects of SIGINT
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sharena", description=__doc__)
    parser.add_argument("--version", action="version", version=f"sharena {__version__}")
    parser.set_defaults(run=None)
    commands = parser.add_subparsers(metavar="COMMAND")

    ls = commands.add_parser("ls", help="list my heaps and the processes that hold them")
    ls.add_argument(
        "--blocks",
        nargs="?",
        type=int,
        const=10,
        metavar="N",
        help="show the N (10) largest blocks; where they were allocated is known "
        "if their program ran with SHARENA_TRACE=1",
    )
    ls.add_argument("--json", action="store_true", help="for programs")
    ls.set_defaults(run=_ls)

    rm = commands.add_parser("rm", help="remove a named heap")
    rm.add_argument("name")
    rm.add_argument("--force", action="store_true", help="even while processes use it")
    rm.set_defaults(run=_rm)

    check = commands.add_parser("check", help="walk a heap and report every fault")
    check.add_argument("heap", metavar="NAME|UUID", help="at least 8 digits of a uuid")
    check.set_defaults(run=_check)

    demo = commands.add_parser("demo", help="filter a stack of real images in shared memory")
    demo.add_argument(
        "input",
        nargs="?",
        type=Path,
        help=".npy, .tif or a folder of images; by default photographs of scikit-image",
    )
    demo.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    demo.add_argument("--size", type=int, default=3, help="of the median, in pixels")
    demo.add_argument("--output", type=Path, default=Path(), help="folder for the picture")
    demo.set_defaults(run=_demo)
    return parser


def _fail(message: str, status: int) -> int:
    print(f"sharena: {_printable(message)}", file=sys.stderr)
    return status


# ---- ls ------------------------------------------------------------------------------


def _ls(options: argparse.Namespace) -> int:
    reports = [_attach(backing) for backing in _survey.backings()]
    described = [_describe_or_say(report, options.blocks) for report in reports]
    if options.json:
        json.dump(described, sys.stdout, indent=2)
        print()
    elif described:
        _print_heaps(described)
    else:
        print("no heaps")
    sys.stdout.flush()
    return DONE


def _attach(backing: _survey.Backing) -> Report:
    """The heap, by its name or through any process that has it open."""
    error = "no process lets us in"
    try:
        if backing.name is not None:
            return Report(backing, Heap.attach(backing.name), "")
    except (SharenaError, ValueError) as refused:
        error = str(refused)
    for pid, descriptor in backing.openers.items():
        try:
            heap = Heap.attach(uuid=backing.uuid, pid=pid, fd=descriptor)
        except (SharenaError, ValueError) as refused:
            error = str(refused)
        else:
            return Report(backing, heap, "")
    return Report(backing, None, error)


def _describe_or_say(report: Report, blocks: int | None) -> dict[str, Any]:
    try:
        return _describe(report, blocks)
    except SharenaError as refused:  # damage, or it went meanwhile
        return _describe(Report(report.backing, None, str(refused)), blocks)


def _describe(report: Report, blocks: int | None) -> dict[str, Any]:
    """All that `ls --json` prints about one heap."""
    backing, heap, error = report
    described: dict[str, Any] = {
        "name": backing.name,
        "uuid": backing.uuid,
        "committed_bytes": backing.committed_bytes,
    }
    if heap is None:
        # Not attached, but /proc knows who has it open.
        openers = [{"pid": pid, **_state(pid, backing.openers)} for pid in backing.openers]
        return {**described, "error": error, "processes": openers}
    stats = heap.stats()
    for field in (
        "live_bytes retained_bytes limit_bytes committed_bytes stranded_bytes "
        "inflight_bytes blocks guests max_processes names"
    ).split():
        described[field] = getattr(stats, field)
    described["damaged"] = _is_absurd(stats)
    processes = [process for process in heap.processes() if process.pid != os.getpid()]
    pids = [process.pid for process in processes]
    described["processes"] = [_describe_process(process, pids) for process in processes]
    described["tickets"] = [
        {
            "size_bytes": ticket.size_bytes,
            "uses": ticket.uses,
            "age_s": round(time.time() - ticket.made, 3),
            "exporter": ticket.exporter,
            "exporter_alive": ticket.exporter_alive,
            "place": ticket.place,
            "channel": ticket.channel,
        }
        for ticket in heap.tickets()
    ]
    if blocks is not None:
        described["largest_blocks"] = _largest_blocks(heap, blocks)
    return described


def _is_absurd(stats: Any) -> bool:
    """Whether the counts can't be true: no sound heap takes more than its limit.

    Twice that, for of a heap in use something may be counted in two places.
    """
    used = stats.live_bytes + stats.retained_bytes
    return bool(max(used, stats.committed_bytes) > 2 * stats.limit_bytes)


def _describe_process(process: Any, holders: Collection[int]) -> dict[str, Any]:
    return {
        "pid": process.pid,
        "command": process.command,
        "age_s": round(time.time() - process.started, 3),
        "blocks": process.blocks,
        "bytes": process.bytes,
        "guests": process.guests,
        **(_state(process.pid, holders) if process.alive else _DEAD),
    }


_DEAD = {"alive": False, "stopped": False, "orphaned": False}


def _state(pid: int, holders: Collection[int]) -> dict[str, bool]:
    state = _survey.process(pid)
    if state is None:
        return _DEAD
    return {"alive": True, "stopped": state.stopped, "orphaned": state.orphaned(holders)}


def _largest_blocks(heap: Heap, count: int) -> list[dict[str, Any]]:
    pids = {process.slot: process.pid for process in heap.processes()}
    blocks = sorted(heap.blocks(), key=lambda block: block.size_bytes, reverse=True)
    return [
        {
            "size_bytes": block.size_bytes,
            "site": block.site,
            "holders": [pid for slot, pid in pids.items() if block.holders >> slot & 1],
        }
        for block in blocks[:count]
    ]


def _print_heaps(described: list[dict[str, Any]]) -> None:
    for number, heap in enumerate(described):
        if number:
            print()
        title = _printable(heap["name"] or heap["uuid"])
        print(title if heap["name"] else f"(unnamed) {title}")
        if "error" in heap:
            error = _printable(heap["error"])
            print(f"  {_size(heap['committed_bytes'])} committed; not attached: {error}")
        elif heap["damaged"]:
            print(f"  damaged? its counts can't be true: run check {title}")
        else:
            print(
                f"  {_size(heap['live_bytes'])} live in {heap['blocks']} blocks, "
                f"{_size(heap['retained_bytes'])} retained, "
                f"{_size(heap['committed_bytes'])} committed of {_size(heap['limit_bytes'])}"
            )
        for process in heap["processes"]:
            print(f"  {_process_line(process)}")
        _print_tickets(heap.get("tickets", []))
        _print_blocks(heap.get("largest_blocks", []))


def _process_line(process: dict[str, Any]) -> str:
    notes = [note for note in ("stopped", "orphaned") if process[note]]
    if not process["alive"]:
        notes = ["dead, waits to be reaped"]
    if process.get("guests"):
        notes.append(f"{process['guests']} guests")
    words = [f"pid {process['pid']}"]
    if "command" in process:
        words += [f"{_age(process['age_s'])} old", f"holds {_size(process['bytes'])}"]
        words += [_printable(process["command"])]
    return "  ".join([*words, *(f"[{note}]" for note in notes)])


TICKETS_SHOWN = 20
PLACES = {
    "open": "being written",
    "loose": "of unknown channel",
    "pipe": "in pipe {}",
    "socket": "in socket {}",
    "child": "for pid {}",
}


def _print_tickets(tickets: list[dict[str, Any]]) -> None:
    for ticket in tickets[:TICKETS_SHOWN]:
        dead = "" if ticket["exporter_alive"] else " (dead)"
        print(
            f"  handle on its way: {_size(ticket['size_bytes'])}, {ticket['uses']} uses, "
            f"{_age(ticket['age_s'])} old, {PLACES[ticket['place']].format(ticket['channel'])}, "
            f"made by pid {ticket['exporter']}{dead}"
        )
    if len(tickets) > TICKETS_SHOWN:
        print(f"  and {len(tickets) - TICKETS_SHOWN} more handles")


def _print_blocks(blocks: list[dict[str, Any]]) -> None:
    for block in blocks:
        holders = ", ".join(map(str, block["holders"])) or "a handle or a name"
        site = f"  {_printable(block['site'])}" if block["site"] else ""
        print(f"  block of {_size(block['size_bytes'])}, held by {holders}{site}")


def _printable(text: str) -> str:
    """Other processes wrote it: no terminal has to obey it, or to know its encoding."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _size(size: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def _age(seconds: float) -> str:
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


# ---- rm, check, demo -----------------------------------------------------------------


def _rm(options: argparse.Namespace) -> int:
    try:
        with Heap.attach(options.name) as heap:
            heap.unlink(force=options.force)
    except HeapNotFoundError as error:
        return _fail(str(error), USAGE)
    except HeapBusyError as error:
        return _fail(f"{error} (rm --force)", REFUSED)
    except (SharenaError, ValueError) as error:
        if not options.force:
            return _fail(f"{error} (rm --force removes the file)", REFUSED)
        return _remove_file(options.name)
    return DONE


def _remove_file(name: str) -> int:
    """Removes what bears a heap's name and cannot be attached to."""
    for backing in _survey.backings():
        if backing.name == name:
            _survey.file_of(name).unlink(missing_ok=True)
            return DONE
    return _fail(f"no heap of yours is called {name}; see `ls`", USAGE)


def _check(options: argparse.Namespace) -> int:
    found = [b for b in _survey.backings() if b.answers_to(options.heap)]
    if not found:
        return _fail(f"no heap of yours is called {options.heap}; see `ls`", USAGE)
    if len(found) > 1:
        return _fail(f"{len(found)} heaps begin with {options.heap}; give more digits", USAGE)
    report = _attach(found[0])
    if report.heap is None:
        return _fail(f"{found[0].title}: {report.error}", REFUSED)
    faults = report.heap.check()
    for fault in faults:
        print(_printable(fault))
    print(f"{_printable(found[0].title)}: {len(faults) or 'no'} faults")
    return REFUSED if faults else DONE


def _demo(options: argparse.Namespace) -> int:
    from . import demo

    if options.workers < 1 or options.size < 1:
        return _fail("--workers and --size must be at least 1", USAGE)
    try:
        return demo.run(options.input, options.workers, options.size, options.output)
    except demo.InputError as error:
        return _fail(str(error), USAGE)
    except subprocess.CalledProcessError as error:
        return _fail(f"`{' '.join(error.cmd)}` ended with {error.returncode}", REFUSED)
    except ModuleNotFoundError as error:
        return _fail(f"{error}: the demo needs `pip install 'sharena[demo]'`", USAGE)
