"""The study trains on any Dask cluster, and loses nothing."""

import contextlib
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
from filelock import FileLock
from torch import nn

from S4.notebook_file import NOTEBOOK, load_definitions
from S4.study import runs as study_runs
from S4.study.__main__ import as_seeds, main
from S4.study.contestants import earlier_network
from S4.study.runs import append_run, read_runs, train_run
from S4.study.variants import (
    VARIANTS,
    Variant,
    Views,
    augment_less_at_the_end,
    before,
    before_simplifying,
    elastic,
    hard_pictures,
    identity,
)

ROOT = NOTEBOOK.parents[1]
RUN = {"identity": "abc", "seed": 1, "epochs": 2, "split": "test", "train_limit": None}


@pytest.fixture
def results(tmp_path):
    return tmp_path / "results.jsonl"


@pytest.fixture
def cluster(tmp_path):
    """The address of a Dask scheduler, and its two workers: processes of their own."""
    where = tmp_path / "scheduler.json"
    dask = [sys.executable, "-m", "dask"]
    # Not in the repository: the workers get its code from the client.
    quiet = dict.fromkeys(["stdout", "stderr"], subprocess.DEVNULL) | {"cwd": tmp_path}
    place = ["--host", "127.0.0.1", "--port", "0", "--scheduler-file", where]
    scheduler = subprocess.Popen([*dask, "scheduler", "--no-show", *place], **quiet)
    worker = [*dask, "worker", "--scheduler-file", where, "--nthreads", "1"]
    worker += ["--no-nanny", "--no-dashboard", "--local-directory", tmp_path]
    workers = [subprocess.Popen(worker, **quiet) for _ in range(2)]
    deadline = time.monotonic() + 60
    while not where.exists():
        assert time.monotonic() < deadline, "the scheduler does not start"
        time.sleep(0.1)
    yield json.loads(where.read_text("utf-8"))["address"], workers
    for process in [*workers, scheduler]:
        process.kill()
        process.wait()


def study(results, data_dir, *options):
    """Start a small study of two variants, a process group of its own."""
    command = [sys.executable, "-m", "S4.study", "run", "--results", results]
    command += ["--train-limit", "1000", "--data-dir", data_dir, *options]
    command += ["--variant", "recipe", "no dropout"]
    pipes = dict.fromkeys(["stdout", "stderr"], subprocess.PIPE)
    own_group = {"start_new_session": True}
    return subprocess.Popen(
        list(map(str, command)), cwd=ROOT, encoding="utf-8", **pipes, **own_group
    )


def wait_for_first_run(results, process):
    while not results.exists() and process.poll() is None:
        time.sleep(0.1)


def test_two_variants_on_a_cluster_reached_by_its_address(cluster, results, data_dir):
    address, workers = cluster
    options = ["--seeds", "1-2", "--epochs", "2", "--scheduler", address]
    studying = study(results, data_dir, *options)
    wait_for_first_run(results, studying)
    workers[0].kill()  # its run goes to the other one
    output, errors = studying.communicate(timeout=300)
    assert studying.returncode == 0 and "0 of 4 runs are done already" in output, (
        output + errors
    )
    runs = read_runs(results)
    found = {(run["variant"], run["seed"]) for run in runs}
    assert found == {(v, seed) for v in ("recipe", "no dropout") for seed in (1, 2)}
    assert all(
        len(run["history"]["eval_loss"]) == 2 and not run["failed"] for run in runs
    )
    again = study(results, data_dir, *options)
    assert "4 of 4 runs are done already" in again.communicate()[0]
    assert again.returncode == 0


@pytest.mark.skipif(sys.platform == "win32", reason="no process groups to interrupt")
def test_an_interrupt_says_in_one_line_what_is_kept(results, data_dir):
    """As Ctrl-C in a terminal: it reaches the workers as well.

    Even where another program holds the port of Dask's page.
    """
    with socket.socket() as other:
        with contextlib.suppress(OSError):  # one does already
            other.bind(("", 8787))
            other.listen()
        studying = study(results, data_dir, "--seeds", "1-50", "--epochs", "1")
        wait_for_first_run(results, studying)
        os.killpg(studying.pid, signal.SIGINT)
        output, errors = studying.communicate(timeout=180)
    assert studying.returncode == 130 and errors == ""
    assert output.splitlines()[-1].startswith("Interrupted. Finished runs are kept in")
    assert read_runs(results)


def test_more_workers_than_memory_allows_are_refused(results, data_dir):
    studying = study(results, data_dir, "--seeds", "1", "--workers", "9999")
    _, errors = studying.communicate(timeout=180)
    assert studying.returncode == 1 and "use fewer --workers" in errors


def test_a_second_study_is_refused_while_the_first_holds_the_file(results, data_dir):
    with FileLock(f"{results}.lock"):
        second = study(results, data_dir)
        assert "Another study" in second.communicate(timeout=180)[1]
    assert second.returncode == 1 and not results.exists()


def train(variant, data_dir, epochs=1):
    run = {"seed": 1, "epochs": epochs, "split": "validation", "train_limit": 256}
    return train_run(variant, None, run, data_dir)


def test_a_run_is_the_notebooks_own(nb, data_dir):
    """The same seed gives what the notebook's training cell gives."""
    run = train(VARIANTS["recipe"], data_dir)
    data = nb.split_data(data_dir, "validation", 256)
    ((row, net),) = nb.train(*data, 1, nb.recipe | {"epochs": 1})
    for key in ("train_loss", "eval_loss", "eval_accuracy"):
        assert run["history"][key][0] == pytest.approx(row[key], rel=1e-4)
    assert run["parameters"] == sum(weight.numel() for weight in net.parameters())
    wrong = 100 - run["history"]["eval_accuracy"][-1]
    assert len(run["misread"]) == round(100 * wrong)
    viewed = nb.evaluate(Views(net), *data[1])
    assert run["five_views"] == pytest.approx(viewed, rel=1e-4)


def test_hard_pictures_always_stay_and_easy_ones_by_chance():
    """The network is sure of a 0 in every picture; from epoch 4 on, of a 1."""
    labels = torch.arange(1000) % 2
    kept = {"make_net": nn.Identity, "epochs": 8, "batch_size": 64, "keep": 0.4}
    recipe, choose = hard_pictures(kept, labels, seed=1)
    net, seen = recipe["make_net"](), [()]
    for epoch in range(1, 9):
        logits = torch.full((10,), -9.0)
        logits[int(epoch > 3)] = 9
        seen.append(set())
        for batch in choose(torch.randperm(1000).split(64), f"Epoch {epoch}"):
            net(logits.log_softmax(dim=0).expand(len(batch), 10))
            seen[-1] |= {*batch.tolist()}
    assert [len(seen[epoch]) for epoch in (1, 6, 7, 8)] == 4 * [1000]
    ones = {*range(1, 1000, 2)}
    assert seen[2] >= ones and seen[3] >= ones and seen[4] >= ones
    assert seen[5] >= seen[4] - ones  # zeros that were misread the last time
    by_chance = [seen[2] - ones, seen[3] - ones, seen[4] - ones, seen[5] & ones]
    assert all(150 < len(some) < 250 for some in by_chance) and seen[2] != seen[3]


def test_hard_pictures_fit_the_notebooks_training(nb, data_dir):
    data = nb.split_data(data_dir, "validation", 512)
    recipe = nb.recipe | {"epochs": 5, "batch_size": 64, "keep": 0.0}
    recipe, choose = hard_pictures(recipe, data[0][1], seed=1)
    counts = []

    def bar(batches, title):
        counts.append(0)
        for batch in choose(batches, title):
            counts[-1] += len(batch)
            yield batch

    for _ in nb.train(data[0], (data[1][0][:100], data[1][1][:100]), 1, recipe, bar):
        pass
    assert counts[0] == 512 and 0 < counts[1] < 512 and counts[2:] == [512] * 3


def test_a_run_leaves_pictures_out_if_its_variant_says_so(nb, data_dir, monkeypatch):
    given = []

    def note(recipe, labels, seed):
        given.extend([labels, seed])
        return recipe, lambda batches, title: given.append(title) or batches

    monkeypatch.setattr(study_runs, "hard_pictures", note)
    train(VARIANTS["hard pictures"], data_dir)
    labels = nb.split_data(data_dir, "validation", 256)[0][1]
    assert given[0].equal(labels) and given[1:] == [1, "Epoch 1"]


def test_whole_pictures_are_augmented_less_if_the_variant_says_so(nb):
    recipe = augment_less_at_the_end(nb.recipe | {"late_augmentation": 0.5})
    pictures = torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    halves = {name: value / 2 for name, value in nb.augment.keywords.items()}
    assert len(halves) == 4

    def augmented(augment, **amounts):
        return augment(pictures, generator=torch.Generator().manual_seed(2), **amounts)

    for epoch in range(1, 20):
        assert recipe["margin"](epoch, 19) == nb.margin(epoch, 19)
        amounts = {} if nb.margin(epoch, 19) else halves
        assert augmented(recipe["augment"]).equal(augmented(nb.augment, **amounts))


def test_a_run_augments_less_at_the_end_if_its_variant_says_so(data_dir):
    names = "recipe", "less augmentation at the end"
    same, less = (train(VARIANTS[name], data_dir, epochs=2) for name in names)
    losses = [run["history"]["train_loss"] for run in (same, less)]
    first, last = zip(*losses, strict=True)
    assert first[0] == first[1] and last[0] != last[1]


def test_a_loss_that_is_not_finite_is_recorded(data_dir):
    run = train(Variant("far too high", parameters={"learning_rate": 1e30}), data_dir)
    assert "lower learning_rate" in run["failed"] and not any(run["history"].values())
    assert run["misread"] is run["five_views"] is None
    assert json.loads(json.dumps(run)) == run


def test_identity_is_what_is_trained_whatever_its_name_and_length(nb):
    of = {name: identity(variant.load()[1]) for name, variant in VARIANTS.items()}
    assert len(set(of.values())) == len(of)
    assert identity(load_definitions(epochs=6).recipe) == of["recipe"]
    less = load_definitions(dropout=0.0, learning_rate=0.2)
    less.recipe |= before_simplifying(less)
    assert identity(less.recipe) == of["no dropout"]
    earlier = load_definitions(learning_rate=0.2)
    earlier.recipe |= before_simplifying(earlier)
    assert identity(earlier.recipe | before(earlier)) == of["before"]
    # Before, it was the network that the benchmark keeps.
    nets = VARIANTS["before"].load()[1]["make_net"](), earlier_network("cpu")
    shapes = [[weight.shape for weight in net.parameters()] for net in nets]
    assert shapes[0] == shapes[1]
    others = {"augment": functools.partial(nb.random_affine, max_shift=1.0)}
    others |= {"make_net": functools.partial(nb.Net, dropout=0.3), "batch_size": 99}
    others["margin"] = lambda epoch, epochs: 1
    for name, value in others.items():
        assert identity(nb.recipe | {name: value}) not in of.values(), name


def test_the_committed_runs_are_known(nb):
    runs = read_runs(ROOT / "S4" / "study" / "results.jsonl")
    mine = [run for run in runs if run["identity"] == identity(nb.recipe)]
    assert len(mine) >= 36
    # Before it was adopted it was a variant.
    assert {run["variant"] for run in mine} == {"recipe", "simpler"}
    for name, least in (("before simplifying", 52), ("before", 60)):
        earlier = identity(VARIANTS[name].load()[1])
        assert sum(run["identity"] == earlier for run in runs) >= least


def muon_and_net():
    torch.manual_seed(0)
    nb, recipe = VARIANTS["Muon"].load()
    net = nb.Net(dropout=0)
    for weight in net.parameters():
        weight.grad = torch.ones_like(weight)
    return recipe["make_optimizer"](net, 100), net


def test_muons_steps_are_nesterovs_made_orthogonal():
    """The second step, by hand: the orthogonal matrix is that of singular vectors."""
    optimizer, net = muon_and_net()
    kernel = net.block3[0].weight
    first, second = torch.randn(2, *kernel.shape)
    for gradient in (first, second):
        kernel.grad, before = gradient.clone(), kernel.detach().clone()
        optimizer.step()
    step = (before - kernel.detach()).flatten(1) / 0.02
    momentum = second + 0.9 * (second + 0.9 * first)
    left, _, right = torch.linalg.svd(momentum.flatten(1), full_matrices=False)
    lengths = (left.T @ step @ right.T).diag()  # along each singular direction
    assert lengths.min() > 0.65 and lengths.max() < 1.25
    assert (step - left * lengths @ right).norm() < 1e-3 * step.norm()


def test_muon_trains_the_kernels_between_maps_and_sgd_the_rest(nb):
    optimizer, net = muon_and_net()
    sgd, muon = optimizer.param_groups
    convolutions = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    kernels = [conv.weight for conv in convolutions[1:-1]]
    assert [id(w) for w in muon["params"]] == [id(kernel) for kernel in kernels]
    assert len(sgd["params"]) + len(kernels) == len(list(net.parameters()))
    before = net.prediction.weight.detach().clone()
    optimizer.step()
    gradient = 1 + nb.weight_decay * before
    moved = before - nb.learning_rate * (1 + 0.9) * gradient
    torch.testing.assert_close(net.prediction.weight.detach(), moved)


def test_views_average_what_the_network_says_of_moved_pictures():
    layers = nn.Flatten(), nn.Linear(784, 10), nn.LogSoftmax(dim=1)
    net = nn.Sequential(*layers)  # sees every pixel
    images = torch.zeros(2, 1, 28, 28)
    images[:, :, 8:20, 8:20] = torch.rand(2, 1, 12, 12)
    shifted = images.roll((-1, -1), (2, 3))
    turned = images.rot90(1, (2, 3))
    views = [(0, 0, 0), (0, 1, 1), (90, 0, 0)]
    logits = torch.stack([net(part) for part in (images, shifted, turned)])
    expected = logits.mean(dim=0).log_softmax(dim=1)
    torch.testing.assert_close(Views(net, views)(images), expected, atol=1e-5, rtol=0)
    assert not torch.allclose(expected, logits[0], atol=1e-3)


def test_elastic_pictures_move_smoothly_and_by_the_amount(nb):
    columns = torch.arange(28.0).expand(500, 1, 28, 28)  # each pixel's own place
    amounts = dict.fromkeys(("max_rotation", "max_shift", "max_scale", "max_shear"), 0)
    augment = functools.partial(nb.random_affine, **amounts)
    chance = {"generator": torch.Generator().manual_seed(0)}
    still = elastic(columns, augment, 0.0, **chance)
    assert torch.allclose(still, columns, atol=1e-4)
    shifts = (elastic(columns, augment, 0.5, **chance) - columns)[..., 7:21, 7:21]
    assert shifts.std() == pytest.approx(0.5, rel=0.3)
    assert shifts.diff(dim=-1).std() < 0.3 * shifts.std()
    assert torch.allclose(augment(columns, **chance), columns, atol=1e-4)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_is_a_network_for_ten_digits(nb, name):
    net = VARIANTS[name].load()[1]["make_net"]()
    output = net(torch.randn(4, 1, 28, 28))
    assert output.shape == (4, 10)
    torch.testing.assert_close(output.exp().sum(dim=1), torch.ones(4))
    parameters = sum(weight.numel() for weight in net.parameters())
    most = 6_379_786 if name.startswith("starting") else 19_999
    too_large = "head" in name or "GAP" in name or name == "twice as wide"
    assert parameters <= most or too_large


def test_status_tells_what_is_missing_and_how_long_it_takes(
    nb, results, capsys, monkeypatch
):
    done = RUN | {"identity": identity(nb.recipe), "split": "validation"}
    history = {"eval_loss": [0.02] * nb.epochs}
    done |= {"epochs": nb.epochs, "history": history, "seconds": 100.0 * nb.epochs}
    done["device"] = "CPU (x86_64, 1 threads)"
    append_run(done, results)
    append_run(done | {"seed": 99, "seconds": 1.0, "device": "a quick GPU"}, results)
    asked = ["--seeds", "1-37", "--workers", "2", "--results", str(results)]
    monkeypatch.setattr(sys, "argv", ["", "status", "--variant", "recipe", *asked])
    main()
    said = capsys.readouterr().out
    assert "1 of 37 runs are done already" in said and " 36 missing" in said
    assert f"about {36 * nb.epochs * 100 / 2 / 3600:.1f} hours with 2 workers" in said

    other = [*sys.argv[:3], "no dropout", *asked]  # not timed yet: by what is
    monkeypatch.setattr(sys, "argv", other)
    main()
    said = capsys.readouterr().out
    assert f"about {37 * nb.epochs * 100 / 2 / 3600:.1f} hours" in said
    results.unlink()
    main()
    assert "known when a first run is finished" in capsys.readouterr().out


def test_seeds_are_numbers_or_ranges():
    assert as_seeds("4") == [4] and as_seeds("1-3") == as_seeds("3-1") == [1, 2, 3]


def test_a_torn_tail_is_set_aside_when_the_next_run_is_written(results, capsys):
    append_run(RUN, results)
    whole = results.read_bytes()
    results.write_bytes(whole.replace(b"\n", b"\r\n") + b'{"seed": 7, "va')
    assert read_runs(results) == [RUN] and "torn" in capsys.readouterr().out
    append_run(RUN | {"seed": 2}, results)
    assert read_runs(results) == [RUN, RUN | {"seed": 2}]
    assert results.with_name("results.jsonl.torn").read_bytes() == b'{"seed": 7, "va\n'


def test_a_whole_last_line_without_its_end_is_kept(results):
    results.write_text(json.dumps(RUN), "utf-8")
    assert read_runs(results) == [RUN]
    append_run(RUN | {"seed": 2}, results)
    assert [run["seed"] for run in read_runs(results)] == [1, 2]


def test_a_run_that_is_there_twice_counts_once(results):
    append_run(RUN, results)
    append_run(RUN | {"seconds": 9}, results)
    assert read_runs(results) == [RUN]


@pytest.mark.parametrize("line", ['{"seed"', "{}", "[1]", "", '"abc"', "\xff"])
def test_any_other_damaged_line_is_named_and_nothing_is_changed(results, line):
    text = f"{json.dumps(RUN)}\n{line}\n{json.dumps(RUN)}\n".encode("latin-1")
    results.write_bytes(text)
    with pytest.raises(ValueError, match=r"results\.jsonl, line 2"):
        read_runs(results)
    assert results.read_bytes() == text
