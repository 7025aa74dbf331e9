"""The one decorator of every Numba kernel: compiled once, cached on disk, run without the interpreter lock."""
from numba import njit


def jit(**options):
    """numba.njit with the options that all kernels share; pass `fastmath={...}` where a comment justifies it."""
    return njit(cache=True, nogil=True, error_model="numpy", **options)
