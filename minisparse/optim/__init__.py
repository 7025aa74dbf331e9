"""Optimizers and learning-rate schedules, under torch.optim's names."""
from ..ops import LeftOut
from . import lr_scheduler
from .adam import Adam, AdamW
from .lookahead import Lookahead
from .optimizer import Optimizer
from .proximal import ProximalAdam, ProximalSGD
from .sgd import SGD


def __getattr__(name):
    raise LeftOut(f"module {__name__!r}", name)


__all__ = ["Adam", "AdamW", "Lookahead", "Optimizer", "ProximalAdam", "ProximalSGD", "SGD", "lr_scheduler"]
