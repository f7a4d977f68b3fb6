"""Next-character prediction on a text, see `lit_hidden.callbacks.corpus`; a net writes at the end."""

import math
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lit_hidden.callbacks import RunCallback, corpus
from lit_hidden.data import ImageTensorsData
from lit_hidden.data.tensors import Split


class TextData(ImageTensorsData):
    """Windows of 64 characters as symbols, int64 `(N, 64)`, and the character after each of them, which follow.

    Symbols 1 to 127 are the most frequent characters of the training text, 0 is any other.
    """

    name, shape, num_classes = "text", (1, 64, 64), corpus.SYMBOLS
    mean = std = ()

    @property
    def sizes(self) -> tuple[int, int]:  # type: ignore[override]
        """Windows of training and of test."""
        train, test = self.read()
        return len(train[0]), len(test[0])

    def read(self) -> tuple[Split, Split]:
        """Cut both parts of the text into windows."""
        _, *parts = corpus.read(corpus.source()[0])
        cut = (map(torch.from_numpy, corpus.windows(part, self.shape[1])) for part in parts)
        (inputs, targets), (tested, after) = cut
        return (inputs, targets), (tested, after)


class NextToken:
    """Cross-entropy of the next characters: in nats as the loss, in bits as the metric."""

    metric, unit, better = "bits", "bits per character", "lower"

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean over all characters, in nats."""
        return F.cross_entropy(outputs.flatten(0, 1), targets.flatten())

    def measure(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean of each window, `(B,)`, in bits per character."""
        return F.cross_entropy(outputs.transpose(1, 2), targets, reduction="none").mean(1) / math.log(2)


class Text(RunCallback):
    """Hold a run to one text, and let the net write at the end: `text.npz` has its `sample`, UTF-8 as uint8.

    The sample begins with the first 64 characters of the test, which `prompt` counts in bytes. Each next character is
    drawn by its probability.

    Args:
        sha256: of the text, as `corpus.source` tells it; a run's hash follows from it.
        characters: to write.
    """

    def __init__(self, sha256: str, characters: int = 120) -> None:
        super().__init__()
        self.sha256, self.characters = sha256, characters

    def on_run_start(self, trainer: L.Trainer, module: Any, data: Any, parent: Path | None) -> None:
        """Compare the text with that of the run, see `corpus.read`."""
        corpus.read(self.sha256)

    @torch.no_grad()
    def on_run_end(self, trainer: L.Trainer, module: Any, folder: Path) -> dict[str, Any]:
        """Write, and count the characters of training and of test."""
        module.eval()
        (alphabet, train, test), random = corpus.read(self.sha256), self.generator("sample")
        length = TextData.shape[1]
        written = test[:length].tolist()
        for _ in range(self.characters):
            chances = module(torch.tensor([written[-length:]]))[0, -1].double().softmax(0)
            written.append(int(torch.multinomial(chances, 1, generator=random)))
        prompt, sample = (corpus.told(alphabet, part).encode() for part in (written[:length], written))
        np.savez(folder / "text.npz", sample=np.frombuffer(sample, np.uint8), prompt=len(prompt))
        return {"train_characters": len(train), "test_characters": len(test)}
