import itertools

import numpy as np
import pytest

from gradcheck import check
from minisparse import loss, nn
from minisparse.tensor import Tensor

rng = np.random.default_rng(0)


# --- classification ---------------------------------------------------------------------------------------
def by_loop(x, target, weight=None, ignore_index=-100, reduction="mean", label_smoothing=0.0):
    """cross_entropy of x (N, C), one example and one class at a time."""
    classes = x.shape[1]
    w = np.ones(classes) if weight is None else weight
    losses, total = [], 0
    for row, t in zip(x, target):
        if np.ndim(t) == 0 and t == ignore_index:
            losses.append(0)
            continue
        p = np.exp(row) / np.exp(row).sum()
        hot = np.eye(classes)[t] if np.ndim(t) == 0 else t
        total += w[t] if np.ndim(t) == 0 else 1
        losses.append(-sum(w[c] * ((1 - label_smoothing) * hot[c] + label_smoothing / classes) * np.log(p[c])
                           for c in range(classes)))
    return {"none": np.array(losses), "sum": np.sum(losses), "mean": np.sum(losses) / total}[reduction]


WEIGHT = {"weight": np.array([0.5, 2.0, 0.1, 1.5])}
CLASS_OPTIONS = [dict(reduction=r, label_smoothing=s, **w, **i) for r, s, w, i in itertools.product(
    ("mean", "sum", "none"), (0.0, 0.3), ({}, WEIGHT), ({}, {"ignore_index": 1}))]


def as_tensors(options):
    return {k: Tensor(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}


def targets(shape):
    """Class indices and probabilities for logits of `shape` with 4 classes."""
    axis = min(len(shape) - 1, 1)
    hard = np.resize([3, 1, 0, 1, 2], shape[:axis] + shape[axis + 1:])
    soft = rng.random(shape)
    return hard, soft / soft.sum(axis, keepdims=True)


@pytest.mark.parametrize("kind", [0, 1], ids=["indices", "probabilities"])
def test_cross_entropy_one_example_at_a_time(kind):
    x, target = rng.normal(size=(5, 4)), targets((5, 4))[kind]
    for options in CLASS_OPTIONS:
        if kind == 1 and "ignore_index" in options:
            continue
        value = loss.cross_entropy(Tensor(x), Tensor(target), **as_tensors(options))
        expected = by_loop(x, target, **options)
        np.testing.assert_allclose(value.data, expected, rtol=1e-13, err_msg=str(options))


@pytest.mark.parametrize("shape", [(4,), (5, 4), (2, 4, 3), (2, 4, 2, 3)])
def test_classification_gradients(shape):
    x, (hard, soft) = rng.normal(size=shape), targets(shape)
    for options in map(as_tensors, CLASS_OPTIONS):
        check(lambda a: loss.cross_entropy(a, Tensor(hard), **options), x)
        if options["label_smoothing"] == 0:
            options = {k: v for k, v in options.items() if k != "label_smoothing"}
            check(lambda a: loss.nll_loss(a, Tensor(hard), **options), x)
    for options in ({}, {"weight": Tensor(np.arange(4.0)), "label_smoothing": 0.2, "reduction": "none"}):
        check(lambda a, t: loss.cross_entropy(a, t, **options), x, soft)


@pytest.mark.parametrize("shape", [(4,), (5, 4), (2, 4, 3), (2, 4, 2, 3)])
def test_classification_against_torch(shape):
    torch = pytest.importorskip("torch")
    x, (hard, soft) = rng.normal(size=shape), targets(shape)

    def compare(name, target, options):
        ours, theirs = Tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
        torch_options = {k: torch.tensor(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}
        value = getattr(nn.functional, name)(ours, Tensor(target), **as_tensors(options))
        expected = getattr(torch.nn.functional, name)(theirs, torch.tensor(target), **torch_options)
        np.testing.assert_allclose(value.data, expected.detach().numpy(), rtol=1e-12, atol=1e-15)
        seed = np.asarray(rng.normal(size=value.shape))
        value.backward(seed)
        expected.backward(torch.tensor(seed))
        np.testing.assert_allclose(ours.grad.data, theirs.grad.numpy(), rtol=1e-11, atol=1e-14,
                                   err_msg=f"{name} {options}")

    for options in CLASS_OPTIONS:
        compare("cross_entropy", hard, options)
        if "ignore_index" not in options:
            compare("cross_entropy", soft, options)
        if options["label_smoothing"] == 0:
            compare("nll_loss", hard, {k: v for k, v in options.items() if k != "label_smoothing"})


def test_extreme_logits():
    x = Tensor(np.array([[1e4, -1e4, 0], [3, -np.inf, 3]], np.float32), requires_grad=True)
    for target in (np.array([0, 2]), np.array([[1, 0, 0], [0, 0, 1]], np.float32)):
        value = loss.cross_entropy(x, Tensor(target), reduction="none")
        value.backward(np.ones(2, np.float32))
        np.testing.assert_allclose(value.data, [0, np.log(2)], rtol=1e-6)
        np.testing.assert_allclose(x.grad.data, [[0, 0, 0], [.5, 0, -.5]], atol=1e-7)
        x.grad = None
    x = Tensor(np.array([-1e4, 1e4]), requires_grad=True)
    value = loss.binary_cross_entropy_with_logits(x, Tensor(np.array([1.0, 1.0])), reduction="none")
    value.backward(np.ones(2))
    np.testing.assert_array_equal(value.data, [1e4, 0])
    np.testing.assert_array_equal(x.grad.data, [-1, 0])


@pytest.mark.filterwarnings("error")
def test_nothing_left_to_count():
    x, target = Tensor(np.zeros((2, 3)), requires_grad=True), Tensor(np.array([7, 7]))
    value = loss.cross_entropy(x, target, ignore_index=7)
    value.backward()
    assert np.isnan(value.item()) and not x.grad.data.any()
    assert loss.cross_entropy(x, target, ignore_index=7, reduction="sum").item() == 0
    assert np.isnan(loss.mse_loss(Tensor(np.zeros((0, 3))), Tensor(np.zeros((0, 3)))).item())


def test_dtype_and_memory_order_are_kept():
    x = Tensor(np.asfortranarray(rng.normal(size=(8, 4)).astype(np.float32)), requires_grad=True)
    for target in targets((8, 4)):
        value = loss.cross_entropy(x, Tensor(target), weight=Tensor(np.arange(4.0)), label_smoothing=0.1)
        assert value.dtype == np.float32
        value.backward()
        assert x.grad.data.flags.f_contiguous and x.grad.dtype == np.float32
        x.grad = None


# --- regression and logits --------------------------------------------------------------------------------
def probability(x):
    return 1 / (1 + np.exp(-x))


PAIRS = [     # name, options, the formula
    ("mse_loss", {}, lambda x, t: (x - t) ** 2),
    ("l1_loss", {}, lambda x, t: abs(x - t)),
    ("smooth_l1_loss", {}, lambda x, t: np.where(abs(x - t) < 1, (x - t) ** 2 / 2, abs(x - t) - 1 / 2)),
    ("smooth_l1_loss", {"beta": 0.3},
     lambda x, t: np.where(abs(x - t) < 0.3, (x - t) ** 2 / 0.6, abs(x - t) - 0.15)),
    ("smooth_l1_loss", {"beta": 0}, lambda x, t: abs(x - t)),
    ("huber_loss", {"delta": 0.3},
     lambda x, t: np.where(abs(x - t) < 0.3, (x - t) ** 2 / 2, 0.3 * (abs(x - t) - 0.15))),
    ("binary_cross_entropy_with_logits", {},
     lambda x, t: -t * np.log(probability(x)) - (1 - t) * np.log(1 - probability(x))),
    ("binary_cross_entropy_with_logits",
     {"weight": np.array([[1.0], [2.0], [0.5]]), "pos_weight": np.array([3.0, 0.2, 1.0, 0.0])},
     lambda x, t: -np.array([[1], [2], [0.5]]) * (np.array([3, 0.2, 1, 0]) * t * np.log(probability(x))
                                                  + (1 - t) * np.log(1 - probability(x)))),
]


@pytest.mark.parametrize("name, options, formula", PAIRS)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_pairwise(name, options, formula, reduction):
    function = getattr(loss, name)
    x, t = rng.normal(size=(3, 4)), rng.random((3, 4))
    options = dict(as_tensors(options), reduction=reduction)
    expected = formula(x, t)
    if reduction != "none":
        expected = getattr(expected, reduction)()
    np.testing.assert_allclose(function(Tensor(x), Tensor(t), **options).data, expected, rtol=1e-13)
    check(lambda a, b: function(a, b, **options), x, t)


@pytest.mark.parametrize("name, options, formula", PAIRS)
def test_pairwise_against_torch(name, options, formula):
    torch = pytest.importorskip("torch")
    x, t = rng.normal(size=(3, 4)), rng.random((3, 4))
    t[0, 0] = x[0, 0]
    ours = [Tensor(a, requires_grad=True) for a in (x, t)]
    theirs = [torch.tensor(a, requires_grad=True) for a in (x, t)]
    getattr(nn.functional, name)(*ours, **as_tensors(options)).backward()
    torch_options = {k: torch.tensor(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}
    getattr(torch.nn.functional, name)(*theirs, **torch_options).backward()
    for a, b in zip(ours, theirs):
        np.testing.assert_allclose(a.grad.data, b.grad.numpy(), rtol=1e-12, atol=1e-16)


@pytest.mark.parametrize("name", sorted({name for name, _, _ in PAIRS}))
@pytest.mark.parametrize("shape", [(), (3,)])
def test_pairwise_keeps_float32(name, shape):
    x, t = (Tensor(rng.random(shape).astype(np.float32), requires_grad=True) for _ in range(2))
    value = getattr(loss, name)(x, t)
    value.backward()
    assert value.dtype == x.grad.dtype == t.grad.dtype == np.float32


# --- modules and errors -----------------------------------------------------------------------------------
def test_modules_pass_their_options_on():
    x, (hard, soft) = Tensor(rng.normal(size=(5, 4))), targets((5, 4))
    hard, soft, w = Tensor(hard), Tensor(soft), Tensor(np.arange(1.0, 5.0))
    cases = [
        (nn.CrossEntropyLoss(w, ignore_index=2, reduction="none", label_smoothing=0.1), hard,
         loss.cross_entropy(x, hard, w, ignore_index=2, reduction="none", label_smoothing=0.1)),
        (nn.NLLLoss(w, ignore_index=2, reduction="sum"), hard,
         loss.nll_loss(x, hard, w, ignore_index=2, reduction="sum")),
        (nn.BCEWithLogitsLoss(w, reduction="sum", pos_weight=w), soft,
         loss.binary_cross_entropy_with_logits(x, soft, w, reduction="sum", pos_weight=w)),
        (nn.MSELoss("sum"), soft, loss.mse_loss(x, soft, reduction="sum")),
        (nn.L1Loss("none"), soft, loss.l1_loss(x, soft, reduction="none")),
        (nn.SmoothL1Loss("sum", beta=0.5), soft, loss.smooth_l1_loss(x, soft, reduction="sum", beta=0.5)),
        (nn.HuberLoss("sum", delta=0.5), soft, loss.huber_loss(x, soft, reduction="sum", delta=0.5)),
    ]
    for module, target, expected in cases:
        np.testing.assert_array_equal(module(x, target).data, expected.data)
    assert list(cases[2][0].state_dict()) == ["weight", "pos_weight"]


X = np.zeros((3, 4), np.float32)
Y = np.zeros(3, int)


@pytest.mark.parametrize("function, arrays, options, error, message", [
    ("cross_entropy", (X, np.array([0, 4, 1])), {}, IndexError, "class 4, the input has 4 classes"),
    ("cross_entropy", (X, np.array([0, -1, 1])), {}, IndexError, "class -1, "),
    ("nll_loss", (X, np.array([0, 4, 1])), {}, IndexError, "class 4, "),
    ("cross_entropy", (X, np.zeros(2, int)), {}, ValueError, r"\(3, 4\) needs a target of shape \(3,\), got"),
    ("cross_entropy", (X, np.zeros((3, 4), int)), {}, ValueError, r"shape \(3,\), got \(3, 4\)"),
    ("cross_entropy", (X, np.zeros(3)), {}, ValueError, r"integers of shape \(3,\), got float64 \(3,\)"),
    ("cross_entropy", (Y, Y), {}, ValueError, r"floating point .* got int64 \(3,\)"),
    ("cross_entropy", (X, Y), {"weight": np.ones(3)}, ValueError, r"weight has shape \(3,\), .* 4 classes"),
    ("cross_entropy", (X, Y), {"label_smoothing": 1.5}, ValueError, "got 1.5"),
    ("cross_entropy", (X, Y), {"reduction": "avg"}, ValueError, "got 'avg'"),
    ("mse_loss", (X, X[:, :1]), {}, ValueError, r"input has shape \(3, 4\), target \(3, 1\)"),
    ("mse_loss", (X, X), {"reduction": None}, ValueError, "got None"),
    ("huber_loss", (X, X), {"delta": 0}, ValueError, "got 0"),
    ("smooth_l1_loss", (X, X), {"beta": -1}, ValueError, "got -1"),
    ("binary_cross_entropy_with_logits", (X, X[0]), {}, ValueError, r"\(3, 4\), target \(4,\)"),
    ("binary_cross_entropy_with_logits", (X, X), {"pos_weight": np.ones(3)}, ValueError,
     r"pos_weight of shape \(3,\) does not broadcast to \(3, 4\)"),
])
def test_bad_input_is_named(function, arrays, options, error, message):
    with pytest.raises(error, match=message):
        getattr(loss, function)(*map(Tensor, arrays), **as_tensors(options))


def test_targets_are_tensors():
    with pytest.raises(TypeError, match="target has to be a Tensor, got list"):
        loss.cross_entropy(Tensor(X), [0, 1, 2])
