"""Zeros in training: masks, gates, schedules, penalties, and the Pruner that drives them.

One loop serves every method, with `pruner.step()` after `optimizer.step()` (dense training has no pruner).
`targets` is one sparsity, a dict, uniform(model, 0.9) or erk(model, 0.9); `steps` is the training's length.

    gradual         Pruner(model, targets, Cubic(start=steps // 10, end=steps * 3 // 4))
    global          Pruner(model, 0.9, Cubic(start=steps // 10, end=steps * 3 // 4), scope="global")
    LAMP            Pruner(model, 0.9, Cubic(start=steps // 10, end=steps * 3 // 4), scope="global", score=lamp)
    movement        Pruner(model, targets, Cubic(start=steps // 10, end=steps * 3 // 4), score=movement)
    one shot        Pruner(model, targets, OneShot(start=steps // 2)), and fine-tuning from there
    dynamic         Pruner(model, targets, Reactive(start, end)), and pruner.report(accuracy) now and then
    SET             SET(model, erk(model, 0.9), Constant(0, steps * 3 // 4, every=len(loader)))
    RigL            RigL(model, erk(model, 0.9), Constant(0, steps * 3 // 4, every=100))
    SNIP            loss_fn(model(x), y).backward()         # one batch, before the first step
                    Pruner(model, 0.9, OneShot(), score=snip, scope="global")
    lottery ticket  start = copy.deepcopy(model.state_dict())
                    for sparsity in (0.5, 0.75, 0.9):
                        train(model)                        # with a new optimizer each time
                        Pruner(model, sparsity, OneShot())
                        rewind(model, start)
                    train(model)
    by sensitivity  curves = sensitivity(model, lambda: accuracy(model, held_out), (0.5, 0.75, 0.9))
                    Pruner(model, tolerated(curves, 0.01, (0.5, 0.75, 0.9)), OneShot())
    blocks, filters Pruner(..., mask=block_mask), or unit_mask, or any function (scores, sparsity) -> mask
    2:4             Pruner(model, 0.5, OneShot(), mask=lambda scores, sparsity: n_m_mask(scores, 2, 4))
"""
from .formats import from_scipy, to_scipy
from .gates import HardConcrete, expected_l0, expected_l2
from .layers import (DynamicSparseConv2d, DynamicSparseLinear, L0Conv2d, L0Linear, SparseConv2d,
                     SparseLinear)
from .masks import block_mask, n_m_mask, random_mask, topk_mask, unit_mask
from .methods import SET, RigL, rewind
from .penalties import elastic_net, group_lasso, l1, lambda_path
from .pruner import Pruner
from .schedules import Constant, Cosine, Cubic, OneShot, Reactive    # not Linear: it would read as a layer
from .scores import gradient_magnitude, lamp, magnitude, movement, random, snip, summed, taylor
from .sensitivity import sensitivity, tolerated
from .shrink import shrink
from .targets import erk, uniform
from .zeros import sparsifiable, summary

__all__ = ["Constant", "Cosine", "Cubic", "DynamicSparseConv2d", "DynamicSparseLinear", "HardConcrete",
           "L0Conv2d", "L0Linear", "OneShot", "Pruner", "Reactive", "RigL", "SET", "SparseConv2d",
           "SparseLinear", "block_mask", "elastic_net", "erk", "expected_l0", "expected_l2", "from_scipy",
           "gradient_magnitude", "group_lasso", "l1", "lambda_path", "lamp", "magnitude", "movement", "n_m_mask",
           "random", "random_mask", "rewind", "sensitivity", "shrink", "snip", "sparsifiable", "summary",
           "summed", "taylor", "to_scipy", "tolerated", "topk_mask", "uniform", "unit_mask"]
