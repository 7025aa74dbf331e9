"""Modules: layers, losses and what holds them together, under torch's names."""
from ..ops import LeftOut
from . import functional, init, utils  # noqa: F401
from .containers import ModuleList, Sequential  # noqa: F401
from .layers import (GELU, AdaptiveAvgPool2d, AvgPool2d, BatchNorm1d, BatchNorm2d, Conv2d,  # noqa: F401
                     Dropout, Flatten, Identity, LayerNorm, LeakyReLU, Linear, LogSoftmax, MaxPool2d, ReLU,
                     Sigmoid, SiLU, Softmax, Tanh)
from .losses import (BCEWithLogitsLoss, CrossEntropyLoss, HuberLoss, L1Loss, MSELoss, NLLLoss,  # noqa: F401
                     SmoothL1Loss)
from .module import Module  # noqa: F401
from .parameter import Parameter  # noqa: F401


def __getattr__(name):
    raise LeftOut(f"module {__name__!r}", name)
