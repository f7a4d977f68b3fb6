"""Random crops of a whole batch on the device: torchvision's pictures, another crop of each image."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # of the image's area; width to height
ATTEMPTS = 10  # boxes tried before the middle is taken
DRAWS = 2 * ATTEMPTS + 2  # random numbers of a box


def crop_and_flip(images: Tensor, top: Tensor, left: Tensor, flip: Tensor, *, padding: int) -> Tensor:
    """Pad each image with zeros, cut its size out at (`top`, `left`), then mirror it where `flip` is 1.

    As torchvision's `RandomCrop(size, padding)` and `RandomHorizontalFlip` for the same draws. `images` and the result
    are `(B, C, H, W)`, the draws int64 `(B,)`, `top` and `left` in [0, 2 * padding].
    """
    batch, channels, height, width = images.shape
    padded = F.pad(images, (padding, padding, padding, padding))
    both = torch.cat([padded, padded.flip(-1)])
    image = torch.arange(batch, device=images.device) + batch * flip
    # The crop at `left`, mirrored, is the mirror image's crop at `2 * padding - left`.
    column = torch.where(flip == 1, 2 * padding - left, left)
    channel, row = (torch.arange(size, device=images.device) for size in (channels, height))
    # A row of the result is `width` consecutive pixels: one index_select of rows is faster than indexing pixels.
    line = (image[:, None] * channels + channel)[:, :, None] * both.shape[2] + top[:, None, None] + row
    start = line * both.shape[3] + column[:, None, None]
    return both.view(-1).unfold(0, width, 1).index_select(0, start.view(-1)).view(images.shape)


def crop_boxes(draws: np.ndarray, height: int, width: int) -> np.ndarray:
    """Make boxes from random numbers, as torchvision's `RandomResizedCrop.get_params` does from its own.

    `draws` are `(B, DRAWS)`, uniform in [0, 1): areas and shapes of `ATTEMPTS` boxes, of which the first that fits is
    taken (else the middle of the image), and its position. Boxes are int64 `(4, B)`: top, left, height and width.
    """
    draws = draws.astype(np.float64)
    area = height * width * (SCALE[0] + (SCALE[1] - SCALE[0]) * draws[:, :ATTEMPTS])
    low, high = np.log(RATIO)
    shape = np.exp(low + (high - low) * draws[:, ATTEMPTS : 2 * ATTEMPTS])
    w, h = np.sqrt(area * shape).round(), np.sqrt(area / shape).round()
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    none, first, each = ~fits.any(1), fits.argmax(1), np.arange(len(draws))
    w = np.where(none, min(width, round(height * RATIO[1])), w[each, first])
    h = np.where(none, min(height, round(width / RATIO[0])), h[each, first])
    top = np.where(none, (height - h) // 2, np.floor(draws[:, -2] * (height - h + 1)))
    left = np.where(none, (width - w) // 2, np.floor(draws[:, -1] * (width - w + 1)))
    return np.stack([top, left, h, w]).astype(np.int64)


def resized_crops(images: Tensor, boxes: Tensor, flips: Tensor, *, size: int) -> Tensor:
    """Cut a box of `crop_boxes` out of each image, resize it to `size` pixels, then mirror it where `flips` is 1.

    As torchvision's `resized_crop(..., antialias=True)` and `hflip`, except that pixels are not rounded to whole
    numbers. `images` are uint8 `(B, C, S, S)`, `flips` int64 `(B,)`; the result is float32 `(B, C, size, size)`, from 0
    to 255, and each picture to the bit the same in any batch.
    """
    top, left, height, width = boxes.to(torch.float32)
    count = math.ceil(2 * max(1.0, images.shape[-1] / size))  # pixels under the widest triangle
    columns, weights = (torch.where(flips[:, None, None] == 1, x.flip(1), x) for x in _taps(left, width, size, count))
    across = _weigh(images.transpose(-1, -2), columns, weights).transpose(-1, -2)
    return _weigh(across, *_taps(top, height, size, count))


def _taps(start: Tensor, extent: Tensor, size: int, count: int) -> tuple[Tensor, Tensor]:
    """Pixels that make a resized one, `(B, size, count)`, and their weights: Pillow's bilinear filter, a triangle."""
    scale = (extent / size)[:, None]
    reach = scale.clamp(min=1)  # antialiasing: the triangle grows when the picture shrinks
    centre = start[:, None] + (torch.arange(size, device=start.device) + 0.5) * scale
    low, high = start[:, None], (start + extent)[:, None] - 1
    first = (centre - reach + 0.5).floor().maximum(low)
    taps = first[..., None] + torch.arange(count, device=start.device)
    weights = (1 - (taps + 0.5 - centre[..., None]).abs() / reach[..., None]).clamp(min=0)
    weights = weights * (taps <= high[..., None])
    return taps.minimum(high[..., None]).long(), weights / weights.sum(-1, keepdim=True)


def _weigh(images: Tensor, taps: Tensor, weights: Tensor) -> Tensor:
    """Make each row of the result, `(B, C, size, W)` float32, of some rows of `(B, C, H, W)` images."""
    batch, channels, height, width = images.shape
    lines = images.reshape(-1, width)
    above = torch.arange(batch * channels, device=images.device).view(batch, channels, 1) * height
    # One index_select of rows for each tap is faster than indexing pixels.
    result = torch.zeros(batch, channels, taps.shape[1], width, device=images.device)
    for tap, weight in zip(taps.unbind(-1), weights.unbind(-1), strict=True):
        rows = lines.index_select(0, (above + tap[:, None]).view(-1)).view_as(result)
        result.addcmul_(rows.to(torch.float32), weight[:, None, :, None])
    return result
