"""Training learns, repeats itself, and stops with grace."""

import math
import re

import pytest
import torch


@pytest.fixture
def subset(nb, data_dir):
    """The first 512 training images and labels."""
    images, labels = nb.load_images(data_dir, train=True)
    return images[:512], labels[:512]


@pytest.fixture
def recipe():
    still = {"max_rotation": 0, "max_shift": 0, "max_scale": 0, "max_shear": 0}
    return {"epochs": 3, "max_lr": 0.1, "weight_decay": 1e-4, "augmentation": still}


def train(nb, subset, recipe, seed=0):
    """Train on the subset, judge on the same; return the network and its history."""
    torch.manual_seed(seed)
    net = nb.Net(dropout=0.02)
    train_loader = nb.make_loader(*subset, 64, shuffle=True)
    test_loader = nb.make_loader(*subset, 256, shuffle=False)
    history = []
    net = nb.fit(net, train_loader, test_loader, history, recipe)
    return net, history


def numbers(history):
    return [{**row, "seconds": None} for row in history]


def test_the_loss_falls_and_the_log_tells_each_epoch_once(nb, subset, recipe, capsys):
    _, history = train(nb, subset, {**recipe, "epochs": 8})
    assert history[0]["train_loss"] == pytest.approx(math.log(10), abs=0.3)
    assert history[-1]["train_loss"] < 0.5 * history[0]["train_loss"]
    assert history[-1]["train_accuracy"] > 75
    log = re.sub(r".*\r", "", capsys.readouterr().out)
    epochs = re.findall(r"^ +(\d+) .*%.*%.*$", log, re.MULTILINE)
    assert epochs == [str(epoch) for epoch in range(1, 9)]


def test_the_learning_rate_rises_and_falls_to_almost_nothing(nb):
    net = nb.Net(dropout=0)
    optimizer, scheduler = nb.make_optimizer(net, 100, max_lr=0.1, weight_decay=0)
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    peak = rates.index(max(rates))
    assert max(rates) == pytest.approx(0.1) and 15 <= peak <= 25
    assert rates[:peak] == sorted(rates[:peak]) and rates[-1] < 0.002
    assert optimizer.defaults["nesterov"] and optimizer.defaults["momentum"] == 0.9


def test_the_same_seed_gives_the_same_numbers(nb, subset, recipe):
    recipe = {**recipe, "epochs": 1}
    first, second = (numbers(train(nb, subset, recipe)[1]) for _ in range(2))
    assert first == second
    assert numbers(train(nb, subset, recipe, seed=1)[1]) != first


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


def test_the_average_is_judged_and_returned(nb, subset, recipe, monkeypatch):
    class Untrained:
        def __init__(self, net):
            self.module = nb.Net(dropout=0)
            self.module.load_state_dict(net.state_dict())
            self.updates = 0

        def update_parameters(self, net):
            self.updates += 1

    averages = []

    def make_average(net, steps_per_epoch):
        averages.append(Untrained(net))
        return averages[0]

    monkeypatch.setattr(nb, "make_average", make_average)
    net, history = train(nb, subset, recipe)
    assert net is averages[0].module
    assert len({row["test_loss"] for row in history}) == 1  # it never learnt
    assert averages[0].updates == 3  # the last of 8 steps, in each of 3 epochs


def test_evaluation_agrees_with_a_plain_loop(nb, subset, recipe):
    net, history = train(nb, subset, recipe)
    net.eval()
    right, loss = 0, 0.0
    for image, label in zip(*subset, strict=True):
        log_probabilities = net(image.unsqueeze(0))[0]
        right += int(log_probabilities.argmax() == label)
        loss -= log_probabilities[label].item()
    assert history[-1]["test_accuracy"] == pytest.approx(100 * right / 512)
    assert history[-1]["test_loss"] == pytest.approx(loss / 512, rel=1e-4)


def test_a_loss_that_is_not_finite_stops_with_epoch_and_step(nb, subset, recipe):
    images, labels = subset
    images = images.clone()
    images[:] = float("nan")
    with pytest.raises(FloatingPointError, match=r"nan in epoch 1, step 1\..*max_lr"):
        train(nb, (images, labels), recipe)


def test_a_loss_that_becomes_infinite_keeps_the_history(
    nb, subset, recipe, monkeypatch
):
    real, steps = nb.F.nll_loss, []

    def nll_loss(log_probabilities, labels):
        steps.append(None)
        in_training = log_probabilities.requires_grad
        loss = real(log_probabilities, labels)
        return loss * float("inf") if in_training and len(steps) > 11 else loss

    monkeypatch.setattr(nb.F, "nll_loss", nll_loss)
    net = nb.Net(dropout=0)
    loader = nb.make_loader(*subset, 64, shuffle=True)  # 8 steps, and 1 to judge
    history = []
    with pytest.raises(FloatingPointError, match="inf in epoch 2, step 3"):
        nb.fit(net, loader, nb.make_loader(*subset, 512, False), history, recipe)
    assert [row["epoch"] for row in history] == [1]


def test_an_interrupt_keeps_the_history(nb, subset, recipe, monkeypatch, capsys):
    real = nb.train_one_epoch

    def train_one_epoch(*arguments):
        if arguments[-1] == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(nb, "train_one_epoch", train_one_epoch)
    _, history = train(nb, subset, recipe)
    assert [row["epoch"] for row in history] == [1, 2]
    assert "2 of 3 epochs are finished" in capsys.readouterr().out
    assert nb.verdict(history, epochs=3).startswith("INCOMPLETE: 2 of 3")


@pytest.mark.parametrize(
    "last, expected", [(99.40, "ALL FIVE"), (99.39, "NOT MET: .* 0.01 points")]
)
def test_the_last_epoch_decides(nb, last, expected):
    history = [{"test_accuracy": 99.9}, {"test_accuracy": last}]
    assert re.match(expected, nb.verdict(history, epochs=2))


@pytest.mark.parametrize("trial", [{"judge_on": "validation"}, {"train_limit": 100}])
def test_only_the_exercises_data_give_a_verdict(nb, trial):
    assert nb.verdict([{"test_accuracy": 99.9}], 1, **trial).startswith("A TRIAL")


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
