"""`predict` and `inspect`: files, checkpoints and folders give the same net; any picture goes in; nets are exported."""

import csv
import io
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import pytest
import torch
from PIL import Image

from lit_hidden import build, hide, reveal, save_subnetwork
from lit_hidden.cli import main
from lit_hidden.data import CIFAR10Data, DigitsData
from lit_hidden.data.decode import transform
from lit_hidden.edge_popup import maskers
from lit_hidden.errors import UserError
from lit_hidden.hub import HiddenNet
from lit_hidden.inspection import inspect
from lit_hidden.modules import LitDense, LitSubnetwork, LitSupermask, LitTicket
from lit_hidden.predict import loaded, predict
from lit_hidden.run import Run
from lit_hidden.subnetwork import masks, network

TINY = {"net": "conv2", "width": 0.05, "in_channels": 1}
NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning")


def trainer(folder: Path) -> L.Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    return L.Trainer(max_epochs=1, limit_train_batches=2, default_root_dir=folder, **quiet)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One scene in every format and mode, and files that are no pictures."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "deep" / "deeper").mkdir(parents=True)
    grey = Image.fromarray(np.add.outer(np.arange(40), 3 * np.arange(40)).astype(np.uint8))
    for name, mode in (("a.png", "L"), ("b.bmp", "RGB"), ("deep/c.TIF", "RGBA"), ("deep/d.gif", "P"), ("e.ppm", "RGB")):
        grey.convert(mode).save(folder / name)
    sixteen = np.asarray(grey).astype(np.uint16) * 257
    for name in ("f.tiff", "deep/deeper/g.png", "h.pgm"):
        Image.fromarray(sixteen).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A subnetwork of pictures in colour."""
    net = hide(build("conv2", width=0.05), 0.3)
    about = CIFAR10Data().about | {"net": "conv2", "width": 0.05}
    return save_subnetwork(net, tmp_path_factory.mktemp("found") / "file", about)


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_one_scene_is_one_answer_in_every_format_and_mode_at_any_depth(colours: Path, pictures: Path) -> None:
    found = rows(predict(colours, [pictures], format="csv"))
    assert sorted(Path(row["image"]).name[0] for row in found) == [*"abcdefgh"]
    assert len({(row["class"], row["probability"]) for row in found}) == 1
    net, data = network(colours), CIFAR10Data()
    with Image.open(pictures / "a.png") as image:
        pixels = torch.from_numpy(np.array(image.convert("RGB").resize((32, 32), Image.Resampling.BILINEAR))) / 255
    expected = net(((pixels - torch.tensor(data.mean)) / torch.tensor(data.std)).permute(2, 0, 1)[None]).softmax(1)[0]
    assert found[0]["class"] == NAMES[int(expected.argmax())]
    assert float(found[0]["probability"]) == pytest.approx(expected.max().item(), abs=1e-3)  # other rounding


def test_the_formats_say_the_same(colours: Path, pictures: Path) -> None:
    told = {form: predict(colours, [pictures / "a.png"], format=form, top=20) for form in ("table", "csv", "json")}
    found: list[dict[str, Any]] = json.loads(told["json"])
    assert {row["class"] for row in found} == {*NAMES}
    assert sum(row["probability"] for row in found) == pytest.approx(1, abs=1e-5)
    assert [row["probability"] for row in found] == sorted((row["probability"] for row in found), reverse=True)
    assert rows(told["csv"]) == [{name: str(value) for name, value in row.items()} for row in found]
    assert [line.split()[1] for line in told["table"].splitlines()[1:]] == [row["class"] for row in found]


def test_what_is_no_picture_is_named_and_the_others_go_on(
    colours: Path, tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(pictures / "a.png", tmp_path)
    (tmp_path / "broken.jpg").write_text("no picture")
    (tmp_path / "gone.png").symlink_to("nowhere")
    (tmp_path / "notes.txt").write_text("by its name")
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(SystemExit) as end:
        main(["predict", str(colours), str(tmp_path), "absent.png", "--format", "csv"])
    out, err = capsys.readouterr()
    assert end.value.code == 1
    assert [Path(row["image"]).name for row in rows(out)] == ["a.png"]
    assert "broken.jpg cannot be used (UnidentifiedImageError" in err
    assert "gone.png cannot be used (it is a link to nowhere, which is not there)" in err
    assert "pipe.png cannot be used (it is neither a file nor a folder)" in err
    assert "absent.png cannot be used (it is not there)" in err
    assert f"left out, no pictures by their names: {tmp_path / 'notes.txt'}\n" in err


MODULES: dict[str, Any] = {"dense": LitDense, "hidden": LitSubnetwork, "supermask": LitSupermask}


@pytest.mark.parametrize("kind", [*MODULES, "skipping", "ticket"])
def test_a_checkpoint_gives_the_net_that_the_trainer_predicts_with(kind: str, tmp_path: Path) -> None:
    lit = MODULES[kind](**TINY) if kind in MODULES else LitSubnetwork(**TINY, skip=["6"], density=0.2)
    if kind == "ticket":
        lit = LitTicket(
            save_subnetwork(hide(build("conv2", width=0.05, in_channels=1), 0.3), tmp_path / "file"), **TINY
        )
    data, fit = DigitsData(train_images=200), trainer(tmp_path)
    fit.fit(lit, data)
    fit.save_checkpoint(path := tmp_path / "a.ckpt")
    (tmp_path / "file").unlink(missing_ok=True)
    found = loaded(path)
    images, labels = data.splits["test"]
    inputs = transform(found.about)(images)
    with torch.inference_mode():
        chances = found(inputs).softmax(1)
    if kind == "supermask":  # which the module samples
        assert [m.mask().sum() for m in maskers(found).values()] == [m.sum() for m in masks(lit.net).values()]
        return
    both = [fit.predict(lit, datamodule=data), fit.predict(lit, torch.utils.data.DataLoader(inputs, batch_size=100))]
    for each in both:
        torch.testing.assert_close(torch.cat(each), chances, atol=1e-5, rtol=0)
    assert len(chances) == len(labels)
    pairs = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(inputs[:9], labels[:9]), batch_size=9)
    assert torch.equal(fit.predict(lit, pairs)[0].argmax(1), chances[:9].argmax(1))
    assert all(torch.equal(one[0].argmax(1), chances[:9].argmax(1)) for one in fit.predict(lit, [pairs, pairs]))


def reader(num_classes: int, width: float = 1.0, **_: int) -> torch.nn.Module:
    """A recurrent net that reads an image 64 pixels at a time."""

    class Last(torch.nn.LSTM):
        def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            return super().forward(x)[0][:, -1]  # type: ignore[no-any-return]

    parts = torch.nn.Flatten(), torch.nn.Unflatten(1, (-1, 64)), Last(64, 8, batch_first=True)
    return torch.nn.Sequential(*parts, torch.nn.Linear(8, num_classes))


def test_a_checkpoint_of_a_net_with_a_recurrent_weight_left_unmasked(tmp_path: Path) -> None:
    name = f"{__name__}.reader"
    lit, fit = LitSubnetwork(name, skip=["2.weight_hh_l0"]), trainer(tmp_path)
    fit.fit(lit, DigitsData(train_images=200))
    fit.save_checkpoint(tmp_path / "a.ckpt")
    found, images = loaded(tmp_path / "a.ckpt", name), torch.randn(2, 1, 32, 32)
    assert torch.equal(found(images), lit.eval().net(images))
    assert list(maskers(found)) == ["2.weight_ih_l0", "3"]


def test_nothing_is_imported_because_a_checkpoint_or_a_run_names_it(tmp_path: Path) -> None:
    (tmp_path / "hostile.py").write_text("raise SystemExit('it ran')")
    state = {"state_dict": {}, "hyper_parameters": {"net": "hostile.net"}}
    torch.save(state, tmp_path / "a.ckpt")
    (tmp_path / "run.json").write_text(Run(net="hostile.net", density=0.5).to_json())
    for place in (tmp_path, tmp_path / "a.ckpt"):
        with pytest.raises(UserError, match=r"hostile\.net.* code is never imported because a"):
            loaded(place)


def test_what_is_missing_or_no_net_is_said(tmp_path: Path, pictures: Path, colours: Path) -> None:
    (tmp_path / "link").symlink_to("gone")
    os.mkfifo(tmp_path / "pipe")
    torch.save([1], tmp_path / "list.pt")
    bare = save_subnetwork(hide(build("conv2", width=0.05)), tmp_path / "bare", TINY | {"in_channels": 3})
    for what, said in (
        (tmp_path / "absent", "absent cannot be read: it is not there"),
        (tmp_path / "link", "link cannot be read: it is a link to gone, which is not there"),
        (tmp_path / "pipe", "pipe cannot be read: it is neither a file nor a folder"),
        (tmp_path, "subnetwork.safetensors cannot be read: it is not there"),
        (pictures / "a.png", "it is damaged or no subnetwork"),
        (tmp_path / "list.pt", "list.pt is no checkpoint of lit_hidden"),
        (bare, "does not say how pictures become its input"),
    ):
        with pytest.raises(UserError, match=re.escape(said)):
            predict(what, [pictures])
    assert predict(bare, [pictures], data="cifar10").splitlines()[1].split()[1] in NAMES
    for arguments, said in (
        ({"what": bare, "images": [pictures], "data": "mnist"}, "mnist has pictures of 1 channel"),
        ({"images": [pictures], "data": "cifar11"}, "there is no data called 'cifar11'"),
        ({"images": [tmp_path / "empty"]}, "no pictures in"),
        ({"images": [pictures], "top": 0}, "top=0 must"),
    ):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(UserError, match=said):
            predict(**{"what": colours} | arguments)


def test_inspect_counts_what_is_left_and_draws_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = hide(build("conv2", width=0.1), 0.3)
    with torch.no_grad():  # unit 2 of the first layer gets nothing, and 3 is not read
        first, second, *_ = maskers(net).values()
        first.scores[2] = 0
        second.scores[:, 3] = 0
    path = save_subnetwork(net, tmp_path / "file", {"net": "conv2", "width": 0.1})
    main(["inspect", str(path), "--picture", str(tmp_path / "a.png")])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    plain = {name: module.weight for name, module in reveal(net).named_modules() if hasattr(module, "weight")}
    for (name, weight), line in zip(plain.items(), lines[1:-1], strict=True):
        counts = [weight.numel(), (weight != 0).sum(), (weight > 0).sum(), (weight < 0).sum()]
        assert [name, *map(int, counts)] == [line[0], *(int(line[i]) for i in (2, 3, 5, 6))]
    assert lines[1][-2:] == ["1", "1"]
    assert len(lines[-2]) == len(lines[1]) - 1, "nothing reads the last layer"
    assert int(lines[-1][2]) == sum(int(line[3]) for line in lines[1:-1])
    with Image.open(tmp_path / "a.png") as image:
        assert image.size[0] > 800
        assert len(image.convert("RGB").getcolors(10**6) or []) > 3


def test_a_picture_of_an_unknown_format_is_refused(colours: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.xyz must end with one of .*\.png"):
        inspect(colours, picture=tmp_path / "a.xyz")


def test_a_dense_net_has_nothing_to_inspect(tmp_path: Path) -> None:
    lit = LitDense(**TINY)
    fit = trainer(tmp_path)
    fit.fit(lit, DigitsData(train_images=200))
    fit.save_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(SystemExit):
        main(["inspect", str(tmp_path / "a.ckpt")])


def test_the_hub_folder_gives_the_net_back_and_says_what_it_is(colours: Path, tmp_path: Path, pictures: Path) -> None:
    net = network(colours)
    HiddenNet(net, net.about | {"accuracy": 61.5}).save_pretrained(tmp_path / "a")
    found = HiddenNet.from_pretrained(tmp_path / "a")
    images = torch.randn(3, 3, 32, 32)
    assert torch.equal(found(images), net(images))
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"README.md", "config.json", "subnetwork.safetensors"}
    card = (tmp_path / "a" / "README.md").read_text()
    for fact in ("conv2", "30.0% of its", "61.5%", "from_pretrained", "license: mit", "arXiv:1911.13299", "airplane"):
        assert fact in card
    found.save_pretrained(tmp_path / "b")
    for name in ("README.md", "config.json", "subnetwork.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert predict(tmp_path / "a", [pictures]) == predict(colours, [pictures])


def test_a_revealed_net_is_exported_by_torch(colours: Path) -> None:
    net, images = reveal(network(colours)), torch.randn(2, 3, 32, 32)
    exported = torch.export.export(net, (images,)).module()
    torch.testing.assert_close(exported(images), net(images), atol=1e-5, rtol=0)


def test_a_revealed_net_is_exported_to_onnx(colours: Path, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="pip install onnx onnxscript onnxruntime: 120 MB")
    net, images = reveal(network(colours)), torch.randn(2, 3, 32, 32)
    torch.onnx.export(net, (images,), tmp_path / "a.onnx", verbose=False)
    session = runtime.InferenceSession(tmp_path / "a.onnx")
    (logits,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), net(images), atol=1e-5, rtol=0)
