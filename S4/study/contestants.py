"""What the notebook's training is timed beside. Frozen, so that old timings still say
something: nothing here follows the notebook when that changes.

`Earlier` is the network and the training that the notebook had in November 2026;
`PerPicture` is the same network fed one picture at a time; `Basic` and `Flax` are what
users often start from.
"""

import importlib.util
import warnings
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn, optim
from torch.utils.data import DataLoader, Subset
from torchvision import datasets, transforms

MEAN, STD = 0.1307, 0.3081  # of the training images' pixels, from 0 to 1
MOMENTUM = {"momentum": 0.9, "nesterov": True, "weight_decay": 1e-4}
# More workers than cores are a contestant here, not an oversight.
warnings.filterwarnings("ignore", "This DataLoader will create")


def earlier_network(device):
    """The network of 25 November 2026: 18,778 parameters."""
    layers, channels = [], [1, 8, 8, 16, 16, 16, 22, 22, 22]
    for number, shape in enumerate(pairwise(channels)):
        padding = 0 if number < 2 else 1
        layers += [nn.Conv2d(*shape, 3, padding=padding, bias=False)]
        layers += [nn.MaxPool2d(2)] if number in (1, 4) else []
        layers += [nn.BatchNorm2d(shape[1]), nn.ReLU()]
    head = [nn.Conv2d(22, 10, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    net = nn.Sequential(*layers, nn.Dropout(0.02), *head, nn.LogSoftmax(dim=1))
    on_cpu = torch.device(device).type == "cpu"
    layout = torch.channels_last if on_cpu else torch.contiguous_format
    return net.to(device, memory_format=layout)


def random_affine(images):
    """The augmentation of November 2026: (n, 1, 28, 28), a batch at a time."""
    uniform = 2 * torch.rand(5, len(images), device=images.device) - 1
    rotation, shear = torch.deg2rad(12 * uniform[0]), torch.deg2rad(8 * uniform[1])
    scale, shift = 1 + 0.12 * uniform[2], 5 / 28 * uniform[3:]
    cos, sin, lean = rotation.cos() / scale, rotation.sin() / scale, shear.tan()
    matrix = [cos, cos * lean - sin, shift[0], sin, sin * lean + cos, shift[1]]
    matrix = torch.stack(matrix, dim=1).view(-1, 2, 3)
    grid = F.affine_grid(matrix, images.shape, align_corners=False)
    black = -MEAN / STD
    return F.grid_sample(images - black, grid, align_corners=False) + black


class Earlier:
    """The notebook's network and training as they were in November 2026.

    `train_data` and `eval_data` are (images, labels) on the device; pixels are float32
    from 0 to 1.
    """

    def __init__(self, train_data, eval_data):
        data = train_data, eval_data
        data = [((images - MEAN) / STD, labels) for images, labels in data]
        self.train_data, self.eval_data = data
        self.net = earlier_network(train_data[0].device)
        steps = -(-len(train_data[1]) // 128)
        self.optimizer = optim.SGD(self.net.parameters(), 0.2, fused=True, **MOMENTUM)
        self.schedule = optim.lr_scheduler.OneCycleLR(self.optimizer, 0.2, 10**6)

        def follow(average, current, count):
            return average + (current - average) / (count + 1).clamp(max=steps // 10)

        options = {"avg_fn": follow, "use_buffers": True}
        self.average = optim.swa_utils.AveragedModel(self.net, **options)

    def epoch(self):
        self.net.train()
        images, labels = self.train_data
        losses, order = [], torch.randperm(len(labels), device=images.device)
        for step, batch in enumerate(order.split(128), 1):
            loss = F.nll_loss(self.net(random_affine(images[batch])), labels[batch])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.schedule.step()
            losses.append(loss.detach())
            if step % 10 == 0:
                self.average.update_parameters(self.net)
        self.train_loss = torch.stack(losses).mean().item()
        self.evaluate()

    @torch.inference_mode()
    def evaluate(self):
        images, labels = self.eval_data
        net = self.average.module.eval()
        predicted = torch.cat([net(x).argmax(dim=1) for x in images.split(500)])
        self.accuracy = 100 * (predicted == labels).float().mean().item()


class PerPicture:
    """A network fed one picture at a time through torchvision's transforms.

    By default the one of November 2026, with its augmentation.
    """

    def __init__(self, device, data, workers=0, limit=None):
        self.device = device
        plain = [transforms.ToTensor(), transforms.Normalize((MEAN,), (STD,))]
        train_transform = transforms.Compose([*self.augmentation(), *plain])
        train = datasets.MNIST(data, train=True, transform=train_transform)
        test = datasets.MNIST(data, train=False, transform=transforms.Compose(plain))
        feed = {"num_workers": workers, "pin_memory": device.type == "cuda"}
        feed["persistent_workers"] = workers > 0  # else each epoch pays for new ones
        train, test = (Subset(d, range(limit or len(d))) for d in (train, test))
        self.make_net()
        self.loader = DataLoader(train, self.batch_size, shuffle=True, **feed)
        self.test_loader = DataLoader(test, 1000, **feed)

    def augmentation(self):
        affine = {"translate": (2.5 / 28, 2.5 / 28), "scale": (0.88, 1.12), "shear": 8}
        bilinear = transforms.InterpolationMode.BILINEAR
        return [transforms.RandomAffine(12, interpolation=bilinear, **affine)]

    def make_net(self):
        self.net, self.batch_size = earlier_network(self.device), 128
        self.optimizer = optim.SGD(self.net.parameters(), 0.1, fused=True, **MOMENTUM)

    def epoch(self):
        self.net.train()
        for images, labels in self.loader:
            images, labels = images.to(self.device), labels.to(self.device)
            self.optimizer.zero_grad()
            F.nll_loss(self.net(images), labels).backward()
            self.optimizer.step()
        self.evaluate()

    @torch.inference_mode()
    def evaluate(self):
        self.net.eval()
        correct = 0
        for images, labels in self.test_loader:
            predicted = self.net(images.to(self.device)).argmax(dim=1)
            correct += (predicted == labels.to(self.device)).sum().item()
        self.accuracy = 100 * correct / len(self.test_loader.dataset)


class Basic(PerPicture):
    """The widely used basic MNIST example: its network, optimizer and batch size."""

    def augmentation(self):
        return []

    def make_net(self):
        features = [nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU()]
        features += [nn.MaxPool2d(2), nn.Dropout(0.25), nn.Flatten()]
        head = [nn.Linear(9216, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 10)]
        net = nn.Sequential(*features, *head, nn.LogSoftmax(dim=1))
        self.net, self.batch_size = net.to(self.device), 64
        self.optimizer = optim.Adadelta(self.net.parameters(), lr=1.0)
        self.scheduler = optim.lr_scheduler.StepLR(self.optimizer, 1, gamma=0.7)

    def epoch(self):
        super().epoch()
        self.scheduler.step()


HAS_FLAX = bool(importlib.util.find_spec("flax") and importlib.util.find_spec("optax"))


class Flax:
    """The network of Flax's MNIST tutorial, compiled by JAX; its optimizer and batch.

    Timed where flax and optax are installed. The images lie in memory. `train_data`
    and `eval_data` are (images, labels) as torch tensors, pixels from 0 to 1.
    """

    def __init__(self, train_data, eval_data, batch_size=32):
        import jax
        import numpy as np
        import optax
        from flax import nnx

        class Network(nnx.Module):
            def __init__(self, rngs):
                self.conv1 = nnx.Conv(1, 32, (3, 3), rngs=rngs)
                self.conv2 = nnx.Conv(32, 64, (3, 3), rngs=rngs)
                self.linear1 = nnx.Linear(3136, 256, rngs=rngs)
                self.linear2 = nnx.Linear(256, 10, rngs=rngs)

            def __call__(self, images):
                for conv in (self.conv1, self.conv2):
                    images = nnx.avg_pool(nnx.relu(conv(images)), (2, 2), (2, 2))
                flat = images.reshape(len(images), -1)
                return self.linear2(nnx.relu(self.linear1(flat)))

        def loss_of(net, images, labels):
            logits = net(images)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.mean()

        @nnx.jit
        def step(net, optimizer, images, labels):
            loss, gradients = nnx.value_and_grad(loss_of)(net, images, labels)
            optimizer.update(net, gradients)
            return loss

        @nnx.jit
        def count(net, images, labels):
            return (net(images).argmax(axis=1) == labels).sum()

        def arrays(images, labels):
            return images.permute(0, 2, 3, 1).cpu().numpy(), labels.cpu().numpy()

        self.step, self.count, self.batch_size = step, count, batch_size
        self.train_data, self.eval_data = arrays(*train_data), arrays(*eval_data)
        self.net = Network(nnx.Rngs(0))
        adamw = optax.adamw(0.005, 0.9)
        self.optimizer = nnx.Optimizer(self.net, adamw, wrt=nnx.Param)
        self.random, self.wait = np.random.default_rng(0), jax.block_until_ready

    def epoch(self):
        images, labels = self.train_data
        order = self.random.permutation(len(labels))
        whole = len(labels) - len(labels) % self.batch_size  # else it compiles twice
        for batch in order[:whole].reshape(-1, self.batch_size):
            loss = self.step(self.net, self.optimizer, images[batch], labels[batch])
        self.wait(loss)
        images, labels = self.eval_data
        correct, size = 0, min(1000, len(labels))
        for start in range(0, len(labels), size):
            part = slice(start, start + size)
            correct += int(self.count(self.net, images[part], labels[part]))
        self.accuracy = 100 * correct / len(labels)
