"""Hard-concrete gates against the equations of arXiv:1712.01312, and layers that use them."""
import copy
import math

import numpy as np
import pytest

import minisparse as ms
from gradcheck import check
from minisparse import nn, optim, sparse
from minisparse.tensor import Tensor

BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def clipped(s):
    return np.minimum(1, np.maximum(0, s * (ZETA - GAMMA) + GAMMA))


def gate_at(log_alpha):
    gate = sparse.HardConcrete(np.shape(log_alpha))
    gate.log_alpha = nn.Parameter(np.array(log_alpha))
    return gate


# --- the distribution -------------------------------------------------------------------------------------
def test_sample_is_equations_10_and_11():
    log_alpha = np.linspace(-4, 4, 50)
    gate = gate_at(log_alpha)
    ms.manual_seed(1)
    z = gate.sample()
    u = np.random.default_rng(1).random(50)
    s = sigmoid((np.log(u) - np.log(1 - u) + log_alpha) / BETA)
    np.testing.assert_allclose(z.data, clipped(s), rtol=1e-12)
    assert 0 < np.sum(z.data == 0) < 50 and 0 < np.sum(z.data == 1) < 50


def test_deterministic_gate_is_equation_13():
    log_alpha = np.linspace(-4, 4, 50)
    z = gate_at(log_alpha).deterministic()
    np.testing.assert_allclose(z.data, clipped(sigmoid(log_alpha)), rtol=1e-12)


def test_open_probability_is_equation_12_and_what_samples_do():
    log_alpha = np.array([-3.0, -1.0, 0.0, 1.5])
    gate = gate_at(np.tile(log_alpha[:, None], 40_000))
    p = gate.open_probability()
    np.testing.assert_allclose(p[:, 0], sigmoid(log_alpha - BETA * math.log(0.1 / 1.1)), rtol=1e-12)
    ms.manual_seed(0)
    share = np.mean(gate.sample().data != 0, axis=1)
    assert np.all(np.abs(share - p[:, 0]) < 5 * np.sqrt(p[:, 0] * (1 - p[:, 0]) / 40_000))


def test_probability_of_exactly_one():
    # P(z = 1) = P(s >= (1 - gamma) / (zeta - gamma)), the other end of the same cumulative distribution
    log_alpha = np.array([-1.0, 2.0])
    gate = gate_at(np.tile(log_alpha[:, None], 40_000))
    x = (1 - GAMMA) / (ZETA - GAMMA)
    p = 1 - sigmoid(BETA * (math.log(x) - math.log(1 - x)) - log_alpha)
    ms.manual_seed(0)
    share = np.mean(gate.sample().data == 1, axis=1)
    assert np.all(np.abs(share - p) < 5 * np.sqrt(p * (1 - p) / 40_000))


@pytest.mark.parametrize("draw", ["sample", "deterministic"])
def test_gradient_of_gates(draw):
    def function(log_alpha):
        gate = sparse.HardConcrete(12)
        gate._parameters["log_alpha"] = log_alpha
        ms.manual_seed(3)
        return getattr(gate, draw)()
    check(function, np.linspace(-3, 3, 12))


def test_gradient_is_zero_where_a_gate_is_clipped():
    gate = gate_at(np.array([-8.0, 0.0, 8.0]))
    gate.deterministic().sum().backward()
    assert gate.log_alpha.grad.data[0] == gate.log_alpha.grad.data[2] == 0 < gate.log_alpha.grad.data[1]


def test_extreme_noise_and_locations_stay_finite():
    gate = gate_at(np.array([-1e4, 1e4, 0.0], np.float32))
    for _ in range(50):
        z = gate.sample()
        assert z.data[0] == 0 and z.data[1] == 1 and np.isfinite(z.data).all()
        gate.log_alpha.grad = None
        z.sum().backward()
        assert np.isfinite(gate.log_alpha.grad.data).all()


def test_training_draws_evaluation_does_not():
    ms.manual_seed(0)
    gate = sparse.HardConcrete(100)
    assert not np.array_equal(gate().data, gate().data)
    gate.eval()
    np.testing.assert_array_equal(gate().data, gate.deterministic().data)


def test_droprate_places_the_gates():
    ms.manual_seed(0)
    log_alpha = sparse.HardConcrete(1000, droprate=0.2).log_alpha.data
    assert abs(log_alpha.mean() - math.log(0.8 / 0.2)) < 2e-3 and 0.008 < log_alpha.std() < 0.012


@pytest.mark.parametrize("options, match", [({"droprate": 0.0}, "droprate.*0.0"),
                                            ({"droprate": 1}, "droprate"),
                                            ({"gamma": 0.0}, "gamma < 0"), ({"zeta": 1.0}, "zeta > 1"),
                                            ({"beta": 0.0}, "beta > 0")])
def test_bad_options(options, match):
    with pytest.raises(ValueError, match=match):
        sparse.HardConcrete(3, **options)


# --- layers -----------------------------------------------------------------------------------------------
LAYERS = {"linear-unit": (lambda: sparse.L0Linear(6, 4), (5, 6)),
          "linear-weight": (lambda: sparse.L0Linear(6, 4, gates="weight"), (5, 6)),
          "conv-unit": (lambda: sparse.L0Conv2d(3, 4, 3, padding=1), (2, 3, 5, 5)),
          "conv-weight": (lambda: sparse.L0Conv2d(3, 4, 3, stride=2, gates="weight"), (2, 3, 5, 5)),
          "conv-groups": (lambda: sparse.L0Conv2d(4, 4, 3, groups=2), (2, 4, 5, 5))}


@pytest.fixture(params=LAYERS)
def layer_and_x(request):
    ms.manual_seed(0)
    make, shape = LAYERS[request.param]
    layer = make()
    shape_of_gates = layer.gate.log_alpha.shape     # closed, half open and open ones in turn
    layer.gate.log_alpha = nn.Parameter(np.resize(np.float32([-4, 0.5, 3, -1]), shape_of_gates))
    return layer, ms.randn(*shape)


def reference(layer, x, z):
    """The layer computed with theta = weight z, its bias gated with its filter."""
    weight, bias = Tensor(layer.weight.data * z), layer.bias.data
    if isinstance(layer, nn.Linear):
        return x.data @ weight.data.T + bias
    if layer.gates == "unit":
        bias = bias * z.reshape(-1)
    return nn.functional.conv2d(x, weight, Tensor(bias), layer.stride, layer.padding, 1, layer.groups).data


def test_bias_is_the_same_in_training_and_evaluation(layer_and_x):
    layer, x = layer_and_x
    for _ in range(3):
        state = copy.deepcopy(ms.generator().bit_generator.state)
        out = layer(x)
        ms.generator().bit_generator.state = state
        expected = reference(layer, x, layer.gate.sample().data)
        np.testing.assert_allclose(out.data, expected, rtol=1e-5, atol=1e-6)
    layer.eval()
    expected = reference(layer, x, layer.gate.deterministic().data)
    np.testing.assert_allclose(layer(x).data, expected, rtol=1e-5, atol=1e-6)


def test_open_gates_make_training_and_evaluation_agree(layer_and_x):
    layer, x = layer_and_x
    layer.gate.log_alpha = nn.Parameter(np.full(layer.gate.log_alpha.shape, 30, np.float32))
    out = layer(x).data
    np.testing.assert_array_equal(out, layer.eval()(x).data)
    ordinary = nn.Linear if isinstance(layer, nn.Linear) else nn.Conv2d
    np.testing.assert_array_equal(out, ordinary.forward(layer, x).data)


def test_plain_layer_equals_the_gated_one(layer_and_x):
    layer, x = layer_and_x
    layer.eval()
    plain = layer.plain()
    assert type(plain) in (nn.Linear, nn.Conv2d) and not plain.training
    np.testing.assert_allclose(plain(x).data, layer(x).data, rtol=1e-5, atol=1e-6)
    closed = np.broadcast_to(layer.gate.deterministic().data == 0, layer.weight.shape)
    assert closed.any() and np.all(plain.weight.data[closed] == 0)
    np.testing.assert_array_equal(plain.weight.mask, ~closed)
    before = layer.weight.data.copy()
    plain.weight.data += 1
    plain.bias.data += 1
    np.testing.assert_array_equal(layer.weight.data, before)


def test_layers_survive_state_dict_and_deepcopy(layer_and_x):
    layer, x = layer_and_x
    layer.eval()
    assert set(layer.state_dict()) == {"weight", "bias", "gate.log_alpha"}
    other = copy.deepcopy(layer)
    np.testing.assert_array_equal(other(x).data, layer(x).data)
    nn.init.zeros_(other.gate.log_alpha)
    assert not np.array_equal(other(x).data, layer(x).data)
    other.load_state_dict(layer.state_dict())
    np.testing.assert_array_equal(other(x).data, layer(x).data)


def test_summary_counts_closed_gates(layer_and_x):
    layer, _ = layer_and_x
    row = sparse.summary(layer)[0]
    assert row.zeros == np.count_nonzero(layer.plain().weight.data == 0) > 0


def test_unit_shapes():
    assert sparse.L0Linear(6, 4).gate.log_alpha.shape == (1, 6)
    assert sparse.L0Conv2d(3, 4, 5).gate.log_alpha.shape == (4, 1, 1, 1)
    assert sparse.L0Conv2d(3, 4, 5, gates="weight").gate.log_alpha.shape == (4, 3, 5, 5)
    assert sparse.L0Conv2d(3, 4, 3, 2, 1).stride == (2, 2)
    assert sparse.L0Linear(6, 4, bias=False).bias is None
    with pytest.raises(ValueError, match="'unit' or 'weight', got 'row'"):
        sparse.L0Linear(6, 4, gates="row")


# --- penalties --------------------------------------------------------------------------------------------
def net():
    ms.manual_seed(0)
    return nn.Sequential(sparse.L0Conv2d(2, 3, 2), nn.ReLU(), nn.Flatten(), sparse.L0Linear(12, 5), nn.ReLU(),
                         sparse.L0Linear(5, 2, gates="weight")).double()


def test_expected_l0_counts_weights():
    model = net()
    conv, first, last = model[0], model[3], model[5]
    expected = (8 * conv.gate.open_probability().sum() + 5 * first.gate.open_probability().sum()
                + last.gate.open_probability().sum())
    value = sparse.expected_l0(model)
    assert value.shape == () and value.dtype == np.float64
    np.testing.assert_allclose(value.item(), expected, rtol=1e-12)
    np.testing.assert_allclose(sum(sparse.expected_l0(part).item() for part in (conv, first, last)), expected)
    for layer in (conv, first, last):
        nn.init.constant_(layer.gate.log_alpha, 50)
    np.testing.assert_allclose(sparse.expected_l0(model).item(), 24 + 60 + 10)


def test_expected_l2_weighs_by_probability():
    model = net()
    expected = sum((layer.gate.open_probability() * layer.weight.data ** 2).sum() / 2
                   for layer in (model[0], model[3], model[5]))
    np.testing.assert_allclose(sparse.expected_l2(model).item(), expected, rtol=1e-12)


@pytest.mark.parametrize("penalty", [sparse.expected_l0, sparse.expected_l2])
def test_gradients_of_penalties(penalty):
    model = net()
    layers = [model[0], model[3], model[5]]

    def function(*tensors):
        for layer, weight, log_alpha in zip(layers, tensors[::2], tensors[1::2]):
            layer._parameters["weight"], layer.gate._parameters["log_alpha"] = weight, log_alpha
        return penalty(model)
    check(function, *(t.data for layer in layers for t in (layer.weight, layer.gate.log_alpha)))


def test_penalty_of_one_layer_and_of_none():
    layer = sparse.L0Linear(3, 2)
    loss = sparse.expected_l0(layer) + sparse.expected_l2(layer)
    loss.backward()
    assert loss.dtype == np.float32 and layer.gate.log_alpha.grad.shape == (1, 3)
    for penalty in (sparse.expected_l0, sparse.expected_l2):
        with pytest.raises(ValueError, match=f"{penalty.__name__}: there is no layer with gates"):
            penalty(nn.Sequential(nn.Linear(3, 2)))


def test_gates_find_the_features_that_matter():
    ms.manual_seed(0)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((500, 10)).astype(np.float32)
    y = x[:, [1, 4, 7]] @ np.array([[2.0], [-3], [1.5]], np.float32)
    layer = sparse.L0Linear(10, 1)
    optimizer = optim.Adam(layer.parameters(), lr=0.02)
    for _ in range(600):
        loss = nn.functional.mse_loss(layer(Tensor(x)), Tensor(y)) + 0.05 * sparse.expected_l0(layer)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert np.flatnonzero(layer.gate.deterministic().data).tolist() == [1, 4, 7]
    np.testing.assert_allclose(layer.plain().weight.data[0, [1, 4, 7]], [2, -3, 1.5], atol=0.1)


def test_same_seed_same_bits():
    def run():
        ms.manual_seed(5)
        layer = sparse.L0Linear(8, 3)
        return layer(ms.ones(2, 8)).data
    np.testing.assert_array_equal(run(), run())


@pytest.mark.parametrize("gates", ["unit", "weight"])
def test_pruned_weights_are_not_expected(gates):
    layer = sparse.L0Linear(8, 4, gates=gates)
    whole = sparse.expected_l0(layer).item()
    layer.weight.set_mask(np.arange(32).reshape(4, 8) % 4 == 0)
    opens = np.broadcast_to(layer.gate.open_probability(), (4, 8))
    assert sparse.expected_l0(layer).item() == pytest.approx(opens[layer.weight.mask].sum(), rel=1e-5) != whole
    layer.weight.set_mask(np.zeros((4, 8), bool))
    assert sparse.expected_l0(layer).item() == 0
