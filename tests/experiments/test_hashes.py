"""The hashes of the grids as they were before runs had callbacks: a run that is done must never be trained again."""

import hashlib

import pytest

from lit_hidden.engine.reproduce import load

GRIDS = {  # without what is traced or whose swaps are measured: how many runs, and a hash of their sorted hashes
    "fig1/quick": (3, "e8cea944cf008def"),
    "fig1/short": (3, "7f2c6a96ae4991ae"),
    "fig1/paper": (5, "d77076d59ad1e3d3"),
    "fig2/quick": (3, "e8cea944cf008def"),
    "fig2/short": (3, "7f2c6a96ae4991ae"),
    "fig2/paper": (5, "d77076d59ad1e3d3"),
    "fig3/quick": (108, "30401d34e6a17b0d"),
    "fig3/short": (104, "1f2a687ca9e64372"),
    "fig3/paper": (260, "cb3771be38cb8e5f"),
    "fig4/quick": (60, "e467befab9577f76"),
    "fig4/short": (36, "c4c730c41b597ea3"),
    "fig4/paper": (250, "b1f19ff50f461b2b"),
    "fig5/quick": (39, "acf9a668e0d98932"),
    "fig5/short": (30, "f75b4acd6bda7615"),
    "fig5/paper": (65, "836da1de7701a8ac"),
    "fig6/quick": (66, "bafa6aac8d2c9f39"),
    "fig6/short": (39, "1ac093c0e46d9ee6"),
    "fig6/paper": (620, "25b744adfe73a640"),
    "fig7/quick": (66, "8c218db958f495a3"),
    "fig7/short": (66, "43df914ad6b13c37"),
    "fig7/paper": (230, "bb42fc362feb4f95"),
    "fig8/quick": (24, "c7f2ff95a2a572e2"),
    "fig8/short": (24, "64cf53f31b124caf"),
    "fig8/paper": (36, "bcbf486fa21397de"),
    "fig9/quick": (18, "a5437378d681316b"),
    "fig9/short": (27, "3e79d305b19fd006"),
    "fig9/paper": (63, "57b2d0fee8433419"),
    "fig10/quick": (12, "0b0e3ec720882e3c"),
    "fig10/short": (12, "893b417b338ba2eb"),
    "fig10/paper": (18, "33cf9a60afbce5e7"),
    "imagenet18/quick": (21, "7abc4745a282e96d"),
    "imagenet18/short": (21, "839da81e91292e30"),
    "imagenet18/paper": (35, "5cc2c47d9facba5a"),
    "mnist/quick": (42, "6cc8a9a9c8fa62a0"),
    "mnist/short": (68, "42ce971aea79937a"),
    "mnist/paper": (68, "42ce971aea79937a"),
    "resnet18/quick": (24, "c5dee0b2e6585b03"),
    "resnet18/short": (24, "ffd4280cedde27e4"),
    "resnet18/paper": (160, "09f74b7c38f3018c"),
    "table2/quick": (24, "c7f2ff95a2a572e2"),
    "table2/short": (24, "64cf53f31b124caf"),
    "table2/paper": (39, "ceaee18321f4f2c1"),
    "tickets/quick": (57, "34f734f021cdd154"),
    "tickets/short": (57, "65ba145aea3eaf5c"),
    "tickets/paper": (190, "a1620f120e2baecf"),
}


@pytest.mark.parametrize("name", GRIDS)
def test_a_grid_has_the_hashes_that_it_had(name: str) -> None:
    experiment, preset = name.split("/")
    found = sorted(run.hash for run in load(experiment).grid(preset) if not run.callbacks)
    assert (len(found), hashlib.sha256(" ".join(found).encode()).hexdigest()[:16]) == GRIDS[name]
