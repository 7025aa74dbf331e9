"""Zeros in training: masks, gates, schedules, penalties, and the Pruner that drives them."""
from .gates import HardConcrete, expected_l0, expected_l2
from .layers import (DynamicSparseConv2d, DynamicSparseLinear, L0Conv2d, L0Linear, SparseConv2d,
                     SparseLinear)
from .masks import block_mask, magnitude, n_m_mask, random_mask, topk_mask, unit_mask
from .penalties import elastic_net, group_lasso, l1, lambda_path
from .pruner import Pruner
from .schedules import Constant, Cosine, Cubic, OneShot    # not Linear: it would read as a layer
from .shrink import shrink
from .zeros import sparsifiable, summary

__all__ = ["Constant", "Cosine", "Cubic", "DynamicSparseConv2d", "DynamicSparseLinear", "HardConcrete", "L0Conv2d",
           "L0Linear", "OneShot", "Pruner", "SparseConv2d", "SparseLinear", "block_mask", "expected_l0", "expected_l2",
           "l1", "magnitude", "n_m_mask", "random_mask", "shrink", "sparsifiable", "summary",
           "topk_mask", "unit_mask"]
