"""Training learns, repeats itself, and stops with grace."""

import math
import re
from functools import partial
from itertools import groupby
from types import SimpleNamespace

import pytest
import torch


@pytest.fixture
def recipe(nb):
    """A short and plain one."""
    changes = {"epochs": 3, "batch_size": 64, "augment": None}
    changes["margin"] = lambda epoch, epochs: 0
    return nb.recipe | changes


def rows_of(nb, subset, recipe, seed=0):
    """Train on the subset and judge on the same; return the rows without seconds."""
    rows = [row for row, _ in nb.train(subset, subset, seed, recipe)]
    return [{**row, "seconds": None} for row in rows]


def test_the_loss_falls_and_each_epoch_has_its_row(nb, subset, recipe, capsys):
    rows = rows_of(nb, subset, recipe | {"epochs": 8})
    assert [row["epoch"] for row in rows] == list(range(1, 9))
    assert rows[0]["train_loss"] == pytest.approx(math.log(10), abs=0.4)
    assert rows[-1]["train_loss"] < 0.5 * rows[0]["train_loss"]
    assert rows[-1]["train_accuracy"] > 75
    assert capsys.readouterr().out == ""


def test_the_optimizer_is_sgd_with_the_parameters_numbers(nb):
    """Nesterov's step from rest, by hand: the gradient counts 1 + momentum times."""
    net = nb.Net(dropout=0)
    optimizer = nb.recipe["make_optimizer"](net, 100)
    weight = net.prediction.weight
    before = weight.detach().clone()
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    gradient = 1 + nb.weight_decay * before
    moved = before - nb.learning_rate * (1 + 0.9) * gradient
    torch.testing.assert_close(weight.detach(), moved)
    assert optimizer.param_groups[0]["lr"] == nb.learning_rate  # it stays


def test_the_pictures_of_a_seed_do_not_depend_on_the_network(nb, subset, recipe):
    """Two variants with one seed see the same pictures in the same order."""
    seen = {}

    def make_net(dropout):
        def note(net, images):
            if net.training:
                seen[dropout].append(images[0])

        net = nb.Net(dropout)
        torch.rand(int(10 * dropout))  # another network draws another number of weights
        net.register_forward_pre_hook(note)
        return net

    for dropout in (0.0, 0.5):
        seen[dropout] = []
        changes = {"make_net": partial(make_net, dropout), "augment": nb.augment}
        rows_of(nb, subset, recipe | changes | {"epochs": 1})
    first, second = (torch.cat(batches) for batches in seen.values())
    assert len(first) == 512 and torch.equal(first, second)


def test_early_epochs_train_on_the_middle_and_all_are_judged_on_whole_pictures(
    nb, subset, recipe
):
    seen = []

    def make_net():
        def note(net, images):
            seen.append((net.training, images[0]))

        net = nb.Net(0.0)
        net.register_forward_pre_hook(note)
        return net

    recipe |= {"make_net": make_net, "epochs": 2}
    rows_of(nb, subset, recipe)
    whole = seen[:]
    rows_of(nb, subset, recipe | {"margin": lambda epoch, epochs: 2 * (epoch == 1)})
    sizes = [(training, *image.shape[2:]) for training, image in seen]
    assert set(sizes[: len(whole)]) == {(True, 28, 28), (False, 28, 28)}
    assert [size for size, _ in groupby(sizes[len(whole) :])] == [
        (True, 24, 24),
        (False, 28, 28),
        (True, 28, 28),
        (False, 28, 28),
    ]
    assert torch.equal(seen[len(whole)][1], seen[0][1][..., 2:26, 2:26])


def test_a_run_ends_on_whole_pictures(nb):
    margins = [nb.margin(epoch, nb.epochs) for epoch in range(1, nb.epochs + 1)]
    assert margins == 15 * [2] + 4 * [0]
    assert [nb.margin(epochs, epochs) for epochs in range(1, 20)] == 19 * [0]


def test_no_step_waits_for_the_device(nb, subset, recipe, monkeypatch):
    """On torch's `meta` device every reading of a value raises."""
    data = [part.to("meta") for part in subset]
    finished = []

    def bar(batches, title):
        yield from batches
        finished.append(title)

    def make_optimizer(net, total_steps):
        optimizer = nb.recipe["make_optimizer"](net, total_steps)
        optimizer.param_groups[0]["fused"] = False  # `meta` has no fused step
        return optimizer

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="meta"):
        # `meta` has no generators: None stands for one.
        seeded = SimpleNamespace(manual_seed=lambda seed: None)
        patch.setattr(torch, "Generator", lambda device: seeded)
        recipe |= {"make_optimizer": make_optimizer, "augment": nb.augment}
        next(nb.train(data, data, 0, recipe, bar))
    assert finished == ["Epoch 1"]  # only its row reads


def test_the_same_seed_gives_the_same_rows(nb, subset, recipe):
    recipe |= {"epochs": 1, "augment": nb.augment}
    first = rows_of(nb, subset, recipe)
    torch.rand(3)  # whatever was drawn before
    assert rows_of(nb, subset, recipe) == first
    assert rows_of(nb, subset, recipe, seed=1) != first


def test_judging_draws_no_random_numbers(nb, subset, recipe):
    """Training on the same images is the same, whatever it is judged on."""
    other = [part[:100] for part in subset]
    first, second = (
        [row["train_loss"] for row, _ in nb.train(subset, judged, 0, recipe)]
        for judged in (subset, other)
    )
    assert first == second
    net = nb.recipe["make_net"]()
    state = torch.get_rng_state()
    nb.evaluate(net, *subset)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_average_is_the_mean_at_first_and_then_follows(nb):
    net = torch.nn.BatchNorm1d(1)
    average = nb.make_average(net, steps_per_epoch=30)  # so it is over 3 updates
    followed, expected = [], [1.0, 1.5, 2.0, 2.0 + 4.0 / 3]
    for value in (1.0, 2.0, 3.0, 6.0):
        net.weight.data.fill_(value)
        net.running_mean.fill_(-value)
        average.update_parameters(net)
        followed.append(average.module.weight.item())
        assert average.module.running_mean.item() == pytest.approx(-followed[-1])
    assert followed == pytest.approx(expected)


def test_the_average_is_judged_and_handed_out(nb, subset, recipe):
    class Untrained:
        def __init__(self, net, steps_per_epoch):
            self.module = nb.Net(dropout=0)
            self.updates = 0
            averages.append(self)

        def update_parameters(self, net):
            self.updates += 1

    averages = []
    run = list(nb.train(subset, subset, 0, recipe | {"make_average": Untrained}))
    untrained = averages[0].module.state_dict()
    for _, net in run:
        assert all(torch.equal(w, untrained[n]) for n, w in net.state_dict().items())
    assert len({row["eval_loss"] for row, _ in run}) == 1  # it never learnt
    assert averages[0].updates == 3  # the last of 8 steps, in each of 3 epochs


def test_evaluation_agrees_with_a_plain_loop(nb, subset, recipe):
    *_, (row, net) = nb.train(subset, subset, 0, recipe)
    net.eval()
    right, loss = 0, 0.0
    for image, label in zip(*subset, strict=True):
        log_probabilities = net(image.unsqueeze(0))[0]
        right += int(log_probabilities.argmax() == label)
        loss -= log_probabilities[label].item()
    assert row["eval_accuracy"] == pytest.approx(100 * right / 512)
    assert row["eval_loss"] == pytest.approx(loss / 512, rel=1e-4)


def test_a_loss_that_is_not_finite_stops_with_epoch_and_step(nb, subset, recipe):
    broken = torch.full_like(subset[0], float("nan")), subset[1]
    told = "nan in epoch 1, step 1: lower learning_rate"
    with pytest.raises(FloatingPointError, match=told):
        rows_of(nb, broken, recipe)


def test_what_was_handed_out_outlives_a_later_failure(nb, subset, recipe, monkeypatch):
    real, steps, pairs = nb.train_step, [], []

    def train_step(*arguments):
        steps.append(None)
        loss, hits = real(*arguments)
        return (loss * float("inf") if len(steps) > 10 else loss), hits

    monkeypatch.setattr(nb, "train_step", train_step)
    with pytest.raises(FloatingPointError, match="inf in epoch 2, step 3"):
        for pair in nb.train(subset, subset, 0, recipe):  # 8 steps an epoch
            pairs.append(pair)
    ((row, net),) = pairs
    assert row["epoch"] == 1
    assert nb.evaluate(net, *subset)[0] == row["eval_loss"]  # not the later steps


def test_settings_name_every_number_of_a_recipe_once(nb):
    names = "dropout", "learning_rate", "weight_decay", "batch_size", "epochs"
    names += "max_rotation", "max_shift", "max_scale", "max_shear"
    assert nb.settings_of(nb.recipe) == {name: getattr(nb, name) for name in names}
    assert nb.settings_of({"augment": None}) == {"augment": None}


def test_the_last_epoch_decides_and_only_on_the_exercises_data(nb):
    met, missed = ([{"eval_accuracy": a} for a in (99.9, b)] for b in (99.40, 99.39))
    assert nb.verdict(met, 2) == "ALL RULES ARE MET."
    assert re.match("NOT MET: .* 0.01 points", nb.verdict(missed, 2))
    assert nb.verdict(met, 3).startswith("INCOMPLETE: 2 of 3")
    for trial in ({"judge_on": "validation"}, {"train_limit": 100}):
        assert nb.verdict(met, 2, **trial).startswith("A TRIAL")


def test_weights_are_saved_whole_and_load_safely(nb, tmp_path, monkeypatch):
    net = nb.Net(dropout=0)
    nb.save_weights(net, tmp_path / "net.pt")
    loaded = torch.load(tmp_path / "net.pt", weights_only=True)
    assert all(torch.equal(loaded[name], w) for name, w in net.state_dict().items())

    def interrupted(_, path):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    before = (tmp_path / "net.pt").read_bytes()
    monkeypatch.setattr(nb.torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        nb.save_weights(net, tmp_path / "net.pt")
    assert (tmp_path / "net.pt").read_bytes() == before
