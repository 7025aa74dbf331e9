"""How a tensor prints: torch's layout, with this library's names of dtypes."""
import numpy as np

from .tensor import Tensor

LINE, LARGE, EDGE, DIGITS = 80, 1000, 3, 4      # torch's linewidth, threshold, edgeitems, precision


def number_format(x):
    """A function number -> str, all of one width, for the numbers of the array x."""
    if x.dtype.kind != "f":
        write = str
        shown = x.ravel().tolist()
    else:
        shown = x[np.isfinite(x) & (x != 0)].astype(np.float64)
        sizes = np.abs(shown)
        whole = bool((shown == np.ceil(shown)).all())
        wide = shown.size and (sizes.max() / sizes.min() > 1000 or sizes.max() > 1e8 or sizes.min() < 1e-4)

        def write(v):
            if wide:
                return f"{v:.{DIGITS}e}"
            return f"{v:.0f}" + "." * bool(np.isfinite(v)) if whole else f"{v:.{DIGITS}f}"
    width = max((len(write(v)) for v in shown), default=1)
    return lambda v: write(v).rjust(width)


def edges(x):
    """x with only the first and last EDGE slices of each long dimension."""
    for axis, n in enumerate(x.shape):
        if n > 2 * EDGE:
            x = np.take(x, [*range(EDGE), *range(n - EDGE, n)], axis)
    return x


def layout(x, write, indent, short):
    """The nested brackets of x; short: "..." for the middle of each long dimension."""
    if x.ndim == 0:
        return write(x.item())
    cut = short and len(x) > 2 * EDGE
    items = [*x[:EDGE], *x[-EDGE:]] if cut else x
    parts = [layout(item, write, indent + 1, short) for item in items]
    if x.ndim > 1:
        if cut:
            parts.insert(EDGE, "...")
        return "[" + ("," + "\n" * (x.ndim - 1) + " " * (indent + 1)).join(parts) + "]"
    per_line = max(1, (LINE - indent) // (max(map(len, parts), default=0) + 2))
    if cut:
        parts.insert(EDGE, " ...")
    lines = [", ".join(parts[i:i + per_line]) for i in range(0, len(parts), per_line)]
    return "[" + (",\n" + " " * (indent + 1)).join(lines) + "]"


def body(x, indent):
    """The numbers of the array x in brackets, to stand after `indent` characters."""
    if x.size == 0:
        return "[]"
    short = x.size > LARGE
    return layout(x, number_format(edges(x) if short else x), indent, short)


def origin(a):
    """[where the tensor a has its gradient from], or []."""
    if a._node is not None:
        return ["grad_fn=<" + a._node.name.title().replace("_", "") + "Backward0>"]
    return ["requires_grad=True"] * a.requires_grad


def annotated(out, notes, newline=False):
    """out, the notes, and the last bracket. A note that does not fit begins a line, as does the first if newline."""
    last = len(out) - out.rfind("\n") + 1
    for note in notes:
        if newline or last + len(note) + 2 > LINE:
            out, last, newline = out + ",\n" + " " * len("tensor(") + note, len("tensor(") + len(note), False
        else:
            out, last = out + ", " + note, last + len(note) + 2
    return out + ")"


def text(a):
    """repr(a)."""
    x = a.data
    notes = [f"size={x.shape}"] if x.size == 0 and x.ndim != 1 else []
    if x.dtype not in (np.float32, np.int64, np.bool_) or (x.size == 0 and x.dtype != np.float32):
        notes.append(f"dtype={x.dtype}")
    return annotated("tensor(" + body(x, len("tensor(")), notes + origin(a))


Tensor.__repr__ = text
Tensor.__format__ = lambda a, spec: format(a.item(), spec) if spec and a.ndim == 0 else format(str(a), spec)
