"""CIFAR-10 and MNIST from their publishers' files, and scikit-learn's digits, real images that need no download."""

from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torchvision.datasets import CIFAR10, MNIST
from torchvision.datasets.mnist import read_image_file, read_label_file
from torchvision.datasets.utils import check_integrity

from lit_hidden.data.files import SET_ROOT, checked
from lit_hidden.data.tensors import ImageTensorsData, Split

MEND = f"delete the set's folder and run again to download it anew, or {SET_ROOT} that holds the whole set"


class CIFAR10Data(ImageTensorsData):
    """CIFAR-10: 50,000 training and 10,000 test images `(3, 32, 32)` of 10 classes.

    Read from `cifar-10-batches-py/` or `cifar-10-batches-bin/` in `root`, else downloaded. Augmented by default, as in
    the paper: a random crop after 4 pixels of padding, and random flips.
    """

    name, shape, sizes = "cifar10", (3, 32, 32), (50_000, 10_000)
    mean, std = (0.491, 0.482, 0.447), (0.247, 0.243, 0.262)
    crop, flip, augment_default = 4, True, True
    class_names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    layouts, source = ("cifar-10-batches-py", "cifar-10-batches-bin"), CIFAR10

    def read(self) -> tuple[Split, Split]:
        """Read pickles, which can run code, so torchvision verifies their MD5; or binary files, verified by labels."""
        return self._read(train=True), self._read(train=False)

    def _read(self, train: bool) -> Split:
        if self.folder != (folder := self.root / self.layouts[1]):
            with checked(self.root / self.layouts[0], MEND):
                found = CIFAR10(self.root, train=train)
            return torch.from_numpy(found.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(found.targets)
        names, count = (CIFAR10.train_list, self.sizes[0]) if train else (CIFAR10.test_list, self.sizes[1])
        with checked(folder, MEND):
            content = [np.fromfile(folder / f"{name}.bin", dtype=np.uint8) for name, _ in names]
            records = torch.from_numpy(np.concatenate(content)).view(-1, 1 + 3 * 32 * 32)  # a label, then the pixels
            labels = records[:, 0].long()
            # A download cut short can leave zeros in a file of the right size.
            if labels.bincount(minlength=10).tolist() != [count // 10] * 10:
                raise ValueError(f"{names[0][0]}.bin and on hold not {count // 10} images of each of the 10 classes")
        return records[:, 1:].reshape(-1, 3, 32, 32).contiguous(), labels


class MNISTData(ImageTensorsData):
    """MNIST: 60,000 training and 10,000 test images `(1, 28, 28)` of 10 digits.

    Read from `MNIST/raw/` in `root`, downloaded if there is no such folder. Never augmented, as in the paper.
    """

    name, shape, sizes = "mnist", (1, 28, 28), (60_000, 10_000)
    mean, std = (0.1307,), (0.3081,)
    layouts, source = ("MNIST/raw",), MNIST
    md5: ClassVar = {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    }

    def read(self) -> tuple[Split, Split]:
        """Read four unpacked files, each verified by its MD5: other sets have files of these names and lengths."""
        found = []
        for name, md5 in self.md5.items():
            with checked(path := self.root / self.layouts[0] / name, MEND):
                if not check_integrity(path, md5):
                    raise ValueError(f"it is missing, or not the publisher's, whose MD5 is {md5}")
                found.append(read_image_file(path)[:, None] if "images" in name else read_label_file(path))
        return (found[0], found[1]), (found[2], found[3])


class DigitsData(ImageTensorsData):
    """1,437 training and 360 test images `(1, 32, 32)` of 10 digits that come with scikit-learn.

    8x8 images of 17 greys (the test set of UCI's Optical Recognition of Handwritten Digits), stretched to 0..255 and
    enlarged bilinearly. Sorted by class, every fifth is a test image; a writer may have images in both sets.
    `augment=True` is a random crop after 2 pixels of padding, without flips: a mirrored 2 is no digit.
    """

    name, shape, sizes = "digits", (1, 32, 32), (1_437, 360)
    mean, std = (0.3058,), (0.3237,)
    crop = 2

    def read(self) -> tuple[Split, Split]:
        """Take the images from scikit-learn, enlarge and split them."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        grey = torch.from_numpy(digits.images).float().mul(255 / 16).round()
        # Integers enlarged by 4 have exact float32 results: every machine rounds them to the same uint8.
        large = F.interpolate(grey.unsqueeze(1), scale_factor=4, mode="bilinear")
        images, labels = large.round().to(torch.uint8), torch.from_numpy(digits.target).long()
        order = labels.argsort(stable=True)
        is_test = torch.arange(len(order)) % 5 == 0
        train, test = order[~is_test], order[is_test]
        return (images[train], labels[train]), (images[test], labels[test])
