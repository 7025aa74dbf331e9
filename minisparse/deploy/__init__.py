"""A trained model as an inference engine and a file: batch norm folded, zeros neither computed nor stored."""
from .compile import compile  # noqa: F401
from .engine import Engine  # noqa: F401
from .file import load  # noqa: F401
from .onnx import to_onnx  # noqa: F401
