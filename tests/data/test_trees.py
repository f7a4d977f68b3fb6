"""Which files of a tree are the images of which class."""

import re
import runpy
from pathlib import Path

import pytest
import torch
from torchvision.datasets import ImageFolder, Imagenette

from lit_hidden.data.trees import Images, read_tree
from lit_hidden.data.wnids import CLASS_LISTS
from lit_hidden.recipes import CLASS_LISTS as NAMES

made = runpy.run_path(str(Path(__file__).parent / "pictures.py"))
plant, tree = made["plant"], made["tree"]

ABC = ["n01", "n02", "n03"]


def listed(images: Images) -> list[tuple[str, int]]:
    return [(str(images.path(i).relative_to(images.folder)), label) for i, label in enumerate(images.labels.tolist())]


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


def test_tiny_imagenet_as_it_is_published_and_with_its_test_images_sorted_into_class_folders(tmp_path):
    lines = {f"val_{i}.JPEG": ABC[i % 3] for i in range(6)}
    files = {f"train/{c}/images/{c}_{i}.JPEG": b"" for c in ABC for i in range(4)}
    files |= {f"train/{c}/{c}_boxes.txt": f"{c}_0.JPEG\t0\t0\t62\t62\n" for c in ABC}
    files |= {f"val/images/{name}": b"" for name in lines}
    files |= {"val/val_annotations.txt": "".join(f"{name}\t{c}\t0\t32\t44\t62\n" for name, c in lines.items())}
    read = read_tree(plant(tmp_path, files), "first-2")
    assert listed(read.train) == [
        (f"train/{c}/images/{c}_{i}.JPEG", y) for y, c in enumerate(ABC[:2]) for i in range(4)
    ]
    assert listed(read.val) == [(f"val/images/val_{i}.JPEG", y) for y in range(2) for i in (y, y + 3)]
    for name, wnid in lines.items():
        (tmp_path / "val" / wnid).mkdir(exist_ok=True)
        (tmp_path / "val" / "images" / name).rename(tmp_path / "val" / wnid / name)
    read = read_tree(tmp_path)
    assert listed(read.val) == [(f"val/{c}/val_{i}.JPEG", y) for y, c in enumerate(ABC) for i in (y, y + 3)]


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
    assert [label for name, label in listed(read.train) if "n04" in name] == [1] * 4
    kept = read.train.take(torch.tensor([7, 0, 5]))
    assert listed(kept) == [listed(read.train)[i] for i in (0, 5, 7)]
