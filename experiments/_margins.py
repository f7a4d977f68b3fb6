"""Margins, in points of accuracy, that several figures' claims are judged by."""

from math import nan

import numpy as np

from lit_hidden.results import Results


def constants_ahead(results: Results, by: str = "net", method: str = "edge_popup") -> list[float]:
    """List the points by which subnetworks of signed constants beat those of Kaiming normal weights, by a field."""
    constants, normal = (
        results.select(method=method, distribution=distribution)
        for distribution in ("signed_constant", "kaiming_normal")
    )
    return [constants.mean(**{by: value}) - normal.mean(**{by: value}) for value in constants.each(by)]


def found_ahead(results: Results) -> list[float]:
    """List the points by which found subnetworks beat random ones of the same net and density, wherever there are."""
    same = ("net", "width", "density", "distribution", "scaled")
    cells = dict.fromkeys(tuple(getattr(run, name) for name in same) for run, _ in results.select(method="random"))
    alike = [results.select(**dict(zip(same, cell, strict=True))) for cell in cells]
    return [cell.mean(method="edge_popup") - cell.mean(method="random") for cell in alike]


def supermasks_behind(results: Results, kept_by: str = "density_sampled", metric: str = "accuracy") -> float:
    """Give the points by which edge-popup, interpolated at the densities supermasks ended at, beats them on average.

    Supermasks that ended with fewer or more weights than any of edge-popup's are left out; NaN if all did.

    Args:
        results: of one net and one distribution.
        kept_by: `density_sampled` or, of their most probable masks, `density_rounded`; both are weighted by size, where
            the authors' log has the unweighted mean over layers.
        metric: `accuracy`, or `accuracy_rounded`.
    """
    densities = results.each("density", method="edge_popup")
    popup = [results.mean(method="edge_popup", density=density) for density in densities]
    margins = []
    for start in results.each("density", method="supermask"):
        kept = results.mean(kept_by, method="supermask", density=start)
        if densities[0] <= kept <= densities[-1]:
            margins.append(np.interp(kept, densities, popup) - results.mean(metric, method="supermask", density=start))
    return float(np.mean(margins)) if margins else nan
