"""Returns free memory to the system: glibc keeps it, which is much after a large table."""

import ctypes
import sys
from functools import cache

__all__ = ["give_back"]


def give_back() -> None:
    """Return freed memory to the system, if the C library has a call for it; takes milliseconds.

    Once a large array was freed, glibc serves arrays of up to 32 MB from its heap, and memory freed there stays with
    the process: after a fit on six million rows, as much as the fit used at its peak.
    """
    if (trim := _trim()) is not None:
        trim(0)


@cache
def _trim():
    if not sys.platform.startswith("linux"):
        return None
    try:
        return ctypes.CDLL("libc.so.6").malloc_trim
    except (OSError, AttributeError):  # another C library
        return None
