import re
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import ImageFolder, Imagenette

from lit_hidden.data.trees import Images, find_tree, read_tree
from lit_hidden.data.wnids import CLASS_LISTS
from lit_hidden.recipes import CLASS_LISTS as NAMES

made = runpy.run_path(str(Path(__file__).parent / "pictures.py"))
plant, tree = made["plant"], made["tree"]

ABC = ["n01", "n02", "n03"]


def listed(images: Images) -> list[tuple[str, int]]:
    return [(str(images.path(i).relative_to(images.folder)), label) for i, label in enumerate(images.labels.tolist())]


# --- layouts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("here", [False, True])
def test_files_and_labels_are_those_of_torchvisions_image_folder(tmp_path, monkeypatch, here):
    files = tree(["n10", "n02", "n1"], train=11) | {"train/n1/z.PNG": b"", "train/n1/a.jpg": b"", "val/n1/b.JPG": b""}
    plant(tmp_path, files)
    monkeypatch.chdir(tmp_path)
    root = Path(".") if here else tmp_path
    read = read_tree(root)
    for part in ("train", "val"):
        theirs = ImageFolder(str(root / part))
        ours = getattr(read, part)
        assert [(str(ours.path(i)), y) for i, y in enumerate(ours.labels.tolist())] == theirs.samples
        assert list(read.classes) == theirs.classes
        assert ours.labels.dtype == torch.int64


def test_what_is_hidden_or_no_image_is_passed_over(tmp_path):
    plain = read_tree(plant(tmp_path / "plain", tree(ABC)))
    extra = ["train/n01/._n01_0.JPEG", "train/n01/list.txt", "val/.DS_Store", "val/n02/Thumbs.db", "train/.git/a.JPEG"]
    extra += ["train/n01/.thumbs/a.JPEG", "wnids.txt"]
    read = read_tree(plant(tmp_path / "other", tree(ABC) | dict.fromkeys(extra, b"")))
    assert (listed(read.train), listed(read.val), read.classes) == (
        listed(plain.train), listed(plain.val), plain.classes
    )  # fmt: skip


def test_tiny_imagenets_own_layout(tmp_path):
    lines = {f"val_{i}.JPEG": ABC[i % 3] for i in range(6)}
    files = {f"train/{c}/images/{c}_{i}.JPEG": b"" for c in ABC for i in range(4)}
    files |= {f"train/{c}/{c}_boxes.txt": f"{c}_0.JPEG\t0\t0\t62\t62\n" for c in ABC}
    files |= {f"val/images/{name}": b"" for name in lines}
    files |= {"val/val_annotations.txt": "".join(f"{name}\t{c}\t0\t32\t44\t62\n" for name, c in lines.items())}
    read = read_tree(plant(tmp_path, files))
    assert listed(read.train) == [(f"train/{c}/images/{c}_{i}.JPEG", y) for y, c in enumerate(ABC) for i in range(4)]
    assert listed(read.val) == [(f"val/images/val_{i}.JPEG", y) for y in range(3) for i in (y, y + 3)]


def test_tiny_imagenets_test_images_may_be_sorted_into_class_folders(tmp_path):
    plant(tmp_path, tree(ABC) | {"val/val_annotations.txt": "left behind"})
    (tmp_path / "val" / "images").mkdir()
    assert listed(read_tree(tmp_path).val) == [(f"val/{c}/{c}_{i}.JPEG", y) for y, c in enumerate(ABC) for i in (0, 1)]


FLAT = ["n03", "n01", "n02", "n02", "n01", "n03"]  # of validation images 1 to 6


def kaggle(folder: Path) -> None:
    rows = [f"ILSVRC2012_val_{i:08d},{c} 85 1 499 272 {c} 9 9 20 20" for i, c in enumerate(FLAT, 1)]
    (folder / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *reversed(rows)]))


def devkit(folder: Path) -> None:
    from scipy.io import savemat

    kind = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    # Ids are in no order of the wnids; above the leaves there are inner nodes.
    synsets = np.array([(1, "n02", "b", 0), (2, "n03", "c", 0), (3, "n01", "a", 0), (4, "n00", "all", 3)], dtype=kind)
    folder.mkdir(parents=True, exist_ok=True)
    savemat(folder / "meta.mat", {"synsets": synsets[:, None]})
    numbers = {"n02": 1, "n03": 2, "n01": 3}
    truth = "".join(f"{numbers[c]}\n" for c in FLAT)
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text(truth)


def flat(folder: Path) -> Path:
    files = {f"train/{c}/{c}_{i}.JPEG": b"" for c in ABC for i in range(2)}
    return plant(folder, files | {f"val/ILSVRC2012_val_{i:08d}.JPEG": b"" for i in range(1, 7)})


@pytest.mark.parametrize(
    ("place", "label"),
    [
        (".", kaggle), ("../../..", kaggle), ("val", devkit),
        ("ILSVRC2012_devkit_t12/data", devkit), ("../ILSVRC2012_devkit_t12/data", devkit),
    ],
)  # fmt: skip
def test_ilsvrcs_flat_validation_images_by_each_of_their_annotations(tmp_path, place, label):
    folder = flat(tmp_path / "ILSVRC" / "Data" / "CLS-LOC")
    label(folder / place)
    expected = sorted((y, i) for i, y in enumerate((2, 0, 1, 1, 0, 2), 1))
    assert listed(read_tree(folder).val) == [(f"val/ILSVRC2012_val_{i:08d}.JPEG", y) for y, i in expected]


def test_a_tree_is_found_in_the_first_folder_that_has_train_and_val(tmp_path):
    assert find_tree(tmp_path, ["a", "b/c"]) is None
    (tmp_path / "a" / "train").mkdir(parents=True)  # its val/ is still to come
    plant(tmp_path / "b" / "c", tree(ABC))
    assert find_tree(tmp_path, ["a", "b/c"]) == tmp_path / "b" / "c"
    assert find_tree(tmp_path / "b" / "c", ["a", "b/c"]) == tmp_path / "b" / "c"


# --- classes ---------------------------------------------------------------------------------------------


def test_known_lists_are_of_their_length_and_of_wnids_in_order():
    # A Run takes these names without importing this room.
    assert {name: len(set(wnids)) for name, wnids in CLASS_LISTS.items()} == NAMES
    assert all(re.fullmatch(r"n\d{8}", wnid) for wnids in CLASS_LISTS.values() for wnid in wnids)
    assert all(wnids == tuple(sorted(wnids)) for wnids in CLASS_LISTS.values())
    assert set(CLASS_LISTS["imagenette"]) == Imagenette._WNID_TO_CLASS.keys()


def test_classes_are_chosen_by_list_number_or_file_and_labels_count_them_in_order(tmp_path):
    plant(tmp_path, tree(["n05", "n01", "n04", "n02", "n03"]) | {"mine.txt": "n04 some words\n\nn02\tothers\n"})
    (tmp_path / "train" / "n09").mkdir()  # empty, and not chosen
    assert read_tree(tmp_path, "first-2").classes == ("n01", "n02")
    read = read_tree(tmp_path, str(tmp_path / "mine.txt"))
    assert read.classes == ("n02", "n04")
    assert [label for name, label in listed(read.train) if "n04" in name] == [1] * 4


def test_some_of_the_images_keep_the_order_of_the_files(tmp_path):
    read = read_tree(plant(tmp_path, tree(ABC)))
    kept = read.train.take(torch.tensor([9, 0, 5]))
    assert listed(kept) == [listed(read.train)[i] for i in (0, 5, 9)]


def test_the_real_tiny_imagenet_100(real_tiny):
    read = read_tree(real_tiny)
    assert read.classes == CLASS_LISTS["tiny-imagenet-100"]
    assert read.train.labels.bincount().tolist() == [500] * 100
    assert read.val.labels.bincount().tolist() == [50] * 100
