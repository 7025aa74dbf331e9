"""Operators: gradients by finite differences, values and gradients against torch, dtypes and errors."""
import warnings

import numpy as np
import pytest
from gradcheck import check

import minisparse as ms
from minisparse.shapes import pad


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def positive(*shape, seed=0):
    return np.random.default_rng(seed).random(shape) + 0.5


TIES = np.array([[1.0, 3.0, 3.0], [2.0, -1.0, 2.0]])
ZEROS = np.array([[2.0, 0.0, 3.0], [0.0, 0.0, 5.0], [1.0, -2.0, 4.0]])
INF = float("inf")

# name, function of (module, *inputs), the inputs. The same function runs in torch.
SMOOTH = [
    ("add", lambda m, a, b: a + b, numbers(2, 3), numbers(3, seed=1)),
    ("add alpha", lambda m, a, b: m.add(a, b, alpha=3), numbers(2, 3), numbers(2, 1, seed=1)),
    ("sub", lambda m, a, b: a - b, numbers(2, 1, 3), numbers(4, 1, seed=1)),
    ("mul", lambda m, a, b: a * b, numbers(2, 3), numbers(1, 3, seed=1)),
    ("mul 0-d", lambda m, a, b: a * b, numbers(2, 3), numbers(seed=1)),
    ("div", lambda m, a, b: a / b, numbers(2, 3), positive(4, 2, 1)),
    ("reversed", lambda m, a: 2 - a + 3 / a + 2 * a + 1.5 ** a + (1 + a), positive(2, 3)),
    ("remainder", lambda m, a, b: a % b, numbers(2, 3), np.array([0.3, -0.4, 2.0])),
    ("reversed remainder", lambda m, a: m.remainder(m.tensor(2.5, dtype=a.dtype), a), positive(3)),
    ("pow", lambda m, a, b: a ** b, positive(2, 3), numbers(3, seed=1)),
    ("pow 2", lambda m, a: a ** 2, ZEROS),
    ("pow 1", lambda m, a: a ** 1, ZEROS),
    ("pow 0", lambda m, a: a ** 0, ZEROS),
    ("pow 3 of a tensor", lambda m, a: a ** m.tensor([3, 2, 1]), ZEROS),
    ("pow -1.5", lambda m, a: m.pow(a, -1.5), positive(4)),
    ("number to a power", lambda m, a: 2 ** a, numbers(4)),
    ("neg", lambda m, a: -a, numbers(3)),
    ("abs", lambda m, a: abs(a), numbers(2, 3)),
    ("square", lambda m, a: a.square(), ZEROS),
    ("exp", lambda m, a: a.exp(), numbers(2, 3)),
    ("expm1", lambda m, a: m.expm1(a), numbers(2, 3)),
    ("log", lambda m, a: m.log(a), positive(2, 3)),
    ("log2", lambda m, a: m.log2(a), positive(2, 3)),
    ("log1p", lambda m, a: m.log1p(a), positive(2, 3)),
    ("sqrt", lambda m, a: a.sqrt(), positive(2, 3)),
    ("rsqrt", lambda m, a: a.rsqrt(), positive(2, 3)),
    ("reciprocal", lambda m, a: m.reciprocal(a), positive(2, 3)),
    ("sin", lambda m, a: m.sin(a), numbers(2, 3)),
    ("cos", lambda m, a: m.cos(a), numbers(2, 3)),
    ("sign", lambda m, a: m.sign(a), numbers(2, 3)),
    ("floor", lambda m, a: a.floor(), numbers(2, 3)),
    ("ceil", lambda m, a: a.ceil(), numbers(2, 3)),
    ("round", lambda m, a: a.round(), numbers(2, 3)),
    ("clamp", lambda m, a: a.clamp(-0.5, 0.5), numbers(3, 4)),
    ("clamp min", lambda m, a: m.clamp(a, min=0.1), numbers(3, 4)),
    ("clamp max", lambda m, a: a.clamp_max(0.1), numbers(3, 4)),
    ("clamp by tensors", lambda m, a, b, c: m.clamp(a, b, c),
     numbers(3, 4), numbers(4) - 1, numbers(3, 1) + 2),
    ("where", lambda m, a, b: m.where(a > 0, a, b), numbers(3, 4), numbers(4, seed=1)),
    ("where number", lambda m, a: m.where(a > 0, a, 0.0), numbers(3, 4)),
    ("maximum", lambda m, a, b: m.maximum(a, b), numbers(3, 4), numbers(4, seed=1)),
    ("minimum", lambda m, a, b: m.minimum(a, b), numbers(3, 4), numbers(3, 1, seed=1)),
    ("sum", lambda m, a: a.sum(), numbers(2, 3)),
    ("sum dim", lambda m, a: a.sum(1), numbers(2, 3, 4)),
    ("sum dims", lambda m, a: a.sum(dim=(0, -1), keepdim=True), numbers(2, 3, 4)),
    ("sum no dims", lambda m, a: a.sum(dim=()), numbers(2, 3)),
    ("mean", lambda m, a: a.mean(), numbers(2, 3)),
    ("mean dims", lambda m, a: m.mean(a, [0, 2]), numbers(2, 3, 4)),
    ("var", lambda m, a: a.var(), numbers(2, 3)),
    ("var dims", lambda m, a: a.var(dim=(0, 2), unbiased=False), numbers(2, 3, 4)),
    ("var correction", lambda m, a: m.var(a, 1, correction=0, keepdim=True), numbers(2, 3, 4)),
    ("var biased", lambda m, a: a.var(False), numbers(2, 3)),
    ("std", lambda m, a: a.std(1), numbers(2, 3)),
    ("std all", lambda m, a: m.std(a), numbers(2, 3)),
    ("max", lambda m, a: a.max(), numbers(2, 3)),
    ("max dim", lambda m, a: a.max(1).values, numbers(2, 3)),
    ("min dim", lambda m, a: m.min(a, dim=0, keepdim=True)[0], numbers(2, 3)),
    ("max of two", lambda m, a, b: m.max(a, b), numbers(2, 3), numbers(3, seed=1)),
    ("amax", lambda m, a: a.amax(dim=(0, 1)), numbers(2, 3, 4)),
    ("amin", lambda m, a: m.amin(a, 1, keepdim=True), numbers(2, 3, 4)),
    ("prod", lambda m, a: a.prod(), positive(2, 3)),
    ("prod with zeros", lambda m, a: a.prod(dim=0), ZEROS),
    ("prod of all with a zero", lambda m, a: m.prod(a), np.array([[2.0, 0.0], [3.0, 4.0]])),
    ("prod keepdim", lambda m, a: a.prod(-1, keepdim=True), ZEROS),
    ("logsumexp", lambda m, a: a.logsumexp(1), numbers(2, 3) * 50),
    ("logsumexp dims", lambda m, a: m.logsumexp(a, (0, 1), keepdim=True), numbers(2, 3)),
    ("norm", lambda m, a: a.norm(), numbers(2, 3)),
    ("norm dim", lambda m, a: m.norm(a, dim=1, keepdim=True), numbers(2, 3)),
    ("norm 1", lambda m, a: a.norm(1), numbers(2, 3)),
    ("norm 3", lambda m, a: a.norm(p=3, dim=0), numbers(2, 3)),
    ("norm 0.5", lambda m, a: a.norm(p=0.5), numbers(2, 3)),
    ("norm inf", lambda m, a: a.norm(p=INF, dim=1), numbers(2, 3)),
    ("norm -inf", lambda m, a: a.norm(p=-INF), numbers(2, 3)),
    ("cumsum", lambda m, a: a.cumsum(1), numbers(2, 3, 2)),
    ("outer", lambda m, a, b: m.outer(a, b), numbers(3), numbers(4, seed=1)),
    *((f"matmul {a} {b}", lambda m, x, y: x @ y, numbers(*a), numbers(*b, seed=1))
      for a, b in [((3,), (3,)), ((2, 3), (3,)), ((3,), (3, 4)), ((2, 3), (3, 4)), ((5, 2, 3), (3, 4)),
                   ((2, 3), (5, 3, 4)), ((5, 2, 3), (5, 3, 4)), ((2, 1, 2, 3), (5, 3, 2)), ((5, 2, 3), (3,)),
                   ((3,), (5, 3, 2)), ((0, 3), (3, 2))]),
    ("mm", lambda m, a, b: m.mm(a, b), numbers(2, 3), numbers(3, 4)),
    ("bmm", lambda m, a, b: a.bmm(b), numbers(2, 2, 3), numbers(2, 3, 4)),
    ("mv", lambda m, a, b: m.mv(a, b), numbers(2, 3), numbers(3)),
    ("dot", lambda m, a, b: m.dot(a, b), numbers(3), numbers(3, seed=1)),
    *((f"einsum {equation}", lambda m, *x, equation=equation: m.einsum(equation, *x),
       *(numbers(*shape, seed=i) for i, shape in enumerate(shapes)))
      for equation,
      *shapes in [("ij,jk->ik", (2, 3), (3, 4)), ("bij,bjk->bik", (2, 2, 3), (2, 3, 2)), ("ii", (3, 3)),
                                ("ii->i", (3, 3)), ("ij->ji", (2, 3)), ("ij->j", (2, 3)), ("ij->", (2, 3)),
                                ("i,j->ij", (2,), (3,)), ("i,i", (3,), (3,)), ("ij, ij -> i", (2, 3), (2, 3)),
                                ("...ij,...jk->...ik", (5, 2, 3), (3, 4)),
                                ("b...,b...->b", (2, 3, 2), (2, 3, 2)),
                                ("...i,...i", (2, 3), (3,)), ("ij,jk,kl->il", (2, 3), (3, 2), (2, 4)),
                                ("ba", (2, 3)), ("ij,kj->ik", (2, 1), (3, 4)),
                                ("iij,jk->ik", (2, 2, 3), (3, 2))]),
]

# at these inputs the slope is a choice, and the choice is torch's
CHOICES = [
    ("abs at 0", lambda m, a: a.abs(), ZEROS),
    ("sqrt at 0", lambda m, a: a.sqrt(), np.array([0.0, 4.0])),
    ("maximum at ties", lambda m, a: m.maximum(a, m.flip(a, (1,))), TIES),
    ("minimum at ties", lambda m, a: m.minimum(a, m.ones_like(a) * 2), TIES),
    ("max at ties", lambda m, a: a.max(), TIES),
    ("min at ties", lambda m, a: m.min(a), -TIES),
    ("max of a dim at ties", lambda m, a: m.max(a, 1)[0], TIES),
    ("min of a dim at ties", lambda m, a: (-a).min(1)[0], TIES),
    ("amax at ties", lambda m, a: a.amax(1), TIES),
    ("norm inf at ties", lambda m, a: a.norm(INF), TIES),
    ("clamp at the bounds", lambda m, a: a.clamp(-1, 2), TIES),
    ("norm of zeros", lambda m, a: a.norm(dim=0), ZEROS * [1, 0, 1]),
    ("norm 1 with zeros", lambda m, a: a.norm(1), ZEROS),
    ("norm 3 with zeros", lambda m, a: a.norm(3, dim=1), ZEROS),
    ("norm 0.5 with zeros", lambda m, a: a.norm(0.5), ZEROS),
    ("std of equal numbers", lambda m, a: a.std(0), np.ones((3, 2))),
    ("var of one number", lambda m, a: a.var(0), np.ones((1, 2))),
    ("pow with zeros", lambda m, a, b: a ** b, np.array([0.0, 0, 0, 2]), np.array([0.0, 1, 2, 0])),
    ("pow of a negative number", lambda m, a: a ** 3, np.array([-2.0, -1.0])),
    ("log at 0", lambda m, a: a.log(), np.array([0.0, 1.0, -1.0])),
    ("div by 0", lambda m, a, b: a / b, np.array([1.0, 0.0, -1.0]), np.zeros(3)),
    ("logsumexp of inf", lambda m, a: a.logsumexp(1), np.array([[-INF, 1.0], [-INF, -2.0]])),
]


def ids(table):
    return [row[0] for row in table]


@pytest.mark.parametrize("row", SMOOTH, ids=ids(SMOOTH))
def test_gradient(row):
    _, function, *arrays = row
    check(lambda *tensors: function(ms, *tensors), *arrays)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("row", SMOOTH + CHOICES, ids=ids(SMOOTH + CHOICES))
def test_value_and_gradient_as_in_torch(row, dtype):
    torch = pytest.importorskip("torch")
    _, function, *arrays = row
    ours = [ms.tensor(x, dtype=dtype, requires_grad=True) for x in arrays]
    theirs = [torch.tensor(x, dtype=getattr(torch, dtype), requires_grad=True) for x in arrays]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")         # torch's own, about degrees of freedom
        expected = function(torch, *theirs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")          # none of ours
        out = function(ms, *ours)
        weights = np.linspace(0.5, 1.5, out.numel()).reshape(out.shape)
        out.backward(ms.tensor(weights, dtype=dtype))
    expected.backward(torch.tensor(weights, dtype=getattr(torch, dtype)))
    rtol, atol = (2e-5, 1e-6) if dtype == "float32" else (1e-12, 1e-12)
    assert out.dtype == dtype and out.shape == tuple(expected.shape)
    np.testing.assert_allclose(out.detach(), expected.detach(), rtol, atol)
    for t, u in zip(ours, theirs):
        np.testing.assert_allclose(t.grad, np.zeros(t.shape) if u.grad is None else u.grad, rtol, atol)


A = np.array([[1.0, -2.0, 0.0], [4.0, 5.5, -1.0]])


@pytest.mark.parametrize("ours, expected", [
    (lambda a: a // 2, np.floor(A / 2)),
    (lambda a: 3 // (a + 0.25), np.floor(3 / (A + 0.25))),
    (lambda a: a % 3, A - 3 * np.floor(A / 3)),
    (lambda a: a == 4, A == 4), (lambda a: a != 4, A != 4), (lambda a: a < 1, A < 1),
    (lambda a: a <= 1, A <= 1),
    (lambda a: 1 < a, A > 1), (lambda a: a >= a.flip(1), A >= A[:, ::-1]),
    (lambda a: (a > 0) & (a < 5), (A > 0) & (A < 5)), (lambda a: (a > 0) | (a < -1), (A > 0) | (A < -1)),
    (lambda a: (a > 0) ^ (a > 4), (A > 0) ^ (A > 4)), (lambda a: ~(a > 0), A <= 0),
    (lambda a: a.logical_and(a - 1), (A != 0) & (A != 1)), (lambda a: a.logical_not(), A == 0),
    (lambda a: a.logical_xor(a > 4), (A != 0) ^ (A > 4)),
    (lambda a: ms.logical_or(a > 4, a < 0), (A > 4) | (A < 0)),
    (lambda a: a.argmax(), 4), (lambda a: a.argmax(1), [0, 1]),
    (lambda a: a.argmin(0, keepdim=True), [[0, 0, 1]]),
    (lambda a: a.max(1).indices, [0, 1]), (lambda a: a.any(), True),
    (lambda a: (a > 0).all(1), [False, False]),
    (lambda a: a.any(dim=0, keepdim=True), [[True, True, True]]), (lambda a: a.count_nonzero(), 5),
    (lambda a: ms.count_nonzero(a, 0), [2, 2, 1]), (lambda a: (a / 0).isnan(), A == 0),
    (lambda a: (a / 0).isinf(), A != 0), (lambda a: (1 / a).isfinite(), A != 0),
    (lambda a: a.cumsum(0), np.add.accumulate(A)), (lambda a: (a > 0).sum(), 3),
    (lambda a: (a > 0).sum(1), [1, 2]),
    (lambda a: (a > 0).cumsum(1), [[1, 1, 1], [1, 2, 2]]),
    (lambda a: ms.where(a > 0)[1], [0, 0, 1]), (lambda a: ms.where(a > 0, 1, 0), A > 0),
])
def test_values_by_numpy(ours, expected):
    np.testing.assert_array_equal(ours(ms.tensor(A)), expected)


def test_python_answers():
    a = ms.tensor([1.0, 2.0])
    assert ms.equal(a, a.clone()) is True and ms.equal(a, a + 1) is False and not ms.equal(a, a[:1])
    assert ms.allclose(a, a + 1e-7) is True and not a.allclose(a + 1)
    assert (a == None) is False and (a != None) is True  # noqa: E711
    assert len({a, a, a.clone()}) == 2


OPERANDS = {
    "bool": lambda m: m.tensor([True, True]), "uint8": lambda m: m.tensor([1, 2], dtype=m.uint8),
    "int32": lambda m: m.tensor([1, 2], dtype=m.int32), "int64": lambda m: m.tensor([1, 2]),
    "float32": lambda m: m.tensor([1.0, 2.0]), "float64": lambda m: m.tensor([1.0, 2.0], dtype=m.float64),
    "0-d int64": lambda m: m.tensor(2), "0-d float32": lambda m: m.tensor(2.0),
    "0-d float64": lambda m: m.tensor(2.0, dtype=m.float64),
    "0-d uint8": lambda m: m.tensor(2, dtype=m.uint8),
    "True": lambda m: True, "2": lambda m: 2, "2.5": lambda m: 2.5, "numpy 2.5": lambda m: np.float64(2.5),
}


@pytest.mark.parametrize("name", "add sub mul div pow floor_divide maximum where eq".split())
def test_dtypes_as_in_torch(name):
    torch = pytest.importorskip("torch")
    compared = 0
    for first, a in OPERANDS.items():
        for second, b in OPERANDS.items():
            def run(m):
                x, y = a(m), b(m)
                if not isinstance(x, m.Tensor):
                    return None
                if name == "where":
                    return m.where(m.tensor([True, False]), x, y)
                return getattr(m, name)(x, y)
            try:
                expected = run(torch)
            except (RuntimeError, TypeError):     # not for bools, or not for numbers
                continue
            if expected is not None and not (name == "pow" and expected.dtype == torch.bool):
                assert f"torch.{run(ms).dtype}" == str(expected.dtype), (first, second)
                np.testing.assert_allclose(run(ms), expected, rtol=1e-6)
                compared += 1
    assert compared > 30


@pytest.mark.parametrize("function", [
    lambda m, a, i: a + m.ones(4), lambda m, a, i: a @ a, lambda m, a, i: m.mm(a, m.ones(3)),
    lambda m, a, i: a @ m.ones(3, dtype=m.float64), lambda m, a, i: a @ m.tensor(1.0),
    lambda m, a, i: i.float().mean(5),
    lambda m, a, i: i.mean(), lambda m, a, i: i.var(), lambda m, a, i: i // 0, lambda m, a, i: i % 0,
    lambda m, a, i: i ** -1, lambda m, a, i: a + "x", lambda m, a, i: a + [1.0], lambda m, a, i: a.clamp(),
    lambda m, a, i: m.where(i, a, 0.0), lambda m, a, i: a.sum(2), lambda m, a, i: m.dot(a, a),
    lambda m, a, i: m.einsum("ij,jk->ik", a), lambda m, a, i: m.einsum("ij,jk->ik", a, a),
    lambda m, a, i: bool(a),
    lambda m, a, i: a.add_(m.ones(2, 2, 3)), lambda m, a, i: i.add_(1.5), lambda m, a, i: i.div_(2),
    lambda m, a, i: (i > 0).add_(1), lambda m, a, i: m.outer(a, a), lambda m, a, i: a.max(7),
    lambda m, a, i: a.requires_grad_().add_(1), lambda m, a, i: a.item(),
])
def test_errors_as_in_torch(function):
    with pytest.raises((RuntimeError, TypeError, ValueError, IndexError)) as ours:
        function(ms, ms.ones(2, 3), ms.tensor([1, 2, 3]))
    torch = pytest.importorskip("torch")
    with pytest.raises((RuntimeError, TypeError, ValueError, IndexError)) as theirs:
        function(torch, torch.ones(2, 3), torch.tensor([1, 2, 3]))
    assert issubclass(ours.type, theirs.type)


def test_options_that_are_left_out():
    a = ms.ones(2, requires_grad=True)
    for function in (lambda: ms.add(a, a, out=a), lambda: ms.zeros(2, device="cuda"), lambda: a.to("cuda"),
                     lambda: ms.tensor(1j), lambda: a + 1j, lambda: a.norm("nuc"),
                     lambda: a.div(a, rounding_mode="floor"),
                     lambda: (a // 1).sum().backward(), lambda: ms.zeros(2).add_(a),
                     lambda: a.to(np.complex64)):
        with pytest.raises(NotImplementedError):
            function()


def test_in_place():
    a = ms.tensor([1.0, -2.0, 3.0])
    b, row = a, a[1:]
    a += 1
    a *= 2
    a -= ms.tensor([1.0, 0.0, 0.0])
    a /= 4
    assert a is b and np.array_equal(a, [0.75, -0.5, 2.0]) and np.array_equal(row, [-0.5, 2.0])
    assert a.clamp_(min=0) is a and np.array_equal(row, [0.0, 2.0])
    a.add_(a, alpha=2).sub_(1).mul_(2).div_(2).pow_(2).neg_().abs_()
    np.testing.assert_allclose(a, [1.5625, 1.0, 25.0])
    count = ms.tensor([1, 2], dtype=ms.uint8)
    count += ms.tensor([5, 6])
    assert count.dtype == ms.uint8 and count.tolist() == [6, 8]
    mask = ms.tensor([True, False])
    mask |= ms.tensor([False, True])
    mask &= ms.tensor([True, False])
    assert mask.tolist() == [True, False]


def test_augmented_assignment_and_the_record():
    w = ms.tensor([1.0, 2.0], requires_grad=True)
    total = ms.zeros(2)
    total += w                      # outside a record, but it must be recorded: rebound
    total += w * w                  # part of a record: rebound
    total *= 2.0
    total.sum().backward()
    assert np.array_equal(w.grad, [6.0, 10.0])
    with pytest.raises(RuntimeError, match="leaf"):
        w += 1
    with ms.no_grad():
        same = w
        w -= 0.5 * w.grad
    assert w is same and np.array_equal(w.numpy() if not w.requires_grad else w.detach(), [-2.0, -3.0])
    double = ms.zeros(2)
    double += w.double()
    assert double.dtype == ms.float32
    with pytest.raises(RuntimeError, match="shape"):
        double += (w * ms.ones(3, 2))


IN_ORDER = [
    lambda x, y: x + y, lambda x, y: x * ms.ones(3, 1, 1) + 1, lambda x, y: x / y, lambda x, y: -x,
    lambda x, y: x.abs(),
    lambda x, y: x ** 2, lambda x, y: x.exp(), lambda x, y: ms.where(x > 0, x, 0),
    lambda x, y: ms.maximum(x, y),
    lambda x, y: x.clamp(-1, 1), lambda x, y: x - x.mean((0, 2, 3), keepdim=True), lambda x, y: x.cumsum(1),
    lambda x, y: x / x.var((0, 2, 3), keepdim=True), lambda x, y: ms.cat([x, y], 1), lambda x, y: x.flip(3),
    lambda x, y: x.roll(1, 2), lambda x, y: x.clone(), lambda x, y: pad(x, (1, 1, 1, 1)),
    lambda x, y: x.double(),
    lambda x, y: ms.zeros_like(x) + x * ms.rand_like(x), lambda x, y: x.masked_fill(x > 0, 0.0),
    lambda x, y: x[:, :, 1:] * 2, lambda x, y: x.amax((0, 1), keepdim=True) + y,
    lambda x, y: x.sum(1, keepdim=True) + y,
]


@pytest.mark.parametrize("function", IN_ORDER)
def test_memory_order_is_kept(function):
    """Images lie in memory with the batch innermost: values and gradients must stay so."""
    def images():
        return ms.Tensor(np.asarray(numbers(3, 4, 5, 2), np.float32).transpose(3, 0, 1, 2))

    def in_order(t):
        return t.data.transpose(1, 2, 3, 0).flags.c_contiguous
    x = images().requires_grad_()
    y = function(x, images().abs() + 1)
    assert in_order(y)
    y.backward(ms.ones_like(y))
    assert in_order(x.grad)


@pytest.mark.parametrize("function", [
    lambda x: ms.relu(x).sqrt(), lambda x: x.clamp(min=0).sqrt(), lambda x: ms.maximum(x, ms.zeros(2)).sqrt(),
    lambda x: x.clamp(0, 9).log(), lambda x: ms.minimum(-x, ms.zeros(2)).neg().sqrt(),
    lambda x: ms.stack([x, ms.zeros(2)]).amax(dim=0).sqrt()])
def test_an_infinite_gradient_does_not_pass_what_is_cut_off(function):
    x = ms.tensor([-1.0, 4.0], requires_grad=True)
    function(x).sum().backward()
    assert x.grad.data[0] == 0 and x.grad.data[1] == 0.25


def test_numbers_that_do_not_fit_wrap_round():
    x = ms.tensor([1, 2], dtype=np.uint8)
    assert (x != -100).tolist() == [True, True] and (x < 300).tolist() == [True, True]
    assert (x + 300).tolist() == [45, 46] and (x * -1).tolist() == [255, 254]


def test_the_product_of_small_integers_is_64_bits_wide():
    assert ms.tensor([20, 30], dtype=np.uint8).prod().dtype == np.int64
