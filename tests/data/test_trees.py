import os
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from lit_hidden.data import DataError
from lit_hidden.data.trees import Images, find_tree, parse_classes, read_tree
from lit_hidden.data.wnids import CLASS_LISTS
from lit_hidden.recipes import CLASS_LISTS as NAMES

made = runpy.run_path(str(Path(__file__).parent / "pictures.py"))
plant, tree = made["plant"], made["tree"]

ABC = ["n01", "n02", "n03"]
WHOLE = "set DATA_DIR (--data-dir; of fit: --data.root) to a folder that holds the whole set"
LEAVE = "or leave the class out: classes=FILE (of fit: --data.classes FILE)"


def listed(images: Images) -> list[tuple[str, int]]:
    return [(str(images.path(i).relative_to(images.folder)), label) for i, label in enumerate(images.labels.tolist())]


def fails(message: str, folder: Path, *arguments) -> None:
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        read_tree(folder, *arguments)


# --- layouts ---------------------------------------------------------------------------------------------


def test_files_and_labels_are_those_of_torchvisions_image_folder(tmp_path):
    from torchvision.datasets import ImageFolder

    files = tree(["n10", "n02", "n1"], train=11) | {"train/n1/z.PNG": b"", "train/n1/a.jpg": b"", "val/n1/b.JPG": b""}
    plant(tmp_path, files)
    read = read_tree(tmp_path)
    for part in ("train", "val"):
        theirs = ImageFolder(str(tmp_path / part))
        ours = getattr(read, part)
        assert [(str(ours.path(i)), y) for i, y in enumerate(ours.labels.tolist())] == theirs.samples
        assert list(read.classes) == theirs.classes
        assert ours.labels.dtype == torch.int64


def test_what_is_hidden_or_no_image_is_passed_over(tmp_path):
    plain = read_tree(plant(tmp_path / "plain", tree(ABC)))
    extra = ["train/n01/._n01_0.JPEG", "train/n01/list.txt", "val/.DS_Store", "val/n02/Thumbs.db", "train/.git/a.JPEG"]
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
    read = read_tree(plant(tmp_path, files | {"wnids.txt": "n02\nn03\nn01\n"}))
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


def torchvisions(folder: Path) -> None:
    torch.save(({c: (c,) for c in ABC}, FLAT), folder / "meta.bin")


def flat(folder: Path) -> Path:
    files = {f"train/{c}/{c}_{i}.JPEG": b"" for c in ABC for i in range(2)}
    return plant(folder, files | {f"val/ILSVRC2012_val_{i:08d}.JPEG": b"" for i in range(1, 7)})


@pytest.mark.parametrize(
    ("place", "label"),
    [
        (".", kaggle), ("../../..", kaggle), (".", torchvisions), ("val", devkit),
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


def test_known_lists_are_of_their_length_and_of_wnids():
    assert {name: len(set(wnids)) for name, wnids in CLASS_LISTS.items()} == {
        "imagenette": 10, "imagewoof": 10, "tiny-imagenet-100": 100
    }  # fmt: skip
    assert all(re.fullmatch(r"n\d{8}", wnid) for wnids in CLASS_LISTS.values() for wnid in wnids)
    assert all(wnids == tuple(sorted(wnids)) for wnids in CLASS_LISTS.values())
    assert {
        name: len(wnids) for name, wnids in CLASS_LISTS.items()
    } == NAMES  # a Run takes these names without importing this room


def test_imagenettes_classes_are_torchvisions():
    from torchvision.datasets import Imagenette

    assert set(CLASS_LISTS["imagenette"]) == Imagenette._WNID_TO_CLASS.keys()


def test_classes_are_chosen_by_list_number_or_file_and_labels_count_them_in_order(tmp_path):
    plant(tmp_path, tree(["n05", "n01", "n04", "n02", "n03"]) | {"mine.txt": "n04 some words\n\nn02\tothers\n"})
    assert read_tree(tmp_path, "first-2").classes == ("n01", "n02")
    read = read_tree(tmp_path, str(tmp_path / "mine.txt"))
    assert read.classes == ("n02", "n04")
    assert [label for name, label in listed(read.train) if "n04" in name] == [1] * 4
    assert read_tree(tmp_path, "all").classes == ("n01", "n02", "n03", "n04", "n05")


def test_classes_that_are_not_chosen_may_be_empty_or_missing(tmp_path):
    plant(tmp_path, tree(["n01", "n02"]))
    (tmp_path / "train" / "n03").mkdir()
    assert read_tree(tmp_path, "first-2").classes == ("n01", "n02")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("first-0", "classes='first-0' chooses no class; N of first-N must be at least 1"),
        (
            "imagenet10",
            "classes='imagenet10' is unknown; it is one of imagenette, imagewoof, tiny-imagenet-100, "
            "first-N, all, or a file that begins each line with a class",
        ),
    ],
)
def test_a_choice_that_cannot_be_is_named(name, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        parse_classes(name)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"n01\nn02\nn01\n", "names n01 twice"),
        (b"\n", "names no class"),
        (
            b"\xff\xfe",
            "cannot be read (UnicodeDecodeError: 'utf-8' codec can't decode byte 0xff in position 0: "
            "invalid start byte)",
        ),
    ],
)
def test_a_damaged_file_of_classes_is_named(tmp_path, content, problem):
    (tmp_path / "mine.txt").write_bytes(content)
    with pytest.raises(DataError, match=f"^{re.escape(f'{tmp_path}/mine.txt {problem}; {WHOLE}')}$"):
        parse_classes(str(tmp_path / "mine.txt"))


# --- what does not fit together --------------------------------------------------------------------------


def test_a_class_of_a_list_that_is_not_there_is_named(tmp_path):
    plant(tmp_path, tree(["n01440764", "n02102040", "n02979186"]))
    fails(
        f"{tmp_path}/train has no folder n03000684 (and 6 more), of classes='imagenette'; {WHOLE}",
        tmp_path,
        "imagenette",
    )
    fails(f"{tmp_path}/train has 3 class folders, fewer than classes='first-4' asks for; {WHOLE}", tmp_path, "first-4")


def test_another_number_of_classes_than_the_set_has_is_an_error(tmp_path):
    plant(tmp_path, tree(ABC))
    assert len(read_tree(tmp_path, "all", 3).classes) == 3
    fails(
        f"{tmp_path}/train has 3 class folders, not 1000; {WHOLE}, "
        "or take the classes that are there: classes='all' (of fit: --data.classes all)",
        tmp_path,
        "all",
        1000,
    )


@pytest.mark.parametrize("part", ["train", "val"])
def test_a_class_folder_without_images_is_named(tmp_path, part):
    plant(tmp_path, tree(ABC) | {f"{part}/n04/readme.txt": "later", f"{part}/n05/._a.JPEG": b""})
    other = "val" if part == "train" else "train"
    plant(tmp_path, {f"{other}/{c}/a.JPEG": b"" for c in ("n04", "n05")})
    fails(
        f"{tmp_path}/{part}/n04 holds no image (.jpeg, .jpg, .png, .webp, .bmp) (and 1 more); {WHOLE}, {LEAVE}",
        tmp_path,
    )


@pytest.mark.parametrize(("more", "less"), [("train", "val"), ("val", "train")])
def test_training_and_test_images_of_different_classes_are_an_error(tmp_path, more, less):
    plant(tmp_path, tree(ABC) | {f"{more}/n00/a.JPEG": b"", f"{more}/n07/a.JPEG": b""})
    fails(
        f"{tmp_path}/{more} has n00 (and 1 more), of which there is nothing in {tmp_path}/{less}; {WHOLE}, {LEAVE}",
        tmp_path,
    )


def test_a_chosen_class_without_test_images_is_named(tmp_path):
    plant(tmp_path, tree(ABC) | {"train/n00/a.JPEG": b""})
    fails(f"{tmp_path}/val has no images of n00, which {tmp_path}/train has; {WHOLE}", tmp_path, "first-2")


def test_classes_other_than_those_of_wnids_txt_are_an_error(tmp_path):
    plant(tmp_path, tree(ABC) | {"wnids.txt": "n01\nn02\nn03\nn04\n"})
    fails(f"{tmp_path}/wnids.txt has n04, of which there is nothing in {tmp_path}/train; {WHOLE}, {LEAVE}", tmp_path)
    assert read_tree(tmp_path, "first-2").classes == ("n01", "n02")


def test_test_images_outside_the_class_folders_are_an_error(tmp_path):
    plant(tmp_path, tree(ABC) | {"val/ILSVRC2012_val_00000001.JPEG": b""})
    fails(
        f"{tmp_path}/val has class folders, and val/ILSVRC2012_val_00000001.JPEG outside them; "
        "move these where they belong",
        tmp_path,
    )


def test_an_empty_train_is_an_error(tmp_path):
    for part in ("train", "val"):
        (tmp_path / part).mkdir()
    fails(f"{tmp_path}/train has no class folders; {WHOLE}", tmp_path)


def test_an_empty_val_is_an_error(tmp_path):
    plant(tmp_path, tree(ABC, val=0))
    (tmp_path / "val").mkdir()
    fails(f"{tmp_path}/val has neither class folders nor images; {WHOLE}", tmp_path)


def test_flat_images_that_nothing_tells_the_classes_of_are_told_how_to_be_sorted(tmp_path):
    flat(tmp_path)
    fails(
        f"{tmp_path}/val has images and no class folders, and nothing says their classes; sort them into "
        f"val/<class>/, or place ILSVRC2012_devkit_t12/ (the development kit) or LOC_val_solution.csv in {tmp_path}",
        tmp_path,
    )


ANNOTATED = {f"train/{c}/images/a.JPEG": b"" for c in ABC} | {f"val/images/v_{i}.JPEG": b"" for i in range(3)}


@pytest.mark.parametrize(
    ("annotations", "problem"),
    [
        ("v_0.JPEG\tn01\nv_1.JPEG\tn02\n", "says nothing of val/images/v_2.JPEG"),
        ("v_0.JPEG\tn01\n" * 2, "names v_0.JPEG twice"),
        ("".join(f"v_{i}.JPEG\tn01\n" for i in range(5)), "names v_3 (and 1 more), which is not there"),
        ("v_0.JPEG\tn01\nv_1.JPEG\n", "has no class in line 2"),
        (None, "is missing"),
    ],
)
def test_annotations_that_do_not_fit_the_images_are_named(tmp_path, annotations, problem):
    plant(tmp_path, ANNOTATED | ({} if annotations is None else {"val/val_annotations.txt": annotations}))
    fails(f"{tmp_path}/val/val_annotations.txt {problem}; {WHOLE}", tmp_path)


def test_two_images_that_an_annotation_does_not_tell_apart_are_an_error(tmp_path):
    plant(tmp_path, ANNOTATED | {"val/images/v_1.png": b""})
    (tmp_path / "val" / "val_annotations.txt").write_text("".join(f"v_{i}.JPEG\tn0{i + 1}\n" for i in range(3)))
    fails(f"{tmp_path}/val/val_annotations.txt does not tell v_1 from another file of that name; {WHOLE}", tmp_path)


def test_a_development_kit_without_its_names_is_an_error(tmp_path):
    flat(tmp_path)
    devkit(tmp_path)
    os.unlink(tmp_path / "meta.mat")
    fails(f"{tmp_path}/meta.mat is missing; {WHOLE}", tmp_path)


def test_a_ground_truth_of_other_images_is_an_error(tmp_path):
    flat(tmp_path)
    devkit(tmp_path)
    truth = tmp_path / "ILSVRC2012_validation_ground_truth.txt"
    truth.write_text("1\n2\n3\n")
    fails(f"{truth} says nothing of val/ILSVRC2012_val_00000004.JPEG (and 2 more); {WHOLE}", tmp_path)
    truth.write_text("1\n9\n3\n")
    fails(f"{truth} cannot be read (KeyError: 9); {WHOLE}", tmp_path)


def test_a_csv_of_something_else_is_named(tmp_path):
    flat(tmp_path)
    (tmp_path / "LOC_val_solution.csv").write_text("a,b\n1,2\n")
    fails(f"{tmp_path}/LOC_val_solution.csv cannot be read (KeyError: 'ImageId'); {WHOLE}", tmp_path)


def test_some_of_the_images_keep_the_order_of_the_files(tmp_path):
    read = read_tree(plant(tmp_path, tree(ABC)))
    kept = read.train.take(torch.tensor([9, 0, 5]))
    assert listed(kept) == [listed(read.train)[i] for i in (0, 5, 9)]


def test_the_real_tiny_imagenet_100(real_tiny):
    read = read_tree(real_tiny)
    assert read.classes == CLASS_LISTS["tiny-imagenet-100"]
    assert read.train.labels.bincount().tolist() == [500] * 100
    assert read.val.labels.bincount().tolist() == [50] * 100


def test_a_pipe_in_place_of_annotations_is_named(tmp_path):
    plant(tmp_path, ANNOTATED)
    path = tmp_path / "val" / "val_annotations.txt"
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    fails(f"{path} cannot be read (UnsupportedOperation: {path} is a pipe, not a file); {WHOLE}", tmp_path)
