"""A crash-safe heap in shared memory whose blocks are NumPy arrays.

    stack = sharena.load("stack.npy")         # a plain numpy.ndarray, in shared memory
    with ProcessPoolExecutor() as pool:
        pool.map(work, stack)                 # each plane travels as a handle

Arrays made here cross to other processes through `multiprocessing` and
`concurrent.futures` without a copy, and so does every view of them.  There is nothing to
name, close or unlink: memory lives as long as some living process uses it.
"""

import sys

if not sys.platform.startswith("linux") or sys.maxsize < 2**32:
    raise ImportError(
        "sharena runs on 64-bit Linux (x86-64 and AArch64, kernel 5.4 or newer), not on "
        f"{sys.platform} with {'64' if sys.maxsize > 2**32 else '32'}-bit pointers"
    )

from . import _core, _reducers  # noqa: F401 # in this order: see _reducers.install()
from ._core import (
    ByValueWarning,
    CorruptHeapError,
    Heap,
    HeapBusyError,
    HeapClosedError,
    HeapExistsError,
    HeapFullError,
    HeapNotFoundError,
    HeapPermissionError,
    HeapSystemError,
    HeapVersionError,
    Lost,
    NotAHeapError,
    RemoteHandleError,
    RLock,
    SharenaError,
    StaleHandleError,
    TooManyHandlesError,
    TooManyNamesError,
    TooManyProcessesError,
    __version__,
    array,
    asarray,
    ascontiguousarray,
    attach,
    by_value,
    copy,
    empty,
    empty_like,
    from_address,
    full,
    full_like,
    handle,
    is_shared,
    load,
    ones,
    ones_like,
    rebuild_array,  # noqa: F401 # pickled handles name it here
    share,
    zeros,
    zeros_like,
)
from ._dropin import Array, RawArray, RawValue, Value, install_multiprocessing
from ._policy import MemoryPolicy, allocate_always, allocating
from ._shared_memory import SharedMemory
from ._sharedctypes import get_lock, shmem_as_ndarray

__all__ = [
    "Array",
    "ByValueWarning",
    "CorruptHeapError",
    "Heap",
    "HeapBusyError",
    "HeapClosedError",
    "HeapExistsError",
    "HeapFullError",
    "HeapNotFoundError",
    "HeapPermissionError",
    "HeapSystemError",
    "HeapVersionError",
    "Lost",
    "MemoryPolicy",
    "NotAHeapError",
    "RLock",
    "RawArray",
    "RawValue",
    "RemoteHandleError",
    "SharedMemory",
    "SharenaError",
    "StaleHandleError",
    "TooManyHandlesError",
    "TooManyNamesError",
    "TooManyProcessesError",
    "Value",
    "__version__",
    "allocate_always",
    "allocating",
    "array",
    "asarray",
    "ascontiguousarray",
    "attach",
    "by_value",
    "copy",
    "empty",
    "empty_like",
    "from_address",
    "full",
    "full_like",
    "get_include",
    "get_lock",
    "handle",
    "install_multiprocessing",
    "is_shared",
    "load",
    "ones",
    "ones_like",
    "share",
    "shmem_as_ndarray",
    "zeros",
    "zeros_like",
]


def get_include() -> str:
    """The folder to give a C compiler with -I, so that it finds `sharena/sharena.h`
    and, for extensions of CPython, `sharena/sharena_py.h`."""
    from pathlib import Path

    return str(Path(__file__).with_name("include"))


_reducers.install()
