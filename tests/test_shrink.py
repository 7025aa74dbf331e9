"""shrink: smaller models with the same outputs."""
import copy
import warnings

import numpy as np
import pytest

import minisparse as ms
from minisparse import nn, optim, sparse
from minisparse.tensor import Tensor


@pytest.fixture(autouse=True)
def seeded():
    ms.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def close(layer, units, dim=0):
    """Mask whole units of a layer; its bias stays."""
    mask = np.ones(layer.weight.shape, bool)
    np.moveaxis(mask, dim, 0)[units] = False
    layer.weight.set_mask(mask)


def wake(model):
    """Statistics and parameters of batch norm that make a difference."""
    rng = np.random.default_rng(1)
    for layer in model.modules():
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            for t, low in ((layer.weight, 0.5), (layer.bias, -1),
                           (layer.running_mean, -1), (layer.running_var, 0.5)):
                if t is not None:
                    t.data[...] = rng.uniform(low, 1.5, t.shape)
    return model.eval()


def same(model, *shape, tolerance=1e-5):
    """shrink(model), whose outputs have to be the model's."""
    model.eval()
    before = {name: np.copy(t.data) for name, t in model.state_dict().items()}
    small = sparse.shrink(model)
    x = ms.randn(*shape)
    np.testing.assert_allclose(small(x).data, model(x).data, rtol=tolerance, atol=tolerance)
    for name, t in model.state_dict().items():
        np.testing.assert_array_equal(t.data, before[name], err_msg=f"{name} of the model itself has changed")
    return small


def sizes(model):
    return [layer.weight.shape[:2] for layer in model.modules() if isinstance(layer, (nn.Linear, nn.Conv2d))]


# --- the whole way through --------------------------------------------------------------------------------
def conv_net(padding=0, activation=nn.ReLU):
    return wake(nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=padding, bias=False), nn.BatchNorm2d(6), activation(), nn.MaxPool2d(2),
        nn.Conv2d(6, 5, 3, padding=padding), nn.BatchNorm2d(5), activation(), nn.Dropout(0.3),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(20, 7), nn.BatchNorm1d(7), activation(),
        nn.Linear(7, 3)))


@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU, nn.Sigmoid, nn.Tanh, nn.SiLU, nn.LeakyReLU,
                                        nn.Identity])
def test_conv_norm_pool_flatten_linear(activation):
    model = conv_net(activation=activation)
    close(model[0], [1, 4])
    close(model[4], [0])
    close(model[10], [2, 5, 6])
    small = same(model, 4, 2, 12, 12)
    assert sizes(small) == [(4, 2), (4, 4), (4, 16), (3, 4)]
    assert (small[1].num_features, small[5].num_features, small[11].num_features) == (4, 4, 4)
    assert list(small.state_dict()) == list(k for k in conv_net().state_dict())
    assert small[4].bias is not None and small[0].bias is None


def test_a_constant_that_padding_would_break_stays():
    model = conv_net(padding=1, activation=nn.Identity)
    close(model[0], [1, 4])                     # batch norm's shift makes a constant of them
    close(model[4], [0])                        # followed by flatten: no border there
    small = same(model, 4, 2, 12, 12)
    assert sizes(small) == [(6, 2), (4, 6), (7, 16), (3, 7)]


def test_a_zero_behind_relu_can_go_before_padding():
    model = conv_net(padding=1)
    model[1].bias.data[...] = [1, -9, 1, 1, 9, 1]       # relu makes a zero of channel 1
    close(model[0], [1, 4])
    small = same(model, 4, 2, 12, 12)
    assert sizes(small)[:2] == [(5, 2), (5, 5)]


@pytest.mark.parametrize("padding, kernel, kept", [("valid", 3, 3), ("same", 1, 3), ("same", 3, 4),
                                                   ((0, 1), 3, 4)])
def test_which_padding_counts(padding, kernel, kept):
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 2, kernel, padding=padding), nn.Flatten())
    close(model[0], [2])
    assert sizes(same(model, 2, 1, 9, 9))[0] == (kept, 1)


@pytest.mark.parametrize("pool, kept", [(nn.AvgPool2d(3, 2), 3), (nn.AvgPool2d(3, 2, padding=1), 4),
                                        (nn.AvgPool2d(3, 2, padding=1, count_include_pad=False), 3),
                                        (nn.AvgPool2d(2, divisor_override=3), 4),
                                        (nn.MaxPool2d(3, 2, padding=1), 3),
                                        (nn.AvgPool2d(3, 2, ceil_mode=True), 3)])
def test_which_pooling_keeps_a_constant(pool, kept):
    model = nn.Sequential(nn.Conv2d(1, 4, 3), pool, nn.Conv2d(4, 2, 2), nn.Flatten())
    close(model[0], [2])
    assert sizes(same(model, 2, 1, 10, 10))[0] == (kept, 1)


def test_nothing_closed():
    model = conv_net()
    small = same(model, 2, 2, 12, 12, tolerance=0)
    assert sizes(small) == sizes(model)
    assert not {id(p) for p in small.parameters()} & {id(p) for p in model.parameters()}


def test_units_that_nobody_reads():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    close(model[4], [0, 3], dim=1)
    close(model[2], [1, 2, 4], dim=1)
    model[2].weight.set_mask(model[2].weight.mask & (np.arange(6) != 5) | (np.arange(5) == 3)[:, None])
    # input 5 of the second layer is read by its unit 3 alone, which nobody reads: it goes in turn
    assert sizes(same(model, 3, 4)) == [(2, 4), (3, 2), (2, 3)]


def test_constants_travel():
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    close(model[0], [0])
    mask = np.ones((3, 3), bool)
    mask[1, 1:] = False         # unit 1 reads unit 0 alone, which is constant, so it is constant as well
    model[2].weight.set_mask(mask)
    model[0].bias.data[0] = 2
    assert sizes(same(model, 3, 4)) == [(2, 4), (2, 2), (2, 2)]


def test_a_batch_norm_of_scale_zero_closes_its_channel():
    model = conv_net(activation=nn.Identity)
    model[1].weight.data[[0, 2]] = 0
    assert sizes(same(model, 2, 2, 12, 12))[:2] == [(4, 2), (5, 4)]


def test_batch_norm_behind_flatten_and_without_statistics():
    model = wake(nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.BatchNorm1d(12), nn.Linear(12, 4),
                               nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 2)))
    model[2].weight.data[0] = 0         # one feature of channel 0, which stays for the three others
    close(model[0], [1])
    close(model[3], [2])
    small = same(model, 5, 1, 4, 4)
    assert sizes(small) == [(2, 1), (3, 8), (2, 3)] and small[2].num_features == 8


def test_layer_norm_needs_all_units():
    model = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 3), nn.ReLU(),
                          nn.Linear(3, 2), nn.Softmax(1))
    close(model[0], [1])
    close(model[2], [4], dim=1)
    assert sizes(same(model, 3, 4)) == [(6, 4), (3, 6), (2, 3)]


def test_single_weights_stay_masked():
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    mask = sparse.topk_mask(np.random.default_rng(0).random((6, 8)), 0.5)
    mask[[1, 2]] = False
    model[0].weight.set_mask(mask)
    close(model[2], [5], dim=1)
    model[0].weight.requires_grad_(False)
    small = same(model, 3, 8)
    np.testing.assert_array_equal(small[0].weight.mask, mask[[0, 3, 4]])
    assert small[2].weight.mask is None
    assert not small[0].weight.requires_grad and small[2].weight.requires_grad


def test_group_lasso_zeros_without_a_mask():
    model = nn.Sequential(sparse.SparseLinear(8, 6, sparsity=0.2), nn.ReLU(), nn.Linear(6, 3))
    model[0].weight.data[[0, 5]] = 0
    small = same(model, 3, 8)
    assert sizes(small) == [(4, 8), (3, 4)] and type(small[0]) is nn.Linear


def test_nested_and_named():
    inner = nn.Sequential(nn.Linear(5, 4), nn.ReLU())
    model = nn.Sequential()
    model.add_module("body", inner)
    model.add_module("head", nn.Linear(4, 2))
    close(inner[0], [3])
    small = same(model, 3, 5)
    assert list(small.state_dict()) == ["body.0.weight", "body.0.bias", "head.weight", "head.bias"]
    assert small.body[0].out_features == small.head.in_features == 3
    assert sparse.shrink(model.train()).training and sparse.shrink(nn.Linear(2, 1)).weight.shape == (1, 2)


# --- gates ------------------------------------------------------------------------------------------------
def set_gates(layer, closed):
    log_alpha = layer.gate.log_alpha.data
    log_alpha[...] = np.random.default_rng(0).uniform(-1, 5, log_alpha.shape)
    log_alpha.reshape(-1)[closed] = -5


def test_l0_lenet():
    model = nn.Sequential(sparse.L0Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
                          sparse.L0Conv2d(6, 5, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
                          sparse.L0Linear(5 * 4, 8), nn.ReLU(), sparse.L0Linear(8, 3))
    set_gates(model[0], [0, 5])
    set_gates(model[3], [2])
    set_gates(model[7], [0, 1, 2, 3, 5])        # all features of channel 0, one of channel 1
    set_gates(model[9], [4, 6])
    small = same(model, 3, 1, 8, 8)
    assert sizes(small) == [(4, 1), (3, 4), (6, 12), (3, 6)]
    # of the channels that stay, feature 5 is closed: it keeps its column, under a mask
    assert [layer.weight.mask is not None for layer in (small[0], small[3], small[7], small[9])] == [0, 0, 1, 0]
    np.testing.assert_array_equal(small[7].weight.mask.all(axis=0), np.arange(12) != 1)
    convolution = [nn.Conv2d, nn.ReLU, nn.MaxPool2d]
    assert [type(layer) for layer in small] == 2 * convolution + [nn.Flatten, nn.Linear, nn.ReLU, nn.Linear]


@pytest.mark.parametrize("closed", [[], [0, 1]])
def test_a_mask_outlives_its_gates(closed):
    model = nn.Sequential(sparse.L0Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    model[0].weight.set_mask(np.arange(48).reshape(6, 8) % 3 > 0)
    set_gates(model[0], closed)
    small = same(model, 3, 8)
    kept = model[0].weight.mask & ~np.isin(np.arange(8), closed)
    np.testing.assert_array_equal(small[0].weight.mask, kept)


def test_l0_weight_gates_become_masks():
    model = nn.Sequential(sparse.L0Linear(6, 4, gates="weight"), nn.ReLU(),
                          sparse.L0Linear(4, 2, gates="weight"))
    set_gates(model[0], [0, 1, 2, 3, 4, 5, 8])      # the first row and one weight more
    set_gates(model[2], [])
    small = same(model, 3, 6)
    assert sizes(small) == [(3, 6), (2, 3)]
    assert np.count_nonzero(~small[0].weight.mask) == 1 and small[2].weight.mask is None


# --- what cannot be done ----------------------------------------------------------------------------------
def test_a_closed_layer_keeps_one_unit_and_warns():
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    close(model[0], [0, 1, 2])
    with pytest.warns(UserWarning, match=r"no unit of model\.0 is open"):
        small = same(model, 3, 4)
    assert sizes(small) == [(1, 4), (2, 1)]


@pytest.mark.parametrize("layers, error, match", [
    ([nn.Conv2d(2, 4, 3, groups=2)], NotImplementedError, r"model\.0 is a convolution with groups=2"),
    ([nn.Conv2d(1, 4, 3), nn.Flatten(0), nn.Linear(16, 1)], NotImplementedError, r"Flatten after model\.0"),
    ([nn.Conv2d(1, 4, 3), nn.Linear(4, 1)], NotImplementedError, r"no Flatten between model\.0 and model\.1"),
    ([nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(15, 1)], ValueError, r"model\.2 takes 15 features, mod"),
    ([nn.Linear(3, 4), nn.ReLU(), nn.Linear(8, 1)], ValueError, r"model\.2 takes 8 features, model\.0 makes"),
    ([nn.Linear(3, 4), nn.BatchNorm1d(3), nn.Linear(4, 1)], ValueError, r"model\.1 takes 3 features"),
    ([nn.ModuleList([nn.Linear(3, 4)])], TypeError, r"model\.0, a ModuleList")])
def test_errors_name_the_layer(layers, error, match):
    with pytest.raises(error, match=match):
        sparse.shrink(nn.Sequential(*layers))


def test_own_forward_and_shared_modules():
    class Residual(nn.Sequential):
        def forward(self, x):
            return x + super().forward(x)

    with pytest.raises(TypeError, match=r"cannot take model\.1, a Residual"):
        sparse.shrink(nn.Sequential(nn.Linear(3, 3), Residual(nn.Linear(3, 3))))
    shared = nn.Linear(3, 3)
    with pytest.raises(NotImplementedError, match=r"model\.1 comes twice"):
        sparse.shrink(nn.Sequential(shared, shared))


def test_the_small_model_trains_with_a_new_optimizer():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    old = optim.Adam(model.parameters())
    close(model[0], [0, 3])
    small = sparse.shrink(model)
    before = copy.deepcopy(small.state_dict())
    small(ms.randn(5, 4)).square().sum().backward()
    old.step()
    assert all(np.array_equal(t.data, before[name].data) for name, t in small.state_dict().items())
    optim.Adam(small.parameters()).step()
    assert not np.array_equal(small[0].weight.data, before["0.weight"].data)


@pytest.mark.parametrize("layers", [
    [nn.Linear(8, 8), nn.MaxPool2d(3, 1, 1), nn.Linear(8, 3)], [nn.Linear(8, 8), nn.BatchNorm2d(8), nn.Linear(8, 3)],
    [nn.Linear(8, 8), nn.AvgPool2d(2), nn.Linear(4, 3)], [nn.Linear(8, 8), nn.Conv2d(8, 4, 1)]])
def test_a_linear_layer_before_layers_of_images_is_refused(layers):
    with pytest.raises(NotImplementedError, match="a Linear, makes"):
        sparse.shrink(nn.Sequential(*layers))
