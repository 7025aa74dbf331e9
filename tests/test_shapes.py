"""Shapes, joining, indexing, sorting: gradients by finite differences, values and gradients against torch."""
import numpy as np
import pytest
from gradcheck import check

import minisparse as ms
from minisparse.shapes import one_hot, pad


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def pad_of(m):
    return pad if m is ms else m.nn.functional.pad


X = numbers(2, 3, 4)
REPEATED = [[2, 0, 2], [1, 1, 1]]

TABLE = [
    ("reshape", lambda m, a: a.reshape(4, -1), X), ("reshape tuple", lambda m, a: m.reshape(a, (6, 4)), X),
    ("reshape after permute", lambda m, a: a.permute(2, 0, 1).reshape(-1), X),
    ("view", lambda m, a: a.view(2, 12), X),
    ("flatten", lambda m, a: a.flatten(), X), ("flatten from 1", lambda m, a: m.flatten(a, 1), X),
    ("flatten middle", lambda m, a: a.flatten(0, 1), X), ("flatten 0-d", lambda m, a: a.flatten(), numbers()),
    ("unflatten", lambda m, a: a.unflatten(-1, (2, -1)), X),
    ("squeeze", lambda m, a: a.squeeze(), numbers(1, 2, 1)),
    ("squeeze 0", lambda m, a: a.squeeze(0), numbers(1, 2, 1)),
    ("squeeze none", lambda m, a: a.squeeze(1), numbers(1, 2, 1)),
    ("unsqueeze", lambda m, a: m.unsqueeze(a, 1), X), ("unsqueeze -1", lambda m, a: a.unsqueeze(-1), X),
    ("permute", lambda m, a: a.permute(2, 0, 1), X),
    ("permute tuple", lambda m, a: m.permute(a, (-1, 1, 0)), X),
    ("transpose", lambda m, a: a.transpose(0, -1), X), ("t", lambda m, a: a.t(), X[0]),
    ("T", lambda m, a: a.T, X[0]), ("mT", lambda m, a: a.mT, X),
    ("expand", lambda m, a: a.expand(3, -1, 4), numbers(2, 1)),
    ("expand_as", lambda m, a: a.expand_as(m.ones(5, 3)), numbers(3)),
    ("broadcast_to", lambda m, a: m.broadcast_to(a, (2, 3)), numbers(3)),
    ("cat", lambda m, a, b: m.cat([a, b, a]), X, numbers(1, 3, 4)),
    ("cat -1", lambda m, a, b: m.cat((a, b), dim=-1), X, numbers(2, 3, 0)),
    ("stack", lambda m, a, b: m.stack([a, b], 1), X, X + 1),
    ("stack -1", lambda m, a, b: m.stack([a, b], -1), X, X + 1),
    ("split", lambda m, a: a.split(3, 2)[1] * a.split(3, 2)[0][..., :1], X),
    ("split lengths", lambda m, a: m.split(a, [1, 0, 3], dim=-1)[2], X),
    ("chunk", lambda m, a: a.chunk(3, -1)[1], X), ("unbind", lambda m, a: m.unbind(a, 1)[2], X),
    ("narrow", lambda m, a: a.narrow(1, 1, 2), X), ("select", lambda m, a: a.select(-1, 2), X),
    ("iterate", lambda m, a: [row for row in a][1], X),
    ("flip", lambda m, a: a.flip(0, 2), X), ("flip tuple", lambda m, a: m.flip(a, (1,)), X),
    ("roll", lambda m, a: a.roll(1, 0), X), ("roll two", lambda m, a: m.roll(a, (1, -2), dims=(0, 2)), X),
    ("roll flat", lambda m, a: a.roll(5), X),
    ("repeat", lambda m, a: a.repeat(2, 1, 3), X[0]), ("repeat 0", lambda m, a: a.repeat(0, 2), X[0]),
    ("tile", lambda m, a: m.tile(a, (2,)), X),
    ("repeat_interleave", lambda m, a: a.repeat_interleave(2, 1), X),
    ("repeat_interleave flat", lambda m, a: m.repeat_interleave(a, 3), X),
    ("repeat_interleave each", lambda m, a: a.repeat_interleave(m.tensor([2, 0, 1]), dim=1), X),
    ("pad", lambda m, a: pad_of(m)(a, (1, 2)), X),
    ("pad two", lambda m, a: pad_of(m)(a, (1, 0, 0, 2), value=7.0), X),
    ("pad cut", lambda m, a: pad_of(m)(a, (-1, 2, 1, -1)), X),
    ("pad reflect", lambda m, a: pad_of(m)(a, (2, 1), mode="reflect"), X),
    ("pad replicate", lambda m, a: pad_of(m)(a, (2, 5), mode="replicate"), X),
    ("pad circular", lambda m, a: pad_of(m)(a, (1, 4), mode="circular"), X),
    ("pad reflect two", lambda m, a: pad_of(m)(a, (1, 2, 2, 1), mode="reflect"), X),
    ("index", lambda m, a: a[1], X), ("index all", lambda m, a: a[1, 2, 0], X),
    ("index none", lambda m, a: a[None, :, None], X),
    ("slices", lambda m, a: a[:, 1:, ::2], X), ("ellipsis", lambda m, a: a[..., -1], X),
    ("negative", lambda m, a: a[-1, :-1], X),
    ("mask", lambda m, a: a[a > 0], X), ("mask of rows", lambda m, a: a[:, m.tensor([True, False, True])], X),
    ("list", lambda m, a: a[:, [2, 0]], X), ("repeated list", lambda m, a: a[[1, 1, 0]], X),
    ("tensor index", lambda m, a: a[0, m.tensor(REPEATED)], X),
    ("two tensors", lambda m, a: a[m.tensor([0, 1]), m.tensor([2, 2])], X),
    ("apart", lambda m, a: a[m.tensor([0, 0]), :, m.tensor([1, 1])], X),
    ("0-d tensor", lambda m, a: a[m.tensor(1)], X),
    ("tensor and slice", lambda m, a: a[:, m.tensor([1, 1, -1]), 1:3], X),
    ("column and row", lambda m, a: a[1, m.tensor([[0], [2]]), m.tensor([1, 3])], X),
    ("gather", lambda m, a: a.gather(1, m.tensor(REPEATED)), X[0, :2]),
    ("gather smaller", lambda m, a: m.gather(a, 0, m.tensor([[0, 1], [1, 1], [0, 0]])), X[0, :2]),
    ("scatter", lambda m, a, b: a.scatter(1, m.tensor([[2, 0], [1, 3]]), b), X[0, :2], numbers(2, 2)),
    ("scatter number", lambda m, a: a.scatter(0, m.tensor([[1, 0, 1]]), 5.0), X[0]),
    ("scatter_add", lambda m, a, b: m.scatter_add(a, 1, m.tensor(REPEATED), b), X[0, :2], numbers(2, 3)),
    ("index_select", lambda m, a: a.index_select(2, m.tensor([3, 3, 0])), X),
    ("masked_fill", lambda m, a: a.masked_fill(a > 0.5, -1.0), X),
    ("masked_fill of rows", lambda m, a: m.masked_fill(a, m.tensor([[True], [False], [True]]), 2), X),
    ("masked_select", lambda m, a: a.masked_select(m.tensor([True, False, True, True])), X),
    ("sort", lambda m, a: a.sort().values, X), ("sort 0", lambda m, a: m.sort(a, 0, descending=True)[0], X),
    ("topk", lambda m, a: a.topk(2).values, X),
    ("topk smallest", lambda m, a: m.topk(a, 2, dim=1, largest=False)[0], X),
    ("tril", lambda m, a: a.tril(), X), ("triu", lambda m, a: m.triu(a, 1), X),
    ("tril -1", lambda m, a: m.tril(a, diagonal=-1), X),
    ("diag of a vector", lambda m, a: m.diag(a), X[0, 0]),
    ("diag of a vector, up", lambda m, a: m.diag(a, 1), X[0, 0]),
    ("diag of a matrix", lambda m, a: a.diag(), X[0]),
    ("diag of a matrix, down", lambda m, a: m.diag(a, -1), X[0]),
    ("diag of a matrix, up", lambda m, a: m.diag(a, 2), X[0]),
    ("clone", lambda m, a: a.clone() * a, X), ("contiguous", lambda m, a: a.T.contiguous(), X[0]),
]


@pytest.mark.parametrize("row", TABLE, ids=[row[0] for row in TABLE])
def test_gradient_and_torch(row):
    _, function, *arrays = row
    check(lambda *tensors: function(ms, *tensors), *arrays)
    torch = pytest.importorskip("torch")
    ours = [ms.tensor(x, requires_grad=True) for x in arrays]
    theirs = [torch.tensor(x, requires_grad=True) for x in arrays]
    out, expected = function(ms, *ours), function(torch, *theirs)
    weights = np.linspace(0.5, 1.5, out.numel()).reshape(out.shape)
    out.backward(ms.tensor(weights))
    expected.backward(torch.tensor(weights))
    np.testing.assert_array_equal(out.detach(), expected.detach())
    for t, u in zip(ours, theirs):
        np.testing.assert_allclose(t.grad, u.grad, rtol=1e-12)


@pytest.mark.parametrize("function", [
    lambda m, a: a.permute(1, 0), lambda m, a: a[0], lambda m, a: a[0, 1], lambda m, a: a[:, 1:],
    lambda m, a: a.view(6),
    lambda m, a: a.unsqueeze(0).squeeze(0), lambda m, a: a.split(2, 1)[0], lambda m, a: a.T.detach(),
    lambda m, a: list(a)[1],
    lambda m, a: a.flip(0), lambda m, a: a[[0, 1]], lambda m, a: a.clone(), lambda m, a: a[a > 0],
    lambda m, a: m.diag(a),
    lambda m, a: m.tensor(a), lambda m, a: m.cat([a]), lambda m, a: m.as_tensor(a),
    lambda m, a: a.repeat(1, 1),
])
@pytest.mark.filterwarnings("ignore:To copy construct")
def test_views_are_views_where_they_are_in_torch(function):
    torch = pytest.importorskip("torch")

    def changed(m):
        a = m.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
        b = function(m, a)
        b.mul_(0)
        return a.tolist(), b._version[0] if m is ms and b._version is a._version else 0
    before = ms.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]).tolist()
    ours, version = changed(ms)
    assert ours == changed(torch)[0]
    assert (version == 1) == (ours != before)       # a view and its base count their changes together


@pytest.mark.parametrize("key, value", [
    (0, 1.0), ((0, 1), 5), ((slice(None), 1), [1.0, 2.0]), (Ellipsis, 0.5), ([1, 0], [[1.0], [2.0]]),
    (np.array([[True, False, True], [False, False, True]]), 9.0), ((None, 0), [1.0, 2.0, 3.0]),
])
def test_assignment(key, value):
    a, expected = ms.zeros(2, 3), np.zeros((2, 3), np.float32)
    our_key = ms.tensor(key) if isinstance(key, np.ndarray) else key
    a[our_key] = ms.tensor(value) if isinstance(value, list) else value
    expected[key] = value
    assert np.array_equal(a, expected)


def test_assignment_and_the_record():
    w = ms.ones(3, requires_grad=True)
    with pytest.raises(RuntimeError, match="leaf"):
        w[0] = 1
    with pytest.raises(NotImplementedError):
        ms.zeros(3)[0] = w[0]
    with ms.no_grad():
        w[0] = w[1] * 3
    x = ms.zeros(3)
    x[1] += 2
    assert w.tolist() == [3, 1, 1] and x.tolist() == [0, 2, 0]
    y = w * x
    x[0] = 1
    with pytest.raises(RuntimeError, match="changed in place"):
        y.sum().backward()


def test_sorting_is_stable_in_both_directions():
    a = ms.tensor([2, 1, 2, 1, 2])
    assert a.argsort().tolist() == [1, 3, 0, 2, 4]
    assert a.sort(descending=True).indices.tolist() == [0, 2, 4, 1, 3]
    assert a.topk(2).indices.tolist() == [0, 2] and a.topk(3, largest=False).indices.tolist() == [1, 3, 0]
    many = np.random.default_rng(0).integers(0, 3, 1000)
    assert np.array_equal(ms.tensor(many).argsort(), np.lexsort((np.arange(1000), many)))
    assert np.array_equal(ms.tensor(many).topk(1000).indices, np.lexsort((np.arange(1000), -many)))
    values, indices = ms.sort(ms.tensor([1.0, float("nan"), -1.0]))
    assert indices.tolist() == [2, 0, 1] and values[:2].tolist() == [-1, 1]
    assert ms.tensor([[1, 0], [0, 1]]).bool().sort(1).values.tolist() == [[False, True], [False, True]]


def test_integers():
    index = ms.tensor([[0, 2], [1, 0]])
    assert one_hot(index, 3).tolist() == [[[1, 0, 0], [0, 0, 1]], [[0, 1, 0], [1, 0, 0]]]
    assert one_hot(index).shape == (2, 2, 3) and one_hot(index).dtype == ms.int64
    assert ms.nonzero(index).tolist() == [[0, 1], [1, 0]]
    assert [x.tolist() for x in index.nonzero(as_tuple=True)] == [[0, 1], [1, 0]]
    counts = ms.zeros(3).scatter_(0, ms.tensor([2]), 4.0)
    assert counts.tolist() == [0, 0, 4] and counts.masked_fill_(counts > 1, 2.0).tolist() == [0, 0, 2]
    assert index[ms.tensor(1)].tolist() == [1, 0] and [10, 20, 30][index[0, 1]] == 30


@pytest.mark.parametrize("function", [
    lambda m, a: a.reshape(5), lambda m, a: a.view(-1, -1), lambda m, a: a.permute(0, 0),
    lambda m, a: a.transpose(0, 2),
    lambda m, a: a.expand(3, 3), lambda m, a: a.unsqueeze(4), lambda m, a: a.flatten(1, 0),
    lambda m, a: m.ones(1, 2, 3).t(),
    lambda m, a: m.cat([a, m.ones(3, 2)]), lambda m, a: m.stack([a, m.ones(1, 3)]),
    lambda m, a: a.split([1, 1], 1), lambda m, a: a.split(0), lambda m, a: a.narrow(1, 2, 2),
    lambda m, a: a.repeat(2),
    lambda m, a: pad_of(m)(a, (3, 0), mode="reflect"), lambda m, a: pad_of(m)(a, (1, 1, 1)),
    lambda m, a: a[2],
    lambda m, a: a[0, 0, 0], lambda m, a: a[::-1], lambda m, a: a[m.tensor([0.5])],
    lambda m, a: a[m.tensor([True])],
    lambda m, a: a[[0, 5]], lambda m, a: a.gather(1, m.tensor([[3]])),
    lambda m, a: a.gather(1, m.tensor([0])),
    lambda m, a: a.topk(4), lambda m, a: a.select(1, 3), lambda m, a: m.ones(2, 2, 2).diag(),
    lambda m, a: a.squeeze(3),
    lambda m, a: a.expand(2, 2, 3).add_(1), lambda m, a: a.__setitem__(0, m.ones(2)),
    lambda m, a: len(m.tensor(1)),
    lambda m, a: list(m.tensor(1)), lambda m, a: a.__setitem__((0, 7), 1.0),
])
def test_errors_as_in_torch(function):
    with pytest.raises((RuntimeError, TypeError, ValueError, IndexError)) as ours:
        function(ms, ms.ones(2, 3))
    torch = pytest.importorskip("torch")
    with pytest.raises((RuntimeError, TypeError, ValueError, IndexError)) as theirs:
        function(torch, torch.ones(2, 3))
    assert issubclass(ours.type, theirs.type), (ours.value, theirs.value)


def test_what_torch_allows_and_this_does_not():
    with pytest.raises(IndexError, match="uint8"):
        ms.ones(2)[ms.tensor([1, 0], dtype=ms.uint8)]
    with pytest.raises(NotImplementedError, match="no mode"):
        pad(ms.ones(2, 2), (1, 1), mode="symmetric")
    with pytest.raises(RuntimeError, match="class numbers"):
        one_hot(ms.tensor([0, 5]), 3)


def test_a_tuple_in_a_key_names_elements():
    x = ms.ones(2, 3, requires_grad=True)
    x[:, (0, 0)].sum().backward()
    assert x.grad.tolist() == [[2, 0, 0], [2, 0, 0]]
    assert ms.arange(6).reshape(2, 3)[(1, 0),].tolist() == [[3, 4, 5], [0, 1, 2]]


@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("left, right", [(-1, -1), (-1, 0), (0, -2), (1, -1), (-2, 2)])
def test_negative_padding_cuts(mode, left, right):
    x = ms.tensor(numbers(1, 5))
    cut = x.data[:, max(-left, 0):5 - max(-right, 0)]
    kinds = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
    expected = np.pad(cut, ((0, 0), (max(left, 0), max(right, 0))), kinds[mode])
    np.testing.assert_array_equal(pad(x, (left, right), mode).data, expected)


@pytest.mark.parametrize("function", [ms.scatter, ms.scatter_add])
def test_a_source_smaller_than_the_index(function):
    with pytest.raises(RuntimeError, match=r"index has shape \(2, 2\), src only \(1, 3\)"):
        function(ms.zeros(2, 3), 1, ms.tensor([[0, 1], [1, 2]]), ms.ones(1, 3))


def test_one_index_keeps_its_dimension_and_a_filled_tensor_its_dtype():
    assert ms.ones(2, 3).index_select(0, ms.tensor(1)).shape == (1, 3)
    filled = ms.tensor([1, 2]).masked_fill(ms.tensor([True, False]), 1.5)
    assert filled.dtype == np.int64 and filled.tolist() == [1, 2]
