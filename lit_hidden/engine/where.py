"""On what runs are trained, as the user says it: which launcher, how many devices, how many of them a run."""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lit_hidden.engine.launcher import Job, Launcher, LauncherError, launcher
from lit_hidden.engine.local import gpus
from lit_hidden.engine.store import Store
from lit_hidden.experiment import Run
from lit_hidden.recipes import IMAGENET_SIZES

if TYPE_CHECKING:
    from lit_hidden.engine.ranks import Ranks


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
        ranks: where this process stands among those that torchrun or SLURM has started, if they have.
    """

    launcher: str = "local"
    devices: int | None = None
    per_run: float | None = None
    num_nodes: int | None = None
    slurm: Sequence[str] = ()
    ranks: "Ranks | None" = None

    def start(self, store: Store, runs: Collection[Run], job: Callable[[Run], Job]) -> Launcher:
        """Make the launcher of some runs.

        Raises:
            LauncherError: there are no such devices, or this process cannot have them.
        """
        if self.ranks:
            return self._lockstep(self.ranks, store, job)
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
        return launcher(self.launcher, store, devices and devices * nodes, job, per_run or 1, nodes, options)

    def _lockstep(self, ranks: "Ranks", store: Store, job: Callable[[Run], Job]) -> Launcher:
        """Train by the processes that were started: by all of them together, or not at all."""
        from lit_hidden.engine.lockstep import LockstepLauncher

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
        return LockstepLauncher(store, ranks, job)
