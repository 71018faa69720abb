"""What the benchmark times with: an epoch of ours, turns, and counted operations."""

import itertools
import time

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from ..notebook_file import NOTEBOOK

DATA = NOTEBOOK.with_name("data")


def seconds_of(action, device):
    """Return how long `action()` takes, until the device is done with it."""
    started = time.perf_counter()
    action()
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - started


def make_ours(nb, limit=None, threads=None, margin=0, **changes):
    """Return a function that trains and judges one epoch of the notebook's run.

    Its pictures lack `margin` pixels at each side, as early epochs' do. `changes`
    replace entries of the recipe; `threads` is set before each epoch.
    """
    train_data, eval_data = nb.split_data(DATA, "test", limit)
    eval_data = tuple(part[:limit] for part in eval_data)
    always = {"margin": lambda epoch, epochs: margin}
    always["epochs"] = 10_000  # more than are asked for
    run = nb.train(train_data, eval_data, nb.seed, nb.recipe | always | changes)
    usual = torch.get_num_threads()

    def epoch():
        torch.set_num_threads(threads or usual)
        next(run)
        torch.set_num_threads(usual)

    return epoch


def take_turns(contestants, repeats, device):
    """Return {name: [seconds of one epoch, ...]}, all contestants in every repeat."""
    times, epochs = {name: [] for name in contestants}, {}
    for repeat, name in itertools.product(range(repeats), contestants):
        epochs[name] = epochs.get(name) or contestants[name]()
        times[name].append(seconds_of(epochs[name], device))
        print(f"{repeat + 1}/{repeats} {name}: {times[name][-1]:.1f} s", flush=True)
    return times, epochs


def count_operations(net, device, size=28):
    """Return the operations of one epoch: of its convolutions, counted by torch.

    Forward and backward on 60,000 images, `size` pixels wide; forward on 10,000.
    """
    images = torch.zeros(100, 1, 28, 28, device=device)
    labels = torch.zeros(100, dtype=torch.long, device=device)
    with FlopCounterMode(display=False) as training:
        F.nll_loss(net(images[..., :size, :size]), labels).backward()
    with FlopCounterMode(display=False) as judging, torch.inference_mode():
        net.eval()(images)
    return 600 * training.get_total_flops() + 100 * judging.get_total_flops()
