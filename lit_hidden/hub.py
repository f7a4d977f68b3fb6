"""Subnetworks on the Hugging Face Hub, or in a folder that is laid out like one there: `lit-hidden[hub]`."""

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, PyTorchModelHubMixin, hf_hub_download
from torch import Tensor, nn

from lit_hidden.subnetwork import masks, network, save_subnetwork

FILE = "subnetwork.safetensors"
CARD = """---
{{ card_data }}
---

# A subnetwork of a random {{ about.net or "network" }}

{{ "%.1f" | format(100 * kept / weights) }}% of its {{ weights }} random weights are kept; none was ever trained.
{% if about.accuracy %}Test accuracy: {{ about.accuracy }}%.
{% endif %}`subnetwork.safetensors` holds the masks and the seed of the weights.

```python
from lit_hidden.hub import HiddenNet

net = HiddenNet.from_pretrained("FOLDER_OR_REPOSITORY")  # images to logits
```

About it: `{{ about | tojson }}`

Method: Ramanujan et al., What's Hidden in a Randomly Weighted Neural Network?, CVPR 2020, arXiv:1911.13299.
"""


class HiddenNet(
    nn.Module,
    PyTorchModelHubMixin,
    model_card_template=CARD,
    library_name="lit_hidden",
    license="mit",
    tags=["edge-popup", "supermask", "arxiv:1911.13299"],
):
    """A hidden net that `save_pretrained` and `push_to_hub` write as its subnetwork's file and a model card.

    `from_pretrained` takes a folder or a repository's name, and `net=` as `lit_hidden.subnetwork.network` does; errors
    are those of `network` and `save_subnetwork`.

    Args:
        net: the hidden net, images `(B, C, H, W)` to logits.
        about: what to say of it, see `LitClassifier.about`, with `accuracy` in percent; of a loaded net `net.about`.
    """

    def __init__(self, net: nn.Module, about: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.net, self.about = net, dict(about or {})

    def forward(self, images: Tensor) -> Tensor:
        """Map images to logits."""
        logits: Tensor = self.net(images)
        return logits

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """Write the card that is a repository's README.md."""
        found = masks(self.net).values()
        counts = {"kept": sum(int(m.sum()) for m in found), "weights": sum(m.numel() for m in found)}
        return super().generate_model_card(*args, about=self.about, **counts, **kwargs)

    def _save_pretrained(self, save_directory: Path) -> None:
        save_subnetwork(self.net, save_directory / FILE, self.about)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, net: str | nn.Module | None = None, **options: Any) -> "HiddenNet":
        names = "revision", "cache_dir", "force_download", "token", "local_files_only"
        file: str | Path = Path(model_id, FILE)
        if not Path(model_id).is_dir():
            file = hf_hub_download(model_id, FILE, **{name: options[name] for name in names})
        found = network(file, net)
        return cls(found, found.about).eval()  # type: ignore[arg-type]
