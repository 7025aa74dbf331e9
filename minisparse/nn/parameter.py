"""Parameter: the tensor that a layer trains, and that knows its mask."""
import numpy as np

from ..kernels import load, memory
from ..kernels.pool import elementwise
from ..tensor import Tensor, no_grad


def as_mask(mask, shape):
    """mask as a read-only C-contiguous bool array: a copy, unless it is one already.

    ValueError unless it has `shape` and holds bools, or 0 and 1.
    """
    mask = np.asarray(mask.data if isinstance(mask, Tensor) else mask)
    if mask.shape != shape:
        raise ValueError(f"the mask has shape {mask.shape}, the parameter {shape}")
    if mask.dtype != bool:
        wrong = (mask != 0) & (mask != 1)
        if wrong.any():
            raise ValueError(f"a mask holds bools or 0 and 1, this one has {mask[wrong][0]}")
    if mask.dtype != bool or mask.flags.writeable or mask.base is not None or not mask.flags.c_contiguous:
        mask = np.array(mask, dtype=bool, order="C")
        mask.setflags(write=False)
    return mask


def _keep(values, mask, out):
    """out = values where mask, 0 elsewhere. C-contiguous arrays of one shape."""
    elementwise(load("update").keep, (values, mask, out))
    return out


class Parameter(Tensor):
    """A tensor that its Module trains: it requires grad, and may carry a mask of the weights that are kept.

    data: a Tensor or an array, whose memory is shared. Under a mask the pruned weights are exactly 0.0, and
    so is their gradient; a change through a view (weight[0], weight.detach(), weight.data) knows of no mask, and wants
    apply_mask() after it. With `keep_dense_grad = True` the gradient before masking is kept as well, in the
    array `dense_grad`; like `grad` it adds up, and starts anew once `grad` is None. `plans` belongs to the
    kernels: what they have prepared for this mask.
    """

    __slots__ = ("_mask", "keep_dense_grad", "dense_grad", "plans")

    def __init__(self, data, requires_grad=True):
        if not isinstance(data, (Tensor, np.ndarray)):
            raise TypeError(f"Parameter: expected a Tensor or an array, got {type(data).__name__}")
        super().__init__(data.data if isinstance(data, Tensor) else data, requires_grad)
        if isinstance(data, Tensor):
            self._version = data._version
        self._mask = self.dense_grad = None
        self.keep_dense_grad = False
        self.plans = {}

    @property
    def mask(self):
        """None, or a read-only bool array, True where a weight is kept. A new mask is a new array object."""
        return self._mask

    def set_mask(self, mask):
        """Keep the weights where mask is True, zero the others (and their gradient); None lifts the mask.

        mask: bool or 0/1, of the parameter's shape. ValueError otherwise. One that is equal to the mask
        there is changes nothing: `mask` stays the same object, and optimizers see no weight go or return.
        """
        mask = None if mask is None else as_mask(mask, self.shape)
        if mask is None or self._mask is None or not np.array_equal(mask, self._mask):
            self._mask, self.plans = mask, {}
        self.apply_mask()
        if self._mask is not None and self.grad is not None:
            self.grad = Tensor(self._kept(self.grad.data))

    def apply_mask(self):
        """Zero the pruned weights again, after something changed all of them."""
        if self._mask is not None:
            with no_grad():
                self.change()
            if self.data.flags.c_contiguous:
                _keep(self.data, self._mask, self.data)
            else:
                np.copyto(self.data, 0, where=~self._mask)

    def _kept(self, array, own=False):
        """array, 0 where pruned; own: it may be overwritten."""
        # not a product: a pruned weight's infinite gradient has to become 0, not nan
        own = own and array.flags.c_contiguous
        array = np.asarray(array, order="C")
        return _keep(array, self._mask, array if own else memory.empty(array.shape, array.dtype))

    def _accumulate(self, grad, fresh):
        if self.keep_dense_grad:
            start = self.grad is None or self.dense_grad is None
            self.dense_grad = np.copy(grad) if start else self.dense_grad + grad
        if self._mask is not None:
            grad, fresh = self._kept(grad, fresh), True
        super()._accumulate(grad, fresh)

    def __deepcopy__(self, memo):
        out = super().__deepcopy__(memo)
        out._mask = self._mask      # read-only, so it can be shared
        if self._mask is not None:
            memo[id(self._mask)] = self._mask       # by a copy of the optimizer too: it knows masks by identity
        out.plans = {}
        out.keep_dense_grad = self.keep_dense_grad
        out.dense_grad = None if self.dense_grad is None else np.copy(self.dense_grad)
        return out

    def __repr__(self):
        return "Parameter containing:\n" + super().__repr__()
