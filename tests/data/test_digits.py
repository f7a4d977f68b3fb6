import hashlib

import pytest
import torch
from sklearn.datasets import load_digits

from lit_hidden.data import DigitsData


@pytest.fixture(scope="module")
def parts():
    return DigitsData().read()


def test_every_image_is_in_one_part_and_the_classes_are_in_proportion(parts):
    (train, train_labels), (test, test_labels) = parts
    assert (train.shape, test.shape) == ((1437, 1, 32, 32), (360, 1, 32, 32))
    assert train.dtype == test.dtype == torch.uint8
    everything = torch.tensor(load_digits().target).bincount()
    assert torch.equal(train_labels.bincount() + test_labels.bincount(), everything)
    assert (test_labels.bincount() - everything / 5).abs().max() < 1


def test_the_split_is_every_fifth_of_the_images_sorted_by_class(parts):
    digits = load_digits()
    order = sorted(range(1797), key=lambda i: digits.target[i])
    (_, train_labels), (_, test_labels) = parts
    assert test_labels.tolist() == [digits.target[i] for i in order[::5]]
    assert train_labels.tolist() == [digits.target[i] for n, i in enumerate(order) if n % 5]


def test_pixels_are_scikit_learns_enlarged_by_hand(parts):
    digits = load_digits()
    small = (digits.images[sorted(range(1797), key=lambda i: digits.target[i])[0]] * 255 / 16).round()

    def between(row, column):  # bilinear, half-pixel centres, edges repeated
        y, x = (max(0.0, (place + 0.5) / 4 - 0.5) for place in (row, column))
        top, left = int(y), int(x)
        bottom, right = min(top + 1, 7), min(left + 1, 7)
        upper = small[top, left] + (x - left) * (small[top, right] - small[top, left])
        lower = small[bottom, left] + (x - left) * (small[bottom, right] - small[bottom, left])
        return round(upper + (y - top) * (lower - upper))

    _, (test, _) = parts
    assert test[0, 0].tolist() == [[between(row, column) for column in range(32)] for row in range(32)]


def test_the_set_is_pinned(parts):
    digest = hashlib.sha256()
    for images, labels in parts:
        digest.update(images.numpy().tobytes() + labels.numpy().tobytes())
    assert digest.hexdigest() == "000f1f1208ab4ea5eb116b48211bac33031a84401858a7b094d6f03b2e6f2ddf"


def test_mean_and_std_are_those_of_the_training_pixels(parts):
    pixels = parts[0][0].double() / 255
    assert DigitsData.mean == (round(pixels.mean().item(), 4),)
    assert DigitsData.std == (round(pixels.std().item(), 4),)


def test_nothing_is_read_below_root(tmp_path):
    data = DigitsData(str(tmp_path / "none"))
    data.prepare_data()
    assert len(data.train_dataloader()) == 11  # 1,293 images by 128
    assert not (tmp_path / "none").exists()
