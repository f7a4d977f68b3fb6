"""What the tests of LightningModules share: a small net's arguments, a quiet Trainer, a short fit, a batch."""

import lightning.pytorch as L
import torch

from lit_hidden.classifier import LitClassifier
from lit_hidden.data import DigitsData

TINY = {"net": "conv2", "width": 0.05, "in_channels": 1}


def trainer(**kwargs) -> L.Trainer:
    settings = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    settings |= {"enable_model_summary": False, "accelerator": "cpu", "num_sanity_val_steps": 0}
    return L.Trainer(**(settings | kwargs))


def fitted(lit: LitClassifier) -> L.Trainer:
    fit = trainer(max_epochs=1)
    fit.fit(lit, DigitsData(train_images=200))
    return fit


def batch(n: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, 1, 32, 32, generator=generator), torch.randint(0, 10, (n,), generator=generator)
