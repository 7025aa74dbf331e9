"""The model file: safetensors, with the graph as JSON in its metadata and weights without their zeros.

The array "weight" of step 3 is either the tensor "3.weight", or two streams:

    3.weight.gaps    uint8: how many zeros stand before each nonzero; 255 are 255 zeros and no nonzero. The array is
                     thought to go on with one nonzero more. Where there are no zeros, there are no gaps.
    3.weight.values  the nonzeros as float32, float16 or int8

A stream whose name ends in ".deflate" is compressed (RFC 1951). Its Huffman code takes 1.00 bit a weight for the
gaps of 55 % zeros and 0.47 for those of 90 %; the entropy of such masks is 0.99 and 0.47. Numbers are compressed
as all their first bytes, then all second ones: of float16, the second has the exponent, which hardly differs.
float32 values stay as they are. int8 values q stand for q * scale; "3.weight.scale" has a float32 for each output
channel.

A checksum of the graph and all tensors tells damage. Everything is checked before anything runs, and a file
decodes to no more than its own size (_check_size) and the limits in check.py allow.
"""
import json
import math
import zlib

import numpy as np

from ..serialize import parse, read_file, save_file
from .check import check, outline
from .engine import Engine, Step

FORMAT = 1                  # a reader refuses what is newer
DTYPES = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2"), "int8": np.dtype("i1")}
ESCAPE = 255
PIECE = 1 << 16             # gaps that are decoded at a time
ENTRY = 80                  # bytes, about, that a tensor takes in the header
NUMBERS_A_BYTE = 256        # numbers that a byte of a stream stands for, at most: in gaps as they are it cannot be more
# numbers in all arrays of a file, at most: so many (64 MB), and so many for each of its bytes. 99 % zeros take 50 to 70
NUMBERS, NUMBERS_A_FILE_BYTE = 1 << 24, 64


def save(engine, path, values="float32"):
    """Write an engine as a safetensors file that `load` reads.

    values: weights become "float32" (exact), "float16", or "int8" with a scale for each output channel, rounded to
    nearest; one that rounds to 0 is stored as the other zeros. Biases stay float32. engine.info goes with them, a
    dict of what JSON can hold. ValueError where the weights do not fit.
    """
    if values not in DTYPES:
        raise ValueError(f"save: values are {', '.join(DTYPES)}, got {values!r}")
    tensors, steps = {}, []
    for i, step in enumerate(engine.steps):
        arrays = {}
        for name, array in step.arrays.items():
            kind = values if name == "weight" else "float32"
            tensors |= _encode(f"{i}.{name}", array, kind)
            arrays[name] = {"shape": array.shape, "values": kind}
        steps.append({"op": step.op, "options": step.options, "inputs": list(step.inputs), "arrays": arrays})
    # rather than a file that cannot be read
    check(outline(engine.steps), engine.input_shape)
    _check_size(sum(array.size for step in engine.steps for array in step.arrays.values()), tensors)
    graph = {"format": FORMAT, "input_shape": engine.input_shape, "steps": steps, "info": engine.info}
    graph = json.dumps(graph, separators=(",", ":"), allow_nan=False)
    tensors = dict(sorted(tensors.items(), key=lambda item: -item[1].itemsize))     # so that all are aligned
    save_file(tensors, path, {"minisparse": graph, "crc32": _checksum(graph, tensors)})


def load(path, allow_nonfinite=False):
    """Read an Engine.

    ValueError with the place where the file is not one that `save` wrote, or has NaN or infinities that are not
    allowed. A file becomes at most 64 MB of weights, and 256 bytes more for each of its own.
    """
    return Engine(*read(path, allow_nonfinite))


def read(path, allow_nonfinite=False):
    """(steps, input_shape, info) of a model file, checked. Nothing is run."""
    tensors, metadata = read_file(path)
    tensors = {name: tensor.data for name, tensor in tensors.items()}
    try:
        if "minisparse" not in metadata:
            raise ValueError("no minisparse model (a plain safetensors file?)")
        if metadata.get("crc32") != _checksum(metadata["minisparse"], tensors):
            raise ValueError("the file is damaged: its checksum is another")
        return _decode(parse(metadata["minisparse"]), tensors, allow_nonfinite)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _checksum(graph, tensors):
    crc = zlib.crc32(graph.encode())
    for name in sorted(tensors):
        crc = zlib.crc32(np.ascontiguousarray(tensors[name]), zlib.crc32(name.encode(), crc))
    return f"{crc:08x}"


def _decode(graph, tensors, allow_nonfinite):
    if not isinstance(graph, dict) or graph.get("format") != FORMAT:
        raise ValueError(f"this minisparse reads the file format {FORMAT}, the file has "
                         f"{str(graph.get('format') if isinstance(graph, dict) else graph)[:80]}")
    _fields(graph, "the graph", format=int, input_shape=list, steps=list, info=dict)
    for i, step in enumerate(graph["steps"]):
        _fields(step, f"step {i}", op=str, options=dict, inputs=list, arrays=dict)
        for name, entry in step["arrays"].items():
            _fields(entry, f"step {i}, {name[:40]}", shape=list, values=str)
            if entry["values"] not in DTYPES:
                raise ValueError(f"step {i}, {name}: no such values: {entry['values'][:80]}")
    check([(step["op"], step["options"], step["inputs"], {name: e["shape"] for name, e in step["arrays"].items()})
           for step in graph["steps"]], graph["input_shape"])
    numbers = sum(math.prod(entry["shape"]) for step in graph["steps"] for entry in step["arrays"].values())
    _check_size(numbers, tensors)
    steps = []
    for i, step in enumerate(graph["steps"]):
        arrays = {name: _array(tensors, f"{i}.{name}", tuple(entry["shape"]), DTYPES[entry["values"]])
                  for name, entry in step["arrays"].items()}
        for name, array in arrays.items():
            if not allow_nonfinite and not np.isfinite(array).all():
                raise ValueError(f"step {i} ({step['op']}): {name} holds NaN or infinite numbers, "
                                 f"which must be allowed (allow_nonfinite)")
        options = {key: tuple(v) if isinstance(v, list) else v for key, v in step["options"].items()}
        steps.append(Step(step["op"], options, step["inputs"], **arrays))
    if tensors:
        raise ValueError(f"the tensor {next(iter(tensors))[:80]!r} belongs to no step")
    return steps, tuple(graph["input_shape"]), graph["info"]


def _check_size(numbers, tensors):
    """ValueError where a few bytes would become a lot of memory."""
    stored = sum(tensor.nbytes for tensor in tensors.values())
    limit = min(stored * NUMBERS_A_BYTE, NUMBERS + stored * NUMBERS_A_FILE_BYTE)
    if numbers > limit:
        raise ValueError(f"{stored} bytes cannot hold {numbers} numbers, at most {limit}")


def _fields(value, place, **types):
    """ValueError unless `value` is a dict of exactly these fields and types."""
    if not isinstance(value, dict) or {key: type(v) for key, v in value.items()} != types:
        needed = ", ".join(f"{key} ({t.__name__})" for key, t in types.items())
        raise ValueError(f"{place} must have {needed}; found {str(value)[:200]}")


# --- one array --------------------------------------------------------------------------------------------
def _encode(key, array, kind):
    """{name: tensor} of a float32 array."""
    tensors, stored = {}, array + np.float32(0)     # -0 becomes 0
    if kind == "int8":
        rows = array.reshape(len(array), -1)
        if not np.isfinite(rows).all():
            raise ValueError(f"save: {key} holds NaN or infinite numbers, which int8 cannot")
        scale = abs(rows).max(axis=1, keepdims=True) / np.float32(127)
        steps = np.rint(rows / np.where(scale > 0, scale, 1))
        stored = steps.clip(-127, 127).astype(np.int8).reshape(array.shape)
        tensors[f"{key}.scale"] = scale[:, 0]
    elif kind == "float16":
        with np.errstate(over="ignore"):
            stored = array.astype(DTYPES[kind])
        if (np.isinf(stored) > np.isinf(array)).any():
            raise ValueError(f"save: {key} holds {abs(array).max():g}, which is too large for float16")
    flat = stored.reshape(-1)
    kept = flat != 0
    streams = {} if kept.all() else _stream(f"{key}.gaps", _gaps(kept), len(flat), compress=True)
    streams |= _stream(f"{key}.values", flat[kept], len(flat), compress=kind != "float32")
    if sum(stream.nbytes + ENTRY for stream in streams.values()) < stored.nbytes + ENTRY:
        return tensors | streams
    return tensors | {key: stored}


def _array(tensors, key, shape, dtype):
    """The float32 array `key`. Its tensors are taken out of `tensors`."""
    count = math.prod(shape)
    if key in tensors:
        stored = _take(tensors, key, dtype, shape)
    else:
        values, kept = _read_stream(tensors, f"{key}.values", dtype, count), np.ones(count, bool)
        if f"{key}.gaps" in tensors or f"{key}.gaps.deflate" in tensors:
            kept = _kept(_read_stream(tensors, f"{key}.gaps", np.dtype(np.uint8), count + 1), key, count)
        if len(values) != np.count_nonzero(kept):
            raise ValueError(f"{key}: {len(values)} values for {np.count_nonzero(kept)} nonzeros")
        stored = np.zeros(count, dtype)
        stored[kept] = values
    if dtype != np.int8:
        return stored.astype(np.float32).reshape(shape)
    scale = _take(tensors, f"{key}.scale", DTYPES["float32"], shape[:1])
    if (scale < 0).any():
        raise ValueError(f"{key}: a negative scale")
    with np.errstate(invalid="ignore", over="ignore"):      # the caller looks for what is not finite
        return (stored.reshape(len(scale), -1) * scale[:, None]).reshape(shape)


def _take(tensors, key, dtype, shape):
    if key not in tensors:
        raise ValueError(f"there is no tensor {key!r}")
    tensor = tensors.pop(key)
    if tensor.dtype != dtype or shape not in (None, tensor.shape):
        raise ValueError(f"{key}: expected {dtype} of shape {shape}, found {tensor.dtype} of {tensor.shape}")
    return tensor


# --- gaps -------------------------------------------------------------------------------------------------
def _gaps(kept):
    """bool (n,) -> the gaps before each True, and before the one that is thought to stand at n."""
    at = np.append(np.flatnonzero(kept), len(kept))
    escapes, rest = np.divmod(np.diff(at, prepend=-1) - 1, ESCAPE)
    gaps = np.full((escapes + 1).sum(), ESCAPE, np.uint8)
    gaps[np.cumsum(escapes + 1) - 1] = rest
    return gaps


def _kept(gaps, key, count):
    """Gaps -> bool (count,): where the nonzeros are. In pieces, so that few places are in memory at a time."""
    kept, last = np.zeros(count + 1, bool), -1
    for first in range(0, len(gaps), PIECE):
        piece = gaps[first:first + PIECE]
        nonzero = piece < ESCAPE
        at = last + np.cumsum(piece + nonzero, dtype=np.int64)
        last = at[-1]
        if last > count:
            break
        kept[at[nonzero]] = True
    if last != count or not kept[count]:
        raise ValueError(f"{key}: the gaps are not those of {count} numbers")
    return kept[:count]


# --- compression ------------------------------------------------------------------------------------------
def _stream(name, array, count, compress):
    """{name: array}, or its compressed bytes where they are fewer. It stands for `count` numbers."""
    if compress:
        planes = array.view(np.uint8).reshape(-1, array.itemsize).T.tobytes()
        # repetitions pay where a mask has a pattern; elsewhere a Huffman code alone is smaller
        strategies = zlib.Z_DEFAULT_STRATEGY, zlib.Z_HUFFMAN_ONLY
        packed = min((_deflate(planes, strategy) for strategy in strategies), key=len)
        if len(packed) < array.nbytes and count <= NUMBERS_A_BYTE * len(packed):
            return {f"{name}.deflate": np.frombuffer(packed, np.uint8)}
    return {name: array}


def _read_stream(tensors, name, dtype, most):
    """The stream of at most `most` numbers of this dtype."""
    if f"{name}.deflate" in tensors:
        packed, limit = _take(tensors, f"{name}.deflate", np.dtype(np.uint8), None), most * dtype.itemsize
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            octets = inflater.decompress(packed.tobytes(), limit + 1)
        except zlib.error as error:
            raise ValueError(f"{name}: {error}") from None
        if not inflater.eof or inflater.unused_data or len(octets) > limit or len(octets) % dtype.itemsize:
            raise ValueError(f"{name}: no compressed stream of at most {limit} bytes")
        planes = np.frombuffer(octets, np.uint8).reshape(dtype.itemsize, -1)
        stream = np.ascontiguousarray(planes.T).reshape(-1).view(dtype)
    else:
        stream = _take(tensors, name, dtype, None)
    if stream.ndim != 1 or len(stream) > most:
        raise ValueError(f"{name}: expected at most {most} numbers in a row, found the shape {stream.shape}")
    return stream


def _deflate(octets, strategy):
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, 9, strategy)
    return deflater.compress(octets) + deflater.flush()

