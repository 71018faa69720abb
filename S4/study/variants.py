"""The variants of the study: each is the notebook's recipe but for what is named here.

A variant changes numbers of the parameters cell, makes another network, or replaces an
entry of the recipe. Everything else is the notebook's own. The decisions were measured
before the recipe was simplified, the sizes still earlier: their variants begin with
what stood in the recipe then.
"""

import functools
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from unittest import mock

import torch
import torch.nn.functional as F
from torch import nn, optim

from ..notebook_file import load_definitions
from .contestants import MEAN, STD


@dataclass
class Variant:
    """One change to the notebook's recipe.

    `parameters` replace values of the parameters cell; `make_net(nb)` makes the network
    from the notebook's definitions; `changes` replace other entries of the recipe, or
    add `keep` for `hard_pictures` or `late_augmentation` for `augment_less_at_the_end`.
    `wrap` makes the augmentation from the notebook's.
    `group` is the part of the report that it belongs to: "recipe", "present" (a change
    to it as it is), "reference" (as it was before it was simplified), "ablation",
    "rate" (a look at which one is best) or "far" (changes to the reference), "size",
    "lean" or "start" (changes to it as it was still earlier, *before*). `consideration`
    is the choice that is put to the test.
    """

    description: str
    consideration: str | None = None
    parameters: dict = field(default_factory=dict)
    make_net: Callable | None = None
    changes: dict = field(default_factory=dict)
    wrap: Callable | None = None
    group: str = "ablation"

    def load(self, notebook=None, **parameters):
        """Return the notebook's definitions, and this variant's recipe.

        Networks are made from `recipe` of the definitions: that is changed, too. What
        the recipe was when the group was measured comes back first; `learning_rate` is
        the cycle's peak then.
        """
        is_earlier = self.group not in ("recipe", "present")
        peak = {"learning_rate": 0.2} if is_earlier else {}
        nb = load_definitions(notebook, **peak | self.parameters | parameters)
        if is_earlier:
            nb.recipe |= before_simplifying(nb)
        if self.group in ("size", "lean", "start"):
            nb.recipe |= before(nb)
        recipe = nb.recipe | self.changes
        if self.make_net:
            recipe["make_net"] = functools.partial(self.make_net, nb)
        if self.wrap:
            recipe["augment"] = self.wrap(recipe["augment"])
        return nb, recipe


# --- Training ------------------------------------------------------------------------


def constant(net, total_steps, rate, nesterov=True, weight_decay=1e-4):
    """SGD like the recipe's, but for what is named, at one rate in all steps."""
    sgd = {"momentum": 0.9, "nesterov": nesterov, "weight_decay": weight_decay}
    return optim.SGD(net.parameters(), rate, **sgd)


def orthogonalize(kernel):
    """Return (out, in, 3, 3), its values as a matrix of nearly orthonormal rows.

    By five Newton-Schulz steps; they and their numbers are Muon's (Jordan, 2024).
    """
    matrix = kernel.flatten(1)
    matrix = matrix / (matrix.norm() + 1e-7)
    for _ in range(5):
        gram = matrix @ matrix.T
        bend = torch.addmm(gram, gram, gram, beta=-4.775, alpha=2.0315)
        matrix = torch.addmm(matrix, bend, matrix, beta=3.4445)
    return matrix.view_as(kernel)


class Muon(optim.SGD):
    """SGD; but the second group has Nesterov momentum, then orthogonal steps."""

    @torch.no_grad()
    def step(self):
        for kernel in self.param_groups[1]["params"]:
            if kernel.grad is None:
                continue
            momentum = self.state[kernel].setdefault("sum", torch.zeros_like(kernel))
            momentum.mul_(0.9).add_(kernel.grad)
            kernel.grad.copy_(orthogonalize(kernel.grad + 0.9 * momentum))
        super().step()


def muon(net, total_steps, rate, sgd_rate, weight_decay):
    """Muon for the 3×3 kernels between maps, the recipe's SGD for the other weights.

    The kernels have no weight decay: `weight_decay` is that of the others.
    """
    kernels = [w for w in net.parameters() if w.ndim == 4 and min(w.shape[1:]) > 1]
    others = [w for w in net.parameters() if all(w is not k for k in kernels)]
    sgd = {"momentum": 0.9, "nesterov": True, "weight_decay": weight_decay}
    groups = [{"params": others} | sgd, {"params": kernels, "lr": rate}]
    return Muon(groups, sgd_rate, fused=True)


def one_cycle(net, total_steps, make_optimizer):
    """An optimizer whose rate rises for a fifth of the run, then falls to nearly 0."""
    optimizer = make_optimizer(net, total_steps)
    cycle = {"pct_start": 0.2, "anneal_strategy": "linear", "cycle_momentum": False}
    peak = optimizer.defaults["lr"]
    steps = max(total_steps, 10)  # it cannot warm up in a single step
    schedule = optim.lr_scheduler.OneCycleLR(optimizer, peak, steps, **cycle)
    optimizer.register_step_post_hook(lambda *_: schedule.step())
    return optimizer


def normalised(make_net):
    """The network that `make_net` makes, which normalises its pixels first."""
    net = make_net()
    net.register_forward_pre_hook(lambda _, inputs: (inputs[0] - MEAN) / STD)
    return net


def before_simplifying(nb):
    """the rate rises to 0.2 and falls to nearly 0, and pixels are normalised"""
    make_optimizer, make_net = nb.recipe["make_optimizer"], nb.recipe["make_net"]
    return {
        "make_optimizer": functools.partial(one_cycle, make_optimizer=make_optimizer),
        "make_net": functools.partial(normalised, make_net),
    }


def whole_pictures(epoch, epochs):
    """all epochs see whole pictures"""
    return 0


def before(nb):
    """Return the entries of the recipe that were others when sizes were measured.

    BatchNorm in the first layer, too, and whole pictures in all epochs.
    """

    def add_batchnorm(make_net):
        net = make_net()
        net.block1 = nn.Sequential(*nb.conv3x3(1, 8, padding=0))
        return net

    make_net = functools.partial(add_batchnorm, nb.recipe["make_net"])
    return {"margin": whole_pictures, "make_net": make_net}


WHOLE_EPOCHS = 3  # at the end; see `hard_pictures`


def hard_pictures(recipe, labels, seed):
    """Return `recipe`, changed, and a `bar` for `train` that leaves out easy pictures.

    This is data pruning, as in InfoBatch (Qin et al., 2023) but without its weights. A
    picture is easy if its loss, when it was last trained on, was below the mean. In all
    epochs but the first and the last `WHOLE_EPOCHS`, an easy one stays with the
    probability `recipe["keep"]`; all others stay. In such an epoch, the training loss
    is that of what stays, the training accuracy counts what is left out as wrong, and
    the average of the weights is over about two epochs.
    """
    outputs, losses = {}, torch.zeros(len(labels), device=labels.device)
    chance = {"generator": torch.Generator(labels.device).manual_seed(seed)}

    def note(net, inputs, log_probabilities):
        outputs["last"] = log_probabilities.detach()

    def make_net():
        net = recipe["make_net"]()
        net.register_forward_hook(note)
        return net

    def choose(batches, title):
        order, epoch = torch.cat(batches), int(title.split()[-1])
        if 1 < epoch <= recipe["epochs"] - WHOLE_EPOCHS:
            draws = torch.rand(len(labels), device=labels.device, **chance)
            stays = (losses >= losses.mean()) | (draws < recipe["keep"])
            order = order[stays[order]]
        for batch in order.split(recipe["batch_size"]):
            yield batch  # `train` trains on it before it asks for the next one
            log_probabilities = outputs["last"]
            losses[batch] = F.nll_loss(
                log_probabilities, labels[batch], reduction="none"
            )

    return recipe | {"make_net": make_net}, choose


def augment_less_at_the_end(recipe):
    """Return `recipe`, changed: whole pictures are augmented less than cropped ones.

    In the epochs without a margin, at the end, the greatest rotation, shift, scale and
    shear are those of the recipe times `recipe["late_augmentation"]`.
    """
    amounts = dict(recipe["augment"].keywords)

    def margin(epoch, epochs):  # `train` asks for it at the start of each epoch
        found = recipe["margin"](epoch, epochs)
        share = 1 if found else recipe["late_augmentation"]
        amounts.update({k: share * v for k, v in recipe["augment"].keywords.items()})
        return found

    def augment(images, **chance):
        return recipe["augment"](images, **amounts, **chance)

    return recipe | {"margin": margin, "augment": augment}


def no_average(net, steps_per_epoch):
    """the last step's weights are judged"""
    return optim.swa_utils.AveragedModel(
        net, avg_fn=lambda average, current, count: current, use_buffers=True
    )


def elastic(images, augment, amount, **chance):
    """Return `augment(images)`, bent by shifts that vary smoothly over each picture.

    `amount` is their standard deviation in pixels, at 5×5 points; those between are
    interpolated. As elastic distortions are (Simard et al., 2003), but coarser. The
    grid that `augment` samples is bent: sampling a second time would blur.
    """
    count, _, *size = images.shape
    shifts = torch.randn(count, 2, 5, 5, device=images.device, **chance)
    shifts = F.interpolate(shifts, size, mode="bicubic", align_corners=True)
    shifts = 2 * amount / size[0] * shifts.movedim(1, 3)
    affine_grid = F.affine_grid

    def bent_grid(*matrix_and_size, **options):
        return affine_grid(*matrix_and_size, **options) + shifts

    with mock.patch.object(F, "affine_grid", bent_grid):
        return augment(images, **chance)


# --- Network -------------------------------------------------------------------------


def replace(part, kind, make):
    """Put `make(layer)` in the place of each layer of `kind` in `part`."""
    for name, child in part.named_children():
        if isinstance(child, kind):
            setattr(part, name, make(child))
        else:
            replace(child, kind, make)


def conv_like(conv, **changes):
    """A convolution with the shape of `conv`, but for `changes`."""
    keys = "in_channels", "out_channels", "kernel_size", "stride", "padding"
    return nn.Conv2d(**{key: getattr(conv, key) for key in keys} | changes)


def convolutions(net):
    """The blocks and transitions of `net`, in order."""
    return net.block1, net.transition1, net.block2, net.transition2, net.block3


def map_size(net):
    """Height and width of the maps that reach the prediction."""
    with torch.no_grad():
        maps = nn.Sequential(*convolutions(net)).eval()(torch.zeros(1, 1, 28, 28))
    return maps.shape[-1]


def changed(change, nb):
    """The notebook's network after `change(net)`."""
    net = nb.recipe["make_net"]()
    change(net)
    return net


def silu(net):
    """SiLU in the place of ReLU"""
    replace(net, nn.ReLU, lambda relu: nn.SiLU(inplace=True))


def no_batchnorm(net):
    """biases in its place"""
    replace(net, nn.BatchNorm2d, lambda layer: nn.Identity())
    replace(net, nn.Conv2d, functools.partial(conv_like, bias=True))


def no_batchnorm_he(net):
    """biases in its place, and He initialisation"""
    no_batchnorm(net)
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    net.initialisation = "He"  # for the identity, which does not see the weights


def first_batchnorm(net):
    """and no bias there"""
    net.block1 = nn.Sequential(
        conv_like(net.block1[0], bias=False), nn.BatchNorm2d(8), nn.ReLU()
    )


def batchnorm_on_logits(net):
    """after the prediction"""
    net.prediction = nn.Sequential(net.prediction, nn.BatchNorm2d(10))


def relu_on_logits(net):
    """the starting network's fault"""
    net.gap = nn.Sequential(net.gap, nn.ReLU())


def strided_convolutions(net):
    """stride 2 in place of MaxPool"""
    for transition in (net.transition1, net.transition2):
        transition[0] = conv_like(transition[0], bias=False, stride=2)
        transition[1] = nn.Identity()


def maxpool_earlier(net):
    """in the 1st and the 4th convolution's layer"""
    block1, transition1, block2, transition2, _ = convolutions(net)
    for block, transition in ((block1, transition1), (block2, transition2)):
        kinds = [type(layer) for layer in block]
        last = max(n for n, kind in enumerate(kinds) if kind is nn.Conv2d)
        block.insert(last + 1, transition[1])
        transition[1] = nn.Identity()


def maxpool_later(net):
    """in the 3rd and the 6th convolution's layer"""
    _, transition1, block2, transition2, block3 = convolutions(net)
    for transition, block in ((transition1, block2), (transition2, block3)):
        block.insert(1, transition[1])
        transition[1] = nn.Identity()


def maxpool_last(net):
    """the second one moved to the end of block 3"""
    net.block3.append(net.transition2[1])
    net.transition2[1] = nn.Identity()


def squeezing_transitions(net):
    """after each MaxPool, to half the channels"""
    _, transition1, block2, transition2, block3 = convolutions(net)
    for transition, block in ((transition1, block2), (transition2, block3)):
        channels = transition[0].out_channels
        squeeze = nn.Conv2d(channels, channels // 2, kernel_size=1, bias=False)
        transition.extend([squeeze, nn.BatchNorm2d(channels // 2), nn.ReLU()])
        block[0] = conv_like(block[0], in_channels=channels // 2, bias=False)


def first_5x5(net):
    """for the first 3×3"""
    net.block1[0] = conv_like(net.block1[0], kernel_size=5, padding=1, bias=True)


def large_kernel(net):
    """a convolution as wide as the maps"""
    net.prediction = conv_like(net.prediction, kernel_size=map_size(net))
    net.gap = nn.Identity()


def pointwise_end(net, kernel_size, channels):
    """Make block 3 of 1×1 convolutions, but for the kernel of the first."""
    layers, in_channels = [], net.block3[0].in_channels
    for size in (kernel_size, 1, 1):
        options = {"kernel_size": size, "padding": size // 2, "bias": False}
        layers += [nn.Conv2d(in_channels, channels, **options)]
        layers += [nn.BatchNorm2d(channels), nn.ReLU()]
        in_channels = channels
    net.block3 = nn.Sequential(*layers, net.block3[-1])
    net.prediction = nn.Conv2d(channels, 10, kernel_size=1)


def field_28(net):
    """sees 28 pixels, not 44: 1×1 kernels after the 6th convolution, 48 channels"""
    pointwise_end(net, 3, 48)


def field_16(net):
    """sees 16 pixels, not 44: 1×1 kernels after the 4th convolution, 77 channels"""
    pointwise_end(net, 1, 77)
    net.transition2[0] = conv_like(
        net.transition2[0], kernel_size=1, padding=0, bias=False
    )


def dropout2d(net):
    """Dropout2d 0.02 after every layer: it drops whole channels"""
    replace(net, nn.ReLU, lambda relu: nn.Sequential(relu, nn.Dropout2d(0.02)))
    replace(net, nn.Dropout, lambda dropout: nn.Identity())


def raw_pixels(nb):
    """pixels from 0 to 1 as they are"""
    return nb.Net(nb.dropout)


def separable(in_channels, out_channels, *pooling, padding=1, relu_between=True):
    """A 3×3 convolution of each channel by itself, then a 1×1 that mixes them.

    With BatchNorm and ReLU between the two, or only behind both.
    """
    by_channel = nn.Conv2d(
        in_channels, in_channels, 3, padding=padding, groups=in_channels, bias=False
    )
    between = [nn.BatchNorm2d(in_channels), nn.ReLU()] if relu_between else []
    mixing = nn.Conv2d(in_channels, out_channels, 1, bias=False)
    end = [*pooling, nn.BatchNorm2d(out_channels), nn.ReLU()]
    return [by_channel, *between, mixing, *end]


one_relu = functools.partial(separable, relu_between=False)


def first_layer(net, channels, padding):
    """A first layer like that of `net`, as a list: with a bias or with BatchNorm."""
    bias = net.block1[0].bias is not None
    conv = conv_like(net.block1[0], out_channels=channels, padding=padding, bias=bias)
    return [conv, *([] if bias else [nn.BatchNorm2d(channels)]), nn.ReLU()]


def build(blocks, nb, first_padding=0, layer=None):
    """The notebook's network with other convolutions.

    Each of `blocks` is a list of output channels. As in the recipe, the first block is
    not padded, MaxPool stands in the last layer of every block but the last, and
    dropout at the end. `layer` makes all layers but the first; it takes what the
    notebook's `conv3x3` takes, its default.
    """
    net = nb.recipe["make_net"]()
    layers, in_channels = [], 1
    for block in blocks:
        for number, out_channels in enumerate(block, 1):
            is_transition = number == len(block) and block is not blocks[-1]
            pooling = [nn.MaxPool2d(2)] if is_transition else []
            padding = first_padding if block is blocks[0] else 1
            if in_channels == 1:
                layers += first_layer(net, out_channels, padding)
            else:
                make = layer or nb.conv3x3
                layers += make(in_channels, out_channels, *pooling, padding=padding)
            in_channels = out_channels
    net.block1 = nn.Sequential(*layers, net.block3[-1])
    for name in ("transition1", "block2", "transition2", "block3"):
        setattr(net, name, nn.Sequential())
    net.prediction = nn.Conv2d(in_channels, 10, kernel_size=1)
    return net


class Again(nn.Module):
    """Adds ReLU(BatchNorm(conv(x))) to x, by a convolution that may have other uses."""

    def __init__(self, conv, channels):
        super().__init__()
        self.conv = conv
        self.rest = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())

    def forward(self, maps):
        return maps + self.rest(self.conv(maps))


def again(conv, channels, times):
    """Return `times` layers that share a convolution, with a BatchNorm each."""
    return [Again(conv, channels) for _ in range(times)]


def shared(nb):
    """two convolutions are used twice and three times, their inputs added"""
    net = nb.recipe["make_net"]()
    first, last = (nn.Conv2d(n, n, 3, padding=1, bias=False) for n in (16, 32))
    net.block2 = nn.Sequential(*nb.conv3x3(8, 16), *again(first, 16, 2))
    net.transition2 = nn.Sequential(*nb.conv3x3(16, 32, nn.MaxPool2d(2)))
    net.block3 = nn.Sequential(*again(last, 32, 3), net.block3[-1])
    net.prediction = nn.Conv2d(32, 10, kernel_size=1)
    return net


class BlurPool(nn.Module):
    """MaxPool in steps of one pixel, then a fixed 3×3 kernel in steps of two.

    So a shift by a pixel changes less (Zhang, Making convolutional networks
    shift-invariant again, 2019).
    """

    def __init__(self, channels):
        super().__init__()
        self.pool, row = nn.MaxPool2d(2, stride=1), torch.tensor([1.0, 2.0, 1.0]) / 4
        kernel = torch.outer(row, row).expand(channels, 1, 3, 3).clone()
        self.register_buffer("kernel", kernel)

    def forward(self, maps):
        options = {"stride": 2, "padding": 1, "groups": len(self.kernel)}
        return F.conv2d(self.pool(maps), self.kernel, **options)


class SqueezeExcitation(nn.Module):
    """Scales each channel by a gate computed from all channels' means.

    Hu et al., Squeeze-and-excitation networks, 2018.
    """

    def __init__(self, channels):
        super().__init__()
        self.squeeze = nn.Conv2d(channels, channels // 4, 1)
        self.excite = nn.Conv2d(channels // 4, channels, 1)

    def forward(self, maps):
        means = maps.mean(dim=(2, 3), keepdim=True)
        return maps * self.excite(self.squeeze(means).relu()).sigmoid()


def drawn(nb):
    """the best network of the search from wide ranges"""
    first, middle, last = 12, 20, 27
    net = nb.recipe["make_net"]()
    convs = [nn.Conv2d(n, n, 3, padding=1, bias=False) for n in (middle, last)]
    net.block1 = nn.Sequential(*first_layer(net, first, padding=0))
    pooled = nb.conv3x3(first, first, BlurPool(first), padding=0)
    net.transition1 = nn.Sequential(*pooled)
    net.transition2 = nn.Sequential(BlurPool(middle), SqueezeExcitation(middle))
    net.block2 = nn.Sequential(*nb.conv3x3(first, middle), *again(convs[0], middle, 2))
    layers = *nb.conv3x3(middle, last), *again(convs[1], last, 2)
    net.block3 = nn.Sequential(*layers, SqueezeExcitation(last), net.block3[-1])
    net.prediction = nn.Conv2d(last, 10, kernel_size=1)
    silu(net)
    return net


def lean_shared(channels, nb):
    """The same idea with separable layers, for few parameters; MaxPool by itself."""
    first, middle, last = channels
    net = nb.recipe["make_net"]()
    net.block1 = nn.Sequential(*nb.conv3x3(1, first, padding=0))
    pooled = one_relu(first, first, nn.MaxPool2d(2), padding=0)
    net.transition1, net.transition2 = nn.Sequential(*pooled), nn.MaxPool2d(2)
    convs = [nn.Sequential(*one_relu(n, n)[:-2]) for n in (middle, last)]
    net.block2 = nn.Sequential(*one_relu(first, middle), *again(convs[0], middle, 2))
    net.block3 = nn.Sequential(*one_relu(middle, last), *again(convs[1], last, 3))
    net.prediction = nn.Conv2d(last, 10, kernel_size=1)
    return net


class StartingNetwork(nn.Module):
    """The lesson's: seven convolutions, 6,379,786 parameters, ReLU on the logits."""

    def __init__(self, nb, relu_on_logits=True):
        super().__init__()
        layers = []
        for number, channels in enumerate(pairwise([1, 32, 64, 128, 256, 512, 1024])):
            padding = 1 if number < 4 else 0
            layers += [nn.Conv2d(*channels, 3, padding=padding), nn.ReLU()]
            if number in (1, 3):
                layers += [nn.MaxPool2d(2)]
        last = nn.ReLU() if relu_on_logits else nn.Identity()
        self.layers = nn.Sequential(*layers, nn.Conv2d(1024, 10, 3), last)

    def forward(self, images):
        images = (images - MEAN) / STD
        return F.log_softmax(self.layers(images).flatten(1), dim=1)


# Of each view: degrees counterclockwise, pixels to the left, and up.
FIVE_VIEWS = (0, 0, 0), (8, 1, 1), (-8, -1, 1), (8, -1, -1), (-8, 1, -1)


class Views(nn.Module):
    """Judges a picture by several views of it: `net` sees each; logits are averaged.

    That is test-time augmentation, the same for every picture. `views` are like
    `FIVE_VIEWS`.
    """

    def __init__(self, net, views=FIVE_VIEWS):
        super().__init__()
        self.net = net
        degrees, *shift = torch.tensor(views).T
        rotation = torch.deg2rad(degrees)
        cos, sin = torch.cos(rotation), torch.sin(rotation)
        x, y = (pixels / 14 for pixels in shift)  # −1 and 1 are the edges
        matrix = torch.stack([cos, -sin, x, sin, cos, y], dim=1).view(-1, 2, 3)
        self.register_buffer("matrix", matrix.to(next(net.parameters()).device))

    def forward(self, images):
        logits = []
        for matrix in self.matrix:
            matrices = matrix.expand(len(images), 2, 3)
            grid = F.affine_grid(matrices, images.shape, align_corners=False)
            logits.append(self.net(F.grid_sample(images, grid, align_corners=False)))
        return F.log_softmax(torch.stack(logits).mean(dim=0), dim=1)


# --- All of them ---------------------------------------------------------------------


def in_words(parameters):
    """Return a phrase for each of them; a rate is the peak of a cycle."""
    names = {"learning_rate": "peak rate"}
    return [f"{names.get(key, key)} {value}" for key, value in parameters.items()]


def numbers(consideration, **parameters):
    """A variant of which only numbers of the parameters cell differ."""
    return Variant("; ".join(in_words(parameters)), consideration, parameters)


def network(change, consideration=None, group="ablation", **parameters):
    """A variant whose network is the notebook's after `change(net)`."""
    make_net = functools.partial(changed, change)
    words = [change.__doc__, *in_words(parameters)]
    return Variant("; ".join(words), consideration, parameters, make_net, group=group)


def one_rate(rate, consideration):
    """A variant that trains at one learning rate throughout."""
    make_optimizer = functools.partial(constant, rate=rate)
    changes = {"make_optimizer": make_optimizer}
    return Variant(f"{rate} in every step", consideration, changes=changes)


def best_of(name, make, rates, best):
    """Return a variant for each rate, as a dict; all but the `best` are only looks."""
    variants = {f"{name} {rate}": make(rate) for rate in rates}
    for rate in set(rates) - {best}:
        variants[f"{name} {rate}"].group = "rate"
    return variants


def resized(consideration, *blocks, group="ablation", parameters=None, **options):
    """A variant whose convolutions have other numbers of channels."""
    channels = " | ".join(", ".join(map(str, block)) for block in blocks)
    make_net = functools.partial(build, blocks, **options)
    return Variant(channels, consideration, parameters or {}, make_net, group=group)


# So small a network underfits: it gets more updates and less to hold it back.
LEAN = {"batch_size": 64, "learning_rate": 0.1, "weight_decay": 0.0, "dropout": 0.0}
LEAN |= {"max_rotation": 8.0, "max_shift": 2.0, "max_scale": 0.08, "max_shear": 4.0}


def bend(amount):
    """Return what bends the pictures of an augmentation, too."""
    return lambda augment: functools.partial(elastic, augment=augment, amount=amount)


def with_silu(make_net, nb):
    """The network that `make_net` makes, with SiLU."""
    net = make_net(nb)
    silu(net)
    return net


def lean(*blocks, layer=None, first_padding=0, bent=0.0, has_silu=False, **parameters):
    """A network of few channels, in the lean training but for what is named."""
    options = {"layer": layer, "first_padding": first_padding, "group": "lean"}
    variant = resized(None, *blocks, parameters=LEAN | parameters, **options)
    changes = in_words(parameters)
    if bent:
        variant.wrap = bend(bent)
        changes.append(f"bent by {bent} pixels")
    if has_silu:
        variant.make_net = functools.partial(with_silu, variant.make_net)
        changes.append("SiLU")
    variant.description = "; ".join([variant.description, *changes])
    return variant


def lean_again(*channels, has_silu=False):
    """A network that uses its convolutions again, bent pictures, the lean training."""
    words = "{0}, {0} | {1}, {1} twice | {2}, {2} three times; bent by 0.3 pixels"
    make_net = functools.partial(lean_shared, channels)
    description = words.format(*channels)
    if has_silu:
        make_net = functools.partial(with_silu, make_net)
        description += "; SiLU"
    return Variant(description, None, LEAN, make_net, wrap=bend(0.3), group="lean")


def starting(description, **options):
    """The lesson's starting network, trained as the lesson trains it."""
    plain = {"rate": 0.01, "nesterov": False, "weight_decay": 0}
    changes = {"make_optimizer": functools.partial(constant, **plain)}
    changes["make_average"] = no_average
    make_net = functools.partial(StartingNetwork, **options)
    changes["augment"] = None
    return Variant(description, None, {}, make_net, changes, group="start")


RATE, SIZE, DROPOUT = "Learning rate", "Batch size", "Dropout"
LAST_BATCHNORM = "BatchNorm's distance from the prediction"
POSITION = "Position of MaxPooling"
LAST_MAXPOOL = "MaxPooling's distance from the prediction"
FEW = [6, 6], [8] * 3, [10] * 3
MILD = {"max_rotation": 5.0, "max_shift": 1.5, "max_scale": 0.06, "max_shear": 2.0}
STRONG = {"max_rotation": 12.0, "max_shift": 2.5, "max_scale": 0.12, "max_shear": 8.0}

# Near to those of the best network of a random search; see search.jsonl.
SEARCHED = {"learning_rate": 0.13, "weight_decay": 1e-5, "dropout": 0.0}
SEARCHED |= {"max_shear": 5.0}
DRAWN = {"learning_rate": 0.127, "weight_decay": 7.79e-6, "dropout": 0.0}
DRAWN |= {"max_rotation": 10.7, "max_shift": 2.54, "max_scale": 0.116}
DRAWN |= {"max_shear": 4.58, "batch_size": 64}  # that network's own

MUON = {"rate": 0.02, "sgd_rate": 0.05, "weight_decay": 1e-4}

VARIANTS = {
    "recipe": Variant("as it stands in the notebook", group="recipe"),
    "SiLU": network(silu, group="present"),
    "Muon": Variant(
        "Muon, rate 0.02, without weight decay, for the 3×3 kernels between maps",
        changes={"make_optimizer": functools.partial(muon, **MUON)},
        group="present",
    ),
    "SiLU, bent, searched": Variant(
        f"{silu.__doc__}; bent by 0.35 pixels; rate 0.13, weight decay 0.00001, no "
        "dropout, shear by up to 5 degrees",
        None,
        SEARCHED,
        functools.partial(changed, silu),
        wrap=bend(0.35),
        group="present",
    ),
    "no averaging, constant rate": Variant(
        no_average.__doc__, changes={"make_average": no_average}, group="present"
    ),
    "drawn, hard pictures": Variant(
        f"{drawn.__doc__}, trained as there but for hard pictures and the middle 24×24",
        None,
        DRAWN,
        drawn,
        changes={"keep": 0.4},
        wrap=bend(0.36),
        group="present",
    ),
    "hard pictures": Variant(
        "most epochs see 0.4 of the easy pictures",
        changes={"keep": 0.4},
        group="present",
    ),
    "less augmentation at the end": Variant(
        "half the augmentation in the epochs that see whole pictures",
        changes={"late_augmentation": 0.5},
        group="present",
    ),
    "before simplifying": Variant(before_simplifying.__doc__, group="reference"),
    "before": Variant(
        "BatchNorm in the first layer; all epochs see whole pictures", group="size"
    ),
    "fewer layers": resized("How many layers", [8, 12], [16, 20], [30, 30]),
    "more layers": resized("How many layers", [8, 8], [16] * 3, [16] * 5),
    "strided convolutions": network(strided_convolutions, "MaxPooling"),
    "5×5 first layer": network(first_5x5, "3×3 convolutions"),
    "receptive field 28": network(field_28, "Receptive field"),
    "receptive field 16": network(field_16, "Receptive field"),
    "peak rate a tenth": numbers(RATE, learning_rate=0.02),
    "peak rate ten times": numbers(RATE, learning_rate=2.0),
    **best_of(
        "constant rate",
        functools.partial(one_rate, consideration=RATE),
        [0.02, 0.05, 0.1, 0.2],
        best=0.05,
    ),
    "kernels kept constant": resized(
        "Kernels, and how many", [17] * 2, [17] * 3, [17] * 3
    ),
    "no BatchNorm": network(no_batchnorm, "BatchNorm"),
    **best_of(
        "no BatchNorm, He,",
        lambda rate: network(no_batchnorm_he, "BatchNorm", learning_rate=rate),
        [0.02, 0.05, 0.1, 0.2, 0.4],
        best=0.05,
    ),
    "BatchNorm in the first layer": network(first_batchnorm),
    "no normalisation": Variant(
        raw_pixels.__doc__, "Image normalisation", make_net=raw_pixels
    ),
    "MaxPool one layer earlier": network(maxpool_earlier, POSITION),
    "MaxPool one layer later": network(maxpool_later, POSITION),
    "1×1 transitions": network(squeezing_transitions, "Transition layers"),
    "no dropout": numbers(DROPOUT, dropout=0.0),
    "dropout 0.1": numbers(DROPOUT, dropout=0.1),
    "dropout 0.25": numbers(DROPOUT, dropout=0.25),
    "Dropout2d in every layer": network(dropout2d, DROPOUT),
    "MaxPool before the prediction": network(maxpool_last, LAST_MAXPOOL),
    "BatchNorm on the logits": network(batchnorm_on_logits, LAST_BATCHNORM),
    "ReLU on the logits": network(relu_on_logits, LAST_BATCHNORM),
    "large kernel for GAP": Variant(  # it fits maps of one size only
        f"{large_kernel.__doc__}; {whole_pictures.__doc__}",
        "When to stop convolving",
        make_net=functools.partial(changed, large_kernel),
        changes={"margin": whole_pictures},
    ),
    **best_of(
        "batch 32, rate",
        lambda rate: numbers(SIZE, batch_size=32, learning_rate=rate),
        [0.05, 0.1, 0.2],
        best=0.1,
    ),
    **best_of(
        "batch 512, rate",
        lambda rate: numbers(SIZE, batch_size=512, learning_rate=rate),
        [0.2, 0.4, 0.8],
        best=0.4,
    ),
    "no augmentation": Variant(
        "images as they are", "Augmentation (etc)", changes={"augment": None}
    ),
    "no weight decay": numbers("Weight decay, momentum (etc)", weight_decay=0.0),
    "whole pictures always": Variant(
        whole_pictures.__doc__, changes={"margin": whole_pictures}
    ),
    "no averaging": Variant(
        no_average.__doc__,
        "Averaged weights (etc)",
        changes={"make_average": no_average},
    ),
    # The same design, narrower and wider.
    "a quarter as wide": resized(None, [3, 3], [4] * 3, [6] * 3, group="size"),
    "a third as wide": resized(None, [3, 3], [6] * 3, [8] * 3, group="size"),
    "half as wide": resized(None, [4, 4], [8] * 3, [11] * 3, group="size"),
    "six tenths as wide": resized(None, [5, 5], [9] * 3, [13] * 3, group="size"),
    "three quarters as wide": resized(None, [6, 6], [12] * 3, [16] * 3, group="size"),
    "as wide as allowed": resized(None, [8, 8], [16] * 3, [23] * 3, group="size"),
    "twice as wide": resized(None, [16, 16], [32] * 3, [44] * 3, group="size"),
    # As few parameters as reach 99.40 %.
    "lean, 4,724": lean(*FEW),
    "lean, 4,724, rate 0.2": lean(*FEW, learning_rate=0.2),
    "lean, 4,724, mild augmentation": lean(*FEW, **MILD),
    "lean, 4,724, stronger augmentation": lean(*FEW, **STRONG),
    "lean, 4,724, weight decay": lean(*FEW, weight_decay=1e-4),
    "lean, 4,886": lean([6, 6], [8] * 4, [9] * 3),
    "lean, 4,724, padded": lean(*FEW, first_padding=1),
    "lean, 4,784, separable": lean([10] * 2, [20] * 3, [24] * 3, layer=separable),
    "lean, 3,498, separable": lean([8] * 2, [16] * 3, [20] * 3, layer=separable),
    "lean, 3,420, separable, one ReLU": lean(
        [10] * 2, [16] * 3, [20] * 3, layer=one_relu
    ),
    "lean, 3,420, bent": lean([10] * 2, [16] * 3, [20] * 3, layer=one_relu, bent=0.3),
    "lean, 3,420, bent, SiLU": lean(
        [10] * 2, [16] * 3, [20] * 3, layer=one_relu, bent=0.3, has_silu=True
    ),
    "lean, 3,492, separable, one ReLU": lean(
        [8] * 2, [14] * 3, [19] * 4, layer=one_relu
    ),
    "lean, 3,398, shared": lean_again(10, 20, 26),
    "lean, 3,012, shared": lean_again(10, 18, 24),
    "lean, 2,028, shared": lean_again(8, 14, 18),
    "lean, 2,028, shared, SiLU": lean_again(8, 14, 18, has_silu=True),
    "lean, 2,138, bent, SiLU": lean(
        [8] * 2, [12] * 3, [14] * 3, layer=one_relu, bent=0.3, has_silu=True
    ),
    # How far it can go, at any length of code.
    "shared": Variant(shared.__doc__, make_net=shared, group="far"),
    "shared, bent": Variant(
        "the same, and the pictures are bent by 0.5 pixels",
        make_net=shared,
        wrap=bend(0.5),
        group="far",
    ),
    "shared, bent, whole pictures": Variant(
        f"the same, and {whole_pictures.__doc__}",
        make_net=shared,
        changes={"margin": whole_pictures},
        wrap=bend(0.5),
        group="far",
    ),
    "starting network": starting("as in the lesson, ReLU on the logits"),
    "starting network, no last ReLU": starting(
        "the same without that ReLU", relu_on_logits=False
    ),
}


def identity(recipe):
    """Return a short hash of what a recipe trains, and how, whatever it is called.

    It stands for the network as a function (and its `initialisation`, if that is not
    PyTorch's), its optimizer and schedule, augmentation, averaging, batch size,
    precision, the share of easy pictures and of late augmentation; not for the number
    of epochs, nor for the version of torch.
    """
    net, calls = recipe["make_net"]().double().eval(), []

    def note(layer, inputs, output):
        calls.append([type(layer).__name__, getattr(layer, "p", None), *output.shape])

    for layer in net.modules():
        if not list(layer.children()):
            layer.register_forward_hook(note)
    with torch.no_grad():
        for number, weight in enumerate(net.parameters(), 1):
            wave = torch.sin(number + torch.arange(weight.numel(), dtype=torch.double))
            weight.copy_((wave + 0.3).view_as(weight) / weight[0].numel() ** 0.5)
        # Pixels like those from 0 to 1; normalised, the sine that older runs know.
        images = torch.sin(torch.arange(2 * 784, dtype=torch.double)) * STD + MEAN
        outputs = net(images.view(2, 1, 28, 28)).flatten().tolist()
    optimizer = recipe["make_optimizer"](net, 50)
    options = "momentum", "nesterov", "betas", "weight_decay"
    for _ in range(50):
        outputs += [group["lr"] for group in optimizer.param_groups]
        optimizer.step()
    augment = recipe["augment"]

    def spell(augment):
        return [augment.func.__name__, augment.keywords]

    described = [
        calls,
        [list(weight.shape) for weight in net.parameters()],
        [f"{number:.6g}" for number in outputs],
        [type(optimizer).__name__, *map(optimizer.param_groups[0].get, options)],
        augment and spell(augment),
        [recipe["make_average"].__name__, recipe["batch_size"], "float32"],
    ]
    if others := optimizer.param_groups[1:]:
        described.append([[group.get(key) for key in options] for group in others])
    margins = [recipe["margin"](epoch, 19) for epoch in range(1, 20)]
    if any(margins):  # runs from before there was one keep their identity
        described.append(margins)
    if hasattr(net, "initialisation"):
        described.append(net.initialisation)
    if "late_augmentation" in recipe:
        described.append(["late augmentation", recipe["late_augmentation"]])
    if "keep" in recipe:
        described.append(["hard pictures", recipe["keep"], WHOLE_EPOCHS])
    return hashlib.sha256(json.dumps(described, default=spell).encode()).hexdigest()[:8]
