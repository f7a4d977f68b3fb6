"""A process that ends with its first training step: hidden Conv2, as the engine trains it, on drawn images.

It prints when it began, had imported all, had made net and data, and had trained a step, in seconds since 1970, as
JSON. `start` runs it; nothing is evaluated before, and nothing written after.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

STAGES = ("Python", "imports", "net and data", "Trainer and step")  # what ends at each of its times


def main() -> None:
    """Train a step, print, and end at once."""
    times = [time.time()]
    import torch

    from lit_hidden.engine.bench.epoch import BATCH, DENSITY
    from lit_hidden.engine.bench.loops import Watched, fit
    from lit_hidden.engine.bench.training import like, made

    torch.set_num_threads(1)
    times.append(time.time())
    device = torch.device(sys.argv[1])
    module, loader = made("conv2", DENSITY, like("conv2", 32, BATCH), device), Watched(1, BATCH, device)
    times.append(time.time())

    def end(*_: Any) -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.time())
        sys.stdout.write(json.dumps(times) + "\n")
        sys.stdout.flush()
        os._exit(0)  # before the epoch's checkpoint is written

    module.on_train_batch_end = end  # type: ignore[assignment,method-assign]
    fit(module, loader, device, Path(os.devnull).parent)


if __name__ == "__main__":
    main()
