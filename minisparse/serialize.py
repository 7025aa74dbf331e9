"""Files: safetensors for tensors, and nested dicts of tensors and plain values on top of it. No pickle.

A safetensors file is an 8-byte little-endian length, a JSON header {name: {dtype, shape, data_offsets}}, and the
tensors' bytes, row-major and little-endian (github.com/huggingface/safetensors, format description). Files are
written under a temporary name and renamed, so a reader never meets half a file and a failed write costs nothing.
"""
import json
import os
import pathlib

import numpy as np

from .tensor import Tensor

DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1",
          "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1", "BOOL": "|b1"}
NAMES = {np.dtype(code): name for name, code in DTYPES.items()}
MAX_HEADER = 100_000_000


def write_atomically(path, *chunks):
    """Write the chunks of bytes to `path`: all of them, or nothing and the old file stays."""
    path = pathlib.Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save_file(tensors, path, metadata=None):
    """Write {name: Tensor or array} as a safetensors file; metadata: {str: str}. TypeError on other dtypes."""
    header = {"__metadata__": dict(metadata)} if metadata else {}
    chunks, end = [], 0
    for name, tensor in tensors.items():
        array = np.asarray(tensor.data if isinstance(tensor, Tensor) else tensor)
        if array.dtype not in NAMES:
            raise TypeError(f"save_file: {name!r} has dtype {array.dtype}, which the format does not have")
        chunks.append(array.tobytes())
        header[name] = {"dtype": NAMES[array.dtype], "shape": list(array.shape),
                        "data_offsets": [end, end + array.nbytes]}
        end += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    write_atomically(path, len(text).to_bytes(8, "little"), text, *chunks)


def read_header(path):
    """(header, metadata, offset of the data) of a safetensors file, checked; ValueError names what is wrong."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > min(size - 8, MAX_HEADER):
            raise ValueError(f"{path}: no safetensors file (the header would be {length} bytes long, "
                             f"the file has {size})")
        text = file.read(length)
    try:
        header = json.loads(text)
        metadata = header.pop("__metadata__", {})
        entries = {name: (DTYPES[entry["dtype"]], tuple(entry["shape"]), *entry["data_offsets"])
                   for name, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: bad safetensors header ({type(error).__name__}: {error})") from None
    at = 0
    for name, (dtype, shape, begin, end) in sorted(entries.items(), key=lambda item: item[1][2:]):
        numbers = (*shape, begin, end)
        if not all(type(n) is int and 0 <= n <= size for n in numbers) or len(shape) > 64:
            raise ValueError(f"{path}: tensor {name!r} has a bad shape or offset: {shape}, {begin}..{end}")
        count = np.dtype(dtype).itemsize
        for n in shape:
            count *= n
        if begin != at or end - begin != count:
            raise ValueError(f"{path}: tensor {name!r} of shape {shape} takes {count} bytes from {at}, "
                             f"the header says {begin}..{end}")
        at = end
    if at != size - 8 - length:
        raise ValueError(f"{path}: the tensors take {at} bytes, the file holds {size - 8 - length}")
    return entries, metadata, 8 + length


def load_file(path):
    """{name: Tensor} of a safetensors file. ValueError where the file is not valid."""
    entries, _, offset = read_header(path)
    with open(path, "rb") as file:
        file.seek(offset)
        data = file.read()
    return {name: Tensor(np.frombuffer(data, dtype, count=(end - begin) // np.dtype(dtype).itemsize, offset=begin)
                         .reshape(shape).copy()) for name, (dtype, shape, begin, end) in entries.items()}


def save(obj, path):
    """Write nested dicts and lists of tensors, arrays, numbers, strings and None, as torch.save would, to `path`.

    The file is a safetensors file; the nesting is JSON in its metadata. Dict keys come back as ints or strings.
    """
    tensors = {}

    def outline(value, name):
        if isinstance(value, (Tensor, np.ndarray)):
            tensors[name] = value
            return {"tensor": name, "array": not isinstance(value, Tensor)}
        if isinstance(value, dict):
            return {"dict": [[k if isinstance(k, int) else str(k), outline(v, f"{name}.{k}")] for k, v in value.items()]}
        if isinstance(value, (list, tuple)):
            return [outline(v, f"{name}.{i}") for i, v in enumerate(value)]
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        raise TypeError(f"save: {name!r} is a {type(value).__name__}, which cannot be written")
    structure = outline(obj, "")
    save_file(tensors, path, {"outline": json.dumps(structure)})


def load(path):
    """Read what `save` wrote (lists come back as lists, tuples too)."""
    metadata = read_header(path)[1]
    if "outline" not in metadata:
        raise ValueError(f"{path}: not written by minisparse.save; use load_file for plain safetensors")
    tensors = load_file(path)

    def fill(value):
        if isinstance(value, list):
            return [fill(v) for v in value]
        if not isinstance(value, dict):
            return value
        if "dict" in value:
            return {k: fill(v) for k, v in value["dict"]}
        tensor = tensors[value["tensor"]]
        return tensor.data if value["array"] else tensor
    try:
        return fill(json.loads(metadata["outline"]))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: its outline does not fit its tensors ({error})") from None
