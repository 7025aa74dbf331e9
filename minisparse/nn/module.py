"""Module: a tree of parameters, buffers and submodules."""
import collections
import itertools

import numpy as np

from ..creation import device
from ..tensor import Tensor, no_grad
from .parameter import Parameter, as_mask

IncompatibleKeys = collections.namedtuple("IncompatibleKeys", "missing_keys unexpected_keys")


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

        A masked parameter "conv.weight" is followed by "conv.weight_mask", a bool tensor. ValueError where something
        else has that name.
        """
        state, own = collections.OrderedDict(), dict(self._named_state())
        for name, tensor in own.items():
            state[name] = tensor.detach()
            if getattr(tensor, "mask", None) is not None:
                if name + "_mask" in own:
                    raise ValueError(f"state_dict: {name + '_mask'!r} is the name of the mask of {name!r}, and of "
                                     "something else in the module: call that otherwise")
                state[name + "_mask"] = Tensor(tensor.mask)
        return state

    def load_state_dict(self, state_dict, strict=True):
        """Copy the values in, and take over the masks (a parameter that comes without one loses its own).

        state_dict: {dotted name: Tensor or array}. Returns (missing_keys, unexpected_keys); a mask that is lost is
        among the missing ones, which is no error. RuntimeError that lists all other missing and unexpected keys (if
        strict) and all unfit values; then nothing has changed.
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

        missing += [name + "_mask" for name, tensor in own.items()
                    if name in state and name not in masks and getattr(tensor, "mask", None) is not None]
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
