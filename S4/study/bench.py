"""How long training takes, beside what others use, and beside what is possible.

    python S4/study/bench.py              everything: about half an hour on two cores
    python S4/study/bench.py --quick      on 1,000 images: is everything in order?
    python S4/study/bench.py --table      print the table of bench.json

Prints a table and writes bench.json beside this file. The network and the training code
are the notebook's. The contenders take turns, one epoch each, so that whatever else the
machine is doing meets them alike; the ratios are taken within each turn.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
import torchvision
from torch import nn, optim
from torch.utils.data import DataLoader, Subset
from torch.utils.flop_counter import FlopCounterMode
from torchvision import datasets, transforms

STUDY = Path(__file__).resolve().parent
sys.path.insert(0, str(STUDY.parent))

from notebook_loader import NOTEBOOK, load_definitions  # noqa: E402
from reading import log_lines  # noqa: E402
from run import execute  # noqa: E402

DATA = STUDY.parent / "data"
RESULTS = STUDY / "bench.json"
WORKERS = (0, 2, 4)
OURS = "ours"
BASIC = "the basic MNIST example"
PARTS = (
    "data",
    "augmentation",
    "forward and backward",
    "optimizer",
    "averaging",
    "evaluation",
)
# More workers than cores are a contender here, not an oversight.
warnings.filterwarnings("ignore", "This DataLoader will create")


def usual_name(workers):
    return f"our network, fed per picture, {workers} workers"


def seconds_of(action, device):
    """Return how long `action()` takes, until the device is done with it."""
    synchronize(device)
    started = time.perf_counter()
    action()
    synchronize(device)
    return time.perf_counter() - started


def synchronize(device):
    if device.type == "cuda":
        torch.cuda.synchronize()


class Ours:
    """The notebook's network, data code and training, as they are."""

    def __init__(self, nb, limit=None):
        self.nb = nb
        train_data, test_data = nb.split_data(DATA, "test", limit)
        train_data = [tensor.to(nb.device) for tensor in train_data]
        test_data = [tensor.to(nb.device) for tensor in test_data]
        self.loader = nb.make_loader(*train_data, nb.batch_size, shuffle=True)
        self.test_loader = nb.make_loader(*test_data, 500, shuffle=False)
        self.net = nb.to_device(nb.Net(nb.dropout), nb.device)
        self.optimizer, self.scheduler = nb.make_optimizer(
            self.net, 10_000 * len(self.loader), nb.max_lr, nb.weight_decay
        )
        self.average = nb.make_average(self.net, len(self.loader))

    def epoch(self):
        self.nb.train_one_epoch(
            self.net,
            self.average,
            self.loader,
            self.optimizer,
            self.scheduler,
            self.nb.augmentation,
            1,
        )
        self.nb.evaluate(self.average.module, self.test_loader)

    def parts(self):
        """Seconds of one epoch by purpose, waiting for the device after each step."""
        spent = dict.fromkeys(PARTS, 0.0)

        def timed(part, action, *arguments, **options):
            started = time.perf_counter()
            result = action(*arguments, **options)
            synchronize(self.nb.device)
            spent[part] += time.perf_counter() - started
            return result

        batches = iter(self.loader)
        self.net.train()
        for step in range(1, len(self.loader) + 1):
            images, labels = timed(PARTS[0], next, batches)
            images = timed(
                PARTS[1], self.nb.random_affine, images, **self.nb.augmentation
            )
            timed(PARTS[2], self.learn, images, labels)
            timed(PARTS[3], self.optimizer.step)
            if step % 10 == 0:
                timed(PARTS[4], self.average.update_parameters, self.net)
        timed(PARTS[5], self.nb.evaluate, self.average.module, self.test_loader)
        return spent

    def learn(self, images, labels):
        self.optimizer.zero_grad()
        F.nll_loss(self.net(images), labels).backward()


class PerPicture:
    """A network fed one picture at a time through torchvision's transforms."""

    def __init__(self, device, net, batch_size, augmentation=(), workers=0, limit=None):
        self.device, self.net = device, net
        plain = [transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))]
        augmented = transforms.Compose([*augmentation, *plain])
        train = datasets.MNIST(DATA, train=True, transform=augmented)
        test = datasets.MNIST(DATA, train=False, transform=transforms.Compose(plain))
        feed = {"num_workers": workers, "pin_memory": device.type == "cuda"}
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
        net = nb.to_device(nb.Net(nb.dropout), nb.device)
        super().__init__(nb.device, net, nb.batch_size, [affine], workers, limit)
        self.optimizer, _ = nb.make_optimizer(net, 100, nb.max_lr, nb.weight_decay)


class Basic(PerPicture):
    """The widely used basic MNIST example: its network, optimizer and batch size."""

    def __init__(self, device, limit=None):
        net = nn.Sequential(
            nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(),
            nn.MaxPool2d(2), nn.Dropout(0.25), nn.Flatten(),
            nn.Linear(9216, 128), nn.ReLU(), nn.Dropout(0.5),
            nn.Linear(128, 10), nn.LogSoftmax(dim=1),
        )  # fmt: skip
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
    net = nb.Net(nb.dropout)
    images, labels = torch.zeros(100, 1, 28, 28), torch.zeros(100, dtype=torch.long)
    with FlopCounterMode(display=False) as training:
        F.nll_loss(net(images), labels).backward()
    with FlopCounterMode(display=False) as judging, torch.inference_mode():
        net.eval()(images)
    operations = 600 * training.get_total_flops() + 100 * judging.get_total_flops()
    size_of_image = 28 * 28 * 4
    data = 70_000 * size_of_image
    matrix = torch.randn(2048, 2048, device=nb.device)
    block = torch.randn(2**26, device=nb.device)
    target = torch.empty_like(block)
    product = min(seconds_of(lambda: matrix @ matrix, nb.device) for _ in range(20))
    copy = min(seconds_of(lambda: target.copy_(block), nb.device) for _ in range(20))
    operation_rate, byte_rate = 2 * 2048**3 / product, 2 * 4 * 2**26 / copy
    return {
        "operations": operations,
        "bytes": data,
        "operations_per_second": round(operation_rate),
        "bytes_per_second": round(byte_rate),
        "seconds": max(operations / operation_rate, data / byte_rate),
    }


def measure_run_all():
    """Run the notebook from a cold kernel: seconds in all, and of its training."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        executed = execute(
            NOTEBOOK, Path(folder, "out.ipynb"), Path(folder), {"data_dir": str(DATA)}
        )
        total = time.perf_counter() - started
    log = log_lines(executed)
    return {
        "run_all_seconds": total,
        "training_seconds": sum(line["seconds"] for line in log),
        "last_accuracy": log[-1]["test_accuracy"],
        # Linux counts in KiB; the largest child so far is the notebook's kernel.
        "peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss,
    }


def measure_start_up():
    """Seconds of a new process to import, hash and load the data that is there."""
    code = (
        "import time; from notebook_loader import load_definitions;"
        "started = time.perf_counter(); nb = load_definitions();"
        f"nb.ensure_mnist({str(DATA)!r}); nb.split_data({str(DATA)!r}, 'test');"
        "print(time.perf_counter() - started)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=STUDY.parent, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return float(done.stdout.splitlines()[-1])


def take_turns(contenders, repeats, device):
    """Return {name: [seconds of one epoch, ...]}, all contenders in every repeat."""
    times = {name: [] for name in contenders}
    for repeat in range(1, repeats + 1):
        for name, contender in contenders.items():
            times[name].append(seconds_of(contender.epoch, device))
            print(f"{repeat}/{repeats}  {name:<32}{times[name][-1]:8.1f} s", flush=True)
    return times


def measure(nb, repeats=3, basic_epochs=14, run_all=True, limit=None):
    """Return all measurements as one dict, fit for JSON.

    `limit` takes only so many training images; the seconds are then worth nothing.
    """
    device = nb.device
    results = {
        "device": nb.device_name,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "notebook_parameters": sum(w.numel() for w in nb.Net(0).parameters()),
        "start_up_seconds": [measure_start_up() for _ in range(repeats)],
        "run_all": measure_run_all() if run_all else None,
        "floor": measure_floor(nb),
    }
    ours, basic = Ours(nb, limit), Basic(device, limit)
    contenders = {OURS: ours}
    for workers in WORKERS:
        contenders[usual_name(workers)] = Usual(nb, workers, limit)
    contenders[BASIC] = basic
    seconds_of(ours.epoch, device)  # the first one also warms up
    results["epoch_seconds"] = take_turns(contenders, repeats, device)
    results["parts_seconds"] = [ours.parts() for _ in range(repeats)]
    if device.type == "cuda":
        results["peak_gpu_bytes"] = torch.cuda.max_memory_allocated()
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
    epochs, floor = results["epoch_seconds"], results["floor"]["seconds"]
    lines = ["| One epoch | Median, s | Range, s | Ours / this |", "|---|---|---|---|"]
    for name, seconds in epochs.items():
        spread = f"{min(seconds):.1f}–{max(seconds):.1f}"
        ratio = ratio_to_ours(epochs, name)
        lines.append(f"| {name} | {median(seconds):.1f} | {spread} | {ratio:.2f} |")
    lines.append(f"| the floor | {floor:.1f} | | {median(epochs[OURS]) / floor:.1f} |")
    return "\n".join(lines)


def part_table(results):
    """Return the seconds of the parts of our epoch, as a Markdown table."""
    lines = ["| Part of our epoch | Median, s |", "|---|---|"]
    for part in results["parts_seconds"][0]:
        seconds = [repeat[part] for repeat in results["parts_seconds"]]
        lines.append(f"| {part} | {median(seconds):.2f} |")
    return "\n".join(lines)


def fact_table(results):
    """Return everything else that was measured, as a Markdown table."""
    floor, basic = results["floor"], results["basic"]
    rate, start_up = floor["operations_per_second"], median(results["start_up_seconds"])
    facts = {
        "device": f"{results['device']}, torch {results['torch']}",
        "the floor's operations": f"{floor['operations'] / 1e9:,.0f} GFLOP",
        "at the rate of a large matrix product": f"{rate / 1e9:,.0f} GFLOP/s",
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
    lines = [f"| {name} | {fact} |" for name, fact in facts.items()]
    return "\n".join(["| Besides | |", "|---|---|", *lines])


def as_tables(results):
    """Return all measurements as Markdown tables."""
    tables = epoch_table(results), part_table(results), fact_table(results)
    return "\n\n".join(tables)


def ratio_to_ours(epochs, name):
    """Median over the repeats of our seconds divided by those of contender `name`."""
    return median([o / t for o, t in zip(epochs[OURS], epochs[name], strict=True)])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a trial on 1,000 images")
    parser.add_argument("--table", action="store_true", help="print the last results")
    arguments = parser.parse_args()
    if not arguments.table:
        nb = load_definitions()
        nb.ensure_mnist(DATA)
        if arguments.quick:
            results = measure(nb, 1, basic_epochs=1, run_all=False, limit=1000)
            print(as_tables(results))
            return
        RESULTS.write_text(json.dumps(measure(nb), indent=1) + "\n")
    print(as_tables(json.loads(RESULTS.read_text())))


if __name__ == "__main__":
    main()
