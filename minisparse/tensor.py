"""Tensor: an array that remembers how it was made, and the walk back that turns that memory into gradients.

Reading order: `Tensor.from_op` records one step, `Tensor.backward` walks the steps in reverse. What the steps
compute is in the operator files (ops.py first): each operator there is a value and, right under it, one
vector-Jacobian product (vjp) for each input. There are no higher-order gradients.
"""
import contextlib
import heapq
import itertools
import operator
import threading
import weakref

import numpy as np

_order = itertools.count()
_mode = threading.local()


def is_grad_enabled():
    """Whether operators of this thread record how to go back (see no_grad)."""
    return getattr(_mode, "enabled", True)


class no_grad(contextlib.ContextDecorator):
    """`with no_grad():` (or `@no_grad()`): operators inside compute values and record nothing."""

    enabled = False

    def __enter__(self):
        self.before, _mode.enabled = is_grad_enabled(), self.enabled
        return self

    def __exit__(self, *_):
        _mode.enabled = self.before

    def _recreate_cm(self):     # a decorated function may call itself: each call its own state
        return type(self)()


class enable_grad(no_grad):
    """Undo an outer no_grad."""

    enabled = True


@contextlib.contextmanager
def recording(record):
    """record(name, inputs, result) is called for every operator of this thread (see deploy/trace.py)."""
    _mode.record = record
    try:
        yield
    finally:
        _mode.record = None


def is_recording():
    """Whether operators of this thread are reported to a `recording`."""
    return getattr(_mode, "record", None) is not None


class Intermediate:
    """What the way back has to know of a result that an operator read: not its numbers.

    So these are freed as soon as no vjp and nobody else needs them, which is about half of a network's.
    """

    __slots__ = ("_node", "shape", "dtype")
    requires_grad = True

    def __init__(self, tensor):
        self._node, self.shape, self.dtype = tensor._node, tensor.shape, tensor.dtype


class Node:
    """One recorded step. edges: ((inputs, vjp), ...) with inputs a tuple of leaves (Tensors) and Intermediates, and
    vjp(g) a tuple of arrays.

    `saved` holds the version of every tensor the step has seen, so that a later change in place, which would
    make the gradient silently wrong, is found when the gradient is asked for.
    """

    __slots__ = ("name", "order", "edges", "saved", "retained")

    def __init__(self, name, edges, saved):
        self.name, self.edges, self.saved = name, edges, saved
        self.order = next(_order)
        self.retained = None

    def vjps(self, g):
        """(input, gradient) for every input that needs one."""
        for cell, version in self.saved:
            if cell[0] != version:
                raise RuntimeError(f"{self.name}: a tensor needed for the gradient was changed in place "
                                   f"(it is at version {cell[0]}, the operator saw version {version})")
        for inputs, vjp in self.edges:
            if not any(t.requires_grad for t in inputs):
                continue
            gradients = vjp(g)
            if len(inputs) == 1:
                gradients = (gradients,)
            for t, grad in zip(inputs, gradients, strict=True):
                if t.requires_grad:
                    if grad.shape != t.shape or grad.dtype != t.dtype:
                        raise AssertionError(f"{self.name}: gradient {grad.dtype}{grad.shape} "
                                             f"for an input {t.dtype}{t.shape}")
                    yield t, grad


class Tensor:
    """A numpy array (`data`) with a gradient (`grad`, a Tensor or None). Users make one with `minisparse.tensor`.

    `data` shares memory with whatever array is passed in. Integer and bool tensors cannot require a gradient.
    """

    __slots__ = ("_data", "grad", "_requires_grad", "_node", "_version", "__weakref__")
    __array_priority__ = 100    # ndarray + Tensor is Tensor.__radd__

    def __init__(self, data, requires_grad=False):
        self._data = np.asarray(data)
        self.grad = None
        self._node = None
        self._version = [0]     # a cell, shared by all tensors on the same memory
        self._requires_grad = False
        if requires_grad:
            self.requires_grad_()

    def requires_grad_(self, requires_grad=True):
        """Ask for (or no longer want) the gradient of this leaf. Returns self."""
        if requires_grad and self.data.dtype.kind != "f":
            raise RuntimeError(f"only floating point tensors can require gradients, this one is {self.dtype}")
        if not requires_grad and self._node is not None:
            raise RuntimeError("requires_grad can be switched off on leaf tensors only; use detach()")
        self._requires_grad = requires_grad
        return self

    def _set_data(self, data):
        self._version[0] += 1       # what was recorded reads the new numbers: backward would be wrong, and says so
        self._data = np.asarray(data.data if isinstance(data, Tensor) else data)

    data = property(operator.attrgetter("_data"), _set_data, doc="The array itself.")
    requires_grad = property(operator.attrgetter("_requires_grad"), requires_grad_, doc="See requires_grad_.")

    @staticmethod
    def from_op(name, value, *edges):
        """The result of an operator. Each edge is (input, vjp), vjp(g) -> gradient of that input.

        Where gradients of several inputs share their work the edge is ((input, input, ...), vjp) and vjp returns
        a tuple; (input, None) names an input that is only read. g is the gradient of the result, an array of
        its shape and dtype that the vjp must not change. A vjp none of whose inputs needs a gradient is never called.
        """
        out = Tensor(value)
        edges = [(t if isinstance(t, tuple) else (t,), vjp) for t, vjp in edges]
        record = getattr(_mode, "record", None)
        if record:
            record(name, [t for inputs, _ in edges for t in inputs], out)
        if out.data.base is not None:
            for inputs, _ in edges:
                for t in inputs:
                    if np.may_share_memory(out.data, t.data):
                        out._version = t._version
        if is_grad_enabled() and any(t.requires_grad for inputs, vjp in edges if vjp for t in inputs):
            cells = [t._version for inputs, _ in edges for t in inputs] + [out._version]
            edges = tuple((tuple(t if t._node is None else Intermediate(t) for t in inputs), vjp)
                          for inputs, vjp in edges if vjp)
            out._node = Node(name, edges, [(cell, cell[0]) for cell in cells])
            out._requires_grad = True
        return out

    def backward(self, gradient=None, retain_graph=False):
        """Add d self / d leaf to `leaf.grad` of every leaf that requires one.

        gradient: d loss / d self, of self's shape; may be left out for a scalar. The record is dropped as the
        walk goes, unless retain_graph. The walk takes the steps from the newest to the oldest, so each step has
        all of its gradient when its turn comes; it is a loop, so depth is no limit.
        """
        if not self.requires_grad:
            raise RuntimeError("backward: this tensor does not require grad and was not made from one that does")
        if gradient is None:
            if self.data.size != 1:
                raise RuntimeError(f"backward: grad can be implicitly created only for scalar outputs, "
                                   f"this one has shape {self.shape}")
            gradient = np.ones_like(self.data)
        gradient = np.asarray(gradient.data if isinstance(gradient, Tensor) else gradient, self.dtype)
        if gradient.shape != self.shape:
            raise RuntimeError(f"backward: gradient has shape {gradient.shape}, the tensor {self.shape}")

        nodes, gradients, heap = {}, {}, []

        def receive(tensor, grad, fresh):
            node = tensor._node
            if node is None:
                tensor._accumulate(grad, fresh)
            elif node.order not in nodes:
                nodes[node.order], gradients[node.order] = node, grad
                heapq.heappush(heap, -node.order)
            else:
                gradients[node.order] = gradients[node.order] + grad

        receive(self, gradient, fresh=False)
        with np.errstate(all="ignore"):      # inf and NaN are values
            while heap:
                order = -heapq.heappop(heap)
                node, g = nodes.pop(order), gradients.pop(order)
                if node.edges is None:
                    raise RuntimeError(f"{node.name}: backward through the same record a second time; "
                                       f"pass retain_graph=True the first time")
                tensor = node.retained and node.retained()
                if tensor is not None:
                    tensor._accumulate(g, fresh=False)
                for t, grad in node.vjps(g):
                    # a broadcast view is not fresh: its elements share memory and cannot be written
                    receive(t, grad, fresh=grad.flags.writeable and not np.may_share_memory(grad, g))
                if not retain_graph:
                    node.edges = None

    def _accumulate(self, grad, fresh):
        """grad += grad. An array that others may hold (not fresh) is copied first, in the memory order of data."""
        if self.grad is None:
            if not fresh:
                own = np.empty_like(self.data)
                own[...] = grad
                grad = own
            self.grad = Tensor(grad)
        else:
            self.grad = Tensor(self.grad.data + grad)

    def retain_grad(self):
        """Keep the gradient of this intermediate result in `grad` when backward passes it."""
        if not self.requires_grad:
            raise RuntimeError("retain_grad: this tensor does not require grad")
        if self._node is not None:
            self._node.retained = weakref.ref(self)

    def detach(self):
        """The same memory, without the record of how it was made."""
        out = Tensor(self.data)
        out._version = self._version
        return out

    def change(self):
        """Announce a change in place of `data`; every in-place operator calls it first.

        RuntimeError where the change could make a gradient wrong: on a tensor that is part of a record, while
        gradients are on. Under no_grad it is allowed, and found by backward if it did harm.
        """
        if self.requires_grad and is_grad_enabled():
            kind = "a leaf that requires grad" if self._node is None else "the result of an operator"
            raise RuntimeError(f"{kind} is changed in place; do it under no_grad(), or out of place")
        self._version[0] += 1

    def apply_mask(self):
        """What every in-place operator does in the end: a Parameter zeroes what its mask prunes."""

    # --- what numpy already knows -------------------------------------------------------------------------
    @property
    def shape(self):
        return self.data.shape

    @property
    def dtype(self):
        return self.data.dtype

    @property
    def ndim(self):
        return self.data.ndim

    @property
    def is_leaf(self):
        return self._node is None

    def dim(self):
        return self.data.ndim

    def size(self, dim=None):
        """The shape, or the length of one dimension."""
        return self.data.shape if dim is None else self.data.shape[dim]

    def numel(self):
        return self.data.size

    def __len__(self):
        if self.data.ndim == 0:
            raise TypeError("len() of a 0-d tensor")
        return len(self.data)

    def numpy(self):
        """The array itself (shared memory); RuntimeError on a tensor that requires grad, as in torch."""
        if self.requires_grad:
            raise RuntimeError("numpy() on a tensor that requires grad; use tensor.detach().numpy()")
        return self.data

    def __array__(self, dtype=None, copy=None):
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    def item(self):
        """The one number of a tensor with one element, as a Python number."""
        if self.data.size != 1:
            raise RuntimeError(f"item(): a tensor with {self.data.size} elements cannot be one number")
        return self.data.item()

    def tolist(self):
        return self.data.tolist()

    def __bool__(self):
        if self.data.size != 1:
            raise RuntimeError(f"the truth value of a tensor with {self.data.size} elements is ambiguous")
        return bool(self.data.item())

    def __float__(self):
        return float(self.item())

    def __int__(self):
        return int(self.item())

    def __index__(self):
        return self.data.__index__()

    def __hash__(self):
        return id(self)

    def __iter__(self):
        if self.data.ndim == 0:
            raise TypeError("iteration over a 0-d tensor")
        return (self[i] for i in range(len(self.data)))

    def __deepcopy__(self, memo):
        if self._node is not None:
            raise RuntimeError("only leaf tensors can be deep-copied; detach() first")
        out = type(self).__new__(type(self))
        Tensor.__init__(out, np.copy(self.data, order="K"), self.requires_grad)
        if self.grad is not None:
            out.grad = Tensor(np.copy(self.grad.data, order="K"))
        memo[id(self)] = out
        return out
