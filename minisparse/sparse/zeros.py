"""Where zeros can be and how many there are: the Linear and Conv2d layers of a model, counted."""
from typing import NamedTuple

import numpy as np

from ..nn import Conv2d, Linear


def sparsifiable(model):
    """{name: layer} of the Linear and Conv2d layers of a model, in order; a shared weight counts once.

    Biases, batch norm and embeddings stay dense: they are few, and what follows depends on each of them.
    """
    layers, seen = {}, set()
    for name, layer in model.named_modules():
        if isinstance(layer, (Linear, Conv2d)) and id(layer.weight) not in seen:
            seen.add(id(layer.weight))
            layers[name] = layer
    return layers


class Row(NamedTuple):
    """One line of a summary. `zeros` counts weights that are exactly 0.0, whatever made them so."""

    name: str
    kind: str               # "conv" or "linear"; "" in the line of all
    shape: tuple            # () in the lines of totals
    weights: int
    zeros: int

    @property
    def sparsity(self):
        """Share of zeros; 0.0 where there are no weights."""
        return self.zeros / self.weights if self.weights else 0.0


def summary(model):
    """A list of Rows: one for each layer, then the totals "conv", "linear" and "all"."""
    rows = []
    for name, layer in sparsifiable(model).items():
        weight = (layer.plain() if hasattr(layer, "plain") else layer).weight.data     # with its gates, if any
        kind = "conv" if isinstance(layer, Conv2d) else "linear"
        rows.append(Row(name, kind, weight.shape, weight.size, weight.size - int(np.count_nonzero(weight))))

    def total(name, part):
        return Row(name, name, (), sum(row.weights for row in part), sum(row.zeros for row in part))

    kinds = [total(kind, [row for row in rows if row.kind == kind]) for kind in ("conv", "linear")]
    return rows + kinds + [total("all", kinds)]
