"""The lesson's numbers, recomputed by the notebook's appendix."""

import math
import re

import pytest
import torch
from torch import nn

from S4.notebook_file import printed as printed_by

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


@pytest.fixture(scope="module")
def printed(notebook):
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return "".join(printed_by(cell) for cell in cells)


def test_vgg16_is_the_lessons_layer_by_layer(nb):
    rows = nb.vgg16_table()
    assert {name: count for name, _, count in rows if count} == VGG16
    assert {name: shape for name, shape, count in rows if not count} == VGG16_OTHER
    assert sum(count for _, _, count in rows) == 138_357_544


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


def test_the_rival_is_as_large_as_the_text_says(nb):
    parameters = sum(weight.numel() for weight in nb.fully_connected().parameters())
    assert f"{parameters:,} parameters" in nb.fully_connected.__doc__


def test_shuffled_pixels_hurt_only_the_convolutions(printed):
    row = r"^{} +{} +([\d.]+) % +[\d.]+$"
    accuracy = {
        (net, pixels): float(re.search(row.format(net, pixels), printed, re.M)[1])
        for net in ("fully connected", "ours")
        for pixels in ("straight", "shuffled")
    }
    dense = accuracy["fully connected", "straight"]
    assert abs(dense - accuracy["fully connected", "shuffled"]) < 1
    lead = accuracy["ours", "straight"] - dense
    assert accuracy["ours", "shuffled"] - dense < lead / 2


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


def test_log_of_softmax_breaks_where_log_softmax_does_not(nb):
    lost = -math.log(torch.finfo(torch.float32).tiny)
    zero = -math.log(2**-149)
    assert f"{lost:.1f}" == "87.3" and f"{zero:.1f}" == "103.3"  # as the text says
    value, gradient = nb.value_and_gradient(nb.naive_log_softmax, zero + 1)
    assert value == -math.inf and math.isnan(gradient)
    assert nb.value_and_gradient(nn.functional.log_softmax, 1000.0) == (-1000, 1)
    same = nb.value_and_gradient(nb.naive_log_softmax, 3.0)
    assert same == pytest.approx(nb.value_and_gradient(nn.functional.log_softmax, 3.0))
