"""What trains runs, as the user says it: which launcher, how many devices, how many of them a run."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from lit_hidden.engine.devices import LauncherError, gpus
from lit_hidden.engine.pool import Local, Pool
from lit_hidden.engine.ranks import Group
from lit_hidden.recipes import IMAGENET_SIZES
from lit_hidden.run import Run


@dataclass(frozen=True)
class Where:
    """What a grid is trained on."""

    launcher: str = "local"  # or ray, or slurm
    devices: int | None = None  # of each machine; None: all GPUs, or without one as many CPU workers as fit
    # How many devices train each run together; a fraction has runs share a GPU (local and ray). None: all devices
    # where all runs are on ImageNet or its subsets and there are GPUs, else 1.
    per_run: float | None = None
    num_nodes: int | None = None  # machines for each run; None: 1
    slurm: Sequence[str] = ()  # options of SLURM, such as `partition=gpu`
    group: Group | None = None  # processes that torchrun or srun has started, led by this one: all train each run

    def start(self, root: Path, runs: Collection[Run]) -> Pool:
        """Make the pool for some runs, which live in the folder `root`; LauncherError: there are no such devices."""
        if self.group:
            from lit_hidden.engine.torchrun import Lockstep

            if self.launcher != "local" or self.slurm:
                raise LauncherError("torchrun or srun has started the processes: leave --launcher and --slurm out")
            return Lockstep(self.group)
        slurm, nodes, each = self.launcher == "slurm", self.num_nodes or 1, self.per_run
        if not slurm and (self.slurm or nodes != 1):
            raise LauncherError("--slurm and --num-nodes are for --launcher slurm; else start torchrun or srun")
        if each is not None and not (0 < each < 1 or (each >= 1 and each % 1 == 0)):
            raise LauncherError(f"--per-run {each:g}: give a whole number, or the part of a GPU that a run has")
        if each is None:
            large = all(run.data in IMAGENET_SIZES for run in runs)
            each = (self.devices or gpus() or 1) * nodes if large and (slurm or gpus()) else 1
        try:
            if slurm:
                from lit_hidden.engine.slurm import Slurm

                return Slurm(root, self.devices and self.devices * nodes, each, nodes, self.slurm)
            if self.launcher == "ray":
                from lit_hidden.engine.ray import Ray

                return Ray(self.devices, each)
        except ImportError as error:
            install = f"pip install 'lit-hidden[{self.launcher}]'"
            raise LauncherError(f"--launcher {self.launcher} needs {error.name}: {install}") from error
        return Local(self.devices, each)
