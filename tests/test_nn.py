import copy
import re
from collections import OrderedDict

import numpy as np
import pytest

from minisparse import nn
from minisparse.sparse import SparseLinear
from minisparse.tensor import Tensor, no_grad

rng = np.random.default_rng(0)


def tensor(*shape, dtype=np.float32):
    return Tensor(rng.normal(size=shape).astype(dtype))


def images(n, c, h, w):
    """A batch of images in batch-innermost memory."""
    return Tensor(rng.normal(size=(c, h, w, n)).astype(np.float32).transpose(3, 0, 1, 2))


def net_of(lib=nn):
    """The same net from minisparse.nn or torch.nn."""
    tail = lib.Sequential(lib.ReLU(), lib.MaxPool2d(2), lib.Flatten(), lib.Dropout(0.0), lib.Linear(128, 5))
    return lib.Sequential(OrderedDict(conv=lib.Conv2d(3, 8, 3, padding=1, bias=False), bn=lib.BatchNorm2d(8),
                                      tail=tail))


def arrays(state):
    return {name: np.array(value.data) for name, value in state.items()}


def assert_same(a, b):
    assert list(a) == list(b)
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


# --- attributes -------------------------------------------------------------------------------------------
def test_attributes_are_registered_in_order_by_kind():
    m = nn.Module()
    m.b, m.a = nn.Parameter(tensor(2)), nn.Parameter(tensor(3))
    m.child, m.mask, m.number = nn.Linear(2, 2), tensor(2), 3
    m.register_parameter("none", None)
    m.register_buffer("stat", tensor(1))
    m.register_buffer("scratch", tensor(1), persistent=False)
    assert [k for k, _ in m.named_parameters()] == ["b", "a", "child.weight", "child.bias"]
    assert [k for k, _ in m.named_parameters(recurse=False)] == ["b", "a"]
    assert [k for k, _ in m.named_buffers()] == ["stat", "scratch"]
    assert list(m.state_dict()) == ["b", "a", "stat", "child.weight", "child.bias"]
    assert m.none is None and "mask" in vars(m) and {"b", "stat", "child"} <= set(dir(m))

    m.b = nn.Parameter(tensor(4))       # keeps its place
    m.stat = tensor(2)                  # stays a buffer
    m.a = None
    assert list(m.state_dict()) == ["b", "stat", "child.weight", "child.bias"]
    m.child = nn.Parameter(tensor(1))   # another kind
    assert not list(m.children()) and "child" in dict(m.named_parameters())
    m.mask = nn.Parameter(tensor(1))    # no longer a plain attribute
    assert "mask" not in vars(m) and "mask" in m.state_dict()
    del m.b, m.number, m.stat
    assert list(m.state_dict()) == ["child", "mask"]
    for name in ("b", "number", "stat"):
        with pytest.raises(AttributeError, match=f"'Module' object has no attribute '{name}'"):
            getattr(m, name)
        with pytest.raises(AttributeError):
            delattr(m, name)


def test_what_is_shared_comes_once():
    m = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.ReLU())
    m[1].weight = m[0].weight
    m.append(m[2])
    m.append(m[0])
    assert [k for k, _ in m.named_parameters()] == ["0.weight", "0.bias", "1.bias"]
    assert [k for k, _ in m.named_modules()] == ["", "0", "1", "2"]
    assert [k for k, _ in m.named_children()] == ["0", "1", "2"] and len(m) == 5
    assert list(m.state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias", "4.weight", "4.bias"]
    twin = copy.deepcopy(m)
    assert twin[1].weight is twin[0].weight is twin[4].weight is not m[0].weight


def test_before_init():
    class Late(nn.Module):
        def __init__(self, value):
            self.part = value
            super().__init__()

    for value, kind in (nn.Parameter(tensor(1)), "Parameter"), (nn.ReLU(), "Module"):
        with pytest.raises(AttributeError, match=f"cannot assign a {kind} before Module.__init__"):
            Late(value)
    assert Late(3).part == 3

    class Later(nn.Module):
        def __init__(self):
            self.register_buffer("x", tensor(1))

    with pytest.raises(AttributeError, match="cannot register 'x' before"):
        Later()


def module_with_parts():
    m = nn.Module()
    m.w, m.child = nn.Parameter(tensor(1)), nn.Linear(2, 3)
    m.register_buffer("stat", tensor(1))
    return m


@pytest.mark.parametrize("action, error, message", [
    (lambda m: setattr(m, "w", tensor(1)), TypeError, "assign Tensor to 'w' .Parameter or None"),
    (lambda m: setattr(m, "child", 3), TypeError, "assign int to 'child' .Module or None"),
    (lambda m: setattr(m, "stat", np.zeros(1)), TypeError, "assign ndarray to 'stat' .Tensor or None"),
    (lambda m: m.register_buffer("w", tensor(1)), KeyError, "attribute 'w' already exists"),
    (lambda m: m.register_buffer("x", 3), TypeError, "register int as 'x'"),
    (lambda m: m.register_parameter("x", tensor(1)), TypeError, "register Tensor as 'x' .Parameter or None"),
    (lambda m: m.add_module("a.b", nn.ReLU()), KeyError, "without dots; got 'a.b'"),
    (lambda m: m.add_module("train", nn.ReLU()), KeyError, "'train' already exists"),
    (lambda m: nn.Sequential(nn.ReLU(), len), TypeError, "builtin_function_or_method as '1' .Module"),
    (lambda m: nn.Parameter([1.0]), TypeError, "got list"),
    (lambda m: nn.Parameter(np.zeros(2, int)), RuntimeError, "int64"),
    (lambda m: m.get_submodule("child.x"), AttributeError, "Linear has no submodule 'x' .of 'child.x'"),
    (lambda m: m.get_parameter("child.x"), AttributeError, "Linear has no parameter 'x' .of 'child.x'"),
    (lambda m: m.train(1), ValueError, "got 1"),
    (lambda m: m.to(np.int64), TypeError, "got int64"),
    (lambda m: m.to("cuda"), NotImplementedError, "'cuda'"),
    (lambda m: m(3), NotImplementedError, "Module does not define forward"),
    (lambda m: m.register_forward_hook(print), NotImplementedError, "hooks"),
    (lambda m: m.load_state_dict([1]), TypeError, "got list"),
    (lambda m: nn.Sequential(nn.ReLU())[1], IndexError, "index 1 is out of range: Sequential has 1"),
    (lambda m: nn.Conv2d(4, 6, 3, groups=4), ValueError, "4 input and 6 output channels .* 4 groups"),
    (lambda m: nn.Conv2d(4, 6, 3, padding="same", stride=2), ValueError, "needs stride 1, got 2"),
    (lambda m: nn.Conv2d(4, 6, 3, padding="full"), ValueError, "got 'full'"),
    (lambda m: nn.Conv2d(4, 6, 3, padding_mode="reflect"), NotImplementedError, "got 'reflect'"),
    (lambda m: nn.Conv2d(4, 6, (3, 3, 3)), ValueError, r"kernel_size must be .* got \(3, 3, 3\)"),
    (lambda m: nn.Linear(0, 6), ValueError, r"\(6, 0\)"),
    (lambda m: nn.ReLU(inplace=True), NotImplementedError, "ReLU: inplace"),
    (lambda m: nn.Dropout(1.5), ValueError, "got 1.5"),
    (lambda m: nn.BatchNorm2d(3)(tensor(2, 3)), ValueError, r"expected 4 dimensions, got shape \(2, 3\)"),
    (lambda m: nn.BatchNorm1d(3)(tensor(2, 3, 4, 4)), ValueError, "expected 2 or 3 dimensions"),
])
def test_bad_input_is_named(action, error, message):
    m = module_with_parts()
    before = arrays(m.state_dict())
    with pytest.raises(error, match=message):
        action(m)
    assert_same(before, arrays(m.state_dict()))


# --- the whole tree ---------------------------------------------------------------------------------------
def test_modes_apply_and_gradients():
    net, seen = net_of(), []
    assert net.apply(lambda m: seen.append(type(m).__name__)) is net
    assert seen[-3:] == ["Linear", "Sequential", "Sequential"] and len(seen) == 9
    assert net.eval() is net and not any(m.training for m in net.modules())
    net.tail.train()
    assert not net.training and net.tail[3].training
    assert net.get_submodule("tail.4") is net.tail[4] and net.get_submodule("") is net
    assert net.get_parameter("tail.4.bias") is net.tail[4].bias

    net(images(4, 3, 8, 8)).backward(np.ones((4, 5), np.float32))
    assert all(p.grad is not None for p in net.parameters())
    net.zero_grad(set_to_none=False)
    assert not any(p.grad.data.any() for p in net.parameters())
    net.zero_grad()
    assert all(p.grad is None for p in net.parameters())
    net.requires_grad_(False)
    assert not net(images(4, 3, 8, 8)).requires_grad


def test_to_another_dtype():
    net = net_of()
    weight = net.conv.weight
    assert net.to("cpu").cpu().double() is net and net.conv.weight is weight
    state = net.state_dict()
    assert state.pop("bn.num_batches_tracked").dtype == np.int64
    assert all(value.dtype == np.float64 for value in state.values())
    out = net(tensor(2, 3, 8, 8, dtype=np.float64))
    assert out.dtype == np.float64
    net.float()
    assert all(p.dtype == np.float32 for p in net.parameters())
    with pytest.raises(RuntimeError, match="changed in place"):
        out.backward(np.ones((2, 5)))


# --- state ------------------------------------------------------------------------------------------------
def test_state_shares_memory_and_loading_copies_into_it():
    net, other = net_of(), net_of()
    state = net.state_dict()
    assert isinstance(state, OrderedDict) and not any(value.requires_grad for value in state.values())
    weight, memory = net.conv.weight, net.conv.weight.data
    result = net.load_state_dict(other.state_dict())
    assert result == ([], []) and result.missing_keys == result.unexpected_keys == []
    assert net.conv.weight is weight and net.conv.weight.data is memory
    assert_same(arrays(state), arrays(other.state_dict()))
    assert not np.shares_memory(memory, other.conv.weight.data)


def test_wrong_state_changes_nothing():
    net = net_of()
    net.conv.weight.set_mask(rng.random(net.conv.weight.shape) > 0.5)
    before = arrays(net.state_dict())
    state = net_of().state_dict()
    del state["bn.weight"], state["tail.4.bias"]
    state["extra"] = state["more.extra"] = tensor(1)
    state["bn.bias"] = tensor(9)
    state["tail.4.weight"] = Tensor(np.zeros((5, 128), complex))
    state["conv.weight_mask"] = Tensor(np.full(net.conv.weight.shape, 0.5))
    with pytest.raises(RuntimeError) as caught:
        net.load_state_dict(state)
    for part in ("of Sequential", "missing key(s): 'bn.weight', 'tail.4.bias'",
                 "unexpected key(s): 'extra', 'more.extra'",
                 "size mismatch for 'bn.bias': (9,) given, (8,) expected",
                 "dtype mismatch for 'tail.4.weight': complex128 given", "'conv.weight_mask': a mask holds"):
        assert part in str(caught.value)
    assert_same(before, arrays(net.state_dict()))

    with pytest.raises(RuntimeError, match="size mismatch"):
        net.load_state_dict(state, strict=False)
    assert_same(before, arrays(net.state_dict()))
    for name in ("bn.bias", "tail.4.weight", "conv.weight_mask"):
        del state[name]
    assert net.load_state_dict(state, strict=False) == (
        ["bn.weight", "bn.bias", "tail.4.weight", "tail.4.bias", "conv.weight_mask"], ["extra", "more.extra"])
    np.testing.assert_array_equal(net.conv.weight.data, state["conv.weight"].data)


def test_state_goes_to_torch_and_back():
    torch = pytest.importorskip("torch")
    net, theirs, x = net_of(), net_of(torch.nn), images(4, 3, 8, 8)
    assert {k: v.shape for k, v in net.state_dict().items()} == \
        {k: tuple(v.shape) for k, v in theirs.state_dict().items()}
    net.load_state_dict(theirs.state_dict())
    for _ in range(2):      # in training, so that the running statistics move
        y, expected = net(x), theirs(torch.tensor(x.data))
        np.testing.assert_allclose(y.data, expected.detach().numpy(), rtol=1e-5, atol=1e-5)
    for name, value in theirs.state_dict().items():
        np.testing.assert_allclose(net.state_dict()[name].data, value.numpy(), rtol=1e-5, atol=1e-6)
    y.backward(np.ones((4, 5), np.float32))
    expected.backward(torch.ones(4, 5))
    for (name, p), q in zip(net.named_parameters(), theirs.parameters(), strict=True):
        np.testing.assert_allclose(p.grad.data, q.grad.numpy(), rtol=1e-4, atol=1e-4, err_msg=name)

    back = net_of(torch.nn)
    back.load_state_dict({k: torch.tensor(v) for k, v in arrays(net.state_dict()).items()})
    np.testing.assert_allclose(net.eval()(x).data, back.eval()(torch.tensor(x.data)).detach().numpy(),
                               rtol=1e-5, atol=1e-5)


# --- masks ------------------------------------------------------------------------------------------------
def test_mask_zeroes_weights_and_gradients():
    layer, x, g = nn.Linear(4, 3), tensor(5, 4), tensor(5, 3).data
    layer(x).backward(g)
    dense, values = layer.weight.grad.data, np.copy(layer.weight.data)
    keep = rng.random((3, 4)) > 0.5
    layer.weight.set_mask(keep)
    np.testing.assert_array_equal(layer.weight.data, np.where(keep, values, 0))
    np.testing.assert_array_equal(layer.weight.grad.data, np.where(keep, dense, 0))
    mask = layer.weight.mask
    assert mask.dtype == bool and not mask.flags.writeable and mask.flags.c_contiguous and mask is not keep

    layer.zero_grad()
    layer(x).backward(g)
    np.testing.assert_array_equal(layer.weight.grad.data, np.where(keep, dense, 0))
    assert layer.weight.dense_grad is None
    layer.weight.data += 1
    layer.weight.apply_mask()
    assert not layer.weight.data[~keep].any() and layer.weight.data[keep].all()

    layer.weight.set_mask(Tensor(np.asfortranarray(keep.astype(np.float32))))
    assert layer.weight.mask is mask            # an equal mask is no new one
    layer.weight.set_mask(Tensor(np.asfortranarray(~keep).astype(np.float32)))
    assert layer.weight.mask is not mask and layer.weight.mask.flags.c_contiguous
    layer.weight.set_mask(mask)
    assert layer.weight.mask is mask            # nor is one that cannot change copied
    nn.init.ones_(layer.weight)
    np.testing.assert_array_equal(layer.weight.data, keep)
    layer.weight.set_mask(None)
    assert layer.weight.mask is None
    nn.init.ones_(layer.weight)
    assert layer.weight.data.all()


def test_pruned_gradient_is_zero_even_where_infinite():
    p = nn.Parameter(np.ones(2, np.float32))
    p.set_mask([True, False])
    p._accumulate(np.array([2, np.inf], np.float32), fresh=True)
    np.testing.assert_array_equal(p.grad.data, [2, 0])


def test_dense_gradient_adds_up_as_the_gradient_does():
    layer, x, g = nn.Linear(4, 3), tensor(5, 4), tensor(5, 3).data
    layer(x).backward(g)
    dense = layer.weight.grad.data
    layer.zero_grad()
    layer.weight.set_mask(rng.random((3, 4)) > 0.5)
    layer.weight.keep_dense_grad = True
    for times in (1, 2):
        layer(x).backward(g)
        np.testing.assert_array_equal(layer.weight.dense_grad, times * dense)
        np.testing.assert_array_equal(layer.weight.grad.data, times * dense * layer.weight.mask)
    for set_to_none in (True, False):
        layer.zero_grad(set_to_none)
        layer(x).backward(g)
        np.testing.assert_array_equal(layer.weight.dense_grad, dense)


def test_masks_travel_with_state_and_copies():
    net, keep = net_of(), rng.random((8, 3, 3, 3)) > 0.5
    net.conv.weight.set_mask(keep)
    state = net.state_dict()
    assert list(state)[:2] == ["conv.weight", "conv.weight_mask"]
    twin, loaded = copy.deepcopy(net), net_of()
    loaded.tail[4].weight.set_mask(rng.random((5, 128)) > 0.5)
    assert loaded.load_state_dict(state).missing_keys == ["tail.4.weight_mask"]
    assert loaded.tail[4].weight.mask is None       # it came without one
    assert loaded.load_state_dict(state).missing_keys == []
    for other in (twin, loaded):
        np.testing.assert_array_equal(other.conv.weight.mask, keep)
        assert_same(arrays(state), arrays(other.state_dict()))
        other.conv.weight.set_mask(None)
    np.testing.assert_array_equal(net.conv.weight.mask, keep)

    del state["conv.weight"]        # a mask alone; nothing is said about the others
    loaded.tail[4].weight.set_mask(np.zeros((5, 128)))
    del state["tail.4.weight"]
    loaded.load_state_dict(state, strict=False)
    np.testing.assert_array_equal(loaded.conv.weight.mask, keep)
    assert not loaded.tail[4].weight.mask.any()


@pytest.mark.parametrize("mask, message", [
    (np.ones(3), r"the mask has shape \(3,\), the parameter \(2,\)"),
    ([0, 2], "0 and 1, this one has 2"),
    ([np.nan, 1], "has nan"),
])
def test_bad_masks(mask, message):
    p = nn.Parameter(np.ones(2, np.float32))
    with pytest.raises(ValueError, match=message):
        p.set_mask(mask)
    assert p.mask is None and p.data.all()


def test_a_mask_set_before_backward_is_found():
    layer = nn.Linear(4, 3)
    y = layer(Tensor(np.ones((2, 4), np.float32), requires_grad=True))
    layer.weight.set_mask(np.zeros((3, 4)))
    with pytest.raises(RuntimeError, match="changed in place"):
        y.backward(np.ones((2, 3), np.float32))


# --- containers -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", [nn.Sequential, nn.ModuleList])
def test_containers_are_lists(kind):
    expected = [nn.Linear(i + 1, 2) for i in range(4)]
    m = kind().extend(expected)

    def agree():
        assert list(m) == expected and len(m) == len(expected)
        assert list(m._modules) == [str(i) for i in range(len(expected))]

    agree()
    for change in (lambda c, new: c.append(new), lambda c, new: c.insert(1, new),
                   lambda c, new: c.extend([new, new]), lambda c, new: c.__setitem__(-2, new),
                   lambda c, new: c.__delitem__(0), lambda c, new: c.__delitem__(slice(1, 3))):
        new = nn.ReLU()
        change(m, new)
        change(expected, new)
        agree()
    assert m[-1] is expected[-1] and list(m[1:]) == expected[1:] and type(m[1:]) is type(m)
    for index in (len(m), -len(m) - 1):
        with pytest.raises(IndexError):
            m[index]


def test_named_sequential_runs_in_order():
    m = net_of()
    assert list(m[1:]._modules) == ["bn", "tail"] and m[0] is m.conv
    x = images(2, 3, 8, 8)
    m.eval()
    np.testing.assert_array_equal(m(x).data, m.tail(m.bn(m.conv(x))).data)
    with pytest.raises(NotImplementedError, match="ModuleList does not define forward"):
        nn.ModuleList([nn.ReLU()])(x)


# --- layers -----------------------------------------------------------------------------------------------
IMAGES, ROWS = (4, 6, 9, 7), (5, 6)
LAYERS = [      # made from either library; the shape of an input
    (lambda lib: lib.Linear(6, 4), ROWS),
    (lambda lib: lib.Linear(6, 4, bias=False), (2, 3, 6)),
    (lambda lib: lib.Conv2d(6, 4, 3), IMAGES),
    (lambda lib: lib.Conv2d(6, 4, (3, 1), (2, 1), padding=(1, 0), dilation=2, groups=2, bias=False), IMAGES),
    (lambda lib: lib.Conv2d(6, 4, 3, padding="same"), IMAGES),
    (lambda lib: lib.Conv2d(6, 4, 3, 2, "valid"), IMAGES),
    (lambda lib: lib.BatchNorm1d(6), ROWS),
    (lambda lib: lib.BatchNorm1d(6, momentum=None), (4, 6, 3)),
    (lambda lib: lib.BatchNorm2d(6, eps=0.01, momentum=0.3, affine=False), IMAGES),
    (lambda lib: lib.BatchNorm2d(6, track_running_stats=False), IMAGES),
    (lambda lib: lib.LayerNorm(6), ROWS),
    (lambda lib: lib.LayerNorm((9, 7), eps=0.01, bias=False), IMAGES),
    (lambda lib: lib.LayerNorm([9, 7], elementwise_affine=False), IMAGES),
    (lambda lib: lib.MaxPool2d(3, 2, 1), IMAGES),
    (lambda lib: lib.MaxPool2d((2, 3), ceil_mode=True, dilation=2), IMAGES),
    (lambda lib: lib.AvgPool2d(2), IMAGES),
    (lambda lib: lib.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False), IMAGES),
    (lambda lib: lib.AvgPool2d((2, 3), divisor_override=5), IMAGES),
    (lambda lib: lib.AdaptiveAvgPool2d(1), IMAGES),
    (lambda lib: lib.AdaptiveAvgPool2d((4, None)), IMAGES),
    (lambda lib: lib.ReLU(), IMAGES),
    (lambda lib: lib.LeakyReLU(0.2), IMAGES),
    (lambda lib: lib.GELU(), IMAGES),
    (lambda lib: lib.SiLU(), IMAGES),
    (lambda lib: lib.Sigmoid(), IMAGES),
    (lambda lib: lib.Tanh(), IMAGES),
    (lambda lib: lib.Softmax(dim=1), IMAGES),
    (lambda lib: lib.LogSoftmax(dim=-1), ROWS),
    (lambda lib: lib.Flatten(), IMAGES),
    (lambda lib: lib.Flatten(0, 1), IMAGES),
    (lambda lib: lib.Identity(3, some="option"), ROWS),
    (lambda lib: lib.Dropout(0.0), IMAGES),
]


@pytest.mark.parametrize("make, shape", LAYERS, ids=[repr(make(nn)) for make, _ in LAYERS])
def test_layer_against_torch(make, shape):
    torch = pytest.importorskip("torch")
    ours, theirs = make(nn), make(torch.nn)
    # the bias of a normalisation is in torch's repr from some version on
    without = re.compile(r", bias=\w+" if "Norm" in repr(ours) else "$^")
    assert without.sub("", repr(ours)) == without.sub("", repr(theirs))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    with torch.no_grad():
        for p in theirs.parameters():
            p.copy_(torch.randn(p.shape))
    ours.double().load_state_dict(theirs.double().state_dict())
    for training in (True, True, False):
        ours.train(training), theirs.train(training)
        x = rng.normal(size=shape)
        a, b = Tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
        y, expected = ours(a), theirs(b)
        np.testing.assert_allclose(y.data, expected.detach().numpy(), rtol=1e-10, atol=1e-12)
        if training:
            seed = rng.normal(size=y.shape)
            y.backward(seed)
            expected.backward(torch.tensor(seed))
            np.testing.assert_allclose(a.grad.data, b.grad.numpy(), rtol=1e-9, atol=1e-11)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        np.testing.assert_allclose(p.grad.data, q.grad.numpy(), rtol=1e-9, atol=1e-11)
    for p, q in zip(ours.buffers(), theirs.buffers(), strict=True):
        np.testing.assert_allclose(p.data, q.numpy(), rtol=1e-12)


@pytest.mark.parametrize("make", [make for make, shape in LAYERS if shape == IMAGES],
                         ids=[repr(make(nn)) for make, shape in LAYERS if shape == IMAGES])
def test_batch_stays_innermost(make):
    out = make(nn)(images(*IMAGES))
    last = out.data.transpose(*range(1, out.ndim), 0)
    if not (isinstance(make(nn), nn.Flatten) and make(nn).start_dim == 0):
        assert last.flags.c_contiguous


def test_dropout_layer_is_random_in_training_only():
    layer, x = nn.Dropout(0.25), Tensor(np.ones((100, 100), np.float32))
    y = layer(x).data
    assert set(np.unique(y)) == {0, np.float32(1 / 0.75)} and 0.23 < (y == 0).mean() < 0.27
    np.testing.assert_array_equal(layer.eval()(x).data, x.data)


def test_repr_is_torchs_tree():
    torch = pytest.importorskip("torch")

    def build(lib):
        class Block(lib.Module):
            def __init__(self):
                super().__init__()
                self.parts = lib.ModuleList([lib.ReLU(), lib.ReLU(), lib.Sequential(lib.Tanh()), lib.ReLU()])
                self.head, self.loss = lib.Linear(3, 2), lib.CrossEntropyLoss()

            def extra_repr(self):
                return "one line\nand another"
        return lib.Sequential(Block(), lib.Sequential(), lib.ModuleList(), lib.Dropout(0.1))

    assert repr(build(nn)) == repr(build(torch.nn))
    assert repr(nn.Parameter(np.ones(2, np.float32))) == repr(torch.nn.Parameter(torch.ones(2)))


# --- initial values ---------------------------------------------------------------------------------------
def test_default_initialisation_fills_its_bounds():
    for layer, fan_in in (nn.Linear(400, 100), 400), (nn.Conv2d(40, 100, 3, groups=2), 180):
        for p in layer.parameters():
            bound = fan_in ** -0.5
            assert np.abs(p.data).max() <= bound
            assert abs(p.data.mean()) < 0.3 * bound
            assert p.data.std() == pytest.approx(bound / 3 ** 0.5, rel=0.15)
    assert layer.weight.data.std() == pytest.approx(bound / 3 ** 0.5, rel=0.02)


@pytest.mark.parametrize("fill, std, bound", [
    (lambda t: nn.init.uniform_(t, -2, 2), 2 / 3 ** 0.5, 2),
    (lambda t: nn.init.normal_(t, std=0.1), 0.1, None),
    (lambda t: nn.init.trunc_normal_(t, std=1.0, a=-2, b=2), 0.8796, 2),
    (lambda t: nn.init.xavier_uniform_(t, gain=2), 2 * (2 / (60 * 9 + 80 * 9)) ** 0.5, None),
    (lambda t: nn.init.xavier_normal_(t), (2 / (60 * 9 + 80 * 9)) ** 0.5, None),
    (lambda t: nn.init.kaiming_uniform_(t, nonlinearity="relu"), (2 / 540) ** 0.5, (6 / 540) ** 0.5),
    (lambda t: nn.init.kaiming_normal_(t, a=0.5, mode="fan_out"), (1.6 / 720) ** 0.5, None),
])
def test_init_spread(fill, std, bound):
    t = Tensor(np.zeros((80, 60, 3, 3), np.float32))
    assert fill(t) is t
    assert t.data.std() == pytest.approx(std, rel=0.02) and abs(t.data.mean()) < 0.02 * std
    assert bound is None or 0.99 * bound < np.abs(t.data).max() <= bound * (1 + 1e-6)


def test_init_exact_values():
    for shape in ((3, 5), (5, 3), (4, 2, 3)):
        m = nn.init.orthogonal_(Tensor(np.zeros(shape)), gain=2).data.reshape(shape[0], -1)
        small = m @ m.T if len(m) < m.shape[1] else m.T @ m
        np.testing.assert_allclose(small, 4 * np.eye(len(small)), atol=1e-12)
    np.testing.assert_array_equal(nn.init.eye_(tensor(2, 3)).data, [[1, 0, 0], [0, 1, 0]])
    assert nn.init.constant_(tensor(2), 3).tolist() == [3, 3] and nn.init.zeros_(tensor(2)).tolist() == [0, 0]
    x = tensor(2, 6, 5, 4)
    for groups in (1, 3):
        layer = nn.Conv2d(6, 6, 3, padding=1, groups=groups, bias=False)
        nn.init.dirac_(layer.weight, groups)
        np.testing.assert_array_equal(layer(x).data, x.data)


def test_gains_against_torch():
    torch = pytest.importorskip("torch")
    for case in ("linear",), ("relu",), ("tanh",), ("selu",), ("leaky_relu",), ("leaky_relu", 0.3):
        assert nn.init.calculate_gain(*case) == pytest.approx(torch.nn.init.calculate_gain(*case), rel=1e-15)


@pytest.mark.parametrize("action, message", [
    (lambda: nn.init.calculate_gain("swish"), "unknown nonlinearity 'swish'"),
    (lambda: nn.init.kaiming_normal_(tensor(3)), r"at least 2 dimensions, got shape \(3,\)"),
    (lambda: nn.init.kaiming_normal_(tensor(3, 3), mode="in"), "got 'in'"),
    (lambda: nn.init.eye_(tensor(3)), r"got shape \(3,\)"),
    (lambda: nn.init.dirac_(tensor(3, 3)), r"got shape \(3, 3\)"),
    (lambda: nn.init.dirac_(tensor(3, 3, 3), groups=2), "3 output channels .* 2 groups"),
    (lambda: nn.init.orthogonal_(tensor(3)), r"got shape \(3,\)"),
    (lambda: nn.init.trunc_normal_(tensor(3), a=50, b=60), r"\[50, 60\] holds next to nothing"),
])
def test_bad_init_is_named(action, message):
    with pytest.raises(ValueError, match=message):
        action()


def test_no_change_in_place_brings_a_pruned_weight_back():
    layer = nn.Linear(4, 3)
    layer.weight.set_mask(np.arange(12).reshape(3, 4) % 2)
    with no_grad():
        layer.weight.copy_(Tensor(np.ones((3, 4), np.float32)))
        np.testing.assert_array_equal(layer.weight.data, layer.weight.mask)
        layer.weight.fill_(2.0)
        layer.weight[0] = 3.0
        layer.weight += 1
    np.testing.assert_array_equal(layer.weight.data, layer.weight.mask * np.array([[4], [3], [3]]))


def test_a_buffer_with_the_name_of_a_mask():
    layer = nn.Linear(4, 3)
    layer.register_buffer("weight_mask", Tensor(np.ones((3, 4), np.float32)))
    assert "weight_mask" in layer.state_dict()
    layer.weight.set_mask(np.zeros((3, 4), bool))
    with pytest.raises(ValueError, match="'weight_mask' is the name of the mask of 'weight'"):
        layer.state_dict()


def test_statistics_that_are_no_longer_tracked_stay():
    norm = nn.BatchNorm1d(2)
    norm(tensor(5, 2))
    before = norm.running_mean.numpy().copy(), norm.num_batches_tracked.item()
    norm.track_running_stats = False
    out = norm(tensor(5, 2) + 3)
    np.testing.assert_allclose(out.data.mean(axis=0), 0, atol=1e-6)     # of the batch's own statistics
    np.testing.assert_array_equal(norm.running_mean.numpy(), before[0])
    assert norm.num_batches_tracked.item() == before[1]


def test_data_may_be_set_to_a_tensor():
    layer = nn.Linear(2, 1)
    out = layer(tensor(3, 2)).sum()
    layer.weight.data = Tensor(np.zeros((1, 2), np.float32))
    assert type(layer.weight.data) is np.ndarray and (layer(tensor(3, 2)).data == layer.bias.data).all()
    with pytest.raises(RuntimeError, match="changed in place"):
        out.backward()


def test_a_layer_that_would_keep_no_weight():
    with pytest.raises(ValueError, match="none of its 2 weights is kept"):
        SparseLinear(2, 1, sparsity=0.9)
