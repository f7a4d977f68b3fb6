"""Next-token prediction: a net reads characters of Python's own documentation and predicts the next one."""

import math
import re

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_hidden.data import ImageTensorsData
from lit_hidden.data.tensors import Split


class TopicsData(ImageTensorsData):
    """Windows of 64 characters of `pydoc_data.topics`, int64 `(N, 64)`, and the character after each of them.

    The last windows are the test set. Compare only runs of one release of Python: the text differs between releases.
    """

    name, shape, num_classes, sizes = "topics", (1, 64, 64), 128, (5_800, 600)
    mean = std = ()

    def read(self) -> tuple[Split, Split]:
        """Cut the text into windows; characters outside ASCII become spaces."""
        from pydoc_data.topics import topics

        text = re.sub("[^\0-\x7f]", " ", "\n".join(topics[name] for name in sorted(topics))).encode()
        characters, length, count = torch.tensor(list(text)), self.shape[1], sum(self.sizes)
        inputs, targets = (characters[shift:][: count * length].view(count, length) for shift in (0, 1))
        first = self.sizes[0]
        return (inputs[:first], targets[:first]), (inputs[first:], targets[first:])


class NextToken:
    """Cross-entropy of the next characters: in nats as the loss, in bits as the metric."""

    metric, unit, better = "bits", "bits per character", "lower"

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean over all characters, in nats."""
        return F.cross_entropy(outputs.flatten(0, 1), targets.flatten())

    def measure(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean of each window, `(B,)`, in bits per character."""
        return F.cross_entropy(outputs.transpose(1, 2), targets, reduction="none").mean(1) / math.log(2)


class Reader(nn.Module):
    """A transformer of one layer: characters `(B, T)` to logits of the next characters `(B, T, num_classes)`."""

    def __init__(self, num_classes: int = 128, image_size: int = 64, width: float = 1.0) -> None:
        super().__init__()
        size = 4 * int(16 * width)
        self.token, self.place = nn.Embedding(num_classes, size), nn.Embedding(image_size, size)
        self.layer = nn.TransformerEncoderLayer(size, 4, 4 * size, dropout=0.0, batch_first=True, bias=False)
        self.out = nn.Linear(size, num_classes, bias=False)

    def forward(self, characters: Tensor) -> Tensor:
        """Predict; no position sees later ones."""
        length = characters.shape[1]
        states = self.token(characters) + self.place.weight[:length]
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=characters.device)
        logits: Tensor = self.out(self.layer(states, src_mask=mask, is_causal=True))
        return logits
