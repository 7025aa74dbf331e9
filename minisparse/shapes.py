"""Operators that move elements: shapes, joining and splitting, indexing, sorting. None computes with numbers.

Where numpy gives a view the result shares memory with its input (and the count of changes in place, which
from_op arranges), as in torch.
"""
import numpy as np

from .ops import cast, in_place, method, operator, promote, unbroadcast, where
from .reductions import ValuesIndices, along
from .tensor import Tensor, is_grad_enabled


def numbers(args):
    """f(2, 3), f((2, 3)) and f([2, 3]) mean the same."""
    return tuple(args[0]) if len(args) == 1 and isinstance(args[0], (tuple, list)) else args


def position(dim, ndim, name):
    """dim counted from the front; IndexError where there is no such dimension."""
    if not -ndim <= dim < ndim:
        raise IndexError(f"{name}: there is no dimension {dim} in a tensor of {ndim} dimensions")
    return dim % ndim


# --- shapes -----------------------------------------------------------------------------------------------
@method
def reshape(a, *shape):
    """The same elements (in row-major order) in another shape, a view if possible; one length may be -1."""
    return Tensor.from_op("reshape", a.data.reshape(numbers(shape)), (a, lambda g: g.reshape(a.shape)))


@method
def view(a, *shape):
    """reshape: memory order is the library's own affair, so a view that takes a copy is no error."""
    return reshape(a, *shape)


@method
def flatten(a, start_dim=0, end_dim=-1):
    """The dimensions from start_dim to end_dim (inclusive) as one."""
    if a.ndim == 0:
        return reshape(a, 1)
    start, end = position(start_dim, a.ndim, "flatten"), position(end_dim, a.ndim, "flatten")
    if start > end:
        raise RuntimeError(f"flatten: start_dim {start_dim} comes after end_dim {end_dim}")
    return reshape(a, *a.shape[:start], int(np.prod(a.shape[start:end + 1])), *a.shape[end + 1:])


@method
def unflatten(a, dim, sizes):
    """One dimension as several; one of the sizes may be -1."""
    dim = position(dim, a.ndim, "unflatten")
    sizes = np.empty(a.shape[dim], bool).reshape(sizes).shape
    return reshape(a, *a.shape[:dim], *sizes, *a.shape[dim + 1:])


@method
def squeeze(a, dim=None):
    """Without the dimensions of length 1: all of them, or those in dim (where they have length 1)."""
    dims = range(a.ndim) if dim is None else [position(d, a.ndim, "squeeze") for d in np.atleast_1d(dim)]
    return reshape(a, *(n for i, n in enumerate(a.shape) if n != 1 or i not in dims))


@method
def unsqueeze(a, dim):
    """With a dimension of length 1 put in at dim."""
    dim = position(dim, a.ndim + 1, "unsqueeze")
    return reshape(a, *a.shape[:dim], 1, *a.shape[dim:])


@method
def permute(a, *dims):
    """The dimensions in the order dims (a view)."""
    dims = [position(d, a.ndim, "permute") for d in numbers(dims)]
    return Tensor.from_op("permute", a.data.transpose(dims), (a, lambda g: g.transpose(np.argsort(dims))))


@method
def transpose(a, dim0, dim1):
    """Two dimensions exchanged (a view)."""
    dims = list(range(a.ndim))
    dims[dim0], dims[dim1] = dims[dim1], dims[dim0]
    return permute(a, dims)


@method
def t(a):
    """A matrix transposed; vectors and 0-d tensors as they are."""
    if a.ndim > 2:
        raise RuntimeError(f"t: expected a tensor of at most 2 dimensions, got shape {a.shape}")
    return permute(a, *range(a.ndim)[::-1])


@method
def expand(a, *shape):
    """Dimensions of length 1 stretched to `shape` (-1: as it is), new ones in front: a read-only view."""
    shape = numbers(shape)
    own = (-1,) * (len(shape) - a.ndim) + a.shape
    shape = tuple(m if n == -1 else n for n, m in zip(shape, own))
    return Tensor.from_op("expand", np.broadcast_to(a.data, shape), (a, lambda g: unbroadcast(g, a.shape)))


@method
def broadcast_to(a, shape):
    """expand, with one tuple."""
    return expand(a, *shape)


@method
def expand_as(a, other):
    """expand to the shape of another tensor."""
    return expand(a, *other.shape)


# --- joining, splitting, repeating ------------------------------------------------------------------------
@operator
def cat(tensors, dim=0):
    """The tensors one after the other along dim."""
    if not tensors:
        raise RuntimeError("cat: no tensors")
    tensors = promote(*tensors)
    dim = position(dim, tensors[0].ndim, "cat")
    ends = np.cumsum([x.shape[dim] for x in tensors if x.ndim])

    def piece(end, length):
        return lambda g: g[(slice(None),) * dim + (slice(end - length, end),)]
    return Tensor.from_op("cat", np.concatenate([x.data for x in tensors], dim),
                          *((x, piece(end, x.shape[dim])) for x, end in zip(tensors, ends)))


@operator
def stack(tensors, dim=0):
    """Tensors of one shape along a new dimension."""
    if len({x.shape for x in tensors}) > 1:
        raise RuntimeError(f"stack: the shapes differ: {[x.shape for x in tensors]}")
    return cat([unsqueeze(x, dim) for x in tensors], dim)


@method
def narrow(a, dim, start, length):
    """The elements start to start + length - 1 along dim (a view)."""
    if not 0 <= start <= start + length <= a.shape[dim]:
        raise RuntimeError(f"narrow: {length} elements from {start} on: not in dimension {dim} of {a.shape}")
    return a[(slice(None),) * position(dim, a.ndim, "narrow") + (slice(start, start + length),)]


@method
def split(a, split_size, dim=0):
    """Views of length split_size along dim (the last may be shorter), or of the lengths in a list."""
    n = a.shape[dim]
    lengths = split_size
    if isinstance(split_size, int):
        if split_size < 1:
            raise RuntimeError(f"split: split_size must be positive, it is {split_size}")
        lengths = [min(split_size, n - start) for start in range(0, max(n, 1), split_size)]
    if sum(lengths) != n:
        raise RuntimeError(f"split: {lengths} does not add up to {n}, dimension {dim} of {a.shape}")
    starts = np.cumsum([0, *lengths]).tolist()
    return tuple(narrow(a, dim, start, length) for start, length in zip(starts, lengths))


@method
def chunk(a, chunks, dim=0):
    """At most `chunks` pieces of equal length along dim; the last may be shorter."""
    return split(a, max(1, -(-a.shape[dim] // chunks)), dim)


@method
def unbind(a, dim=0):
    """The slices along dim, without that dimension."""
    return tuple(select(a, dim, i) for i in range(a.shape[dim]))


@method
def select(a, dim, index):
    """One slice along dim, without that dimension (a view)."""
    return a[(slice(None),) * position(dim, a.ndim, "select") + (index,)]


@method
def flip(a, *dims):
    """Reversed along dims (a copy)."""
    dims = numbers(dims)
    return Tensor.from_op("flip", np.copy(np.flip(a.data, dims)), (a, lambda g: np.flip(g, dims)))


@method
def roll(a, shifts, dims=None):
    """Shifted along dims, what leaves at one end comes in at the other; without dims as if flat."""
    return Tensor.from_op("roll", np.roll(a.data, shifts, dims),
                          (a, lambda g: np.roll(g, np.negative(shifts), dims)))


@method
def repeat(a, *repeats):
    """Copies of the whole tensor side by side: repeats[d] of them along dimension d."""
    repeats = numbers(repeats)
    if len(repeats) < a.ndim:
        raise RuntimeError(f"repeat: {len(repeats)} numbers for a tensor of {a.ndim} dimensions")
    shape = (1,) * (len(repeats) - a.ndim) + a.shape
    both = [n for pair in zip(repeats, shape) for n in pair]
    copies = tuple(range(0, len(both), 2))
    return Tensor.from_op("repeat", np.tile(a.data, repeats),
                          (a, lambda g: g.reshape(both).sum(axis=copies).reshape(a.shape)))


@method
def tile(a, *repeats):
    """repeat, where fewer numbers than dimensions are for the last ones."""
    repeats = numbers(repeats)
    return repeat(a, (1,) * (a.ndim - len(repeats)) + tuple(repeats))


@method
def repeat_interleave(a, repeats, dim=None):
    """Each slice along dim (without dim: each element) `repeats` times in a row; a number or one for each."""
    if dim is None:
        a, dim = flatten(a), 0
    return index_select(a, dim, np.repeat(np.arange(a.shape[dim]), np.asarray(repeats)))


@operator
def pad(a, pad, mode="constant", value=0):
    """a with a border. pad: (left, right) of the last dimension, of the one before it, ...; below 0: cut.

    mode: "constant" (filled with `value`), "reflect" (mirrored at the edge element), "replicate", "circular".
    """
    if len(pad) % 2 or len(pad) > 2 * a.ndim:
        raise RuntimeError(f"pad: pairs of numbers for at most {a.ndim} dimensions, got {pad}")
    pairs = [(0, 0)] * (a.ndim - len(pad) // 2) + list(zip(pad[-2::-2], pad[::-2]))
    if np.min(pairs, initial=0) < 0:
        a = a[tuple(slice(max(-left, 0), n - max(-right, 0)) for (left, right), n in zip(pairs, a.shape))]
        pairs = np.maximum(pairs, 0).tolist()
    if mode == "constant":
        inner = tuple(slice(left, left + n) for (left, _), n in zip(pairs, a.shape))
        out = np.full_like(a.data, value, shape=np.sum(pairs, axis=1) + a.shape)
        out[inner] = a.data
        return Tensor.from_op("pad", out, (a, lambda g: g[inner]))
    modes = {"reflect": ("reflect", 1), "replicate": ("edge", -np.inf), "circular": ("wrap", 0)}
    if mode not in modes:
        raise NotImplementedError(f"pad: no mode {mode!r} (there are constant, {', '.join(modes)})")
    kind, reserve = modes[mode]
    for dim, pair in enumerate(pairs):
        if max(pair) > a.shape[dim] - reserve:
            raise RuntimeError(f"pad: {mode} padding {pair} is too large for dimension {dim} of {a.shape}")
        if max(pair) > 0:
            a = index_select(a, dim, np.pad(np.arange(a.shape[dim]), pair, kind))
    return a


# --- indexing ---------------------------------------------------------------------------------------------
def index_key(key):
    """(numpy's key for torch's, whether it may name one element twice)."""
    parts = key if isinstance(key, tuple) else (key,)
    # index arrays are copied, so that a later change of them cannot make the gradient wrong
    parts = [np.array(x) if isinstance(x, (Tensor, np.ndarray, list, tuple, range)) else x for x in parts]
    for x in parts:
        if isinstance(x, slice) and x.step is not None and x.step < 1:
            raise ValueError(f"slices with step {x.step} are not supported; use flip")
        if isinstance(x, np.ndarray) and x.dtype == np.uint8:
            raise IndexError("an index of dtype uint8 could be a mask or positions; use bool or int64")
    if not any(x is Ellipsis for x in parts):
        parts.append(Ellipsis)      # so that an element is a 0-d view as well, not numpy's scalar
    return tuple(parts), any(isinstance(x, np.ndarray) and x.dtype != bool and x.ndim for x in parts)


def take(name, a, key, repeats):
    """a.data[key]; the gradient is added up where an element may come several times."""
    def vjp(g):
        grad = np.zeros_like(a.data)
        if repeats:
            np.add.at(grad, key, g)
        else:
            grad[key] = g
        return grad
    return Tensor.from_op(name, a.data[key], (a, vjp))


def getitem(a, key):
    """a[key]: numbers, slices, None, ..., bool masks, integer tensors and lists, with numpy's rules."""
    return take("index", a, *index_key(key))


@operator
def setitem(a, key, value):
    """a[key] = value, in place, with broadcasting and a cast to a's dtype. It is never part of a record."""
    if isinstance(value, Tensor):
        if value.requires_grad and is_grad_enabled():
            raise NotImplementedError("assigning a tensor that requires grad in place cannot be recorded; "
                                      "use where, cat or stack, or no_grad()")
        value = value.data
    key, _ = index_key(key)
    a.change()
    a.data[key] = value
    a.apply_mask()


Tensor.__getitem__ = getitem
Tensor.__setitem__ = setitem


def mesh(name, a, dim, index):
    """The key of the elements that gather and scatter mean: index along dim, their own place elsewhere."""
    dim = position(dim, a.ndim, name)
    if index.ndim != a.ndim:
        raise RuntimeError(f"{name}: the index has {index.ndim} dimensions, the tensor {a.ndim}")
    if index.data.size and not 0 <= index.data.min() <= index.data.max() < a.shape[dim]:
        raise RuntimeError(f"{name}: the index must lie in [0, {a.shape[dim]}), it has numbers from "
                           f"{index.data.min()} to {index.data.max()}")
    key = list(np.ogrid[tuple(slice(n) for n in index.shape)])
    key[dim] = np.copy(index.data)
    return tuple(key)


@method
def gather(a, dim, index):
    """out[i, j] = a[i, index[i, j]] for dim = 1, and so on: the elements at index along dim."""
    return take("gather", a, mesh("gather", a, dim, index), repeats=True)


def source(name, src, index):
    """The part of src that the index speaks of."""
    if src.ndim != index.ndim or any(n > m for n, m in zip(index.shape, src.shape)):
        raise RuntimeError(f"{name}: the index has shape {index.shape}, src only {src.shape}")
    return src[tuple(slice(n) for n in index.shape)]


@method
def scatter(a, dim, index, src):
    """A copy of a with out[i, index[i, j]] = src[i, j] for dim = 1; src is a tensor or a number."""
    key = mesh("scatter", a, dim, index)
    _, src = promote(a, src)
    src = source("scatter", src, index) if src.ndim else expand(src, index.shape)
    out = np.copy(a.data)
    out[key] = src.data

    def kept(g):
        g = np.copy(g)
        g[key] = 0
        return g
    return Tensor.from_op("scatter", out, (a, kept), (src, lambda g: g[key]))


@method
def scatter_add(a, dim, index, src):
    """A copy of a with src[i, j] added to out[i, index[i, j]] for dim = 1."""
    key = mesh("scatter_add", a, dim, index)
    src = source("scatter_add", src, index)
    out = np.copy(a.data)
    np.add.at(out, key, src.data)
    return Tensor.from_op("scatter_add", out, (a, lambda g: g), (src, lambda g: g[key]))


@method
def index_select(a, dim, index):
    """The slices at index (a vector of integers) along dim."""
    index = np.atleast_1d(index.data if isinstance(index, Tensor) else index)
    return a[(slice(None),) * position(dim, a.ndim, "index_select") + (index,)]


@method
def masked_fill(a, mask, value):
    """a with `value` where the bool mask holds."""
    value = cast(value if isinstance(value, Tensor) else Tensor(np.asarray(value)), a.dtype)
    return where(mask, value, a)


@method
def masked_select(a, mask):
    """The elements where the bool mask (broadcast against a) holds, as a vector."""
    shape = np.broadcast_shapes(a.shape, mask.shape)
    return expand(a, shape)[expand(mask, shape)]


@method
def nonzero(a, as_tuple=False):
    """The indices of the elements that are not zero: (n, ndim), or a vector for each dimension."""
    index = np.nonzero(a.data)
    return tuple(map(Tensor, index)) if as_tuple else Tensor(np.stack(index, 1))


# --- sorting ----------------------------------------------------------------------------------------------
def order(a, dim, descending):
    """The indices that sort along dim. Equal elements keep their order, in both directions."""
    if not descending:
        return np.argsort(a, axis=dim, kind="stable")
    return a.shape[dim] - 1 - np.flip(np.argsort(np.flip(a, dim), axis=dim, kind="stable"), dim)


def ordered(name, a, index, dim):
    value, vjp = along(a, index, dim)
    indices = Tensor(index)
    return ValuesIndices(Tensor.from_op(name, value, (a, vjp), (indices, None)), indices)


@method
def sort(a, dim=-1, descending=False, stable=True):
    """(values, indices) in order along dim; always stable."""
    return ordered("sort", a, order(a.data, dim, descending), dim)


@method
def argsort(a, dim=-1, descending=False, stable=True):
    """The indices that sort along dim; always stable."""
    return Tensor(order(a.data, dim, descending))


@method
def topk(a, k, dim=-1, largest=True, sorted=True):
    """(values, indices) of the k largest (or smallest) along dim, in that order; of equal ones the first."""
    if not 0 <= k <= a.shape[dim]:
        raise RuntimeError(f"topk: k = {k} of a dimension of length {a.shape[dim]}")
    index = np.take(order(a.data, dim, descending=largest), range(k), axis=dim)
    return ordered("topk", a, index, dim)


# --- matrices ---------------------------------------------------------------------------------------------
@method
def tril(a, diagonal=0):
    """The lower triangle of the last two dimensions: zeros above the diagonal."""
    return Tensor.from_op("tril", np.tril(a.data, diagonal), (a, lambda g: np.tril(g, diagonal)))


@method
def triu(a, diagonal=0):
    """The upper triangle of the last two dimensions: zeros below the diagonal."""
    return Tensor.from_op("triu", np.triu(a.data, diagonal), (a, lambda g: np.triu(g, diagonal)))


@method
def diag(a, diagonal=0):
    """The matrix with a vector on its diagonal, or the diagonal of a matrix."""
    if a.ndim == 1:
        return Tensor.from_op("diag", np.diag(a.data, diagonal), (a, lambda g: np.diagonal(g, diagonal)))
    if a.ndim != 2:
        raise RuntimeError(f"diag: expected a vector or a matrix, got shape {a.shape}")
    row = np.arange(max(0, -diagonal), min(a.shape[0], a.shape[1] - diagonal))
    return take("diag", a, (row, row + diagonal), repeats=False)


@operator
def one_hot(index, num_classes=-1):
    """int64 (..., num_classes): 1 at the class number, else 0. num_classes -1: the largest number + 1."""
    classes = index.data
    if classes.dtype.kind not in "iu":
        raise RuntimeError(f"one_hot: expected integers, got {classes.dtype}")
    n = num_classes if num_classes >= 0 else int(classes.max()) + 1
    if classes.size and not 0 <= classes.min() <= classes.max() < n:
        raise RuntimeError(f"one_hot: class numbers from {classes.min()} to {classes.max()} for {n} classes")
    return Tensor((classes[..., None] == np.arange(n)).astype(np.int64))


Tensor.T = property(lambda a: permute(a, *range(a.ndim)[::-1]), doc="The dimensions in reverse order.")
Tensor.mT = property(lambda a: transpose(a, -1, -2), doc="The last two dimensions exchanged.")
for _function in (masked_fill, scatter, scatter_add):
    in_place(_function)
