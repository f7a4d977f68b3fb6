"""All-CNN-C: a net of convolutions alone.

Source: Springenberg et al., Striving for Simplicity: The All Convolutional Net, arXiv:1412.6806, table 1; the net of
Mehrer et al., Nature Communications 11:5725, 2020.
"""

from itertools import pairwise

from torch import nn

LAYERS = ((96, 3, 1), (96, 3, 1), (96, 3, 2), (192, 3, 1), (192, 3, 1), (192, 3, 2), (192, 3, 1), (192, 1, 1))


def all_cnn_c(num_classes: int = 10, in_channels: int = 3, width: float = 1.0) -> nn.Sequential:
    """Build nine convolutions, two of which halve the image, and the mean over places; no dropout, no biases.

    Input `(N, in_channels, S, S)`, output `(N, num_classes)`; `width` multiplies the channels of all layers but the
    last.
    """
    channels = [in_channels, *(round(width * size) for size, _, _ in LAYERS)]
    layers: list[nn.Module] = []
    for (before, after), (_, kernel, stride) in zip(pairwise(channels), LAYERS, strict=True):
        layers += [nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False), nn.ReLU()]
    last = nn.Conv2d(channels[-1], num_classes, 1, bias=False)
    return nn.Sequential(*layers, last, nn.AdaptiveAvgPool2d(1), nn.Flatten())
