"""The network keeps the exercise's rules and is what its layer table says."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


@pytest.fixture
def net(nb):
    torch.manual_seed(0)
    return nb.Net(nb.dropout)


def test_rules_hold_for_the_notebooks_network_and_epochs(nb, net):
    parameters = sum(weight.numel() for weight in net.parameters())
    assert parameters < 20_000 and 1 <= nb.epochs < 20
    rules = nb.check_rules(net, nb.epochs)
    assert len(rules) == 4 and rules[0].endswith(f": {parameters:,}")


def test_only_the_lessons_layers_are_used(net):
    allowed = {"Conv2d", "BatchNorm2d", "ReLU", "Dropout", "MaxPool2d"}
    used = [m for m in net.modules() if not list(m.children())]
    assert {type(m).__name__ for m in used} == allowed | {"AdaptiveAvgPool2d"}
    kernels = {m.kernel_size for m in net.modules() if isinstance(m, nn.Conv2d)}
    assert kernels == {(3, 3), (1, 1)}


def test_relu_follows_all_but_the_prediction_and_batchnorm_all_but_the_first(nb, net):
    kinds = " ".join(row["kind"] for row in nb.layer_table(net))
    start, first, *groups, last = kinds.split("Conv2d")
    assert start == "" and first == " ReLU "
    assert last == " AdaptiveAvgPool2d" and len(groups) == 7
    for group in groups:
        assert group.replace(" MaxPool2d", "").startswith(" BatchNorm2d ReLU")


def test_nothing_but_gap_and_log_softmax_follows_the_prediction(nb, net):
    prediction, gap = nb.layer_table(net)[-2:]
    assert prediction["kind"] == "Conv2d" and gap["kind"] == "AdaptiveAvgPool2d"
    evidence = []
    net.prediction.register_forward_hook(lambda *call: evidence.append(call[-1]))
    output = net.eval()(torch.randn(4, 1, 28, 28))
    expected = evidence[0].mean(dim=(2, 3)).log_softmax(dim=1)
    torch.testing.assert_close(output, expected)


def test_a_prediction_does_not_depend_on_its_batch(net):
    images = torch.randn(16, 1, 28, 28)
    net.train()(images)  # running statistics other than the initial ones
    together = net.eval()(images)
    alone = torch.cat([net(image.unsqueeze(0)) for image in images])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_dropout_acts_in_training_only(nb):
    net = nb.Net(dropout=0.5)
    images = torch.randn(8, 1, 28, 28)
    assert not torch.equal(net.train()(images), net(images))
    assert torch.equal(net.eval()(images), net(images))


def test_too_many_parameters_are_named(nb, net):
    have = sum(weight.numel() for weight in net.parameters())
    net.extra = nn.Parameter(torch.zeros(20_000 - have))
    with pytest.raises(RuntimeError, match="parameters: 20,000"):
        nb.check_rules(net, nb.epochs)


@pytest.mark.parametrize("epochs", [0, 20, 25])
def test_epochs_out_of_the_rule_are_named(nb, net, epochs):
    with pytest.raises(RuntimeError, match=f"20 epochs: {epochs}"):
        nb.check_rules(net, epochs)


def test_every_broken_rule_is_named(nb):
    layers = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 10)
    with pytest.raises(RuntimeError, match=r"fully connected layer: 2.*GAP"):
        nb.check_rules(nn.Sequential(*layers), 19)


@pytest.mark.parametrize(
    "prediction, gap",
    [
        (nn.Conv2d(22, 10, 6), nn.AdaptiveAvgPool2d(1)),  # a fully connected layer
        (nn.Sequential(nn.Conv2d(22, 10, 1), nn.ReLU()), nn.AdaptiveAvgPool2d(1)),
        (nn.Sequential(nn.Conv2d(22, 10, 1), nn.BatchNorm2d(10)), None),
        (nn.Conv2d(22, 10, 1), nn.MaxPool2d(6)),
        (nn.Conv2d(22, 10, 1), nn.AdaptiveAvgPool2d(2)),
        (nn.Sequential(nn.AvgPool2d(6), nn.Conv2d(22, 10, 1)), None),
    ],
)
def test_any_other_prediction_breaks_a_rule(nb, net, prediction, gap):
    net.prediction = prediction
    net.gap = gap or net.gap
    with pytest.raises(RuntimeError, match="GAP"):
        nb.check_rules(net, nb.epochs)


def test_gap_before_the_1x1_convolution_is_as_good(nb):
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 10, 1)
    )
    assert nb.check_rules(net, 19)


def test_layer_table_counts_every_parameter_once(nb, net):
    table = nb.layer_table(net)
    assert sum(row["parameters"] for row in table) == sum(
        weight.numel() for weight in net.parameters()
    )
    with FlopCounterMode(display=False) as counter:  # two operations each
        net(torch.zeros(1, 1, 28, 28))
    adds = sum(row["multiply_adds"] for row in table)
    assert counter.get_total_flops() == 2 * adds
    assert [tuple(row["output"]) for row in table][-2:] == [(10, 6, 6), (10, 1, 1)]
    assert table[-1]["receptive_field"] == table[-2]["receptive_field"] + 5 * 4


def test_layer_table_leaves_the_network_as_it_was(nb, net):
    net.train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    nb.layer_table(net)
    assert net.training and not any(layer._forward_hooks for layer in net.modules())
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])


def make_transparent(net):
    """Positive weights and average pooling, so that every path carries gradient."""
    for name, layer in list(net.named_modules()):
        if isinstance(layer, nn.Conv2d):
            nn.init.constant_(layer.weight, 0.1)
        if isinstance(layer, nn.MaxPool2d):
            net.set_submodule(name, nn.AvgPool2d(layer.kernel_size, layer.stride))
    return net.eval()


def columns_seen(maps, position, image):
    """First and last input column with a gradient from one output pixel."""
    pixel = maps[0, :, position, position].sum()
    (gradient,) = torch.autograd.grad(pixel, image, retain_graph=True)
    seen = gradient[0, 0].abs().sum(dim=0).nonzero()
    return int(seen.min()), int(seen.max())


def every_kind_of_window():
    wide, dilated = nn.Conv2d(1, 2, 5, stride=2), nn.Conv2d(2, 2, 3, dilation=2)
    pools = nn.MaxPool2d(3, stride=2), nn.MaxPool2d(4)
    return nn.Sequential(wide, dilated, pools[0], nn.Conv2d(2, 2, 1), pools[1])


@pytest.mark.parametrize("make_net", [lambda: None, every_kind_of_window])
def test_receptive_field_and_jump_agree_with_the_gradient(nb, net, make_net):
    net = make_transparent(make_net() or net)
    size = 128  # wide enough that the border does not cut the field
    image = torch.rand(1, 1, size, size, requires_grad=True)
    for row in nb.layer_table(net, size):
        if row["output"][-1] == 1:
            continue  # GAP sees everything
        maps = []
        # A row ends with its convolution's BatchNorm and ReLU, which look nowhere.
        layer = net.get_submodule(row["name"])
        hook = layer.register_forward_hook(
            lambda *call, maps=maps: maps.append(call[-1])
        )
        net(image)
        hook.remove()
        centre = maps[0].shape[-1] // 2
        first, last = columns_seen(maps[0], centre, image)
        assert last - first + 1 == row["receptive_field"], row
        assert columns_seen(maps[0], centre + 1, image)[0] - first == row["jump"], row
