"""Pictures: of one run (`runs`), of several beside each other (`comparison`), of what a memory holds (`memory`)."""

from memrl.plotting.comparison import (
    Beside,
    Curve,
    Style,
    plot_beside_published,
    plot_costs,
    plot_curves,
    plot_intervals,
    plot_matrix,
    policy_styles,
)
from memrl.plotting.figure import save_figure
from memrl.plotting.memory import Events, plot_attention, plot_gates, plot_probe
from memrl.plotting.runs import plot_horizons, plot_in_context, plot_splits, plot_training, window_centres

__all__ = [
    "Beside",
    "Curve",
    "Events",
    "Style",
    "plot_attention",
    "plot_beside_published",
    "plot_costs",
    "plot_curves",
    "plot_gates",
    "plot_horizons",
    "plot_in_context",
    "plot_intervals",
    "plot_matrix",
    "plot_probe",
    "plot_splits",
    "plot_training",
    "policy_styles",
    "save_figure",
    "window_centres",
]
