"""Panels of test accuracy over the percentage of weights kept, one for each net."""

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import _panels as panels
from lit_hidden.results import Results

DISTRIBUTIONS = ("kaiming_normal", "signed_constant")


def panel(
    axes: Axes, results: Results, net: str, distributions: tuple[str, ...] = DISTRIBUTIONS, zhou: tuple[str, ...] = ()
) -> None:
    """Draw a net's subnetworks by `distributions`, its supermasks on those in `zhou`, its dense levels, and others'."""
    same, words = panels.there(results, net=net), "edge-popup, " if zhou else ""
    hidden = panels.there(same, method="edge_popup")
    for distribution in distributions:
        for scaled in panels.each(hidden, "scaled", distribution=distribution):
            look = panels.weights(distribution, scaled, words)
            panels.curve(axes, hidden, "density", look, distribution=distribution, scaled=scaled)
        panels.others(axes, same, panels.weights(distribution).color, net=net, distribution=distribution)
    for distribution in zhou:
        panels.supermasks(axes, same, panels.weights(distribution, words="Zhou et al., "), distribution=distribution)
    for optimizer, beyond in (("sgd", 0.07), ("adam", 0.12)):
        if optimizer in panels.each(same, "optimizer", method="dense"):
            look = panels.DENSE[optimizer]
            panels.level(axes, same, look, method="dense", optimizer=optimizer)
            panels.others(axes, same, look.color, beyond=beyond, net=net, method="dense", optimizer=optimizer)
    axes.set_title(net.capitalize())


def finish(figure: Figure, panel_of: Mapping[str, Axes], results: Results, ncols: int = 3) -> None:
    """Add random masks and axes to the panel of each net, and one legend; call it last: panels may share an axis."""
    densities = panels.each(results.where(lambda run: run.method != "supermask"), "density")
    for net, axes in panel_of.items():
        panels.control(axes, panels.each(results, "density", method="random", net=net))
        panels.density_axis(axes, densities)
    next(iter(panel_of.values())).set_ylabel("test accuracy (%)")
    panels.finish(figure, panel_of.values(), ncols=ncols, bbox_to_anchor=(0.5, 0.06))
