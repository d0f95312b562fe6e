"""Plots, drawn without a display: the results of sanity checks, and the curves of losses."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.drawing.palettes import CURVES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLES = ("-", "--", "-.", ":")  # for people who distinguish few colours
_INSIDE = 8  # methods whose names have room inside the axes
_NAMED = 12  # losses that get a name each
_SINGLE = 64  # single losses behind a median, at most


def similarities(columns: Mapping[str, Sequence[Any]]) -> bytes:
    """Mean rank correlation and structural similarity against the number of random layers, as a PNG."""
    figure = _figure(11, _height(columns))
    titles = {"rank_correlation": "rank correlation (Spearman)", "ssim": "structural similarity"}
    for axes, (column, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        for number, (name, rows) in enumerate(_by_method(columns).items()):
            steps, means = _means(columns, rows, "step", column)
            axes.plot(steps, means, _STYLES[number % 4], color=CURVES[number % 7], marker="o", markersize=4, label=name)
        axes.axhline(0, color="0.6", linewidth=0.8)
        axes.set(title=title, xlabel="layers made random, from the logits down", ylabel="likeness to the first map")
        axes.set(ylim=(-0.35, 1.05))
        _name_lines(axes)
    return _png(figure)


def curves(columns: Mapping[str, Sequence[Any]]) -> bytes:
    """Mean probability (or output, for heads without one) against the share of pixels deleted or inserted, with the area
    under the curve, as a PNG."""
    figure = _figure(11, _height(columns))
    outputs = any(probability is None for probability in columns["probability"])
    titles = {"deletion": "deletion: lower is better", "insertion": "insertion: higher is better"}
    for axes, (kind, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        for number, (name, rows) in enumerate(_by_method(columns).items()):
            rows_of_kind = [row for row in rows if columns["kind"][row] == kind]
            shares, means = _means(columns, rows_of_kind, "share", "value")
            label = f"{name}, area {np.trapezoid(means, shares):.2f}"
            axes.plot(shares, means, _STYLES[number % 4], color=CURVES[number % 7], label=label)
        axes.set(title=title, xlabel="share of the pixels, most important first")
        if outputs:
            axes.set(ylabel="mean output")
        else:
            axes.set(ylabel="mean probability of the class", ylim=(0, 1.02))
        _name_lines(axes)
    return _png(figure)


def _height(columns: Mapping[str, Sequence[Any]]) -> float:
    """Inches of a figure of two axes whose lines are methods."""
    count = len(_by_method(columns))
    return 4.8 if count <= _INSIDE else 5.2 + 0.19 * ((count + 1) // 2)


def _name_lines(axes: Any) -> None:
    """A legend inside the axes, or below them where it would cover the lines."""
    if len(axes.lines) <= _INSIDE + 1:  # one may be that of zero
        axes.legend()
    else:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2, fontsize=8)


def metrics(columns: Mapping[str, Sequence[Any]], better: Mapping[str, bool]) -> bytes:
    """The mean and the standard deviation of each metric, method by method, as a PNG; `better`: whether higher values are."""
    rows = _by_method(columns)
    names = [name for name in dict.fromkeys(columns["metric"]) if name in better]
    figure = _figure(3.2 * len(names) + 2, 1.2 + 0.3 * len(rows))
    for axes, name in zip(figure.subplots(1, len(names), sharey=True, squeeze=False)[0], names, strict=True):
        values = [
            [columns["value"][row] for row in rows_of_method if columns["metric"][row] == name] or [0.0]
            for rows_of_method in rows.values()
        ]
        axes.barh(
            list(rows),
            [np.mean(rows_of_method) for rows_of_method in values],
            xerr=[np.std(rows_of_method) for rows_of_method in values],
            color=CURVES[0],
            alpha=0.8,
        )
        axes.set(title=f"{name}: {'higher' if better[name] else 'lower'} is better")
    figure.axes[0].invert_yaxis()  # the first method on top; all share the axis
    return _png(figure)


def named_losses(losses: Sequence[tuple[str, np.ndarray]]) -> bytes:
    """Named losses, (steps,) each, against their steps, as shares of their maxima, as a PNG."""
    figure = _figure(7, 4)
    axes = figure.subplots()
    for number, (name, loss) in enumerate(losses):
        finite = np.where(np.isfinite(loss), loss, np.nan)
        highest = np.nanmax(np.abs(finite), initial=1e-30)
        label = f"{name} (up to {highest:.3g})" if number < _NAMED else None
        axes.plot(finite / highest, linewidth=1.0, alpha=0.8, label=label)
    axes.set(xlabel="step", ylabel="loss, as a share of its highest")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    return _png(figure)


def many_losses(title: str, losses: np.ndarray) -> bytes:
    """Losses, (curves, steps), each as a share of its maximum, so that weak ones are visible too, and their median."""
    highest = np.nanmax(np.where(np.isfinite(losses), np.abs(losses), np.nan), axis=1, keepdims=True, initial=1e-30)
    shares = np.where(np.isfinite(losses), losses, np.nan) / highest
    figure = _figure(7, 4)
    axes = figure.subplots()
    axes.plot(np.arange(shares.shape[1]), shares[:_SINGLE].T, color="tab:blue", alpha=0.25, linewidth=0.8)
    axes.plot(np.nanmedian(shares, axis=0), color="black", linewidth=1.6, label=f"median of {len(losses):,}")
    axes.set(title=title, xlabel="step", ylabel="loss, as a share of its highest")
    axes.legend(loc="lower right")
    axes.grid(alpha=0.3)
    return _png(figure)


def _means(columns: Mapping[str, Sequence[Any]], rows: Sequence[int], x: str, y: str) -> tuple[list[float], list[float]]:
    """The values of one column, each once, and the mean of another column at each of them."""
    by_step: dict[float, list[float]] = {}
    for row in rows:
        by_step.setdefault(columns[x][row], []).append(columns[y][row])
    return sorted(by_step), [float(np.mean(by_step[value])) for value in sorted(by_step)]


def _by_method(columns: Mapping[str, Sequence[Any]]) -> dict[str, list[int]]:
    """The rows of each method, and of each layer where a method has several."""
    several = len({layer for layer in columns["layer"] if layer}) > 1
    rows: dict[str, list[int]] = {}
    for row, (method, layer) in enumerate(zip(columns["method"], columns["layer"], strict=True)):
        rows.setdefault(f"{method} at {layer}" if several and layer else method, []).append(row)
    return rows


def _figure(width: float, height: float) -> Figure:
    """An empty figure, in inches; Matplotlib is imported here because that takes half a second."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _png(figure: Figure) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    stream = io.BytesIO()
    FigureCanvasAgg(figure).print_png(stream)
    return stream.getvalue()
