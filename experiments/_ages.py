"""What `maturity` and `critical_period` share: ages as parts of a training; accuracies over age and over epochs."""

from collections.abc import Iterable, Mapping

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from experiments import _panels as panels
from lit_hidden.report import style
from lit_hidden.results import Results
from lit_hidden.run import Run

Curves = dict[panels.Look, dict[float, list[float]]]


def ages(run: Run, parts: Iterable[float]) -> list[int]:
    """List ages in epochs, given as parts of a run's training."""
    return [round(part * run.epochs) for part in parts]


def nets(results: Results) -> list[str]:
    """List the nets, from few layers to many."""
    return sorted({run.net for run in results.runs}, key=("lenet", "conv2", "conv4").index)


def over_age(axes: Axes, curves: Mapping[panels.Look, Mapping[float, list[float]]], unit: str, title: str) -> None:
    """Draw a curve for each look: values by age in epochs; curves are shifted, so that no bar hides another."""
    for number, (look, values) in enumerate(curves.items()):
        panels.bars(axes, dict(sorted(values.items())), look, aside=2.5 * (number - (len(curves) - 1) / 2))
    axes.set_xticks(sorted({age for values in curves.values() for age in values}))
    axes.set(xlabel="age (epochs)", ylabel=unit)
    axes.set_title(title)
    axes.grid(axis="y")


def over_epochs(axes: Axes, results: Results, look: panels.Look, since: int = 0) -> None:
    """Draw mean test accuracy over epochs, from epoch `since` on; nothing without runs."""
    if results.folders:
        _, accuracies = results.curve("test_top1")
        epochs = range(since, since + accuracies.shape[1])
        axes.plot(
            epochs, accuracies.mean(0), color=look.color, linestyle=look.linestyle, linewidth=1.3, marker=look.marker,
            markersize=4.5, markevery=max(1, len(epochs) // 8), label=look.label,
        )  # fmt: skip
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="epoch", ylabel="test accuracy (%)")
    axes.grid(axis="y")


def side_by_side(
    axes: Axes, parts: Mapping[panels.Look, Mapping[float, list[float]]], names: list[str], title: str
) -> None:
    """Draw points for each look at places with names: test accuracies by the number of their place."""
    for number, (look, values) in enumerate(parts.items()):
        panels.bars(axes, values, look, aside=7 * (number - (len(parts) - 1) / 2))
    axes.set_xticks(range(len(names)), names, fontsize=8)
    axes.set(ylabel="test accuracy (%)", xlim=(-0.5, len(names) - 0.5))
    axes.set_title(title)
    axes.grid(axis="y")


def line(axes: Axes, age: float) -> None:
    """Mark an age."""
    axes.axvline(age, color=style.COLORS["muted"], linewidth=0.8)
