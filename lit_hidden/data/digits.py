"""Scikit-learn's handwritten digits: real images that need no download."""

import torch
import torch.nn.functional as F

from lit_hidden.data.tensors import ImageTensorsData, Split, facts


class DigitsData(ImageTensorsData):
    """1,437 training and 360 test images `(1, 32, 32)` of 10 digits that come with scikit-learn.

    Scikit-learn's 8x8 images of 17 greys, stretched to 0..255 and enlarged bilinearly. Sorted by class, every fifth is
    a test image; a writer may have images in both sets. Not augmented by default; `augment=True` is a random crop after
    2 pixels of zero padding, without flips: a mirrored 2 is no digit. `root` is not read.

    Source: the test set of UCI's Optical Recognition of Handwritten Digits, as `sklearn.datasets` has it.
    """

    name = "digits"
    shape, sizes = facts(name)
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
