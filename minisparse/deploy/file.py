"""The model file: safetensors, with the steps as JSON in its metadata and weights as a bitmask and nonzeros."""
import json
import math

import numpy as np

from ..serialize import read_file, save_file
from .engine import ARRAYS, OPERATORS, Engine, Step


def save(engine, path):
    """Write an engine. A weight that gains from it is stored as a bitmask, 1 bit a weight, and its nonzeros."""
    tensors, plan = {}, []
    for i, step in enumerate(engine.steps):
        for name, array in step.arrays.items():
            kept = array != 0
            mask, values = np.packbits(kept), array[kept]
            if mask.nbytes + values.nbytes < array.nbytes:
                tensors[f"{i}.{name}.mask"], tensors[f"{i}.{name}.values"] = mask, values
            else:
                tensors[f"{i}.{name}"] = array
        plan.append({"op": step.op, "options": step.options,
                     "shapes": {name: array.shape for name, array in step.arrays.items()}})
    save_file(tensors, path, {"minisparse": json.dumps({"input_shape": engine.input_shape, "steps": plan})})


def load(path):
    """Read an Engine. ValueError where the file is not one that `Engine.save` wrote."""
    tensors, metadata = read_file(path)
    if "minisparse" not in metadata:
        raise ValueError(f"{path}: no minisparse model (a plain safetensors file?)")
    try:
        plan = json.loads(metadata["minisparse"])
        steps = [_step(tensors, i, **entry) for i, entry in enumerate(plan["steps"])]
        return Engine(steps, plan["input_shape"])
    except (ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not a valid minisparse model ({type(error).__name__}: {error})") from None


def _step(tensors, i, op, options, shapes):
    if op not in (*OPERATORS, *ARRAYS, "flatten") or set(shapes) != ARRAYS.get(op, set()):
        raise ValueError(f"step {i} is {op!r} with the arrays {sorted(shapes)}")
    return Step(op, options, **{name: _array(tensors, f"{i}.{name}", shape) for name, shape in shapes.items()})


def _array(tensors, key, shape):
    """The float32 array `key` of this shape, from its numbers or from its bitmask and nonzeros."""
    if key in tensors:
        array = tensors[key].data
    else:
        mask, values = tensors[f"{key}.mask"].data, tensors[f"{key}.values"].data
        count = math.prod(shape)
        if mask.dtype != np.uint8 or mask.shape != (-(-count // 8),):
            raise ValueError(f"{key}: a mask of {mask.dtype}{mask.shape} for {count} numbers")
        kept = np.unpackbits(mask, count=count).astype(bool)
        if values.shape != (np.count_nonzero(kept),):
            raise ValueError(f"{key}: the mask keeps {np.count_nonzero(kept)} numbers, there are {values.shape}")
        array = np.zeros(count, values.dtype)
        array[kept] = values
        array = array.reshape(shape)
    if array.dtype != np.float32 or array.shape != tuple(shape):
        raise ValueError(f"{key}: expected float32 of shape {shape}, found {array.dtype}{array.shape}")
    return array
