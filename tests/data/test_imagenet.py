"""ImageNet and its subsets: which files are images, where they are, which are chosen, what is decoded once."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pictures import plant, tree
from torchvision.datasets import ImageFolder, Imagenette
from torchvision.transforms import Normalize
from torchvision.transforms import functional as TF

from lit_hidden.data.decode import DecodingLoader, load
from lit_hidden.data.imagenet import ImageNet100Data, ImageNetData, TinyImageNet100Data, TinyImageNetData
from lit_hidden.data.loader import CropLoader
from lit_hidden.data.trees import CLASS_LISTS, Images, read_tree
from lit_hidden.recipes import CLASS_LISTS as NAMES

ABC = ["n01", "n02", "n03"]


@pytest.fixture
def root(tmp_path):
    """Three classes of 10 training and 4 test images, found as `imagenet`."""
    plant(tmp_path / "imagenet", tree(ABC, train=10, val=4))
    return tmp_path


def abc(root: Path, **kwargs) -> ImageNetData:
    settings = {"held_out": 0, "classes": "all", "image_size": 16, "batch_size": 8, "workers": 0}
    return ImageNetData(str(root), **(settings | kwargs))


def same(batches, others) -> bool:
    pairs = zip(batches, others, strict=True)
    return all(torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in pairs)


# --- which files ----------------------------------------------------------------------------------------


def listed(images: Images, root: Path) -> list[tuple[str, int]]:
    return [(str(images.path(i).relative_to(root)), label) for i, label in enumerate(images.labels.tolist())]


@pytest.mark.parametrize("here", [False, True])
def test_files_and_labels_are_those_of_torchvisions_image_folder(tmp_path, monkeypatch, here):
    files = tree(["n10", "n02", "n1"], train=11) | {"train/n1/z.PNG": b"", "train/n1/a.jpg": b"", "val/n1/b.JPG": b""}
    plant(tmp_path, files | {"train/n1/list.txt": b"", "val/.DS_Store": b"", "val/n02/Thumbs.db": b""})
    monkeypatch.chdir(tmp_path)
    root = Path(".") if here else tmp_path
    read = read_tree(root)
    for part in ("train", "val"):
        theirs = ImageFolder(str(root / part))
        ours = getattr(read, part)
        assert [(str(ours.path(i)), y) for i, y in enumerate(ours.labels.tolist())] == theirs.samples
        assert list(read.classes) == theirs.classes
        assert ours.labels.dtype == torch.int64


def test_pictures_that_a_set_does_not_take_are_named_and_others_are_taken_at_any_depth(tmp_path):
    pixels = {f"{part}/n01/{name}": (8, 8) for part in ("train", "val") for name in ("a.tif", "deep/b.PPM", "c.JPEG")}
    plant(tmp_path, {**pixels, "train/n01/d.gif": (8, 8), "train/n01/boxes.txt": "no picture"})
    with pytest.warns(
        UserWarning, match=r"1 images of .*train are left out, such as .*d\.gif; torchvision's sets are of"
    ):
        found = read_tree(tmp_path)
    assert [found.train.path(i).name for i in range(len(found.train))] == ["a.tif", "c.JPEG", "b.PPM"]


def test_tiny_imagenet_as_it_is_published_and_with_its_test_images_sorted_into_class_folders(tmp_path):
    lines = {f"val_{i}.JPEG": ABC[i % 3] for i in range(6)}
    files = {f"train/{c}/images/{c}_{i}.JPEG": b"" for c in ABC for i in range(4)}
    files |= {f"train/{c}/{c}_boxes.txt": f"{c}_0.JPEG\t0\t0\t62\t62\n" for c in ABC}
    files |= {f"val/images/{name}": b"" for name in lines}
    files |= {"val/val_annotations.txt": "".join(f"{name}\t{c}\t0\t32\t44\t62\n" for name, c in lines.items())}
    read = read_tree(plant(tmp_path, files), "first-2")
    assert listed(read.train, tmp_path) == [
        (f"train/{c}/images/{c}_{i}.JPEG", y) for y, c in enumerate(ABC[:2]) for i in range(4)
    ]
    assert listed(read.val, tmp_path) == [(f"val/images/val_{i}.JPEG", y) for y in range(2) for i in (y, y + 3)]
    for name, wnid in lines.items():
        (tmp_path / "val" / wnid).mkdir(exist_ok=True)
        (tmp_path / "val" / "images" / name).rename(tmp_path / "val" / wnid / name)
    read = read_tree(tmp_path)
    assert listed(read.val, tmp_path) == [(f"val/{c}/val_{i}.JPEG", y) for y, c in enumerate(ABC) for i in (y, y + 3)]


def test_known_lists_are_of_their_length_and_of_wnids_in_order():
    # A Run takes these names without importing this room.
    assert {name: len(set(wnids)) for name, wnids in CLASS_LISTS.items()} == NAMES
    assert all(re.fullmatch(r"n\d{8}", wnid) for wnids in CLASS_LISTS.values() for wnid in wnids)
    assert all(wnids == tuple(sorted(wnids)) for wnids in CLASS_LISTS.values())
    assert set(CLASS_LISTS["imagenette"]) == Imagenette._WNID_TO_CLASS.keys()


def test_the_first_classes_are_taken_and_some_images_keep_the_order_of_the_files(tmp_path):
    plant(tmp_path, tree(["n05", "n01", "n04"]))
    (tmp_path / "train" / "n09").mkdir()  # empty, and not chosen
    read = read_tree(tmp_path, "first-2")
    assert read.classes == ("n01", "n04")
    assert [label for name, label in listed(read.train, tmp_path) if "n04" in name] == [1] * 4
    kept = read.train.take(torch.tensor([7, 0, 5]))
    assert listed(kept, tmp_path) == [listed(read.train, tmp_path)[i] for i in (0, 5, 7)]


# --- where it is, and which classes -----------------------------------------------------------------------


def test_which_classes_a_set_takes_out_of_a_folder(tmp_path):
    tiny, hundred = CLASS_LISTS["tiny-imagenet-100"], tuple(f"n{number:08d}" for number in range(100))
    for folder, classes in {
        "tiny-imagenet-200": [*tiny, "n00000000", "n99999999"],
        "imagenet100": hundred,
        "imagenet": [*CLASS_LISTS["imagenette"], "n0"],
    }.items():
        plant(tmp_path / folder, dict.fromkeys(tree([*classes], 1, 1), b""))
    assert TinyImageNet100Data(str(tmp_path)).tree.classes == tiny
    assert ImageNet100Data(str(tmp_path)).tree.classes == hundred
    assert ImageNetData(str(tmp_path), classes="imagenette").sizes == (10, 10)


# --- which images ----------------------------------------------------------------------------------------


def names(data: ImageNetData, split: str) -> set[bytes]:
    data.prepare_data()
    return set(data._images[split].names.tolist())


def test_held_out_and_used_images_are_apart_and_balanced(root):
    whole, test = names(abc(root), "train"), names(abc(root), "test")
    assert (len(whole), len(test), names(abc(root), "val")) == (30, 12, test)
    data = abc(root, held_out=6, train_images=15, seed=3)
    train, val = names(data, "train"), names(data, "val")
    assert (len(train), len(val), names(data, "test")) == (15, 6, test)
    assert train.isdisjoint(val)
    assert train | val < whole
    assert data._images["train"].labels.bincount().tolist() == [5, 5, 5]
    assert data._images["val"].labels.bincount().tolist() == [2, 2, 2]
    assert train == names(abc(root, held_out=6, images_per_class=5), "train")


# --- two ways to pictures --------------------------------------------------------------------------------


ALL, TEST = 42 * 3 * 20**2, 12 * 3 * 20**2  # bytes of 30 training and 12 test images of 20 pixels


@pytest.mark.parametrize(
    ("augment", "limit", "training", "evaluation"),
    [
        (None, TEST, DecodingLoader, CropLoader), (None, TEST - 1, DecodingLoader, DecodingLoader),
        (False, ALL, CropLoader, CropLoader), (False, ALL - 1, DecodingLoader, DecodingLoader),
        ("square", ALL, CropLoader, CropLoader), ("square", 0, CropLoader, DecodingLoader),
    ],
)  # fmt: skip
def test_what_is_decoded_once_depends_on_the_size_only_where_the_pictures_are_the_same(
    root, augment, limit, training, evaluation, monkeypatch
):
    monkeypatch.setenv("CACHE_DIR", str(root / "cache"))
    data = abc(root, augment=augment, cache_gib=limit / 2**30)
    data.prepare_data()
    assert type(data.train_dataloader()) is training
    assert (data.train_dataloader().seed, data.train_dataloader().augment) == (0, augment is not False)
    for loader in (data.val_dataloader(), data.test_dataloader()):
        assert type(loader) is evaluation
        assert loader.seed is None
    assert len(list((root / "cache").glob("*"))) == (training, evaluation).count(CropLoader)


def test_both_ways_give_the_same_pictures(root):
    small, large = abc(root, augment=False), abc(root, augment=False, cache_gib=0)
    assert same(small.test_dataloader(), large.test_dataloader())
    assert same(small.train_dataloader(), large.train_dataloader())
    first = load(root / "imagenet" / "val" / "n01" / "n01_0.JPEG")
    expected = Normalize(small.mean, small.std)(TF.to_tensor(TF.center_crop(TF.resize(first, 20), 16)))
    assert torch.equal(next(iter(small.test_dataloader()))[0][0], expected)
    augmented = abc(root)
    assert same(augmented.train_dataloader(), abc(root, cache_gib=0).train_dataloader())
    assert not same(augmented.train_dataloader(), abc(root, augment="square").train_dataloader())


def test_tiny_imagenet_at_its_own_size_is_kept_as_it_is(tmp_path):
    plant(tmp_path, tree(ABC, size=(64, 64)))
    data = TinyImageNetData(str(tmp_path), classes="all", workers=0)
    pixels = TF.pil_to_tensor(load(tmp_path / "val" / "n01" / "n01_0.JPEG"))
    assert torch.equal(data.test_dataloader().images[0], pixels)
    assert torch.equal(next(iter(data.test_dataloader()))[0][0], Normalize(data.mean, data.std)(pixels / 255))
    assert type(data.train_dataloader()) is CropLoader, "the whole image is the square"


def test_the_trainer_gives_device_ranks_and_a_share_of_the_cpus(root):
    strategy = SimpleNamespace(root_device=torch.device("meta"))
    for cache_gib, place in ((4, "meta"), (0, "cpu")):  # a large set stays in the CPU's memory
        data = abc(root, augment="square", workers=None, cache_gib=cache_gib)
        data.prepare_data()
        data.trainer = SimpleNamespace(strategy=strategy, global_rank=1, world_size=2, num_devices=1000)
        loader = data.train_dataloader()
        assert loader.images.device == loader.labels.device == torch.device(place)
        assert (loader.rank, loader.world_size, loader.batch_size, data._workers) == (1, 2, 8, 1)
        assert loader.device == torch.device("meta")
