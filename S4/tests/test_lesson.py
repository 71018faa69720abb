"""The lesson's numbers, recomputed by the notebook's appendix."""

import math
import re

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from S4.notebook_file import NOTEBOOK, printed, tagged

# As the lesson prints them: VGG-16's layers that have parameters, and their number.
VGG16 = {
    "block1_conv1": 1792, "block1_conv2": 36928,
    "block2_conv1": 73856, "block2_conv2": 147584,
    "block3_conv1": 295168, "block3_conv2": 590080, "block3_conv3": 590080,
    "block4_conv1": 1180160, "block4_conv2": 2359808, "block4_conv3": 2359808,
    "block5_conv1": 2359808, "block5_conv2": 2359808, "block5_conv3": 2359808,
    "fc1": 102764544, "fc2": 16781312, "predictions": 4097000,
}  # fmt: skip
VGG16_OTHER = {
    "input": (224, 224, 3), "flatten": (25088,),
    "block1_pool": (112, 112, 64), "block2_pool": (56, 56, 128),
    "block3_pool": (28, 28, 256), "block4_pool": (14, 14, 512),
    "block5_pool": (7, 7, 512),
}  # fmt: skip


def test_vgg16_is_the_lessons_layer_by_layer(nb):
    rows = nb.vgg16_table()
    assert {name: count for name, _, count, _ in rows if count} == VGG16
    others = {name: shape for name, shape, count, _ in rows if not count}
    assert others == VGG16_OTHER
    assert sum(count for _, _, count, _ in rows) == 138_357_544
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        nb.models.vgg16().eval()(torch.empty(1, 3, 224, 224))
    assert counter.get_total_flops() == 2 * sum(adds for *_, adds in rows)


@pytest.mark.parametrize(
    "name, resolution, channels",
    [
        ("vgg16", [224, 112, 56, 28, 14], [64, 128, 256, 512, 512]),
        ("resnet18", [56, 28, 14, 7], [64, 128, 256, 512]),
        ("resnet34", [56, 28, 14, 7], [64, 128, 256, 512]),
        ("resnet50", [56, 28, 14, 7], [256, 512, 1024, 2048]),
        ("densenet121", [56, 28, 14, 7], [256, 512, 1024, 1024]),
        ("inception_v3", [35, 17, 8], [288, 768, 2048]),
    ],
)
def test_the_stages_are_the_papers(nb, name, resolution, channels):
    options = {"aux_logits": False, "init_weights": False}
    with torch.device("meta"):
        net = getattr(nb.models, name)(**(options if name == "inception_v3" else {}))
    found = nb.stages(net, 299 if name == "inception_v3" else 224)
    assert found == dict(zip(resolution, channels, strict=True))


def test_shuffling_is_one_order_for_all(nb):
    images = torch.arange(2 * 784.0).view(2, 1, 28, 28)
    first, second = nb.shuffle_pixels(images)
    assert not torch.equal(first, images[0])
    assert torch.equal(first.flatten().sort().values, images[0].flatten())
    assert torch.equal(second - first, torch.full((1, 28, 28), 784.0))


def test_shuffling_hurts_the_convolutions_and_shifting_the_others(notebook, prose):
    measured = {}
    for line in printed(tagged(notebook, "shuffled")).splitlines()[1:]:
        *name, order, plain, _, shifted, _ = line.split()
        measured[name[0], order] = float(plain), float(shifted)
    dense, shifted = measured["fully", "straight"]
    assert abs(dense - measured["fully", "shuffled"][0]) < 1
    assert measured["ours", "shuffled"][0] < dense < measured["ours", "straight"][0]
    straight, moved = measured["ours", "straight"]
    said = f"loses {dense - shifted:.1f} points, ours {straight - moved:.1f}:"
    assert said in " ".join(prose.split())
    assert dense - shifted > 30 > 10 * (straight - moved)


def test_a_shift_moves_the_pixels(nb):
    images = torch.arange(2 * 784.0).view(2, 1, 28, 28)
    moved = nb.shift(images, pixels=3)
    assert torch.equal(moved[..., 3:], images[..., :-3])
    assert (moved[..., :3] == 0).all()


def test_calibration_by_hand(nb):
    """Four images in two bins: 0.6 and 0.6 (one right), 0.9 and 1.0 (both right)."""
    confidence = torch.tensor([0.6, 0.6, 0.9, 1.0])
    log_probabilities = torch.stack([confidence, 1 - confidence], dim=1).log()
    labels = torch.tensor([0, 1, 0, 0])
    confidence, accuracy, sizes = nb.calibration(log_probabilities, labels, bins=4)
    torch.testing.assert_close(confidence, torch.tensor([0.6, 0.95]))
    torch.testing.assert_close(accuracy, torch.tensor([0.5, 1.0]))
    assert sizes.tolist() == [2, 2]
    error = nb.expected_calibration_error(confidence, accuracy, sizes)
    assert error == pytest.approx((0.1 * 2 + 0.05 * 2) / 4)


def test_what_the_text_says_of_the_calibration(nb, prose, data_dir, result):
    """The error of a network whose confidence is right, by drawing its hits."""
    net = nb.load_net(NOTEBOOK.with_name("net.pt"))
    _, (images, _) = nb.split_data(data_dir, "test")
    confidence = nb.predict_batches(net, images).exp().max(dim=1).values
    torch.manual_seed(0)
    errors = []
    for _ in range(400):
        hits = (torch.rand(10_000) < confidence).float()
        bins = (confidence * 15).ceil().long()
        gaps = torch.bincount(bins, confidence - hits, minlength=16)
        errors.append(gaps.abs().sum().item() / 100)
    errors = torch.tensor(errors)
    low, high = errors.quantile(torch.tensor([0.025, 0.975])).tolist()
    text = " ".join(prose.split())
    claim = re.search(r"network about ([\d.]+) % \(([\d.]+) to ([\d.]+)\)", text)
    said = [float(number) for number in claim.groups()]
    assert [errors.mean(), low, high] == pytest.approx(said, abs=0.01)
    assert f"claiming 100 % would give {len(result['misread']) / 100:.2f} %" in text
    assert f"The {(confidence <= 14 / 15).sum()} in lower bins" in text
    last_bin = (confidence > 14 / 15).float().mean().item()
    assert f"{last_bin:.1%}".replace("%", " %") in prose


def test_log_of_softmax_breaks_where_log_softmax_does_not(nb):
    """The text: the gradient is NaN from a gap of 88.8 on, the value −∞ from 104."""
    rows = (88.7, -88.7, 1), (88.8, -88.8, None), (104, -math.inf, None)
    for gap, value, gradient in rows:
        found = nb.value_and_gradient(nb.naive_log_softmax, gap)
        assert found[0] == pytest.approx(value, rel=1e-4)
        assert math.isnan(found[1]) if gradient is None else found[1] == gradient
    assert nb.value_and_gradient(nn.functional.log_softmax, 1000.0) == (-1000, 1)
    same = nb.value_and_gradient(nb.naive_log_softmax, 3.0)
    assert same == pytest.approx(nb.value_and_gradient(nn.functional.log_softmax, 3.0))
