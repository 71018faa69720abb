"""The variants of the study, and how one of them is trained.

Each is a small change to what the notebook defines: other values in its parameters,
an edit of its functions, or of its network. Everything else is the notebook's own.
"""

import contextlib
import functools
import hashlib
import io
import json
import platform
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import torch
import torch.nn.functional as F
import torchvision
from torch import nn, optim

from notebook_loader import load_definitions


@dataclass
class Variant:
    """One change to the notebook's recipe.

    `parameters` replace values of the parameters cell; `edit(nb)` changes the loaded
    notebook; `rebuild(nb, net)` changes its network. `group` says which part of the
    report it belongs to: "recipe", "ablation", "size", "lean" or "start".
    """

    description: str
    parameters: dict = field(default_factory=dict)
    edit: Callable | None = None
    rebuild: Callable | None = None
    group: str = "ablation"


VARIANTS = {"recipe": Variant("as it stands in the notebook", group="recipe")}


def changed(name, description, **parameters):
    """Add a variant that only changes values of the parameters cell."""
    VARIANTS[name] = Variant(description, parameters)


def edited(name, description):
    """Decorate an `edit(nb)` to make it a variant."""

    def add(edit):
        VARIANTS[name] = Variant(description, edit=edit)
        return edit

    return add


def rebuilt(name, description, group="ablation"):
    """Decorate a `rebuild(nb, net)` to make it a variant."""

    def add(rebuild):
        VARIANTS[name] = Variant(description, rebuild=rebuild, group=group)
        return rebuild

    return add


# --- Parameters ---------------------------------------------------------------------

changed("no dropout", "dropout 0", dropout=0.0)
changed("dropout 0.1", "dropout 0.1", dropout=0.1)
changed("dropout 0.25", "dropout 0.25", dropout=0.25)
changed("learning rate a tenth", "max_lr 0.02", max_lr=0.02)
changed("learning rate ten times", "max_lr 2.0", max_lr=2.0)
changed("learning rate twice", "max_lr 0.4", max_lr=0.4)
for size, scaled in ((32, 0.05), (512, 0.8), (2048, 3.2)):
    changed(f"batch size {size}", "max_lr stays", batch_size=size)
    changed(
        f"batch size {size}, scaled", f"max_lr {scaled}", batch_size=size, max_lr=scaled
    )
changed(
    "no augmentation", "images as they are",
    max_rotation=0.0, max_shift=0.0, max_scale=0.0, max_shear=0.0,
)  # fmt: skip
changed(
    "weaker augmentation", "about three quarters of each",
    max_rotation=9.0, max_shift=2.0, max_scale=0.09, max_shear=4.0,
)  # fmt: skip
changed("weight decay five times", "weight_decay 5e-4", weight_decay=5e-4)

# --- Training -----------------------------------------------------------------------


@edited("constant learning rate", "SGD 0.01, momentum 0.9, as in the lesson")
def constant_learning_rate(nb):
    def make_optimizer(net, total_steps, max_lr, weight_decay):
        optimizer = optim.SGD(net.parameters(), 0.01, momentum=0.9)
        return optimizer, optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)

    nb.make_optimizer = make_optimizer


@edited("plain images at the end", "no augmentation in the last two epochs")
def plain_images_at_the_end(nb):
    train_one_epoch = nb.train_one_epoch

    def without_augmentation(*arguments):
        *others, augmentation, epoch = arguments
        if epoch > nb.epochs - 2:
            augmentation = dict.fromkeys(augmentation, 0.0)
        return train_one_epoch(*others, augmentation, epoch)

    nb.train_one_epoch = without_augmentation


@edited("no normalisation", "pixels from 0 to 1 as they are")
def no_normalisation(nb):
    nb.MEAN, nb.STD, nb.BLACK = 0.0, 1.0, 0.0


# --- Network ------------------------------------------------------------------------


def replace(net, kind, make):
    """Put `make(layer)` in the place of each layer of `kind` in `net`."""
    for name, part in net.named_children():
        if isinstance(part, kind):
            setattr(net, name, make(part))
        else:
            replace(part, kind, make)


def conv_like(conv, **changes):
    """A convolution with the shape of `conv`, but for `changes`."""
    keys = "in_channels", "out_channels", "kernel_size", "stride", "padding"
    return nn.Conv2d(**{key: getattr(conv, key) for key in keys} | changes)


def layers_of(net):
    """Return the layers of the three blocks and transitions, in order, as one list."""
    parts = net.block1, net.transition1, net.block2, net.transition2, net.block3
    return [layer for part in parts for layer in part]


def set_layers(net, layers):
    """Make `layers` all that comes before the prediction."""
    net.block1 = nn.Sequential(*layers)
    for name in ("transition1", "block2", "transition2", "block3"):
        setattr(net, name, nn.Sequential())


@rebuilt("no BatchNorm", "biases in its place")
def no_batchnorm(nb, net):
    replace(net, nn.BatchNorm2d, lambda layer: nn.Identity())
    replace(net, nn.Conv2d, functools.partial(conv_like, bias=True))


@rebuilt("no BatchNorm in the first layer", "a bias in its place")
def no_first_batchnorm(nb, net):
    net.block1 = nn.Sequential(conv_like(net.block1[0], bias=True), nn.ReLU())


@rebuilt("BatchNorm on the logits", "after the prediction")
def batchnorm_on_logits(nb, net):
    net.prediction = nn.Sequential(net.prediction, nn.BatchNorm2d(10))


@rebuilt("ReLU on the logits", "the starting network's fault")
def relu_on_logits(nb, net):
    net.gap = nn.Sequential(net.gap, nn.ReLU())


@rebuilt("strided convolutions", "stride 2 in place of MaxPool")
def strided_convolutions(nb, net):
    for transition in (net.transition1, net.transition2):
        transition[0] = conv_like(transition[0], bias=False, stride=2)
        transition[1] = nn.Identity()


@rebuilt("MaxPool one layer earlier", "in the 1st and the 4th convolution's layer")
def maxpool_earlier(nb, net):
    for block, transition in (
        (net.block1, net.transition1),
        (net.block2, net.transition2),
    ):
        pool = transition[1]
        transition[1] = nn.Identity()
        block.insert(len(block) - 2, pool)


@rebuilt("MaxPool before the prediction", "the second one moved to the end of block 3")
def maxpool_last(nb, net):
    net.block3.append(net.transition2[1])
    net.transition2[1] = nn.Identity()


@rebuilt("MaxPool after ReLU", "its usual place")
def maxpool_after_relu(nb, net):
    for name in ("transition1", "transition2"):
        conv, pool, *others = getattr(net, name)
        setattr(net, name, nn.Sequential(conv, *others, pool))


def channels_of(conv):
    return conv.in_channels, conv.out_channels


@rebuilt("padded everywhere", "28×28, 14×14, 7×7 instead of 26, 24, 12, 6")
def padded(nb, net):
    for part in (net.block1, net.transition1):
        part[0] = conv_like(part[0], bias=False, padding=1)


@rebuilt("1×1 transitions", "after each MaxPool, to half the channels")
def squeezing_transitions(nb, net):
    for transition, block in (
        (net.transition1, net.block2),
        (net.transition2, net.block3),
    ):
        channels = transition[0].out_channels
        squeeze = nn.Conv2d(channels, channels // 2, kernel_size=1, bias=False)
        transition.extend([squeeze, nn.BatchNorm2d(channels // 2), nn.ReLU()])
        block[0] = conv_like(block[0], in_channels=channels // 2, bias=False)


@rebuilt("5×5 first layer", "for the first 3×3")
def first_5x5(nb, net):
    net.block1[0] = conv_like(net.block1[0], kernel_size=5, padding=1, bias=False)


def map_size(net):
    """Height and width of the maps that reach the prediction."""
    with torch.no_grad():
        return (
            nn.Sequential(*layers_of(net)).eval()(torch.zeros(1, 1, 28, 28)).shape[-1]
        )


@rebuilt("large kernel for GAP", "a convolution as wide as the maps")
def large_kernel(nb, net):
    net.prediction = conv_like(net.prediction, kernel_size=map_size(net))
    net.gap = nn.Identity()


@rebuilt("fully connected head", "all features of the last maps to 10")
def fully_connected_head(nb, net):
    features = net.prediction.in_channels * map_size(net) ** 2
    net.prediction = nn.Sequential(nn.Flatten(), nn.Linear(features, 10))
    net.gap = nn.Identity()


@rebuilt("receptive field cut short", "1×1 kernels in block 3 from its 2nd layer on")
def short_receptive_field(nb, net):
    for number, layer in enumerate(net.block3):
        if isinstance(layer, nn.Conv2d) and number > 0:
            net.block3[number] = nn.Conv2d(*channels_of(layer), 1, bias=False)


def build(nb, net, *blocks, first_padding=0, layer=None):
    """Give `net` other convolutions: each of `blocks` is a list of output channels.

    As in the recipe, the first block is not padded, MaxPool stands in the last layer
    of every block but the last, and dropout at the end. `layer` makes all layers but
    the first; it takes what the notebook's `conv3x3` takes, its default.
    """
    layers, in_channels = [], 1
    for block in blocks:
        for number, out_channels in enumerate(block, 1):
            is_transition = number == len(block) and block is not blocks[-1]
            pooling = [nn.MaxPool2d(2)] if is_transition else []
            padding = first_padding if block is blocks[0] else 1
            make = layer if layer and in_channels > 1 else nb.conv3x3
            layers += make(in_channels, out_channels, *pooling, padding=padding)
            in_channels = out_channels
    set_layers(net, [*layers, nn.Dropout(nb.dropout)])
    net.prediction = nn.Conv2d(in_channels, 10, kernel_size=1)


@rebuilt("kernels kept constant", "17 in every layer")
def constant_kernels(nb, net):
    build(nb, net, [17, 17], [17, 17, 17], [17, 17, 17])


@rebuilt("wider first block", "8, 12 | 16, 16, 16 | 22, 22, 22")
def wider_first_block(nb, net):
    build(nb, net, [8, 12], [16, 16, 16], [22, 22, 22])


@rebuilt("fewer layers", "8, 12 | 16, 20 | 30, 30")
def fewer_layers(nb, net):
    build(nb, net, [8, 12], [16, 20], [30, 30])


@rebuilt("more layers", "8, 8 | 16, 16, 16 | 16 × 5")
def more_layers(nb, net):
    build(nb, net, [8, 8], [16, 16, 16], [16] * 5)


# --- The same design, narrower and wider ---------------------------------------------

SIZES = {
    "a quarter as wide": ([3, 3], [4, 4, 4], [6, 6, 6]),
    "a third as wide": ([3, 3], [6, 6, 6], [8, 8, 8]),
    "half as wide": ([4, 4], [8, 8, 8], [11, 11, 11]),
    "six tenths as wide": ([5, 5], [9, 9, 9], [13, 13, 13]),
    "three quarters as wide": ([6, 6], [12, 12, 12], [16, 16, 16]),
    "as wide as allowed": ([8, 8], [16, 16, 16], [23, 23, 23]),
}


def add_size(name, blocks):
    @rebuilt(name, ", ".join(map(str, blocks)), group="size")
    def resized(nb, net):
        build(nb, net, *blocks)


for name, blocks in SIZES.items():
    add_size(name, blocks)

# --- As few parameters as reach 99.40 % ----------------------------------------------

# So small a network underfits: it gets more updates and less to hold it back.
LEAN_TRAINING = {
    "batch_size": 64, "max_lr": 0.1, "weight_decay": 0.0, "dropout": 0.0,
    "max_rotation": 8.0, "max_shift": 2.0, "max_scale": 0.08, "max_shear": 4.0,
}  # fmt: skip


def add_lean(name, *blocks, make=build, **parameters):
    """Add a network of few channels, in the lean training but for `parameters`."""
    channels = " | ".join(", ".join(map(str, block)) for block in blocks)
    changes = [f"{key} {value}" for key, value in parameters.items()]
    VARIANTS[name] = Variant(
        "; ".join([channels, *changes]),
        LEAN_TRAINING | parameters,
        rebuild=lambda nb, net: make(nb, net, *blocks),
        group="lean",
    )


def separable(in_channels, out_channels, *pooling, padding=1, relu_between=True):
    """A 3×3 convolution of each channel by itself, then a 1×1 that mixes them.

    With BatchNorm and ReLU between the two, or only behind both.
    """
    between = [nn.BatchNorm2d(in_channels), nn.ReLU()] if relu_between else []
    return [
        nn.Conv2d(
            in_channels, in_channels, 3, padding=padding, groups=in_channels, bias=False
        ),
        *between,
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        *pooling,
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    ]


add_lean("lean, 4,724", [6, 6], [8] * 3, [10] * 3)
add_lean("lean, 4,724, rate 0.2", [6, 6], [8] * 3, [10] * 3, max_lr=0.2)
add_lean(
    "lean, 4,724, mild augmentation", [6, 6], [8] * 3, [10] * 3,
    max_rotation=5.0, max_shift=1.5, max_scale=0.06, max_shear=2.0,
)  # fmt: skip
add_lean(
    "lean, 4,724, stronger augmentation", [6, 6], [8] * 3, [10] * 3,
    max_rotation=12.0, max_shift=2.5, max_scale=0.12, max_shear=8.0,
)  # fmt: skip
add_lean("lean, 4,724, weight decay", [6, 6], [8] * 3, [10] * 3, weight_decay=1e-4)
add_lean("lean, 4,886", [6, 6], [8] * 4, [9] * 3)
add_lean(
    "lean, 4,724, padded", [6, 6], [8] * 3, [10] * 3,
    make=functools.partial(build, first_padding=1),
)  # fmt: skip
add_lean(
    "lean, 4,784, separable", [10, 10], [20] * 3, [24] * 3,
    make=functools.partial(build, layer=separable),
)  # fmt: skip
add_lean(
    "lean, 3,498, separable", [8, 8], [16] * 3, [20] * 3,
    make=functools.partial(build, layer=separable),
)  # fmt: skip

one_relu = functools.partial(separable, relu_between=False)
add_lean(
    "lean, 3,420, separable, one ReLU", [10, 10], [16] * 3, [20] * 3,
    make=functools.partial(build, layer=one_relu),
)  # fmt: skip
add_lean(
    "lean, 3,492, separable, one ReLU", [8, 8], [14] * 3, [19] * 4,
    make=functools.partial(build, layer=one_relu),
)  # fmt: skip

# --- The lesson's starting network ---------------------------------------------------


class StartingNetwork(nn.Module):
    """Seven convolutions, 6,379,786 parameters, and a ReLU on the logits or not."""

    def __init__(self, relu_on_logits):
        super().__init__()
        widths = [1, 32, 64, 128, 256, 512, 1024]
        layers = []
        for number, (in_channels, out_channels) in enumerate(pairwise(widths), 1):
            padding = 1 if number <= 4 else 0
            layers += [nn.Conv2d(in_channels, out_channels, 3, padding=padding)]
            layers += [nn.ReLU()]
            if number in (2, 4):
                layers += [nn.MaxPool2d(2)]
        layers += [
            nn.Conv2d(1024, 10, 3),
            nn.ReLU() if relu_on_logits else nn.Identity(),
        ]
        self.layers = nn.Sequential(*layers)

    def forward(self, images):
        return F.log_softmax(self.layers(images).flatten(1), dim=1)


def as_the_lesson_does(nb, relu_on_logits):
    """The starting network and its training: SGD at a constant rate, plain images."""
    constant_learning_rate(nb)
    nb.Net = lambda dropout: StartingNetwork(relu_on_logits)
    nb.make_average = lambda net, steps: LastStep(net)


class LastStep:
    """In the place of the notebook's average: the weights of the last step."""

    def __init__(self, net):
        self.module = net

    def update_parameters(self, net):
        pass


@edited("no averaging", "the last step's weights are judged")
def no_averaging(nb):
    nb.make_average = lambda net, steps: LastStep(net)


STILL = {"max_rotation": 0.0, "max_shift": 0.0, "max_scale": 0.0, "max_shear": 0.0}
VARIANTS["starting network"] = Variant(
    "as in the lesson, ReLU on the logits", STILL,
    edit=functools.partial(as_the_lesson_does, relu_on_logits=True), group="start",
)  # fmt: skip
VARIANTS["starting network, no last ReLU"] = Variant(
    "the same without that ReLU", STILL,
    edit=functools.partial(as_the_lesson_does, relu_on_logits=False), group="start",
)  # fmt: skip

# --- Training one of them ------------------------------------------------------------


def recipe_id(nb):
    """Return a short name for the notebook's recipe: its network and its numbers.

    It is the same with every version of torch, and whatever the number of epochs.
    """
    keys = "kind", "output", "kernel", "jump", "parameters"
    table = nb.layer_table(nb.Net(nb.dropout))
    layers = [
        [list(row[k]) if k == "output" else row[k] for k in keys] for row in table
    ]
    numbers = {key: nb.recipe[key] for key in nb.recipe if key != "epochs"}
    described = json.dumps([layers, numbers, nb.batch_size, nb.dropout])
    return hashlib.sha256(described.encode()).hexdigest()[:8]


def train(variant, seed, epochs, split, data_dir, train_limit=None):
    """Train one variant and return its result as a dict fit for JSON.

    A run whose loss is not finite is a result too: `failed` then says what happened.
    """
    chosen = VARIANTS[variant]
    history, failed = [], None
    torch.set_num_threads(1)  # as many runs as cores share them best
    with contextlib.redirect_stdout(io.StringIO()):  # log and progress bar
        recipe = recipe_id(load_definitions())
        nb = load_definitions(epochs=epochs, **chosen.parameters)
        nb.ensure_mnist(data_dir)
        if chosen.edit:
            chosen.edit(nb)
        train_data, judged = nb.split_data(data_dir, split, train_limit)
        train_data, judged = (
            [tensor.to(nb.device) for tensor in pair] for pair in (train_data, judged)
        )
        torch.manual_seed(seed)
        net = nb.Net(nb.dropout)
        if chosen.rebuild:
            chosen.rebuild(nb, net)
        net = nb.to_device(net, nb.device)
        train_loader = nb.make_loader(*train_data, nb.batch_size, shuffle=True)
        loader = nb.make_loader(*judged, 1000, shuffle=False)
        try:
            nb.fit(net, train_loader, loader, history, nb.recipe, split)
        except FloatingPointError as error:
            failed = str(error)
    return {
        "recipe": recipe,
        "variant": variant,
        "seed": seed,
        "split": split,
        "epochs": epochs,
        "train_limit": train_limit,
        "parameters": sum(weight.numel() for weight in net.parameters()),
        "failed": failed,
        "history": [rounded(row) for row in history],
        "seconds": round(sum(row["seconds"] for row in history), 1),
        "device": nb.device_name,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
    }


def rounded(row):
    """Return a line of the history with no more digits than mean anything."""
    return {name: float(f"{value:.6g}") for name, value in row.items()}
