"""On what runs are trained, as the user says it: which launcher, how many devices, how many of them a run."""

import math
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
    """What a grid is trained on.

    Args:
        launcher: `local`, `ray` or `slurm`.
        devices: how many devices, of several machines on each; None takes all GPUs, or without one as many CPU workers
            as fit.
        per_run: how many of them train each run together; a fraction has several runs share a GPU (local and ray). None
            is all of them where all runs are on ImageNet or its subsets and there are GPUs, else 1.
        num_nodes: on how many machines each run is trained; None is 1, or as many as torchrun or SLURM has started.
        slurm: options of SLURM, such as `partition=gpu`.
        group: the processes that torchrun or SLURM has started, if they have; this one leads.
    """

    launcher: str = "local"
    devices: int | None = None
    per_run: float | None = None
    num_nodes: int | None = None
    slurm: Sequence[str] = ()
    group: "Group | None" = None

    def start(self, root: Path, runs: Collection[Run]) -> Pool:
        """Make what trains some runs, which live in the folder `root`.

        Raises:
            LauncherError: there are no such devices, or this process cannot have them.
        """
        if self.group:
            return self._lockstep(self.group)
        nodes, devices, per_run = self.num_nodes or 1, self.devices, self.per_run
        if self.num_nodes is not None and self.num_nodes < 1:
            raise LauncherError(f"--num-nodes {self.num_nodes}: a run is trained on at least 1 machine")
        if per_run is not None and not 0 < per_run < math.inf:
            raise LauncherError(
                f"--per-run {per_run:g}: it is a number of devices, or with local and ray a part of a GPU"
            )
        options = {}
        for option in self.slurm:
            name, is_, value = option.partition("=")
            if not (name and is_):
                raise LauncherError(f"--slurm {option}: it is NAME=VALUE, such as partition=gpu")
            options[name] = value
        if options and self.launcher != "slurm":
            raise LauncherError(f"--slurm {', '.join(options)}: an option of --launcher slurm, not of {self.launcher}")
        if nodes != 1 and self.launcher != "slurm":
            raise LauncherError(
                f"--num-nodes {nodes}: one process cannot start others on other machines. On each of them: torchrun "
                f"--nnodes {nodes} --nproc-per-node GPUS --rdzv-backend c10d --rdzv-endpoint HOST:29500 -m lit_hidden "
                "reproduce ...; in a SLURM job: srun lit-hidden reproduce ...; or give --launcher slurm"
            )
        large = all(run.data in IMAGENET_SIZES for run in runs)
        if per_run is None and large and (nodes > 1 or gpus() or self.launcher == "slurm"):  # which means GPUs
            per_run = (devices or gpus() or 1) * nodes
        for run in runs:
            batch = run.resolved.batch_size or 1
            if per_run is not None and batch < per_run:
                raise LauncherError(
                    f"{per_run:g} devices a run: {run.name} has batches of {batch} images in all, and each device "
                    "needs one; give a smaller --per-run"
                )
        each = per_run or 1
        if self.launcher == "ray":
            from lit_hidden.engine.ray import Ray

            return Ray(devices, each)
        if self.launcher == "slurm":
            from lit_hidden.engine.slurm import Slurm

            return Slurm(root, devices and devices * nodes, each, nodes, options)
        if self.launcher != "local":
            raise LauncherError(f"--launcher {self.launcher}: there are local, ray and slurm")
        return Local(devices, each)

    def _lockstep(self, group: "Group") -> Pool:
        """Train by the processes that were started: by all of them together, or not at all."""
        from lit_hidden.engine.torchrun import Lockstep

        ranks = group.ranks
        started = f"{ranks.nodes} machine{'s' if ranks.nodes > 1 else ''} with {ranks.here} processes each were started"
        asked = {"--num-nodes": self.num_nodes, "--devices": self.devices, "--per-run": self.per_run}
        there = {"--num-nodes": ranks.nodes, "--devices": ranks.here, "--per-run": ranks.size}
        for option, value in asked.items():
            if value not in (None, there[option]):
                raise LauncherError(f"{option} {value}: {started}; leave it out, or give {there[option]}")
        if self.launcher != "local":
            raise LauncherError(
                f"--launcher {self.launcher}: {started}, and they train each run together; leave it out"
            )
        return Lockstep(group)
