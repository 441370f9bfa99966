"""
Cross-layer information divergence
==================================

``CLIDMUClassifier`` learns its weights by minimizing the cross-layer information divergence (CLID),
which needs no labels. CLID compares two graphs over the same rows:

- the *feature graph* S: similarities of the last hidden features;
- the *prediction graph* P: similarities of the predictions.

CLID is the mean cross entropy between the rows of P and of S. For constant predictions it is at
least log n, where n is the number of rows. CLID - log n is negative if both graphs have the same
clusters.

This example draws both graphs for four networks.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import ListedColormap
from sklearn.datasets import make_blobs

from sklearn_clidmu import CLIDMUClassifier, clid_loss
from sklearn_clidmu.clid.objective import feature_graph, prediction_graph
from sklearn_clidmu.datasets import make_label_noise

# %%
# Four networks
# -------------
# Three classes of 100 rows, sorted by class; three labels in ten are wrong. The networks are
#
# - *untrained*: the learning rate is almost zero;
# - *memorized*: trained without weighting and regularization for many epochs, it predicts many of
#   the wrong labels;
# - *collapsed*: the first class has fifty times the weight of the others, so that all predictions
#   are that class;
# - *reweighted*: ``CLIDMUClassifier`` with its defaults.

CENTERS = [[-1.0, -0.6], [1.0, -0.6], [0.0, 1.1]]
X, y = make_blobs([100] * 3, centers=CENTERS, cluster_std=0.5, shuffle=False, random_state=0)
X = X.astype(np.float32)
y_noisy, wrong = make_label_noise(y, rate=0.3, random_state=0)

plain = {"weighting": None, "dropout": 0, "weight_decay": 0, "random_state": 0}
networks = {
    "untrained": CLIDMUClassifier(**plain, lr=1e-9, max_epochs=1),
    "memorized": CLIDMUClassifier(**plain, max_epochs=200),
    "collapsed": CLIDMUClassifier(**plain, class_weight={0: 50}),
    "reweighted": CLIDMUClassifier(random_state=0),
}


def excess(features: torch.Tensor, logits: torch.Tensor) -> float:
    """Return CLID - log n."""
    return float(clid_loss(features, logits)) - np.log(len(logits))


graphs = {}
for name, clf in networks.items():
    clf.fit(X, y_noisy)
    logits, features = (output.cpu() for output in clf.net_.evaluate(torch.from_numpy(X)))
    graphs[name] = feature_graph(features), prediction_graph(logits), excess(features, logits)
    print(
        f"{name:10s}  CLID - log n {graphs[name][2]:+.2f}  "
        f"accuracy on given labels {clf.score(X, y_noisy):.2f}, on true ones {clf.score(X, y):.2f}"
    )

# %%
# The graphs
# ----------
# Top: the rows and the predicted classes; crosses are the wrong labels. Below: the graphs, rows
# sorted by true class. A dark pixel means that two rows are similar; rows of a graph add up to one.
#
# - *Untrained*: neighbors already have similar features, so that S has three blocks. Predictions
#   are nearly constant, and P has no blocks.
# - *Memorized*: the predictions follow the wrong labels, and P has stripes where S has blocks.
# - *Collapsed*: predictions are constant, and CLID cannot be below log n. ``CLIDMUClassifier``
#   detects a collapse by this bound.
# - *Reweighted*: both graphs have the same three blocks, and CLID is lowest.

SHADES = ListedColormap(["#ffffff", "#bdd7e7", "#8c8c8c"])  # light to dark in grayscale, too

figure, axes = plt.subplots(3, 4, figsize=(11, 8.6), layout="constrained")
ticks = np.linspace(-2.6, 2.6, 120, dtype=np.float32)
grid = np.stack(np.meshgrid(ticks, ticks), axis=-1)
for column, (name, clf) in zip(axes.T, networks.items(), strict=True):
    S, P, divergence = graphs[name]
    plane = column[0]
    regions = clf.predict(grid.reshape(-1, 2)).reshape(120, 120)
    plane.pcolormesh(ticks, ticks, regions, cmap=SHADES, vmin=0, vmax=2)
    plane.plot(*X[~wrong].T, ".k", ms=4)
    plane.plot(*X[wrong].T, "x", color="#d55e00", ms=5)
    plane.set_title(f"{name}\nCLID - log n = {divergence:+.2f}")
    for ax, graph in zip(column[1:], (S, P), strict=True):
        ax.imshow(len(X) * graph.numpy(), cmap="Greys", vmin=0, vmax=3)
    for ax in column:
        ax.set(xticks=[], yticks=[])
for ax, text in zip(axes[:, 0], ("plane", "feature graph S", "prediction graph P"), strict=True):
    ax.set_ylabel(text, fontsize=12)

figure.savefig("what_clid_sees.png", dpi=120)
print("figure: what_clid_sees.png")
