"""Making tensors (from data, constant, random), filling them, and converting between dtypes."""
import functools

import numpy as np

from .ops import CATEGORY, cast, method, operator
from .shapes import numbers
from .tensor import Tensor

uint8, int8, int16, int32, int64 = (np.dtype(name) for name in ("uint8", "int8", "int16", "int32", "int64"))
float32, float64 = np.dtype("float32"), np.dtype("float64")

_state = {"generator": np.random.default_rng(0)}


def manual_seed(seed):
    """Start the global random numbers over (same seed, same bits). Returns the numpy Generator."""
    _state["generator"] = np.random.default_rng(seed)
    return _state["generator"]


def generator():
    """The numpy Generator that random functions use where none is passed."""
    return _state["generator"]


def _or_global(generator):
    return _state["generator"] if generator is None else generator


def device(name):
    """The name itself; "cpu" is the only device."""
    if name != "cpu":
        raise NotImplementedError(f"the only device is 'cpu', not {name!r}")
    return name


_check_device = device      # where `device` is the name of an option


def creator(function):
    """function(..., dtype) -> array becomes a function that returns a Tensor, with torch's options."""
    function = operator(function)

    @functools.wraps(function)
    def make(*args, dtype=None, device="cpu", requires_grad=False, **options):
        _check_device(device)
        return Tensor(function(*args, dtype=dtype, **options), requires_grad)
    return make


def convert(data, dtype):
    """The array for numbers, lists, an array or a tensor. Without dtype, Python's floats are float32."""
    x = data.detach().numpy() if isinstance(data, Tensor) else np.asarray(data)
    if x.dtype.kind == "c":
        raise NotImplementedError("complex numbers are not supported")
    if x.dtype.kind not in CATEGORY:
        raise TypeError(f"expected numbers, got {type(data).__name__} of dtype {x.dtype}")
    if dtype is None and not hasattr(data, "dtype") and (x.dtype.kind == "f" or x.size == 0):
        dtype = float32
    return x if dtype is None else x.astype(dtype, copy=False)


# --- from data and constant -------------------------------------------------------------------------------
@creator
def tensor(data, dtype):
    """A tensor with a copy of the data: numbers, nested lists, an array or a tensor."""
    return np.array(convert(data, dtype), order="K")


def as_tensor(data, dtype=None):
    """A tensor that shares memory with an array or a tensor where the dtype allows."""
    return cast(data, dtype or data.dtype) if isinstance(data, Tensor) else Tensor(convert(data, dtype))


def from_numpy(array):
    """A tensor on the memory of a numpy array."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f"from_numpy: expected a numpy array, got {type(array).__name__}")
    return as_tensor(array)


@creator
def zeros(*size, dtype):
    """Zeros (float32)."""
    return np.zeros(numbers(size), dtype or float32)


@creator
def ones(*size, dtype):
    """Ones (float32)."""
    return np.ones(numbers(size), dtype or float32)


@creator
def empty(*size, dtype):
    """Numbers of no meaning (float32), to be written over."""
    return np.empty(numbers(size), dtype or float32)


@creator
def full(size, fill_value, dtype):
    """One number everywhere; its dtype is the tensor's."""
    return np.full(size, convert(fill_value, dtype))


@creator
def eye(n, m=None, dtype=None):
    """The n x m (without m: n x n) matrix with ones on its diagonal."""
    return np.eye(n, m, dtype=dtype or float32)


@creator
def arange(start, end=None, step=1, dtype=None):
    """start, start + step, ... below end; arange(end) starts at 0. int64 for whole numbers, else float32."""
    x = np.arange(start, end, step) if end is not None else np.arange(0, start, step)
    return x.astype(dtype or (float32 if x.dtype.kind == "f" else int64), copy=False)


@creator
def linspace(start, end, steps, dtype):
    """`steps` numbers from start to end, both included."""
    return np.linspace(start, end, steps, dtype=dtype or float32)


# --- random -----------------------------------------------------------------------------------------------
@creator
def rand(*size, dtype, generator=None):
    """Uniform in [0, 1)."""
    return _or_global(generator).random(numbers(size), dtype or float32)


@creator
def randn(*size, dtype, generator=None):
    """Normal with mean 0 and standard deviation 1."""
    return _or_global(generator).standard_normal(numbers(size), dtype or float32)


@creator
def randint(low, high=None, size=None, dtype=None, generator=None):
    """Whole numbers in [low, high); randint(high, size) starts at 0."""
    if size is None:
        high, size = None, high
    low, high = (0, low) if high is None else (low, high)
    return _or_global(generator).integers(low, high, size).astype(dtype or int64)


@creator
def randperm(n, dtype, generator=None):
    """0 to n - 1 in random order."""
    return _or_global(generator).permutation(n).astype(dtype or int64)


@creator
def normal(mean, std, size=None, dtype=None, generator=None):
    """Normal numbers; mean and std are numbers (then with `size`) or tensors."""
    mean, std = convert(mean, dtype), convert(std, dtype)
    size = np.broadcast_shapes(mean.shape, std.shape) if size is None else size
    x = _or_global(generator).standard_normal(size, dtype or float32)
    return x * std + mean


# --- like another tensor: its shape, dtype and memory order -----------------------------------------------
def like(create):
    def make(a, *args, dtype=None, **options):
        out = create(a.shape, *args, dtype=dtype or a.dtype, **options)
        ordered = np.empty_like(a.data, out.dtype)
        ordered[...] = out.data
        out.data = ordered
        return out
    make.__name__ = make.__qualname__ = create.__name__ + "_like"
    make.__doc__ = f"{create.__name__} of a's shape, dtype and memory order."
    return make


zeros_like, ones_like, empty_like, full_like = like(zeros), like(ones), like(empty), like(full)
rand_like, randn_like = like(rand), like(randn)


# --- methods: changes in place ----------------------------------------------------------------------------
@method
def fill_(a, value):
    """Write one number (or a tensor, with broadcasting) over a."""
    a[...] = value
    return a


@method
def copy_(a, src):
    """Write another tensor, cast and broadcast, over a."""
    return fill_(a, src)


@method
def zero_(a):
    """Write zeros over a."""
    return fill_(a, 0)


@method
def uniform_(a, low=0.0, high=1.0, generator=None):
    """Write random numbers, uniform in [low, high), over a."""
    return fill_(a, low + (high - low) * rand(a.shape, dtype=a.dtype, generator=generator))


@method
def normal_(a, mean=0.0, std=1.0, generator=None):
    """Write normal random numbers over a."""
    return fill_(a, mean + std * randn(a.shape, dtype=a.dtype, generator=generator))


# --- methods: conversions ---------------------------------------------------------------------------------
@method
def to(a, *targets, dtype=None, device="cpu"):
    """a as a dtype, as the dtype of another tensor, or on a device ("cpu")."""
    for x in targets:
        if isinstance(x, Tensor):
            dtype = x.dtype
        elif isinstance(x, str):
            device = x
        else:
            dtype = x
    _check_device(device)
    return cast(a, dtype or a.dtype)


@method
def type_as(a, other):
    """a as the dtype of another tensor."""
    return cast(a, other.dtype)


@method
def clone(a):
    """A copy; the gradient goes through it."""
    return Tensor.from_op("clone", np.copy(a.data), (a, lambda g: g))


@method
def contiguous(a):
    """a itself: memory order is the library's own affair, and no operator asks for one."""
    return a


@method
def element_size(a):
    """Bytes of one element."""
    return a.data.itemsize


@method
def is_floating_point(a):
    """Whether a is of float32 or float64."""
    return a.dtype.kind == "f"


Tensor.cpu = contiguous
Tensor.device = property(lambda a: "cpu", doc='"cpu"')
for _name, _dtype in dict(float=float32, double=float64, int=int32, long=int64, bool=np.dtype(bool)).items():
    setattr(Tensor, _name, lambda a, dtype=_dtype: cast(a, dtype))
for _name, _create in dict(zeros=zeros, ones=ones, empty=empty, full=full, tensor=tensor).items():
    setattr(Tensor, f"new_{_name}", lambda a, *args, create=_create, dtype=None, **options:
            create(*args, dtype=dtype or a.dtype, **options))
