"""The model file: a safetensors file with the steps as JSON in its metadata, weights as a bitmask and their nonzeros."""
import json

import numpy as np

from ..serialize import load_file, read_header, save_file
from .engine import ACTIVATIONS, POOLS, Engine, Step

OPS = ("conv", "linear", "affine", "flatten", *ACTIVATIONS, *POOLS)


def save(engine, path):
    """Write an engine. A weight that gains from it is stored as a bitmask, 1 bit a weight, and its nonzeros."""
    tensors, plan = {}, []
    for i, step in enumerate(engine.steps):
        shapes = {}
        for name, array in step.arrays.items():
            key = f"{i}.{name}"
            kept = array != 0
            if array.size // 8 + kept.sum() * array.itemsize < array.nbytes:
                tensors[f"{key}.mask"], tensors[f"{key}.values"] = np.packbits(kept), array[kept]
            else:
                tensors[key] = array
            shapes[name] = list(array.shape)
        plan.append({"op": step.op, "options": step.options, "arrays": shapes})
    save_file(tensors, path, {"minisparse": json.dumps({"input_shape": list(engine.input_shape), "steps": plan})})


def load(path):
    """Read an Engine. ValueError where the file is not one that `Engine.save` wrote."""
    plan, tensors = read_header(path)[1].get("minisparse"), load_file(path)
    if plan is None:
        raise ValueError(f"{path}: no minisparse model (a plain safetensors file?)")
    try:
        plan = json.loads(plan)
        steps = []
        for i, entry in enumerate(plan["steps"]):
            if entry["op"] not in OPS:
                raise ValueError(f"unknown step {entry['op']!r}")
            arrays = {name: _array(tensors, f"{i}.{name}", shape) for name, shape in entry["arrays"].items()}
            steps.append(Step(entry["op"], entry["options"], **arrays))
        return Engine(steps, plan["input_shape"])
    except (KeyError, TypeError, ValueError, IndexError, RecursionError) as error:
        raise ValueError(f"{path}: not a valid minisparse model ({type(error).__name__}: {error})") from None


def _array(tensors, key, shape):
    if key in tensors:
        return tensors[key].data.reshape(shape)
    values = tensors[f"{key}.values"].data
    kept = np.unpackbits(tensors[f"{key}.mask"].data, count=int(np.prod(shape))).astype(bool)
    array = np.zeros(len(kept), values.dtype)
    if np.count_nonzero(kept) != len(values):
        raise ValueError(f"{key}: the mask keeps {np.count_nonzero(kept)} weights, there are {len(values)} values")
    array[kept] = values
    return array.reshape(shape)
