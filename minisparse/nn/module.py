"""Module: a tree of parameters, buffers and submodules; and Parameter, the tensor that knows its mask."""
import collections
import itertools

import numpy as np

from ..creation import device
from ..tensor import Tensor, no_grad

IncompatibleKeys = collections.namedtuple("IncompatibleKeys", "missing_keys unexpected_keys")


def as_mask(mask, shape):
    """mask as a new read-only C-contiguous bool array.

    ValueError unless it has `shape` and holds bools, or 0 and 1.
    """
    mask = np.asarray(mask.data if isinstance(mask, Tensor) else mask)
    if mask.shape != shape:
        raise ValueError(f"the mask has shape {mask.shape}, the parameter {shape}")
    if mask.dtype != bool:
        wrong = (mask != 0) & (mask != 1)
        if wrong.any():
            raise ValueError(f"a mask holds bools or 0 and 1, this one has {mask[wrong][0]}")
    mask = np.array(mask, dtype=bool, order="C")
    mask.setflags(write=False)
    return mask


class Parameter(Tensor):
    """A tensor that its Module trains: it requires grad, and may carry a mask of the weights that are kept.

    data: a Tensor or an array, whose memory is shared. Under a mask the pruned weights are exactly 0.0, and
    so is their gradient. With `keep_dense_grad = True` the gradient before masking is kept as well, in the
    array `dense_grad`; like `grad` it adds up, and starts anew once `grad` is None.
    """

    __slots__ = ("_mask", "keep_dense_grad", "dense_grad")

    def __init__(self, data, requires_grad=True):
        if not isinstance(data, (Tensor, np.ndarray)):
            raise TypeError(f"Parameter: expected a Tensor or an array, got {type(data).__name__}")
        super().__init__(data.data if isinstance(data, Tensor) else data, requires_grad)
        if isinstance(data, Tensor):
            self._version = data._version
        self._mask = self.dense_grad = None
        self.keep_dense_grad = False

    @property
    def mask(self):
        """None, or a read-only bool array, True where a weight is kept. A new mask is a new array object."""
        return self._mask

    def set_mask(self, mask):
        """Keep the weights where mask is True, zero the others (and their gradient); None lifts the mask.

        mask: bool or 0/1, of the parameter's shape; it is copied. ValueError otherwise.
        """
        self._mask = None if mask is None else as_mask(mask, self.shape)
        self.apply_mask()
        if self._mask is not None and self.grad is not None:
            self.grad = Tensor(self._kept(self.grad.data))

    def apply_mask(self):
        """Zero the pruned weights again, after something changed all of them."""
        if self._mask is not None:
            with no_grad():
                self.change()
            np.copyto(self.data, 0, where=~self._mask)

    def _kept(self, array):
        # where, not a product: a pruned weight's infinite gradient has to become 0, not nan
        return np.where(self._mask, array, array.dtype.type(0))

    def _accumulate(self, grad, fresh):
        if self.keep_dense_grad:
            start = self.grad is None or self.dense_grad is None
            self.dense_grad = np.copy(grad) if start else self.dense_grad + grad
        if self._mask is not None:
            grad, fresh = self._kept(grad), True
        super()._accumulate(grad, fresh)

    def __deepcopy__(self, memo):
        out = super().__deepcopy__(memo)
        out._mask = self._mask      # read-only, so it can be shared
        out.keep_dense_grad = self.keep_dense_grad
        out.dense_grad = None if self.dense_grad is None else np.copy(self.dense_grad)
        return out

    def __repr__(self):
        return "Parameter containing:\n" + super().__repr__()


class Module:
    """The base of all layers and networks.

    A subclass calls super().__init__(), assigns its parts as attributes and defines forward(). Parameters and
    Modules that are assigned are registered under their names, in order.
    """

    def __init__(self):
        self.training = True
        self._parameters, self._buffers, self._modules = {}, {}, {}
        self._not_persistent = set()

    def forward(self, *args, **kwargs):
        raise NotImplementedError(f"{type(self).__name__} does not define forward()")

    def __call__(self, *args, **kwargs):
        return self.forward(*args, **kwargs)

    def register_forward_hook(self, *args, **kwargs):
        raise NotImplementedError("hooks are left out: override forward() and call what you need there")

    register_forward_pre_hook = register_full_backward_hook = register_forward_hook

    # --- attributes: three tables beside the plain ones ---------------------------------------------------
    def __setattr__(self, name, value):
        tables = self.__dict__
        for kind, table in ((Parameter, "_parameters"), (Module, "_modules")):
            if isinstance(value, kind):
                if table not in tables:
                    raise AttributeError(f"cannot assign a {kind.__name__} before Module.__init__()")
                if name not in tables[table]:   # else it keeps its place in the order
                    self._forget(name)
                tables[table][name] = value
                return
        for kind, table in ((Parameter, "_parameters"), (Module, "_modules"), (Tensor, "_buffers")):
            if name in tables.get(table, ()):
                if value is not None and not isinstance(value, kind):
                    raise TypeError(f"cannot assign {type(value).__name__} to {name!r} "
                                    f"({kind.__name__} or None expected)")
                tables[table][name] = value
                return
        super().__setattr__(name, value)

    def __getattr__(self, name):    # called where the plain attributes know no such name
        for table in ("_parameters", "_buffers", "_modules"):
            if name in self.__dict__.get(table, ()):
                return self.__dict__[table][name]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __delattr__(self, name):
        if not self._forget(name):
            super().__delattr__(name)

    def __dir__(self):
        return [*super().__dir__(), *self._parameters, *self._buffers, *self._modules]

    def _forget(self, name):
        """Drop what `name` refers to, whichever kind it is; whether there was anything."""
        self._not_persistent.discard(name)
        tables = (self.__dict__, self._parameters, self._buffers, self._modules)
        return any([table.pop(name, self) is not self for table in tables])

    def _register(self, kind, table, name, value):
        if table not in self.__dict__:
            raise AttributeError(f"cannot register {name!r} before Module.__init__()")
        table = self.__dict__[table]
        if not isinstance(name, str) or not name or "." in name:
            raise KeyError(f"the name of a part is a string, not empty, without dots; got {name!r}")
        if name not in table and hasattr(self, name):
            raise KeyError(f"attribute {name!r} already exists")
        if value is not None and not isinstance(value, kind):
            raise TypeError(f"cannot register {type(value).__name__} as {name!r} "
                            f"({kind.__name__} or None expected)")
        table[name] = value

    def register_parameter(self, name, param):
        """Add a Parameter, or None for one that is absent (state_dict leaves it out)."""
        self._register(Parameter, "_parameters", name, param)

    def register_buffer(self, name, tensor, persistent=True):
        """Add a tensor that is state but not trained; state_dict has it if persistent."""
        self._register(Tensor, "_buffers", name, tensor)
        (self._not_persistent.discard if persistent else self._not_persistent.add)(name)

    def add_module(self, name, module):
        self._register(Module, "_modules", name, module)

    # --- the tree -----------------------------------------------------------------------------------------
    def named_modules(self, prefix="", remove_duplicate=True):
        """(dotted name, module) for this module ("") and all below; one that is shared comes once."""
        seen = set()

        def walk(name, module):
            if not (remove_duplicate and module in seen):
                seen.add(module)
                yield name, module
                for key, child in module._modules.items():
                    if child is not None:
                        yield from walk(f"{name}.{key}" if name else key, child)
        return walk(prefix, self)

    def _named_tensors(self, table, prefix="", recurse=True, remove_duplicate=True):
        seen = set()
        modules = self.named_modules(prefix, remove_duplicate) if recurse else [(prefix, self)]
        for path, module in modules:
            for key, tensor in getattr(module, table).items():
                if tensor is not None and not (remove_duplicate and tensor in seen):
                    seen.add(tensor)
                    yield (f"{path}.{key}" if path else key), tensor

    def named_parameters(self, prefix="", recurse=True):
        """(dotted name, Parameter), a shared one once, under its first name."""
        return self._named_tensors("_parameters", prefix, recurse)

    def named_buffers(self, prefix="", recurse=True):
        return self._named_tensors("_buffers", prefix, recurse)

    def named_children(self):
        seen = set()
        for name, child in self._modules.items():
            if child is not None and child not in seen:
                seen.add(child)
                yield name, child

    def modules(self):
        return (module for _, module in self.named_modules())

    def parameters(self, recurse=True):
        return (p for _, p in self.named_parameters(recurse=recurse))

    def buffers(self, recurse=True):
        return (b for _, b in self.named_buffers(recurse=recurse))

    def children(self):
        return (child for _, child in self.named_children())

    def get_submodule(self, target):
        """The module with the dotted name `target`; AttributeError if there is none."""
        module = self
        for name in target.split(".") if target else ():
            if module._modules.get(name) is None:
                raise AttributeError(f"{type(module).__name__} has no submodule {name!r} (of {target!r})")
            module = module._modules[name]
        return module

    def get_parameter(self, target):
        """The Parameter with the dotted name `target`; AttributeError if there is none."""
        path, _, name = target.rpartition(".")
        module = self.get_submodule(path)
        if module._parameters.get(name) is None:
            raise AttributeError(f"{type(module).__name__} has no parameter {name!r} (of {target!r})")
        return module._parameters[name]

    # --- what is done to all of it ------------------------------------------------------------------------
    def apply(self, function):
        """function(module) for every module, children first. Returns self."""
        for child in self.children():
            child.apply(function)
        function(self)
        return self

    def train(self, mode=True):
        if not isinstance(mode, bool):
            raise ValueError(f"train: mode is True or False, got {mode!r}")
        for module in self.modules():
            module.training = mode
        return self

    def eval(self):
        return self.train(False)

    def zero_grad(self, set_to_none=True):
        for p in self.parameters():
            p.dense_grad = None
            if set_to_none:
                p.grad = None
            elif p.grad is not None:
                p.grad = Tensor(np.zeros_like(p.grad.data))

    def requires_grad_(self, requires_grad=True):
        for p in self.parameters():
            p.requires_grad_(requires_grad)
        return self

    def to(self, target):
        """Parameters and buffers that are floating point become the dtype `target`, in place. Returns self.

        target may also be the device, "cpu", where everything is.
        """
        if isinstance(target, str):
            device(target)
            return self
        dtype = np.dtype(target)
        if dtype.kind != "f":
            raise TypeError(f"to: a module takes floating point dtypes only, got {dtype}")
        with no_grad():
            for tensor in itertools.chain(self.parameters(), self.buffers()):
                if tensor.dtype.kind == "f":
                    tensor.change()
                    tensor.data = tensor.data.astype(dtype)
                    if tensor.grad is not None:
                        tensor.grad = Tensor(tensor.grad.data.astype(dtype))
        return self

    def float(self):
        return self.to(np.float32)

    def double(self):
        return self.to(np.float64)

    def cpu(self):
        return self

    # --- state --------------------------------------------------------------------------------------------
    def _named_state(self):
        """(dotted name, tensor) of everything state_dict holds, under every name it has."""
        for path, module in self.named_modules(remove_duplicate=False):
            buffers = {k: b for k, b in module._buffers.items() if k not in module._not_persistent}
            for key, tensor in {**module._parameters, **buffers}.items():
                if tensor is not None:
                    yield (f"{path}.{key}" if path else key), tensor

    def state_dict(self):
        """{dotted name: Tensor}: parameters and persistent buffers, sharing memory with the module.

        A masked parameter "conv.weight" is followed by "conv.weight_mask", a bool tensor.
        """
        state = collections.OrderedDict()
        for name, tensor in self._named_state():
            state[name] = tensor.detach()
            if getattr(tensor, "mask", None) is not None:
                state[name + "_mask"] = Tensor(tensor.mask)
        return state

    def load_state_dict(self, state_dict, strict=True):
        """Copy the values in, and take over the masks (a parameter that comes without one loses its own).

        state_dict: {dotted name: Tensor or array}. Returns (missing_keys, unexpected_keys). RuntimeError that
        lists all missing and unexpected keys (if strict) and all unfit values; then nothing has changed.
        """
        if not isinstance(state_dict, collections.abc.Mapping):
            raise TypeError(f"load_state_dict: expected a dict, got {type(state_dict).__name__}")
        state = {name: value.data if isinstance(value, Tensor) else np.asarray(value)
                 for name, value in state_dict.items()}
        own = dict(self._named_state())
        masks = {name: state.pop(name + "_mask") for name, tensor in own.items()
                 if isinstance(tensor, Parameter) and name + "_mask" not in own and name + "_mask" in state}
        missing = [name for name in own if name not in state]
        unexpected = [name for name in state if name not in own]

        problems = []
        if strict and missing:
            problems.append("missing key(s): " + ", ".join(map(repr, missing)))
        if strict and unexpected:
            problems.append("unexpected key(s): " + ", ".join(map(repr, unexpected)))
        for name, tensor in own.items():
            value = state.get(name, tensor.data)
            if value.shape != tensor.shape:
                problems.append(f"size mismatch for {name!r}: {value.shape} given, {tensor.shape} expected")
            elif value.dtype.kind not in "biuf" or not np.can_cast(value.dtype, tensor.dtype, "same_kind"):
                problems.append(f"dtype mismatch for {name!r}: {value.dtype} given, {tensor.dtype} expected")
        for name, mask in masks.items():
            try:
                masks[name] = as_mask(mask, own[name].shape)
            except ValueError as error:
                problems.append(f"{name + '_mask'!r}: {error}")
        if problems:
            raise RuntimeError("\n    ".join([f"load_state_dict of {type(self).__name__}:", *problems]))

        with no_grad():
            for name, tensor in own.items():
                if name in state:
                    tensor.change()
                    np.copyto(tensor.data, state[name], casting="same_kind")
                if name in masks or (name in state and isinstance(tensor, Parameter)):
                    tensor.set_mask(masks.get(name))
        return IncompatibleKeys(missing, unexpected)

    # --- repr: a tree -------------------------------------------------------------------------------------
    def extra_repr(self):
        """What stands between the parentheses of the repr."""
        return ""

    def _child_reprs(self):
        return [f"({name}): {child!r}" for name, child in self._modules.items()]

    def __repr__(self):
        name, extra = type(self).__name__, self.extra_repr()
        children = self._child_reprs()
        if not children and "\n" not in extra:
            return f"{name}({extra})"
        lines = "\n".join([*extra.splitlines(), *children]).replace("\n", "\n  ")
        return f"{name}(\n  {lines}\n)"


class _Indexed(Module):
    """Submodules in order, with the manners of a list."""

    def __len__(self):
        return len(self._modules)

    def __iter__(self):
        return iter(self._modules.values())

    def _key(self, index):
        keys = list(self._modules)
        if not -len(keys) <= index < len(keys):
            raise IndexError(f"index {index} is out of range: {type(self).__name__} has {len(keys)} modules")
        return keys[index]

    def __getitem__(self, index):
        if isinstance(index, slice):
            return self._slice(index)
        return self._modules[self._key(index)]

    def __setitem__(self, index, module):
        setattr(self, self._key(index), module)

    def __delitem__(self, index):
        keys = list(self._modules)[index] if isinstance(index, slice) else [self._key(index)]
        self._renumber([m for key, m in self._modules.items() if key not in keys])

    def _renumber(self, modules):
        self._modules.clear()
        for i, module in enumerate(modules):
            self.add_module(str(i), module)

    def append(self, module):
        return self.extend([module])

    def extend(self, modules):
        for module in list(modules):
            self.add_module(str(len(self)), module)
        return self

    def insert(self, index, module):
        modules = list(self)
        modules.insert(index, module)
        self._renumber(modules)
        return self


class Sequential(_Indexed):
    """Modules applied one after another. Takes the modules, or one OrderedDict of named ones."""

    def __init__(self, *modules):
        super().__init__()
        if len(modules) == 1 and isinstance(modules[0], collections.OrderedDict):
            for name, module in modules[0].items():
                self.add_module(name, module)
        else:
            self.extend(modules)

    def _slice(self, index):
        return type(self)(collections.OrderedDict(list(self._modules.items())[index]))

    def forward(self, x):
        for module in self:
            x = module(x)
        return x


class ModuleList(_Indexed):
    """A list whose modules are registered. It has no forward."""

    def __init__(self, modules=()):
        super().__init__()
        self.extend(modules or ())

    def _slice(self, index):
        return type(self)(list(self)[index])

    def _child_reprs(self):     # equal neighbours share one entry: "(0-2): 3 x ReLU()"
        lines, start = [], 0
        for text, group in itertools.groupby(map(repr, self)):
            n = len(list(group))
            name = f"{start}" if n == 1 else f"{start}-{start + n - 1}"
            lines.append(f"({name}): " + (text if n == 1 else f"{n} x {text}"))
            start += n
        return lines


class Flatten(Module):
    """Dimensions start_dim to end_dim become one: (N, C, H, W) -> (N, C*H*W) by default."""

    def __init__(self, start_dim=1, end_dim=-1):
        super().__init__()
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, x):
        return x.flatten(self.start_dim, self.end_dim)

    def extra_repr(self):
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Identity(Module):
    """Returns its input. Takes and ignores any arguments, so that it can stand in for any layer."""

    def __init__(self, *args, **kwargs):
        super().__init__()

    def forward(self, x):
        return x
