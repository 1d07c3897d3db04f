"""The core is a ladder: every file calls only downward, and only the lowest call out.

Judged by the object files, so that no spelling escapes.
"""

import re

# Files that make system calls.
SYSTEM = {"sys.c", "proc.c", "room.c"}
# What any file may use of libc: nothing that prints, aborts, or talks to the kernel.
LIBC = set(
    """
    __errno_location __libc_single_threaded aligned_alloc calloc malloc realloc free
    memchr memcmp memcpy memmove memset qsort
    snprintf vsnprintf strcmp strerror strlen strncmp strncpy strnlen strspn
    pthread_atfork pthread_getspecific pthread_key_create pthread_key_delete
    pthread_mutex_destroy pthread_mutex_init pthread_mutex_lock pthread_mutex_trylock
    pthread_mutex_unlock pthread_once pthread_self pthread_setspecific
    """.split()
)
COMPILER = re.compile(
    r"_GLOBAL_OFFSET_TABLE_|__stack_chk_fail|__tls_get_addr|__popcountdi2|__\w+_chk"
)


def test_every_core_file_is_on_the_ladder(root, ladder):
    assert sorted(ladder) == sorted(path.name for path in root.glob("src/core/*.c"))


def test_files_call_only_downward(ladder, core_symbols):
    home = {
        symbol: rung for rung, name in enumerate(ladder) for symbol in core_symbols[name].defined
    }
    upward = [
        f"{name} needs {symbol} of {ladder[home[symbol]]}"
        for rung, name in enumerate(ladder)
        for symbol in sorted(core_symbols[name].undefined)
        if home.get(symbol, -1) > rung
    ]
    assert not upward


def test_only_the_lowest_files_call_the_system(ladder, core_symbols):
    ours = set().union(*(symbols.defined for symbols in core_symbols.values()))
    outside = [
        f"{name} calls {symbol}"
        for name in ladder
        if name not in SYSTEM
        for symbol in sorted(core_symbols[name].undefined - ours - LIBC)
        if not COMPILER.fullmatch(symbol)
    ]
    assert not outside


def test_names_that_cross_files_say_so(core_symbols):
    strange = [
        f"{name} defines {symbol}"
        for name, symbols in core_symbols.items()
        for symbol in sorted(symbols.defined)
        if not symbol.startswith(("shr__", "sharena_"))
    ]
    assert not strange


def test_memory_orders_are_named(root):
    """One file includes <stdatomic.h>; elsewhere no order is implied."""
    implied = re.compile(r"\batomic_(?!\w*(?:explicit|fence)\b)\w+\s*\(|__sync_")
    for path in sorted(root.glob("src/*/*.[ch]")):
        text = path.read_text(encoding="utf-8")
        assert ("<stdatomic.h>" in text) == (path.name == "atomics.h"), path
        assert not implied.search(text), path


def test_the_extension_sees_only_the_public_header(root):
    private = {path.name for path in root.glob("src/core/*.h")}
    for path in sorted(root.glob("src/ext/*.[ch]")):
        text = path.read_text(encoding="utf-8")
        included = set(re.findall(r'#\s*include\s*[<"](?:.*/)?([\w.]+)[>"]', text))
        assert not included & private, path
