"""Modules: layers, losses and what holds them together, under torch's names."""
from . import functional, init, utils  # noqa: F401
from .layers import (GELU, AdaptiveAvgPool2d, AvgPool2d, BatchNorm1d, BatchNorm2d, Conv2d,  # noqa: F401
                     Dropout, LayerNorm, LeakyReLU, Linear, LogSoftmax, MaxPool2d, ReLU, Sigmoid, SiLU,
                     Softmax, Tanh)
from .losses import (BCEWithLogitsLoss, CrossEntropyLoss, HuberLoss, L1Loss, MSELoss, NLLLoss,  # noqa: F401
                     SmoothL1Loss)
from .module import Flatten, Identity, Module, ModuleList, Parameter, Sequential  # noqa: F401
