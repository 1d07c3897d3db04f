"""The rows of memory: what a long trace of shifting sizes costs beside mimalloc."""

from collections.abc import Iterator

import native
from measure import Row, Settings, compare

SIZES = {
    "small": "16 B to 4 KiB",
    "large": "64 KiB to 8 MiB",
    "mixed": "16 B to 8 MiB",
}


def fragmentation(settings: Settings) -> Iterator[Row]:
    """Memory of a trace of shifting sizes, in MiB."""
    thousandths = settings.pick(1000, 20)
    cases = native.figures("fragmentation", thousandths)
    for what in ("average", "peak"):
        yield compare(
            "fragmentation",
            f"committed by the trace, {what}",
            cases[f"all {what}"],
            "M",
            bar=1.15,
            versus="mimalloc's resident memory",
        )
        yield compare(
            "fragmentation",
            "  with the process's private memory",
            cases[f"all private {what}"],
            "M",
        )
        for phase, sizes in SIZES.items():
            row = cases[f"{phase} {what}"]
            yield compare("fragmentation", f"  phase {sizes}", row, "M")
    live = cases["all live average"]
    yield compare("fragmentation", "what was asked for, average", live, "M")
