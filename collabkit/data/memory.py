"""Memory that is free goes back to the system: glibc keeps it for later, and that of a large table is large."""

import ctypes
import sys
from functools import cache

__all__ = ["give_back"]


def give_back() -> None:
    """Hand freed memory back to the system, where the C library has a call for it; it takes milliseconds.

    Arrays of up to 32 MB come from glibc's heap once one as large was freed, and what is freed there stays with the
    process: after a fit on six million rows as much as the fit had used at its peak.
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
