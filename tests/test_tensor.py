"""The tape (graphs of any shape, changes in place, modes), creation, conversions, printing, public names."""
import copy
import subprocess
import sys
import threading
import weakref

import numpy as np
import pytest

import minisparse as ms


def leaf(*numbers):
    return ms.tensor(numbers, dtype=ms.float64, requires_grad=True)


# --- the walk back ----------------------------------------------------------------------------------------
def test_a_chain_of_20000():
    x = leaf(1.0)
    y = x
    for _ in range(20_000):
        y = y + 0.5 * x.detach()
    y.backward()
    assert x.grad.item() == 1


def test_diamonds_and_accumulation():
    x, w = leaf(2.0, 3.0), leaf(5.0, 7.0)
    for times in (1, 2):
        a = x * w                       # a is used three times, x both directly and through a
        (a * a + a * x + a.sum() * w).sum().backward()
        X, W = np.array([2.0, 3.0]), np.array([5.0, 7.0])
        A = X * W
        through_a = 2 * A + X + W.sum()
        np.testing.assert_allclose(x.grad, times * (through_a * W + A))
        np.testing.assert_allclose(w.grad, times * (through_a * X + A.sum()))


def test_a_gradient_is_its_own_array():
    x, y = leaf(1.0, 2.0), leaf(3.0, 4.0)
    seed = ms.ones(2, dtype=ms.float64)
    (x + y).backward(seed)
    x.grad.zero_()
    assert y.grad.tolist() == [1, 1] and seed.tolist() == [1, 1]
    z = leaf(1.0, 2.0)
    z.mean().backward()
    z.grad.mul_(4)                      # writable, each element its own
    assert z.grad.tolist() == [2, 2]


def test_only_what_needs_a_gradient_gets_one():
    x, w = ms.ones(2), leaf(1.0, 2.0)
    y = x * w
    z = x * 2
    assert y.requires_grad and not y.is_leaf and not z.requires_grad and z.is_leaf
    y.sum().backward()
    assert x.grad is None and y.grad is None and w.grad is not None


def test_backward_needs_a_record_a_scalar_and_a_fitting_gradient():
    with pytest.raises(RuntimeError, match="does not require grad"):
        ms.ones(1).backward()
    with pytest.raises(RuntimeError, match=r"scalar outputs.*\(2,\)"):
        (leaf(1.0, 2.0) * 2).backward()
    with pytest.raises(RuntimeError, match=r"\(3,\).*\(2,\)"):
        (leaf(1.0, 2.0) * 2).backward(ms.ones(3))
    x = leaf(1.0, 2.0)
    (x * 2).backward(ms.tensor([1.0, 10.0]))
    assert x.grad.tolist() == [2, 20] and x.grad.dtype == ms.float64


def test_backward_twice():
    x = leaf(3.0)
    y = (x * x).sum()
    y.backward(retain_graph=True)
    y.backward()
    assert x.grad.item() == 12
    with pytest.raises(RuntimeError, match="second time"):
        y.backward()
    shared = x.exp()
    shared.sum().backward()
    with pytest.raises(RuntimeError, match="second time"):
        (shared * 2).sum().backward()


def test_results_that_no_gradient_needs_are_freed():
    x = ms.randn(2, 3, 4, 4, requires_grad=True)
    read = x.exp()                                              # its own gradient needs it, the pooling's does not
    product = 2 * x
    pooled = ms.nn.functional.max_pool2d(product, 2)
    alive, freed = weakref.ref(read.data), weakref.ref(product.data)
    loss = pooled.sum() + read.sum()
    del read, product
    assert alive() is not None and freed() is None
    loss.backward()
    assert x.grad.shape == x.shape


def test_retain_grad():
    x = leaf(2.0, 3.0)
    y = x * x
    y.retain_grad()
    (y * y).sum().backward()
    assert y.grad.tolist() == [8, 18] and x.grad.tolist() == [32, 108]
    with pytest.raises(RuntimeError):
        ms.ones(1).retain_grad()


# --- changes in place -------------------------------------------------------------------------------------
CHANGES = {
    "itself": lambda t: t.mul_(2), "assignment": lambda t: t.__setitem__(0, 5),
    "a view": lambda t: t[1:].zero_(),
    "a view of a view": lambda t: t.view(1, 2).T[0].add_(1), "detach": lambda t: t.detach().fill_(1),
    "copy": lambda t: t.copy_(ms.zeros(2)), "random": lambda t: t.uniform_(), "+=": lambda t: t.__iadd__(1),
    "an element": lambda t: t[0].add_(1), "split": lambda t: t.split(1)[1].zero_(),
    "iteration": lambda t: list(t)[1].fill_(2),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("what", ["input", "leaf", "result", "intermediate"])
def test_a_change_of_what_a_gradient_needs_is_an_error(change, what):
    x, w = ms.tensor([1.0, 2.0]), ms.tensor([3.0, 4.0], requires_grad=True)
    y = x * w
    z = y.exp()
    target = {"input": x, "leaf": w, "result": z, "intermediate": y}[what]
    with ms.no_grad():
        change(target)
    with pytest.raises(RuntimeError, match="changed in place"):
        z.sum().backward()
    assert w.grad is None


@pytest.mark.parametrize("change", [c for n, c in CHANGES.items() if n not in ("detach", "+=")])
def test_a_change_of_a_record_is_refused(change):
    w = ms.ones(2, requires_grad=True)
    for target in (w, w * 1):
        with pytest.raises(RuntimeError, match="in place"):
            change(target)
    assert w.tolist() == [1, 1]


def test_a_change_before_the_record_or_of_a_copy_is_fine():
    w = ms.ones(2, requires_grad=True)
    x = ms.tensor([1.0, 2.0])
    x.mul_(2)
    y = x * w
    x.clone().zero_()
    x[[0, 1]].zero_()
    y.sum().backward()
    with ms.no_grad():
        w -= 0.5 * w.grad
    (x * w).sum().backward()
    assert w.tolist() == [0, -1] and w.grad.tolist() == [4, 8]


def test_indices_and_conditions_are_part_of_a_record():
    w = leaf(1.0, 2.0, 3.0)
    index = ms.tensor([0, 0, 1])
    y = w[index]
    index.fill_(2)
    y.sum().backward()
    assert w.grad.tolist() == [2, 1, 0]
    condition = ms.tensor([True, False, True])
    top, best = w.topk(2), w.reshape(1, 3).max(1)
    for out, changed in [(ms.where(condition, w, 0.0), condition), (top.values, top.indices),
                         (best.values, best.indices)]:
        changed[0] = 0
        with pytest.raises(RuntimeError, match="changed in place"):
            out.sum().backward()


# --- modes ------------------------------------------------------------------------------------------------
def test_no_grad():
    w = leaf(1.0)

    @ms.no_grad()
    def recursive(depth):
        assert not ms.is_grad_enabled() and not (w * 2).requires_grad
        return depth if depth == 0 else recursive(depth - 1)
    assert recursive(3) == 0 and ms.is_grad_enabled()
    with ms.no_grad():
        with ms.enable_grad():
            assert (w * 2).requires_grad
        with ms.no_grad():
            pass
        assert not ms.is_grad_enabled()
        assert ms.zeros(1, requires_grad=True).requires_grad
    with pytest.raises(KeyError):
        with ms.no_grad():
            raise KeyError
    assert ms.is_grad_enabled()


def test_no_grad_is_of_one_thread():
    seen = []
    with ms.no_grad():
        thread = threading.Thread(target=lambda: seen.append(ms.is_grad_enabled()))
        thread.start()
        thread.join()
        assert not ms.is_grad_enabled()
    assert seen == [True]


def test_requires_grad():
    with pytest.raises(RuntimeError, match="int64"):
        ms.tensor([1], requires_grad=True)
    with pytest.raises(RuntimeError, match="detach"):
        (leaf(1.0) * 2).requires_grad_(False)
    with pytest.raises(RuntimeError, match="detach"):
        leaf(1.0).numpy()
    frozen = leaf(1.0).requires_grad_(False)
    assert not (frozen * 2).requires_grad and not leaf(1.0).detach().requires_grad


def test_deepcopy():
    x = leaf(1.0, 2.0)
    (x * x).sum().backward()
    y = copy.deepcopy(x)
    y.grad.zero_()
    assert y.requires_grad and y.tolist() == [1, 2] and x.grad.tolist() == [2, 4] and y.data is not x.data
    with pytest.raises(RuntimeError, match="leaf"):
        copy.deepcopy(x * 2)


# --- creation and conversion ------------------------------------------------------------------------------
@pytest.mark.parametrize("make", [
    lambda m: m.tensor(1), lambda m: m.tensor([1, 2.0]), lambda m: m.tensor([[True], [False]]),
    lambda m: m.tensor([]),
    lambda m: m.tensor(np.ones(2)), lambda m: m.tensor(np.ones(2, np.uint8)),
    lambda m: m.tensor([1, 2], dtype=m.float64),
    lambda m: m.tensor(np.float64(2)), lambda m: m.tensor(m.ones(2, dtype=m.int32)),
    lambda m: m.tensor((1, 2), dtype=m.bool),
    lambda m: m.zeros(2, 3), lambda m: m.zeros((2, 3), dtype=m.int64), lambda m: m.zeros(()),
    lambda m: m.ones([2]),
    lambda m: m.full((2,), 3), lambda m: m.full((2, 1), 3.5), lambda m: m.full((2,), True),
    lambda m: m.full((1,), 2, dtype=m.double),
    lambda m: m.arange(4), lambda m: m.arange(1, 4.0), lambda m: m.arange(0, 1, 0.25),
    lambda m: m.arange(5, 0, -2),
    lambda m: m.arange(3, dtype=m.float32), lambda m: m.linspace(0, 1, 5),
    lambda m: m.linspace(-1, 1, 3, dtype=m.float64),
    lambda m: m.eye(3), lambda m: m.eye(2, 3, dtype=m.long), lambda m: m.zeros_like(m.ones(2, dtype=m.uint8)),
    lambda m: m.ones_like(m.zeros(2, 1), dtype=m.int), lambda m: m.full_like(m.ones(2), 7),
    lambda m: m.from_numpy(np.arange(3)),
    lambda m: m.as_tensor([1.5]), lambda m: m.as_tensor(np.ones(2), dtype=m.float32),
    lambda m: m.ones(2).double(),
    lambda m: m.tensor([1.7, -1.7]).long(), lambda m: m.tensor([0.0, 2.0]).bool(),
    lambda m: m.tensor([True]).float(),
    lambda m: m.ones(2).to(m.float64), lambda m: m.ones(2).to("cpu", dtype=m.int32),
    lambda m: m.ones(2).to(m.tensor(1)),
    lambda m: m.ones(2).type_as(m.tensor(True)), lambda m: m.ones(2).int(),
    lambda m: m.ones(2).cpu().contiguous().clone(),
    lambda m: m.ones(2, dtype=m.int64).new_zeros(2, 2), lambda m: m.ones(2).double().new_full((1,), 2),
    lambda m: m.ones(2).new_ones((2,), dtype=m.uint8), lambda m: m.ones(1).double().new_tensor([1, 2]),
    lambda m: m.zeros(2).fill_(3).copy_(m.tensor([1, 2])), lambda m: m.ones(2, 2).zero_(),
])
@pytest.mark.filterwarnings("ignore:To copy construct")
def test_creation_as_in_torch(make):
    torch = pytest.importorskip("torch")
    ours, theirs = make(ms), make(torch)
    assert f"torch.{ours.dtype}" == str(theirs.dtype)
    np.testing.assert_array_equal(ours, theirs)
    assert ours.shape == tuple(theirs.shape)


def test_sharing_memory():
    x = np.zeros(2, np.float32)
    shared, copied = ms.from_numpy(x), ms.tensor(x)
    x[0] = 1
    assert shared.tolist() == [1, 0] and copied.tolist() == [0, 0]
    assert ms.as_tensor(shared) is shared and shared.float() is shared and shared.numpy() is x


def test_the_gradient_goes_through_conversions():
    x = ms.tensor([1.0, 2.0], requires_grad=True)
    (x.double() * 3).clone().float().sum().backward()
    assert x.grad.tolist() == [3, 3] and x.grad.dtype == ms.float32 and not x.long().requires_grad


def test_random_numbers():
    def draw():
        yield from (ms.rand(1000), ms.randn(20, 50), ms.randint(3, 7, (1000,)), ms.randint(4, (9,)),
                    ms.randperm(10),
                    ms.normal(ms.full((1000,), 5.0), 2.0), ms.normal(5.0, 2.0, (1000,)),
                    ms.rand_like(ms.ones(1000)),
                    ms.randn_like(ms.ones(1000)), ms.zeros(1000).uniform_(-1, 3),
                    ms.zeros(1000).normal_(1, 2),
                    ms.nn.functional.dropout(ms.ones(100)))
    ms.manual_seed(3)
    first = list(draw())
    ms.manual_seed(3)
    for a, b in zip(first, draw(), strict=True):
        assert ms.equal(a, b)
    assert not ms.equal(first[0], ms.rand(1000))
    uniform, gauss, whole, *_ = first
    assert uniform.dtype == gauss.dtype == ms.float32 and whole.dtype == ms.int64
    assert 0 <= uniform.min() and uniform.max() < 1 and abs(uniform.mean() - 0.5) < 0.05
    assert abs(gauss.mean()) < 0.15 and abs(gauss.std() - 1) < 0.1
    assert sorted(set(whole.tolist())) == [3, 4, 5, 6] and sorted(first[4].tolist()) == list(range(10))
    for x in first[5:7]:
        assert abs(x.mean() - 5) < 0.3 and abs(x.std() - 2) < 0.3
    assert -1 <= first[9].min() and 2.5 < first[9].max() < 3 and abs(first[10].mean() - 1) < 0.3
    one, two = (ms.randn(4, generator=np.random.default_rng(0)) for _ in range(2))
    assert ms.equal(one, two)
    turned = ms.Tensor(np.zeros((3, 2), np.float32).T)      # the same bits in any memory order
    assert ms.equal(ms.rand_like(turned, generator=np.random.default_rng(0)),
                    ms.rand(2, 3, generator=np.random.default_rng(0)))


def test_python_numbers():
    x = ms.tensor([[2.5]])
    assert x.item() == 2.5 and float(x) == 2.5 and int(x) == 2 and bool(x) and len(x) == 1
    assert f"{ms.tensor(2.5):.2f}" == "2.50" and list(range(ms.tensor(2))) == [0, 1]
    assert x.dim() == x.ndim == 2 and x.size(0) == x.numel() == 1 and x.size() == (1, 1)
    assert x.element_size() == 4 and x.tolist() == [[2.5]]
    assert x.device == "cpu" and x.is_floating_point() and not x.long().is_floating_point()
    assert isinstance(np.ones(1) + x, ms.Tensor) and np.asarray(x).dtype == np.float32


# --- printing ---------------------------------------------------------------------------------------------
PRINTED = {
    "numbers": [[1.0, -2.5], [0.1, 100.25]], "whole": [1.0, -20.0, 3.0], "zeros": [0.0, 0.0],
    "scalar": 3.14159, "int": 7,
    "ints": [[1, -200], [30, 4]], "bools": [[True, False]], "small": [1e-5, 1e-6],
    "thousandths": [0.5e-3, 0.25e-3], "wide": [1e-3, 100.0],
    "large": [1e9, 1.0],
    "large whole": [123456789.0, 2.0], "thousands": [1000.0, 2000.0], "nan": [float("nan"), 1.5],
    "inf": [float("inf"), 1.0, -2.0],
    "only nan": [float("nan")], "negative zero": [-0.0, 1.5], "cube": np.arange(24).reshape(2, 3, 4).tolist(),
    "empty": [],
    "empty ints": np.zeros((0,), np.int64), "empty rows": np.zeros((2, 0), np.float32),
    "no rows": np.zeros((0, 3), np.int64),
    "long": list(range(100)), "long floats": [i / 7 for i in range(40)],
    "summary": np.arange(2000, dtype=np.float32),
    "summary of rows": np.arange(2000.0).reshape(50, 40).astype(np.float32),
    "wide summary": np.arange(12000).reshape(2, 6000),
    "summary of planes": np.arange(4096).reshape(16, 16, 16),
    "four": np.arange(16.0).reshape(2, 2, 2, 2).astype(np.float32) / 3,
    "float64": np.array([1.5]), "uint8": np.array([1, 2], np.uint8),
    "int32": np.arange(40, dtype=np.int32) * 1000,
    "thin": np.zeros((1001, 1), np.float32), "float64 summary": np.arange(3000) / 7,
}


@pytest.mark.parametrize("data", PRINTED.values(), ids=PRINTED)
def test_repr_as_in_torch(data):
    torch = pytest.importorskip("torch")
    assert repr(ms.tensor(data)) == repr(torch.tensor(data)).replace("dtype=torch.", "dtype=")


def test_repr_of_records():
    x = ms.tensor([1.0, 2.5], requires_grad=True)
    assert repr(x) == str(x) == "tensor([1.0000, 2.5000], requires_grad=True)"
    assert repr(x * 2) == "tensor([2., 5.], grad_fn=<MulBackward0>)"
    assert repr(ms.scatter_add(x, 0, ms.tensor([0]), x)).endswith("grad_fn=<ScatterAddBackward0>)")
    torch = pytest.importorskip("torch")
    long = [i / 7 for i in range(9)]
    assert repr(ms.tensor(long, requires_grad=True)) == repr(torch.tensor(long, requires_grad=True))
    assert repr(ms.tensor(long, requires_grad=True) * 2) == repr(torch.tensor(long, requires_grad=True) * 2)


# --- the public names -------------------------------------------------------------------------------------
def test_import_is_light():
    code = """if True:
        import sys, minisparse
        minisparse.nn.Linear(2, 2), minisparse.optim.SGD
        heavy = {"numba", "matplotlib", "PIL", "torch", "scipy"} & set(sys.modules)
        assert not heavy, heavy"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_plain_program():
    torch = ms
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    x = torch.linspace(-1, 1, 64, device=device).unsqueeze(1)
    y = 3 * x + 0.5
    model = torch.nn.Linear(1, 1).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(60):
        loss = ((model(x) - y) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert torch.allclose(model.weight, torch.tensor([[3.0]]), atol=1e-3) and loss.item() < 1e-6


def test_names_that_are_left_out():
    assert not hasattr(ms, "svd") and not hasattr(ms.ones(1), "svd")
    for function in (lambda: ms.svd, lambda: ms.ones(1).svd(), lambda: ms.ones(1, device="cuda:0"),
                     lambda: ms.sum(ms.ones(2), out=ms.ones(1)), lambda: ms.zeros(2, pin_memory=True)):
        with pytest.raises(NotImplementedError):
            function()


def test_requires_grad_can_be_set_where_requires_grad_can_be_called():
    x = leaf(1.0)
    x.requires_grad = False
    assert not (x * 2).requires_grad
    x.requires_grad = True
    with pytest.raises(RuntimeError, match="leaf"):
        (x * 2).requires_grad = False
    with pytest.raises(RuntimeError, match="floating point"):
        ms.tensor([1, 2]).requires_grad = True
