"""Files: safetensors for tensors, and nested dicts of tensors and plain values on top of it. No pickle.

A safetensors file is an 8-byte little-endian length, a JSON header {name: {dtype, shape, data_offsets}}, and the
tensors' bytes, row-major and little-endian (github.com/huggingface/safetensors, format description). Files are
written under a temporary name and renamed, so a reader never meets half a file and a failed write costs nothing.
"""
import json
import math
import os
import pathlib
import threading

import numpy as np

from .tensor import Tensor

DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1",
          "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1", "BOOL": "|b1"}
NAMES = {np.dtype(code): name for name, code in DTYPES.items()}
METADATA = "__metadata__"       # the one name in a header that is no tensor
MAX_HEADER = 100_000_000        # bytes; the format's own limit


def write_atomically(path, *chunks):
    """Write the chunks of bytes to `path`: all of them, or nothing and the old file stays."""
    path = pathlib.Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with open(temporary, "wb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:        # a full disk does not say which file it was
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def save_file(tensors, path, metadata=None):
    """Write {name: Tensor or array} as a safetensors file; metadata: {str: str}.

    TypeError on a name or metadata that is no string, and on dtypes that the format does not have.
    """
    arrays = {}
    for name, tensor in tensors.items():
        array = np.asarray(tensor.data if isinstance(tensor, Tensor) else tensor)
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        if array.dtype not in NAMES:
            raise TypeError(f"save_file: {name!r} has dtype {array.dtype}, which the format does not have")
        if not isinstance(name, str):
            raise TypeError(f"save_file: names are strings, got {name!r}")
        if name == METADATA:
            raise ValueError(f"save_file: a tensor cannot have the name {METADATA!r}")
        arrays[name] = array
    metadata = dict(metadata or {})
    if not all(isinstance(text, str) for item in metadata.items() for text in item):
        raise TypeError(f"save_file: metadata is a dict of strings, got {metadata!r}")
    header, end = {METADATA: metadata} if metadata else {}, 0
    for name, array in arrays.items():
        header[name] = {"dtype": NAMES[array.dtype], "shape": list(array.shape),
                        "data_offsets": [end, end + array.nbytes]}
        end += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER:
        raise ValueError(f"save_file: names, shapes and metadata take {len(text)} bytes; at most {MAX_HEADER} "
                         "can be read")
    write_atomically(path, len(text).to_bytes(8, "little"), text, *(array.tobytes() for array in arrays.values()))


def read_header(file):
    """({name: (dtype, shape)} in the order of the data, metadata) of an open safetensors file, up to the data.

    The tensors fill the rest of the file without gap or overlap. ValueError says what else was found.
    """
    size = os.fstat(file.fileno()).st_size
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length > min(size - 8, MAX_HEADER):
        raise ValueError(f"no safetensors file: the header would be {length} bytes long, the file has {size}")
    header = parse(file.read(length).decode())
    if not isinstance(header, dict):
        raise ValueError(f"the header is a {type(header).__name__}")
    metadata = header.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise ValueError("the metadata is no dict of strings")
    entries = sorted(_entry(name, entry) for name, entry in header.items())
    at = 0
    for begin, end, name, _, _ in entries:
        if begin != at:
            raise ValueError(f"tensor {name!r} begins at byte {begin} of the data, the one before ends at {at}")
        at = end
    if at != size - 8 - length:
        raise ValueError(f"the tensors take {at} bytes, the file holds {size - 8 - length}")
    return {name: (dtype, shape) for _, _, name, dtype, shape in entries}, metadata


def parse(text):
    """What a text in JSON holds. ValueError where it is none, or where readers could differ in what they see."""
    def unique(pairs):
        result = dict(pairs)
        if len(result) != len(pairs):
            raise ValueError("a key stands twice in the JSON text")
        return result

    def refuse(name):
        raise ValueError(f"{name} stands in the JSON text, which has no such number")
    try:
        return json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
    except RecursionError:
        raise ValueError("the JSON text is nested too deeply") from None


def _entry(name, entry):
    """One tensor of a header as (begin, end, name, numpy dtype, shape); ValueError where that is not what it is."""
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        code = DTYPES[dtype]
        valid = isinstance(shape, list) and all(type(n) is int and n >= 0 for n in (*shape, begin, end))
    except (KeyError, TypeError, ValueError):
        valid = False
    if not valid:
        raise ValueError(f"tensor {name!r} has the bad or unsupported entry {str(entry)[:200]}")
    needed = math.prod(shape) * np.dtype(code).itemsize
    if end - begin != needed:
        raise ValueError(f"tensor {name!r} of dtype {dtype} and shape {shape} takes {needed} bytes, "
                         f"its offsets are {begin} and {end}")
    return begin, end, name, code, tuple(shape)


def read_file(path):
    """({name: Tensor}, metadata) of a safetensors file. ValueError where the file is not valid."""
    tensors = {}
    with open(path, "rb") as file:
        try:
            entries, metadata = read_header(file)
            for name, (dtype, shape) in entries.items():
                array = np.empty(shape, dtype)
                octets = array.reshape(-1).view(np.uint8)
                if file.readinto(octets) != array.nbytes:
                    raise ValueError(f"the file ends within tensor {name!r}")
                if array.dtype == bool and octets.max(initial=0) > 1:
                    raise ValueError(f"tensor {name!r} holds a bool of the value {octets.max()}")
                tensors[name] = Tensor(array)
        except (ValueError, OverflowError, RecursionError) as error:     # numpy's own limits are among them
            raise ValueError(f"{path}: {error}") from None
    return tensors, metadata


def load_file(path):
    """{name: Tensor} of a safetensors file. ValueError where the file is not valid."""
    return read_file(path)[0]


def save(obj, path):
    """Write nested dicts, lists and tuples of tensors, arrays, numbers, strings and None, as torch.save would.

    The file is a safetensors file; the nesting is JSON in its metadata. Keys of dicts are strings or whole numbers.
    Numbers come back exactly, those of numpy as Python's. TypeError names what cannot be written.
    """
    tensors = {}

    def outline(value, name):
        if isinstance(value, (Tensor, np.ndarray)):
            key = name
            while key in tensors or key == METADATA:        # {"a.b": x, "a": {"b": y}}
                key += "'"
            tensors[key] = value
            return {"tensor" if isinstance(value, Tensor) else "array": key}
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, dict):
            for key in value:
                if not isinstance(key, (str, int)):
                    raise TypeError(f"save: {key!r}, a key in {name!r}, is neither a string nor a whole number")
            return {"dict": [[key, outline(v, f"{name}.{key}" if name else str(key))] for key, v in value.items()]}
        if isinstance(value, (list, tuple)):
            items = [outline(v, f"{name}.{i}" if name else str(i)) for i, v in enumerate(value)]
            return items if isinstance(value, list) else {"tuple": items}
        if isinstance(value, float) and not math.isfinite(value):       # JSON has no such numbers
            return {"float": repr(float(value))}
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        raise TypeError(f"save: {name!r} is a {type(value).__name__}, which cannot be written")
    structure = outline(obj, "")
    save_file(tensors, path, {"outline": json.dumps(structure)})


def load(path):
    """Read what `save` wrote. ValueError where the file is not valid."""
    tensors, metadata = read_file(path)
    if "outline" not in metadata:
        raise ValueError(f"{path}: not written by minisparse.save; use load_file for plain safetensors")

    def fill(value):
        if isinstance(value, list):
            return [fill(v) for v in value]
        if not isinstance(value, dict):
            return value
        (kind, content), = value.items()
        if kind == "dict":
            return {key: fill(v) for key, v in content}
        if kind == "tuple":
            return tuple(map(fill, content))
        return float(content) if kind == "float" else {"tensor": tensors, "array": arrays}[kind][content]
    arrays = {name: tensor.data for name, tensor in tensors.items()}
    try:
        return fill(parse(metadata["outline"]))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: its outline does not fit its tensors ({error})") from None
