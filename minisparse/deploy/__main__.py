"""Compile all that an engine needs, once, so that no later process has to wait for it:

    python -m minisparse.deploy animals.safetensors [--batch 1 64]

The kernels lie on disk beside the package (or in NUMBA_CACHE_DIR), for this kind of processor.
"""
import argparse
import sys
import time

from .file import load


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m minisparse.deploy", description=__doc__.splitlines()[0][:-1])
    parser.add_argument("file", help="an engine as engine.save wrote it")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 64], help="sizes of batches to come: 1 64")
    args = parser.parse_args(arguments)
    if min(args.batch) < 1:
        parser.error(f"a batch has at least one image, got {min(args.batch)}")
    try:
        engine = load(args.file)
    except (OSError, ValueError) as error:
        text = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else error
        sys.exit(f"{parser.prog}: {text}")
    for batch in args.batch:
        began = time.perf_counter()
        engine.warmup(batch)
        print(f"batch {batch}: ready after {time.perf_counter() - began:.1f} s")


if __name__ == "__main__":
    main()
