import re
import runpy
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.transforms import Normalize
from torchvision.transforms import functional as TF

from lit_hidden.data import CropLoader, DataError, DecodingLoader, images_per_second
from lit_hidden.data.crops import crop_boxes, resized_crops
from lit_hidden.data.decode import load, middle, part
from lit_hidden.data.trees import read_tree

made = runpy.run_path(str(Path(__file__).parent / "pictures.py"))
plant, tree = made["plant"], made["tree"]

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
COUNT = 50

pytestmark = [
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
]


def squares(count: int = COUNT, size: int = 20) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(256, (count, 3, size, size), generator=generator, dtype=torch.uint8)
    return images, torch.arange(count)  # a label names its image


def cropping(count=COUNT, batch_size=16, **kwargs) -> CropLoader:
    return CropLoader(*squares(count), batch_size, MEAN, STD, size=16, **kwargs)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """50 images, each a class of its own, so that a label names its image."""
    folder = plant(tmp_path_factory.mktemp("set"), tree([f"n{i:02d}" for i in range(COUNT)], train=1, val=1))
    return read_tree(folder).train


@pytest.fixture
def decoding(files):
    def make(batch_size=16, workers=0, images=files, **kwargs) -> DecodingLoader:
        device = torch.device("cpu")
        return DecodingLoader(
            images, batch_size, MEAN, STD, size=16, resize=20, device=device, workers=workers, **kwargs
        )

    return make


@pytest.fixture(params=["cropping", "decoding"])
def loader(request):
    return cropping if request.param == "cropping" else request.getfixturevalue("decoding")


def same(batches, others) -> bool:
    pairs = zip(batches, others, strict=True)
    return all(torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in pairs)


# --- pictures --------------------------------------------------------------------------------------------


def test_evaluation_cuts_the_middle_and_normalises_as_torchvision():
    images, _ = squares()
    batches = list(cropping())
    normalise = Normalize(MEAN, STD)
    expected = torch.stack([normalise(TF.center_crop(image, [16, 16]).float() / 255) for image in images])
    assert torch.equal(torch.cat([x for x, _ in batches]), expected)
    assert [y.tolist() for _, y in batches] == [[*range(i, min(i + 16, 50))] for i in (0, 16, 32, 48)]


def test_an_epoch_of_training_on_squares_is_the_augmentation_of_its_own_draws():
    training = cropping(seed=3, augment=True)
    (draws, flips), order = training._draw(), training._order()
    images, _ = squares()
    boxes = torch.from_numpy(crop_boxes(draws.numpy(), 20, 20))
    pictures = resized_crops(images[order], boxes, flips, 16) / 255
    normalised = (pictures - torch.tensor(MEAN).view(-1, 1, 1)) / torch.tensor(STD).view(-1, 1, 1)
    batches = list(training)
    assert torch.equal(torch.cat([x for x, _ in batches]), normalised)
    assert torch.equal(torch.cat([y for _, y in batches]), order)


@pytest.mark.parametrize("augment", [False, True])
def test_an_epoch_of_decoding_is_pillows_pictures_of_its_own_draws(decoding, files, augment):
    training = decoding(seed=3, augment=augment)
    (draws, flips), order = training._draw(), training._order().tolist()
    pictures = []
    for place, index in enumerate(order):
        image = load(files.path(index))
        picture = np.asarray(part(image, draws[place].numpy(), 16) if augment else middle(image, 20, 16))
        pictures.append(TF.to_tensor((picture[:, ::-1] if augment and flips[place] else picture).copy()))
    expected = torch.stack([Normalize(MEAN, STD)(picture) for picture in pictures])
    batches = list(training)
    assert torch.equal(torch.cat([x for x, _ in batches]), expected)
    assert torch.cat([y for _, y in batches]).tolist() == order


def test_order_and_flips_are_the_same_however_pictures_are_made(decoding):
    one, other = cropping(seed=5, augment=True), decoding(seed=5, augment=True)
    assert [y.tolist() for _, y in one] == [y.tolist() for _, y in other]
    assert all(torch.equal(a, b) for a, b in zip(one._draw(), other._draw(), strict=True))


def test_workers_change_nothing(decoding):
    alone = decoding(seed=0, augment=True)
    for workers in (1, 3):
        helped = decoding(seed=0, augment=True, workers=workers)
        for epoch in (0, 1, 1):
            alone.set_epoch(epoch)
            helped.set_epoch(epoch)
            assert same(list(helped), list(alone))


def test_an_epoch_that_was_left_early_does_not_reach_into_the_next(decoding):
    helped = decoding(seed=0, augment=True, workers=2)
    whole = list(helped)
    for _ in helped:
        break
    assert same(list(helped), whole)


# --- epochs, ranks, resuming -----------------------------------------------------------------------------


def test_order_and_augmentation_depend_on_seed_and_epoch_and_nothing_else(loader):
    def epoch(seed, epoch):
        training = loader(seed=seed, augment=True)
        training.set_epoch(epoch)
        torch.rand(7)  # the global generator plays no part
        return torch.cat([images for images, _ in training])

    state = torch.get_rng_state()
    assert torch.equal(epoch(0, 1), epoch(0, 1))
    torch.set_rng_state(state)
    list(loader(seed=0, augment=True))
    assert torch.equal(torch.get_rng_state(), state)
    different = [epoch(seed, e) for seed in (0, 1) for e in (0, 1)]
    assert not any(torch.equal(a, b) for i, a in enumerate(different) for b in different[:i])


def test_training_shows_every_image_once_an_epoch(loader):
    assert sorted(chain(*(y.tolist() for _, y in loader(seed=0, augment=True)))) == list(range(COUNT))


@pytest.mark.parametrize("world_size", [2, 3, 5])
@pytest.mark.parametrize("seed", [None, 0])
def test_ranks_together_see_what_one_process_sees(loader, world_size, seed):
    augment = {"seed": seed, "augment": seed is not None}
    alone = list(loader(16, **augment))  # 50 images: the last batch has 2
    ranks = [list(loader(16, **augment, rank=r, world_size=world_size)) for r in range(world_size)]
    assert {len(rank) for rank in ranks} == {len(alone)}
    for i, (images, labels) in enumerate(alone):
        for r, rank in enumerate(ranks):
            if r < len(labels):
                assert torch.equal(rank[i][0], images[r::world_size])
                assert torch.equal(rank[i][1], labels[r::world_size])
            else:  # repeats an image of the batch
                assert rank[i][1].tolist() == [labels[r % len(labels)]]
                assert torch.equal(rank[i][0], images[r % len(labels)][None])


@pytest.mark.parametrize("stop", range(5))
def test_state_taken_after_any_batch_goes_on_with_the_next(loader, stop):
    first = loader(seed=0, augment=True)
    first.set_epoch(3)
    whole = list(first)
    batches = iter(first)
    for _ in range(stop):
        next(batches)
    second = loader(seed=0, augment=True)
    second.load_state_dict(first.state_dict() if stop else {"epoch": 3, "batches_seen": 0})
    second.set_epoch(3)
    assert same(list(second), whole[stop:])
    assert len(list(second)) == 4  # a resume happens once


# --- damage ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_damage_is_told_once_and_training_goes_on(tmp_path, decoding, workers):
    files = tree(["n1", "n2"], train=10) | {"train/n1/n1_3.JPEG": b"", "train/n2/n2_9.JPEG": b"\xff\xd8"}
    images = read_tree(plant(tmp_path, files)).train
    training = decoding(4, workers, images, seed=0, augment=True)
    with pytest.warns(UserWarning, match="stands in for it in every epoch") as told:
        batches = [batch for _ in range(2) for batch in training]
    assert [len(labels) for _, labels in batches] == [4] * 10
    found = sorted(re.sub(r" .*; (.*), of the same class.*", r" \1", str(warning.message)) for warning in told)
    assert found == [
        f"{tmp_path}/train/n1/n1_3.JPEG {tmp_path}/train/n1/n1_4.JPEG",
        f"{tmp_path}/train/n2/n2_9.JPEG {tmp_path}/train/n2/n2_0.JPEG",
    ]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_image_to_evaluate_on_is_an_error_that_names_it(tmp_path, decoding, workers):
    images = read_tree(plant(tmp_path, tree(["n1", "n2"], train=10) | {"train/n1/n1_3.JPEG": b""})).train
    with pytest.raises(DataError) as error:
        list(decoding(4, workers, images))
    assert re.fullmatch(
        rf"{tmp_path}/train/n1/n1_3.JPEG cannot be decoded \(.*\); replace it and run again: no other image is "
        "evaluated in its place",
        str(error.value),
    )


# --- arguments, speed ------------------------------------------------------------------------------------

IMAGES, LABELS = squares(4)
SEEDLESS = "augment=True cannot be drawn without a seed; give a seed to train, or augment=False to evaluate"
SQUARE = "those must be square and at least as large"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": IMAGES[:, :, :10]}, f"pictures of size=16 cannot be cut out of images (4, 3, 10, 20); {SQUARE}"),
        ({"size": 21}, f"pictures of size=21 cannot be cut out of images (4, 3, 20, 20); {SQUARE}"),
        ({"size": 0}, f"pictures of size=0 cannot be cut out of images (4, 3, 20, 20); {SQUARE}"),
        ({"augment": True}, SEEDLESS),
        ({"rank": 1}, "rank=1 is not one of world_size=1 ranks; they count from 0"),
        (
            {"labels": LABELS.int()},
            "labels are torch.int32 (4,) on cpu; with these images they must be torch.int64 (4,) on cpu",
        ),
    ],
)
def test_an_argument_that_cannot_be_is_named(change, message):
    arguments = {"images": IMAGES, "labels": LABELS, "batch_size": 2, "mean": MEAN, "std": STD, "size": 16} | change
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        CropLoader(**arguments)


def test_a_decoding_loader_too_wants_a_seed_to_draw(decoding):
    with pytest.raises(ValueError, match=f"^{re.escape(SEEDLESS)}$"):
        decoding(augment=True)


def test_speed_counts_images_over_epochs_without_the_first_batch(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(clock)))
    loader = [(torch.zeros(4, 3, 2, 2), torch.zeros(4)), (torch.zeros(2, 3, 2, 2), torch.zeros(2))]
    # The clock starts at 0, after the first batch, and is read after every one: 1, 2, ..., and at the end.
    assert images_per_second(loader, 5) == (2 + 4 + 2 + 4) / 6
