"""Zeros in training: masks, schedules, penalties, and the Pruner that drives them."""
from .masks import block_mask, magnitude, n_m_mask, random_mask, topk_mask, unit_mask
from .penalties import l1
from .pruner import Pruner
from .schedules import Constant, Cosine, Cubic, OneShot    # not Linear: it would read as a layer
from .zeros import sparsifiable, summary

__all__ = ["Constant", "Cosine", "Cubic", "OneShot", "Pruner", "block_mask", "l1", "magnitude", "n_m_mask",
           "random_mask", "sparsifiable", "summary", "topk_mask", "unit_mask"]
