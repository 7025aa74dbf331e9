"""Sequential and ModuleList: modules in order."""
import collections
import itertools

from .module import Module


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
