"""What trains runs, as the user says it: which launcher, how many devices, how many of them a run."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lit_hidden.engine.devices import LauncherError, gpus
from lit_hidden.engine.pool import Local, Pool
from lit_hidden.recipes import IMAGENET_SIZES
from lit_hidden.run import Run

if TYPE_CHECKING:
    from lit_hidden.engine.ranks import Group


@dataclass(frozen=True)
class Where:
    """What a grid is trained on."""

    launcher: str = "local"  # or ray, or slurm
    devices: int | None = None  # of each machine; None: all GPUs, or without one as many CPU workers as fit
    # How many devices train each run together; a fraction has runs share a GPU (local and ray). None: all devices
    # where all runs are on ImageNet or its subsets and there are GPUs, else 1.
    per_run: float | None = None
    num_nodes: int | None = None  # machines for each run; None: 1, or as many as torchrun or SLURM has started
    slurm: Sequence[str] = ()  # options of SLURM, such as `partition=gpu`
    group: "Group | None" = None  # the processes that torchrun or SLURM has started, if this process leads such

    def start(self, root: Path, runs: Collection[Run]) -> Pool:
        """Make the pool for some runs, which live in the folder `root`.

        Raises:
            LauncherError: there are no such devices, or this process cannot have them.
        """
        if self.group:
            return self._lockstep(self.group)
        nodes = 1 if self.num_nodes is None else self.num_nodes
        options = dict(option.partition("=")[::2] for option in self.slurm)
        if not all(name and value for name, value in options.items()):
            raise LauncherError(f"--slurm {' '.join(self.slurm)}: give NAME=VALUE, such as partition=gpu")
        if options and self.launcher != "slurm":
            raise LauncherError(f"--slurm {', '.join(options)}: this is for --launcher slurm, not {self.launcher}")
        if nodes != 1 and self.launcher != "slurm":
            raise LauncherError(
                f"--num-nodes {nodes}: one process cannot start others on other machines. On each of them: torchrun "
                f"--nnodes {nodes} --nproc-per-node GPUS --rdzv-backend c10d --rdzv-endpoint HOST:29500 -m lit_hidden "
                "reproduce ...; in a SLURM job: srun lit-hidden reproduce ...; or give --launcher slurm"
            )
        each = self.per_run
        if each is None:
            large = all(run.data in IMAGENET_SIZES for run in runs)
            on_gpus = nodes > 1 or gpus() or self.launcher == "slurm"  # several machines and SLURM mean GPUs
            each = (self.devices or gpus() or 1) * nodes if large and on_gpus else 1
        for run in runs:
            if (batch := run.resolved.batch_size or 1) < each:
                raise LauncherError(
                    f"{each:g} devices a run: {run.name} has batches of {batch}, and each device needs an image; "
                    "give a smaller --per-run"
                )
        if self.launcher == "ray":
            from lit_hidden.engine.ray import Ray

            return Ray(self.devices, each)
        if self.launcher == "slurm":
            from lit_hidden.engine.slurm import Slurm

            return Slurm(root, self.devices and self.devices * nodes, each, nodes, options)
        if self.launcher != "local":
            raise LauncherError(f"--launcher {self.launcher}: there are local, ray and slurm")
        return Local(self.devices, each)

    def _lockstep(self, group: "Group") -> Pool:
        """Train each run by all processes that were started."""
        from lit_hidden.engine.torchrun import Lockstep

        ranks = group.ranks
        there = {"launcher": "local", "num_nodes": ranks.nodes, "devices": ranks.here, "per_run": ranks.size}
        for name, value in there.items():
            if (asked := getattr(self, name)) not in (None, value):
                raise LauncherError(
                    f"--{name.replace('_', '-')} {asked}: {ranks.nodes} machine(s) with {ranks.here} processes each "
                    f"were started, and they train each run together; leave it out, or give {value}"
                )
        return Lockstep(group)
