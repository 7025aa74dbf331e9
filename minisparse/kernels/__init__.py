"""Kernels: arrays in, arrays out; nothing here knows of tensors.

Each kernel exists twice under one name and signature: compiled by Numba (conv.py, csr.py, ...), and in plain NumPy
by another algorithm (reference.py), which says what it means. Where Numba is missing the reference serves; convolution
is then dense, since direct.py pays in compiled code alone.
"""
import functools
import importlib
import os
import warnings


@functools.cache
def have_numba():
    """Whether compiled kernels can be used; warns once where they cannot."""
    if os.environ.get("NUMBA_DISABLE_JIT", "0") != "0":
        reason = "NUMBA_DISABLE_JIT is set"
    else:
        try:
            import numba  # noqa: F401  (imported on first use: it takes longer than all the rest)
            return True
        except ImportError as error:
            reason = f"Numba cannot be imported ({error})"
    warnings.warn(f"minisparse: {reason}; the NumPy reference kernels run instead, which are slower",
                  RuntimeWarning, stacklevel=3)
    return False


@functools.cache
def load(name):
    """The module with the kernels `name` ("conv", "csr", ...): Numba's, or the NumPy reference without Numba."""
    return importlib.import_module("." + (name if have_numba() else "reference"), __name__)
