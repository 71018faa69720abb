"""How long training takes, beside what others use, and beside what is possible.

    python -m S4.study bench              everything: about half an hour on two cores
    python -m S4.study bench --quick      on 1,000 images: is everything in order?

Writes bench.json beside this file and the tables of it into the README. The network and
the training code are the notebook's. The contenders take turns, one epoch each, so that
whatever else the machine is doing meets them alike; the ratios are taken within each
turn.
"""

import contextlib
import itertools
import json
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path

import pandas as pd
import psutil
import torch
import torch.nn.functional as F
from torch import nn, optim
from torch.utils.data import DataLoader, Subset
from torch.utils.flop_counter import FlopCounterMode
from torchvision import datasets, transforms

from ..notebook_file import NOTEBOOK, execute, facts_table, fill, load_definitions

ROOT = NOTEBOOK.parents[1]
DATA = NOTEBOOK.with_name("data")
RESULTS = Path(__file__).with_name("bench.json")
WORKERS = (0, 2, 4)
OURS = "ours"
BASIC = "the basic MNIST example"
# More workers than cores are a contender here, not an oversight.
warnings.filterwarnings("ignore", "This DataLoader will create")


def seconds_of(action, device):
    """Return how long `action()` takes, until the device is done with it."""
    started = time.perf_counter()
    action()
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - started


def make_ours(nb, limit=None):
    """Return a function that trains and judges one epoch of the notebook's run."""
    data = nb.split_data(DATA, "test", limit)
    recipe = nb.recipe | {"epochs": 10_000}  # more than are asked for
    run = nb.train(*data, nb.seed, recipe)
    return lambda: next(run)


class PerPicture:
    """A network fed one picture at a time through torchvision's transforms."""

    def __init__(self, device, net, batch_size, augmentation=(), workers=0, limit=None):
        self.device, self.net = device, net
        plain = [transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))]
        augmented = transforms.Compose([*augmentation, *plain])
        train = datasets.MNIST(DATA, train=True, transform=augmented)
        test = datasets.MNIST(DATA, train=False, transform=transforms.Compose(plain))
        feed = {"num_workers": workers, "pin_memory": device.type == "cuda"}
        feed["persistent_workers"] = workers > 0  # else each epoch pays for new ones
        train, test = (Subset(d, range(limit or len(d))) for d in (train, test))
        self.loader = DataLoader(train, batch_size, shuffle=True, **feed)
        self.test_loader = DataLoader(test, 1000, **feed)

    def epoch(self):
        self.net.train()
        for images, labels in self.loader:
            images, labels = images.to(self.device), labels.to(self.device)
            self.optimizer.zero_grad()
            F.nll_loss(self.net(images), labels).backward()
            self.optimizer.step()
        self.accuracy = self.evaluate()

    @torch.inference_mode()
    def evaluate(self):
        self.net.eval()
        correct = 0
        for images, labels in self.test_loader:
            predicted = self.net(images.to(self.device)).argmax(dim=1)
            correct += (predicted == labels.to(self.device)).sum().item()
        return 100 * correct / len(self.test_loader.dataset)


class Usual(PerPicture):
    """The notebook's network and augmentation, fed the usual way."""

    def __init__(self, nb, workers, limit=None):
        shift, scale = nb.max_shift / 28, nb.max_scale
        affine = transforms.RandomAffine(
            nb.max_rotation,
            translate=(shift, shift),
            scale=(1 - scale, 1 + scale),
            shear=nb.max_shear,
            interpolation=transforms.InterpolationMode.BILINEAR,
        )
        net = nb.recipe["make_net"]().to(nb.device, memory_format=nb.layout)
        super().__init__(nb.device, net, nb.batch_size, [affine], workers, limit)
        self.optimizer, _ = nb.recipe["make_optimizer"](net, 100)


class Basic(PerPicture):
    """The widely used basic MNIST example: its network, optimizer and batch size."""

    def __init__(self, device, limit=None):
        features = [nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU()]
        features += [nn.MaxPool2d(2), nn.Dropout(0.25), nn.Flatten()]
        head = [nn.Linear(9216, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 10)]
        net = nn.Sequential(*features, *head, nn.LogSoftmax(dim=1))
        super().__init__(device, net.to(device), batch_size=64, limit=limit)
        self.optimizer = optim.Adadelta(net.parameters(), lr=1.0)
        self.scheduler = optim.lr_scheduler.StepLR(self.optimizer, 1, gamma=0.7)

    def epoch(self):
        super().epoch()
        self.scheduler.step()


def measure_floor(nb):
    """The least that an epoch can take: its arithmetic and its data at full speed.

    Operations: those of the convolutions, forward and backward on 60,000 images,
    forward on 10,000, counted by torch. Bytes: each image read once; everything else
    could stay in a cache.
    """
    net = nb.recipe["make_net"]()
    images, labels = torch.zeros(100, 1, 28, 28), torch.zeros(100, dtype=torch.long)
    with FlopCounterMode(display=False) as training:
        F.nll_loss(net(images), labels).backward()
    with FlopCounterMode(display=False) as judging, torch.inference_mode():
        net.eval()(images)
    operations = 600 * training.get_total_flops() + 100 * judging.get_total_flops()
    data = 70_000 * 28 * 28 * 4
    matrix = torch.randn(2048, 2048, device=nb.device)
    block = torch.randn(2**26, device=nb.device)
    target = torch.empty_like(block)
    product = min(seconds_of(lambda: matrix @ matrix, nb.device) for _ in range(20))
    copy = min(seconds_of(lambda: target.copy_(block), nb.device) for _ in range(20))
    operation_rate, byte_rate = 2 * 2048**3 / product, 2 * 4 * 2**26 / copy
    return {
        "operations": operations,
        "operations_per_second": round(operation_rate),
        "seconds": max(operations / operation_rate, data / byte_rate),
    }


def watch_memory(is_over, peaks):
    """Append the memory of each child process to `peaks`, in bytes, until `is_over`."""
    while not is_over.wait(0.2):
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                peaks.append(child.memory_info().rss)


def measure_run_all():
    """Run the notebook from a cold kernel: seconds in all, and of its training."""
    is_over, peaks = threading.Event(), []
    threading.Thread(None, watch_memory, None, (is_over, peaks), daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        started, folder = time.perf_counter(), Path(folder)
        execute(NOTEBOOK, folder / "out.ipynb", {"data_dir": str(DATA)})
        total = time.perf_counter() - started
        result = json.loads((folder / "result.json").read_text("utf-8"))
    is_over.set()
    seconds = {"run_all_seconds": total, "training_seconds": result["seconds"]}
    return seconds | {"peak_bytes": max(peaks)}


def measure_start_up():
    """Seconds of a new process to import, hash and load the data that is there."""
    code = (
        "import time; from S4.notebook_file import load_definitions;"
        "started = time.perf_counter(); nb = load_definitions();"
        f"nb.split_data({str(DATA)!r}, 'test');"
        "print(time.perf_counter() - started)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return float(done.stdout.splitlines()[-1])


def take_turns(contenders, repeats, device):
    """Return {name: [seconds of one epoch, ...]}, all contenders in every repeat."""
    times = {name: [] for name in contenders}
    for repeat, (name, epoch) in itertools.product(range(repeats), contenders.items()):
        times[name].append(seconds_of(epoch, device))
        print(f"{repeat + 1}/{repeats} {name:<40}{times[name][-1]:8.1f} s", flush=True)
    return times


def measure(nb, repeats=3, basic_epochs=14, run_all=True, limit=None):
    """Return all measurements as one dict, fit for JSON.

    `limit` takes only so many training images; the seconds are then worth nothing.
    """
    ours, basic = make_ours(nb, limit), Basic(nb.device, limit)
    contenders = {OURS: ours}
    for workers in WORKERS:
        name = f"our network, fed per picture, {workers} workers"
        contenders[name] = Usual(nb, workers, limit).epoch
    contenders[BASIC] = basic.epoch
    results = {
        "device": nb.device_name,
        "torch": torch.__version__,
        "start_up_seconds": [measure_start_up() for _ in range(repeats)],
        "run_all": measure_run_all() if run_all else None,
        "floor": measure_floor(nb),
    }
    ours()  # the first one also warms up
    results["epoch_seconds"] = take_turns(contenders, repeats, nb.device)
    for _ in range(basic_epochs - repeats):
        basic.epoch()
    results["basic"] = {
        "parameters": sum(weight.numel() for weight in basic.net.parameters()),
        "epochs": max(basic_epochs, repeats),
        "last_accuracy": basic.accuracy,
    }
    return results


def epoch_table(results):
    """Return the seconds of one epoch of each contender, as a Markdown table."""
    seconds, floor = pd.DataFrame(results["epoch_seconds"]), results["floor"]["seconds"]
    ratios = seconds.rdiv(seconds[OURS], axis=0).median()
    lines = ["| One epoch | Median, s | Range, s | Ours / this |", "|---|---|---|---|"]
    for name, column in seconds.items():
        spread = f"{column.min():.1f}–{column.max():.1f}"
        lines.append(
            f"| {name} | {column.median():.1f} | {spread} | {ratios[name]:.2f} |"
        )
    ratio = seconds[OURS].median() / floor
    return "\n".join([*lines, f"| the floor | {floor:.1f} | | {ratio:.1f} |"])


def fact_table(results):
    """Return everything else that was measured, as a Markdown table."""
    floor, basic = results["floor"], results["basic"]
    start_up = pd.Series(results["start_up_seconds"]).median()
    facts = {
        "device": f"{results['device']}, torch {results['torch']}",
        "the floor's operations": f"{floor['operations'] / 1e9:,.0f} GFLOP",
        "at the rate of a large matrix product": (
            f"{floor['operations_per_second'] / 1e9:,.0f} GFLOP/s"
        ),
        "basic example, parameters": f"{basic['parameters']:,}",
        f"basic example, accuracy after {basic['epochs']} epochs": (
            f"{basic['last_accuracy']:.2f} %"
        ),
        "import, check and load the data": f"{start_up:.1f} s",
    }
    if run := results["run_all"]:
        facts["our whole training"] = f"{run['training_seconds']:.0f} s"
        facts["*Run all* from a cold kernel"] = f"{run['run_all_seconds']:.0f} s"
        facts["peak memory of the kernel"] = f"{run['peak_bytes'] / 2**20:,.0f} MiB"
    return facts_table(facts, "besides")


def main(quick):
    nb = load_definitions()
    nb.split_data(DATA, "test")  # fetch it, if it is not there
    results = measure(nb, 1, 1, run_all=False, limit=1000) if quick else measure(nb)
    tables = {"epochs": epoch_table(results), "besides": fact_table(results)}
    print("\n\n".join(tables.values()))
    if not quick:
        RESULTS.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
        readme = ROOT.joinpath("README.md").read_text("utf-8")
        for name, table in tables.items():
            readme = fill(readme, name, table)
        ROOT.joinpath("README.md").write_text(readme, "utf-8", newline="\n")
