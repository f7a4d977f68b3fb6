import multiprocessing
import os
import re
import runpy
import urllib.request
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn

from lit_hidden.data import (
    IMAGENET_DATA,
    CropLoader,
    DataError,
    DecodingLoader,
    ImageNet100Data,
    ImageNetData,
    ImagenetteData,
    TinyImageNet100Data,
    TinyImageNetData,
    data_module,
)
from lit_hidden.data.decode import load, middle
from lit_hidden.data.wnids import CLASS_LISTS
from lit_hidden.recipes import IMAGENET_SIZES

made = runpy.run_path(str(Path(__file__).parent / "pictures.py"))
plant, tree = made["plant"], made["tree"]

pytestmark = [
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning"),
]

ABC = ["n01", "n02", "n03"]
WHOLE = "set DATA_DIR (--data-dir; of fit: --data.root) to a folder that holds the whole set"


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


# --- what a module says of itself ------------------------------------------------------------------------


def test_names_lead_to_the_classes_that_bear_them_and_to_what_a_run_knows_of_them():
    assert list(IMAGENET_DATA) == list(IMAGENET_SIZES)
    for name, size in IMAGENET_SIZES.items():
        data = data_module(name, batch_size=3)
        assert (data.name, data.shape, data.batch_size, data.augment) == (name, (3, size, size), 3, True)
    classes = {name: data_module(name).num_classes for name in IMAGENET_SIZES}  # known without any file
    assert list(classes.values()) == [1000, 100, 10, 10, 200, 100]


def test_the_number_of_classes_follows_from_the_arguments_and_else_from_disk(root):
    (root / "mine.txt").write_text("n03\nn01\n")
    assert ImageNetData(classes="imagenette").num_classes == 10
    assert ImageNetData(classes="first-7").num_classes == 7
    assert ImageNetData(classes=str(root / "mine.txt")).num_classes == 2
    assert abc(root).num_classes == 3
    assert abc(root).sizes == (30, 12)


def test_a_lightning_module_is_built_for_it_before_files_are_read(tmp_path):
    from lit_hidden.engine.network import make_module
    from lit_hidden.run import Run

    run = Run(density=0.5, net="conv2", width=0.05, data="tiny-imagenet")
    net = make_module(run, TinyImageNetData(str(tmp_path), image_size=16)).net
    assert net(torch.zeros(2, 3, 16, 16)).shape == (2, 200)


def test_command_lines_can_read_types_and_help_from_the_signature():
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(TinyImageNetData, "data")
    given = parser.parse_args(["--data.classes=first-10", "--data.image_size=32", "--data.cache_gib=0"])
    assert (given.data.classes, given.data.image_size, given.data.cache_gib) == ("first-10", 32, 0.0)
    assert "number of training images used of each class" in " ".join(parser.format_help().split())


# --- where it is -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", [".", "imagenet", "ILSVRC2012", "ILSVRC/Data/CLS-LOC"])
def test_imagenet_is_found_where_people_keep_it(tmp_path, folder):
    plant(tmp_path / folder, tree(ABC))
    assert abc(tmp_path).sizes == (12, 6)


def test_a_set_that_is_not_there_is_told_where_it_may_be(tmp_path):
    data = TinyImageNet100Data(str(tmp_path))
    message = (
        f"{tmp_path} holds no tiny-imagenet-100: neither it nor tiny-imagenet-100/, tiny-imagenet-200/, "
        "tiny-imagenet/ in it has train/ and val/; get it from http://cs231n.stanford.edu/tiny-imagenet-200.zip, "
        "or set DATA_DIR (--data-dir; of fit: --data.root) to the folder that holds it"
    )
    for read in (data.prepare_data, data.setup, data.train_dataloader, lambda: data.sizes):
        with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
            read()


def test_a_folder_with_other_classes_is_not_taken_for_the_set(tmp_path):
    plant(tmp_path, tree(ABC))
    message = (
        f"{tmp_path}/train has 3 class folders, not 1000; {WHOLE}, "
        "or take the classes that are there: classes='all' (of fit: --data.classes all)"
    )
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        ImageNetData(str(tmp_path)).prepare_data()


def test_hundred_classes_are_picked_out_of_the_whole(tmp_path):
    wnids = CLASS_LISTS["tiny-imagenet-100"]
    plant(tmp_path, dict.fromkeys(tree([*wnids, "n00000000", "n99999999"], 1, 1), b""))
    assert TinyImageNet100Data(str(tmp_path)).tree.classes == wnids


def test_imagenet_100_is_the_hundred_classes_of_its_folder(tmp_path):
    wnids = [f"n{number:08d}" for number in range(100)]
    plant(tmp_path / "imagenet100", dict.fromkeys(tree(wnids, 1, 1), b""))
    assert ImageNet100Data(str(tmp_path)).tree.classes == tuple(wnids)
    plant(tmp_path / "imagenet100", dict.fromkeys(tree(["n00000100"], 1, 1), b""))
    with pytest.raises(DataError, match="has 101 class folders, not 100"):
        assert ImageNet100Data(str(tmp_path)).tree


def test_imagenette_is_not_picked_out_of_imagenet(tmp_path):
    plant(tmp_path, dict.fromkeys(tree([*CLASS_LISTS["imagenette"], "n00000000"], 1, 1), b""))
    with pytest.raises(DataError, match="has 11 class folders, not 10"):
        assert ImagenetteData(str(tmp_path)).tree
    assert ImageNetData(str(tmp_path), classes="imagenette").sizes == (10, 10)


@pytest.mark.parametrize(("size", "folder"), [(64, "imagenette2-160"), (224, "imagenette2-320"), (320, "imagenette2")])
def test_offline_the_archive_of_the_fitting_size_is_named_and_nothing_is_left(tmp_path, monkeypatch, size, folder):
    def urlopen(*args, **kwargs):
        raise URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    root = tmp_path / "data"
    message = (
        f"Imagenette is not in {root} and cannot be downloaded (URLError: <urlopen error no route to host>); "
        f"place {folder}.tgz in {root} and run again, or set DATA_DIR (--data-dir; of fit: --data.root) "
        f"to the folder that holds {folder}/; the quick preset needs no download"
    )
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        ImagenetteData(str(root), image_size=size).prepare_data()
    assert not root.exists()


def test_a_placed_archive_is_unpacked_without_a_network(tmp_path, monkeypatch):
    import tarfile

    import torchvision
    from torchvision.datasets.utils import calculate_md5

    source = plant(tmp_path / "source" / "imagenette2-160", tree(list(CLASS_LISTS["imagenette"]), 2, 1))
    archive = tmp_path / "data" / "imagenette2-160.tgz"
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(source, source.name)
    md5 = calculate_md5(archive)
    monkeypatch.setattr(ImagenetteData, "archives", {160: ("160px", "imagenette2-160", md5)})
    url = f"https://localhost/{archive.name}"
    monkeypatch.setattr(torchvision.datasets.Imagenette, "_ARCHIVES", {"160px": (url, md5)})
    data = ImagenetteData(str(archive.parent), image_size=16, workers=0)
    data.prepare_data()
    assert data.sizes == (20, 10)
    assert (archive.parent / "imagenette2-160" / "train").is_dir()


def test_archives_are_torchvisions():
    from torchvision.datasets import Imagenette

    theirs = {size: (Path(url).stem, md5) for size, (url, md5) in Imagenette._ARCHIVES.items()}
    assert {size: (folder, md5) for size, folder, md5 in ImagenetteData.archives.values()} == theirs


# --- which images ----------------------------------------------------------------------------------------


def names(data: ImageNetData, split: str) -> set[bytes]:
    data.prepare_data()
    images = data._images[split]
    assert images.names.tolist() == sorted(images.names.tolist())
    return set(images.names.tolist())


def test_held_out_and_used_images_are_apart_balanced_and_nested(root):
    whole, test = names(abc(root), "train"), names(abc(root), "test")
    assert (len(whole), len(test)) == (30, 12)
    assert names(abc(root), "val") == test
    data = abc(root, held_out=6, train_images=15, seed=3)
    train, val = names(data, "train"), names(data, "val")
    assert (len(train), len(val), names(data, "test")) == (15, 6, test)
    assert not train & val
    assert train | val < whole
    assert data._images["train"].labels.bincount().tolist() == [5, 5, 5]
    assert data._images["val"].labels.bincount().tolist() == [2, 2, 2]
    assert val == names(abc(root, held_out=6), "val")
    assert names(abc(root, held_out=6, train_images=9), "train") < train
    assert train == names(abc(root, held_out=6, images_per_class=5), "train")
    assert names(abc(root, held_out=None), "val") == names(abc(root, held_out=3), "val")


def test_images_per_class_that_a_class_has_not_are_an_error(root):
    plant(root / "imagenet", {"train/n02/more.JPEG": (40, 30)})
    assert len(names(abc(root, images_per_class=10), "train")) == 30
    message = (
        f"images_per_class=10 cannot be taken from {root}/imagenet/train/n01, which with held_out=2 has 9; "
        "it must be at most that"
    )
    data = abc(root, images_per_class=10, held_out=2)
    for read in (data.prepare_data, data.setup):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            read()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"held_out": 30},
            "held_out=30 cannot be set aside from imagenet's 30 training images; it must lie in [0, 29]",
        ),
        (
            {"train_images": 31},
            "train_images=31 cannot be taken from imagenet's 30 training images of which held_out=0; "
            "it must be None or lie in [1, 30]",
        ),
    ],
)
def test_more_images_than_there_are_is_an_error_before_training(root, arguments, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        abc(root, **arguments).prepare_data()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size=0 holds no image; it must be at least 1"),
        ({"images_per_class": 0}, "images_per_class=0 trains on nothing; it must be at least 1, or None"),
        (
            {"images_per_class": 5, "train_images": 50},
            "images_per_class=5 and train_images=50 say the same thing twice; give one of them",
        ),
        ({"image_size": 0}, "image_size=0 has no pixels; it must be at least 1"),
        ({"cache_gib": -1}, "cache_gib=-1 is no amount of disk; it must be at least 0 (no cache)"),
        ({"workers": -1}, "workers=-1 is a number of processes; 0 decodes in the training process"),
    ],
)
def test_an_argument_that_cannot_be_is_named_before_any_file_is_read(arguments, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ImageNetData("nowhere", **arguments)


# --- two ways to pictures --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("augment", "gib", "training", "evaluation"),
    [
        (None, 4, DecodingLoader, CropLoader), (True, 4, DecodingLoader, CropLoader),
        (False, 4, CropLoader, CropLoader), ("square", 4, CropLoader, CropLoader),
        (None, 0, DecodingLoader, DecodingLoader), ("square", 0, CropLoader, DecodingLoader),
    ],
)  # fmt: skip
def test_what_is_decoded_once_depends_on_the_size_only_where_the_pictures_are_the_same(
    root, augment, gib, training, evaluation
):
    data = abc(root, augment=augment, cache_gib=gib)
    data.prepare_data()
    assert type(data.train_dataloader()) is training
    assert (data.train_dataloader().seed, data.train_dataloader().augment) == (0, augment is not False)
    for loader in (data.val_dataloader(), data.test_dataloader()):
        assert type(loader) is evaluation
        assert (loader.seed, loader.augment) == (None, False)
    cache = root / ".lit_hidden-cache"
    assert len(list(cache.iterdir()) if cache.exists() else []) == (training, evaluation).count(CropLoader)


def test_a_small_set_trains_on_the_pictures_of_a_large_one(root):
    small, large = abc(root), abc(root, cache_gib=0)
    assert same(small.train_dataloader(), large.train_dataloader())
    assert not same(small.train_dataloader(), abc(root, augment="square").train_dataloader())


def test_the_limit_counts_what_would_be_decoded(root):
    limit = 42 * 3 * 20**2 / 2**30  # 30 training and 12 test images of 20 pixels
    assert isinstance(abc(root, augment=False, cache_gib=limit).train_dataloader(), CropLoader)
    assert isinstance(abc(root, augment=False, cache_gib=limit * 0.999).train_dataloader(), DecodingLoader)
    assert isinstance(abc(root, cache_gib=limit * 12 / 42).test_dataloader(), CropLoader)


def test_files_are_listed_and_looked_at_once(root, monkeypatch):
    data = abc(root)
    data.prepare_data()
    data.setup()
    for name in ("listdir", "scandir", "stat"):
        monkeypatch.setattr(os, name, None)
    for stage in ("fit", "test"):
        data.prepare_data()
        data.setup(stage)
    assert len(data.train_dataloader()) == 4


def test_both_ways_give_the_same_test_images_and_the_same_plain_training_images(root):
    small, large = abc(root, augment=False), abc(root, augment=False, cache_gib=0)
    assert same(small.test_dataloader(), large.test_dataloader())
    assert same(small.train_dataloader(), large.train_dataloader())
    first = load(root / "imagenet" / "val" / "n01" / "n01_0.JPEG")
    pixels = torch.from_numpy(np.asarray(middle(first, 20, 16)).copy()).permute(2, 0, 1) / 255
    normalised = (pixels - torch.tensor(small.mean).view(-1, 1, 1)) / torch.tensor(small.std).view(-1, 1, 1)
    assert torch.equal(next(iter(small.test_dataloader()))[0][0], normalised)


def test_tiny_imagenet_at_its_own_size_is_kept_as_it_is(tmp_path):
    plant(tmp_path, tree(ABC, size=(64, 64)))
    data = TinyImageNetData(str(tmp_path), classes="all", workers=0, augment=False)
    batch, _ = next(iter(data.test_dataloader()))
    pixels = np.asarray(load(tmp_path / "val" / "n01" / "n01_0.JPEG"))
    back = batch[0] * torch.tensor(data.std).view(-1, 1, 1) + torch.tensor(data.mean).view(-1, 1, 1)
    assert np.array_equal(back.mul(255).round().permute(1, 2, 0).numpy(), pixels)
    assert data.test_dataloader().images.shape[2:] == (64, 64)
    augmented = TinyImageNetData(str(tmp_path), classes="all", workers=0)
    assert type(augmented.train_dataloader()) is CropLoader, "the whole image is the square"
    smaller = TinyImageNetData(str(tmp_path), classes="all", workers=0, image_size=32)
    assert smaller.test_dataloader().images.shape[2:] == (36, 36)


def test_the_folder_of_decoded_images_can_be_chosen(root, monkeypatch):
    abc(root, augment="square", cache_dir=str(root / "a")).prepare_data()
    monkeypatch.setenv("CACHE_DIR", str(root / "b"))
    abc(root, augment="square").prepare_data()
    assert len(list((root / "a").iterdir())) == len(list((root / "b").iterdir())) == 2
    assert not (root / ".lit_hidden-cache").exists()


def test_a_damaged_image_of_a_small_set_is_one_error_before_training(root):
    path = root / "imagenet" / "train" / "n02" / "n02_3.JPEG"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=f"^{re.escape(str(path))} cannot be decoded .*; replace or delete it"):
        abc(root, augment="square").prepare_data()


def test_the_trainer_gives_device_ranks_and_a_share_of_the_cpus(root):
    data = abc(root, augment="square", workers=None)
    assert data._workers == len(os.sched_getaffinity(0))
    data.prepare_data()
    strategy = SimpleNamespace(root_device=torch.device("meta"))
    data.trainer = SimpleNamespace(strategy=strategy, global_rank=1, world_size=2, num_devices=1000, overfit_batches=0)
    data.setup("fit")
    loader = data.train_dataloader()
    assert loader.images.device == loader.labels.device == torch.device("meta")
    assert (loader.rank, loader.world_size, loader.batch_size, data._workers) == (1, 2, 8, 1)


# --- training --------------------------------------------------------------------------------------------


class Linear(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3 * 16 * 16, 3)
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def training_step(self, batch, batch_idx):
        images, labels = batch
        return nn.functional.cross_entropy(self.layer(images.flatten(1)), labels)

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class SaveAt(Callback):
    """Writes a checkpoint after each of these steps."""

    def __init__(self, folder, steps):
        self.folder, self.steps = folder, steps

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step in self.steps:
            trainer.save_checkpoint(self.folder / f"{trainer.global_step}.ckpt")


@pytest.mark.parametrize("ways", [{}, {"cache_gib": 0}, {"cache_gib": 0, "workers": 2}], ids=str)
def test_a_run_that_was_stopped_within_an_epoch_ends_with_the_same_weights(root, tmp_path, ways):
    def fit(ckpt_path=None):
        trainer = L.Trainer(
            accelerator="cpu", max_epochs=3, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, callbacks=[] if ckpt_path else [SaveAt(tmp_path, (2, 6))],
        )  # fmt: skip
        module = Linear()
        trainer.fit(module, datamodule=abc(root, **ways), ckpt_path=ckpt_path, weights_only=True)
        return module.layer.weight

    whole = fit()  # 3 epochs of 4 batches
    for step in (2, 6):
        assert torch.equal(fit(tmp_path / f"{step}.ckpt"), whole)


def test_the_processes_that_decode_end_with_the_training(root, tmp_path):
    before, seen = set(multiprocessing.active_children()), []

    class See(Callback):
        def on_train_batch_end(self, *_):
            seen.append(len(set(multiprocessing.active_children()) - before))

    trainer = L.Trainer(
        accelerator="cpu", max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[See()],
    )  # fmt: skip
    trainer.fit(Linear(), datamodule=abc(root, cache_gib=0, workers=2))
    assert max(seen) >= 2, "training, and evaluation too"
    assert set(multiprocessing.active_children()) <= before


def test_a_closed_loader_starts_its_workers_anew(root):
    loader = abc(root, cache_gib=0, workers=1).test_dataloader()
    first = [labels.tolist() for _, labels in loader]
    loader.close()
    loader.close()
    assert [labels.tolist() for _, labels in loader] == first
    loader.close()


# --- the real thing --------------------------------------------------------------------------------------


def test_the_real_tiny_imagenet_100(real_tiny, tmp_path):
    data = TinyImageNet100Data(str(real_tiny.parent), images_per_class=4, cache_dir=str(tmp_path), classes="first-20")
    data.prepare_data()
    train, test = data.train_dataloader(), data.test_dataloader()
    assert (train.images.shape, test.images.shape) == ((80, 3, 64, 64), (1000, 3, 64, 64))
    assert train.labels.bincount().tolist() == [4] * 20
    assert sorted(chain(*(y.tolist() for _, y in train))) == [i for i in range(20) for _ in range(4)]
    pixels = test.images / 255
    assert pixels.mean((0, 2, 3)).tolist() == pytest.approx(data.mean, abs=0.05)
    one = data._images["test"].path(123)
    assert np.array_equal(test.images[123].permute(1, 2, 0), np.asarray(load(one)))
