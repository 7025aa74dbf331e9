"""Optimizers and learning-rate schedules, under torch.optim's names."""
from . import lr_scheduler
from .adam import Adam, AdamW
from .optimizer import Optimizer
from .proximal import ProximalAdam, ProximalSGD
from .sgd import SGD

__all__ = ["Adam", "AdamW", "Optimizer", "ProximalAdam", "ProximalSGD", "SGD", "lr_scheduler"]
