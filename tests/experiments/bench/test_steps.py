"""What is trained: the plain form computes what ours does; loops with Lightning and without train alike."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from experiments.bench.epoch import RUNS, minutes, runs
from experiments.bench.steps import PlainConv, PlainStep, plain
from experiments.bench.training import EDGE, Watched, fit, like, made, step_of
from lit_hidden import build, hide
from lit_hidden.edge_popup import maskers
from lit_hidden.modules import LitSubnetwork
from lit_hidden.run import Run

HERE = torch.device("cpu")
NETS = {"conv2": 0.25, "conv4": 0.125, "conv6": 0.125, "lenet": 1.0, "cifar_resnet18": 0.125, "resnet50": 0.125}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("density", [0.3, 0.5])
def test_with_equal_weights_and_scores_it_computes_what_ours_does(name, density):
    ours = LitSubnetwork(build(name, width=NETS[name]), density=density, schedule="constant", seed=3)
    images, labels = torch.randn(6, 3, 32, 32), torch.arange(6)
    if "resnet" in name:  # batch norm of so few images magnifies what float32 rounds off
        ours, images = ours.double(), images.double()
    theirs = plain(ours.net)
    found = {}
    for key, net in (("ours", ours), ("plain", theirs)):
        logits = net(images)
        loss = F.cross_entropy(logits, labels)
        loss.backward()
        found[key] = [logits.detach(), loss.detach()]
    found["ours"] += [each.scores.grad for each in maskers(ours.net).values()]
    found["plain"] += [m.scores.grad.view_as(s) for m, s in zip(layers(theirs), found["ours"][2:], strict=True)]
    for mine, other in zip(found["ours"], found["plain"], strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5 * float(mine.abs().max()))


@pytest.mark.parametrize("name", ["conv2", "conv4", "lenet"])
def test_over_a_hundred_steps_losses_and_masks_are_those_of_the_published_algorithm(name):
    # In double precision: what float32 rounds off decides, some steps on, which of two near scores stays.
    ours = LitSubnetwork(build(name, width=0.125), density=0.5, schedule="constant").double()
    theirs, optimizer = PlainStep(ours), ours.configure_optimizers()["optimizer"]
    images, labels = torch.randn(32, 3, 32, 32).double(), torch.randint(0, 10, (32,))
    started = [masker.mask() for masker in maskers(ours.net).values()]
    for step in range(100):
        batch = tuple(each[4 * step % 32 :][:4] for each in (images, labels))
        optimizer.zero_grad()
        loss = ours.training_step(batch, 0)
        loss.backward()
        optimizer.step()
        assert theirs(batch)[0] == pytest.approx(loss.item(), rel=1e-5)
    found = [masker.mask() for masker in maskers(ours.net).values()]
    assert all(not torch.equal(*pair) for pair in zip(started, found, strict=True))
    for mask, layer in zip(found, layers(theirs.net), strict=True):
        order = layer.scores.detach().abs().flatten().argsort(stable=True)
        assert set(order[-int(mask.sum()) :].tolist()) == set(mask.flatten().nonzero().flatten().tolist())


def test_a_step_reads_loss_and_accuracies_and_trains_scores_alone():
    ours = LitSubnetwork(build("lenet", width=0.1), density=0.5, schedule="constant")
    step, batch = PlainStep(ours), (torch.randn(10, 3, 32, 32), torch.arange(10))
    with torch.no_grad():
        logits = step.net(batch[0])
    before = {name: tensor.clone() for name, tensor in step.net.state_dict().items()}
    loss, top1, top5 = step(batch)
    assert loss == pytest.approx(float(F.cross_entropy(logits, batch[1])))
    places = logits.argsort(dim=1, descending=True)
    assert top1 == pytest.approx(10 * sum(int(places[i, 0]) == i for i in range(10)))
    assert top5 == pytest.approx(10 * sum(i in places[i, :5] for i in range(10)))
    after = step.net.state_dict()
    assert {name.split(".")[-1] for name in before if not torch.equal(before[name], after[name])} == {"scores"}


def test_masks_are_floats_of_as_many_ones_as_the_authors_keep():
    seen = []
    net = plain(hide(nn.Sequential(nn.Conv2d(3, 5, 3)), 0.3))
    net[0].weight.data.fill_(1)
    net[0].register_forward_hook(lambda layer, given, out: seen.append(out))
    net(torch.ones(1, 3, 3, 3))
    assert float(seen[0].sum().detach()) == pytest.approx(135 - int(0.7 * 135))


def test_linear_layers_are_convolutions_and_nothing_is_shared_with_ours():
    ours = hide(nn.Sequential(nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2), nn.Flatten(), nn.Linear(16, 3)), 0.5)
    ours = ours.to(memory_format=torch.channels_last)
    theirs = plain(ours)
    assert [type(layer) for layer in theirs] == [PlainConv, nn.Flatten, PlainConv]
    assert theirs[2].weight.shape == (3, 16, 1, 1)
    assert theirs[0].weight.is_contiguous()  # NCHW
    assert not {p.data_ptr() for p in ours.parameters()} & {p.data_ptr() for p in theirs.parameters()}
    x = torch.randn(2, 2, 4, 4)
    torch.testing.assert_close(theirs(x), ours(x))


def layers(net: nn.Module) -> list[PlainConv]:
    return [module for module in net.modules() if isinstance(module, PlainConv)]


def module() -> LitSubnetwork:
    return made("lenet", 0.5, like("lenet", 32, 4), HERE)


@pytest.mark.parametrize("at_once", [0, 2])
def test_steps_in_blocks_or_one_by_one_with_lightning_or_without_train_alike(at_once, tmp_path):
    one, other, third, new = module(), module(), module(), module()
    loader = Watched(EDGE + 2, 4, HERE, at_once)
    fit(one, loader, tmp_path)
    assert (tmp_path / "metrics.csv").exists()
    step, single = step_of(other, at_once), step_of(third)
    for batch in loader:
        step(batch)
    loader.at_once = 0
    for batch in loader:
        single(batch)
    for name, tensor in third.net.state_dict().items():
        for each in (one, other):
            torch.testing.assert_close(tensor, each.net.state_dict()[name])
        assert torch.equal(tensor, new.net.state_dict()[name]) == (not name.endswith("scores"))


@pytest.mark.parametrize("at_once", [0, 2])
def test_all_steps_are_timed_but_the_first_two_and_the_last(at_once):
    loader = Watched(EDGE + 4, 2, HERE, at_once)
    for _ in range(2):  # an epoch forgets the times of the last
        assert len([*loader]) == EDGE + 4
        assert len(loader.asked) == EDGE + 4
    assert len(loader.steps()) == 4
    whole = 1000 * (loader.asked[-1] - loader.asked[EDGE - 1])
    assert sum(loader.steps()) * (at_once or 1) == pytest.approx(whole)


def test_whole_runs_are_the_short_one_and_the_epochs_that_are_left(effort, tmp_path):
    tiny = Run(net="conv2", width=0.05, density=0.5, data="digits", train_images=200)
    section = runs(effort(rounds=1), tmp_path, {"tiny": tiny})
    each, short, whole = (row.rounds[0] for row in section.rows)
    assert whole == pytest.approx(short + 98 * each)
    assert short > 0


def test_figure_3_is_its_runs_by_their_steps():
    rates = {"conv2": 0.5, "conv4": 1.0, "conv6": 1.5, "conv8": 2.0}  # seconds an epoch, after 3 s of start
    # Of each net 55 runs of 100 epochs, 5 more in batches of 60 (Adam), and 5 random ones, charged a short run.
    expected = sum((55 + 5 * 128 / 60) * (3 + 100 * rate) + 5 * (3 + 2 * rate) for rate in rates.values()) / 60
    assert minutes([(3 + 2 * rates[net], rates[net]) for net in RUNS]) == pytest.approx(expected)
    assert {run.resolved.epochs for run in RUNS.values()} == {100}, "the paper's"
