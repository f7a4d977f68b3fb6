"""The hashes of the grids as they were before runs had callbacks: a run that is done must never be trained again."""

import hashlib
from itertools import product

import pytest

from lit_hidden.engine.experiment import load

PRESETS = ("quick", "short", "paper")
GRIDS = {  # by preset, without what is traced or whose swaps are measured: how many runs, a hash of their sorted hashes
    "fig1": ((3, "e8cea944cf008def"), (3, "7f2c6a96ae4991ae"), (5, "d77076d59ad1e3d3")),
    "fig2": ((3, "e8cea944cf008def"), (3, "7f2c6a96ae4991ae"), (5, "d77076d59ad1e3d3")),
    "fig3": ((96, "ebb4dfc80a68b8f8"), (104, "1f2a687ca9e64372"), (260, "cb3771be38cb8e5f")),
    "fig4": ((60, "e467befab9577f76"), (36, "c4c730c41b597ea3"), (250, "b1f19ff50f461b2b")),
    "fig5": ((39, "acf9a668e0d98932"), (30, "f75b4acd6bda7615"), (65, "836da1de7701a8ac")),
    "fig6": ((66, "bafa6aac8d2c9f39"), (39, "1ac093c0e46d9ee6"), (620, "25b744adfe73a640")),
    "fig7": ((66, "8c218db958f495a3"), (66, "43df914ad6b13c37"), (230, "bb42fc362feb4f95")),
    "fig8": ((24, "c7f2ff95a2a572e2"), (24, "64cf53f31b124caf"), (36, "bcbf486fa21397de")),
    "fig9": ((18, "a5437378d681316b"), (27, "3e79d305b19fd006"), (63, "57b2d0fee8433419")),
    "fig10": ((12, "0b0e3ec720882e3c"), (12, "893b417b338ba2eb"), (18, "33cf9a60afbce5e7")),
    "imagenet18": ((21, "7abc4745a282e96d"), (21, "839da81e91292e30"), (35, "5cc2c47d9facba5a")),
    "mnist": ((42, "6cc8a9a9c8fa62a0"), (68, "42ce971aea79937a"), (68, "42ce971aea79937a")),
    "resnet18": ((24, "c5dee0b2e6585b03"), (24, "ffd4280cedde27e4"), (160, "09f74b7c38f3018c")),
    "table2": ((24, "c7f2ff95a2a572e2"), (24, "64cf53f31b124caf"), (39, "ceaee18321f4f2c1")),
    "tickets": ((57, "34f734f021cdd154"), (57, "65ba145aea3eaf5c"), (190, "a1620f120e2baecf")),
}


@pytest.mark.parametrize(("name", "preset"), [*product(GRIDS, PRESETS)])
def test_a_grid_has_the_hashes_that_it_had(name: str, preset: str) -> None:
    found = sorted(run.hash for run in load(name).grid(preset) if not run.callbacks)
    assert (len(found), hashlib.sha256(" ".join(found).encode()).hexdigest()[:16]) == GRIDS[name][PRESETS.index(preset)]
