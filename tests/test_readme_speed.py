"""The README's speed numbers are those of the committed bench."""

import json
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_readmes_ratios_and_times_are_the_committed_ones() -> None:
    found = json.loads((ROOT / "experiments" / "results" / "bench" / "bench.json").read_text())
    numbers = {(row.get("group"), row["what"]): row["median"] for s in found["sections"] for row in s["rows"]}
    nets = ("conv2", "conv4", "conv6", "conv8")
    zeros, tied, drawn = (f"4.2 million, {kind}" for kind in ("90% zeros", "tied", "random"))
    lightning = "Lightning's share"
    most = [f"{100 * numbers[n, 'plain / hidden'] / numbers[n, 'share of the peak']:.1f}" for n in nets[:2]]
    said = [
        ", ".join(f"{numbers[net, 'hidden / dense']:.2f}" for net in nets),
        ", ".join(f"{numbers[net, 'plain / hidden']:.1f}" for net in nets),
        f"small batch: {numbers['resnet50', 'plain / hidden']:.1f}",
        f"{numbers[drawn, 'ours']:.1f} ms; 16 values {numbers[tied, 'ours']:.1f};",
        f"90% zeros {numbers[zeros, 'ours']:.1f} (",
        ", ".join(f"{numbers[kind, 'sort']:.0f}" for kind in (drawn, tied, zeros)),
        ", ".join(f"{numbers[kind, 'partition']:.0f}" for kind in (drawn, tied, zeros)),
        ", ".join(f"{numbers[net, 'share of the peak']:.0f}%" for net in nets[:2]),
        f"{numbers[zeros, 'ours / copy']:.1f} to {numbers[drawn, 'ours / copy']:.1f} times a copy",
        f"a plain step takes {numbers['conv2', 'plain / hidden']:.1f} times ours on Conv2",
        f"and {numbers['conv4', 'plain / hidden']:.1f} on Conv4",
        f"the ratios would be {' and '.join(most)}.",
        f"({numbers[zeros, 'ours / pass']:.0f} to {numbers[drawn, 'ours / pass']:.0f} times the quickest",
        f"{round(numbers[None, 'ours'], -3):,.0f} (kornia {round(numbers[None, 'kornia'], -3):,.0f};",
        ", ".join(f"{numbers[net, lightning]:.2f}%" for net in nets[:2]),
        f"{numbers[None, 'first training step']:.1f} s, of which imports",
        f"of which imports {numbers['first training step', 'imports']:.1f} s |",
    ]
    readme = " ".join((ROOT / "README.md").read_text().split())
    assert [words for words in said if words not in readme] == []
