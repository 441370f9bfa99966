"""
What CLID sees
==============

Cross-layer information divergence (CLID) is the question that teaches ``CLIDMUClassifier`` which
labels to trust. It reads no label. It holds two graphs over the same rows against each other:

- the *feature graph* S: which rows the last hidden layer holds to be alike;
- the *prediction graph* P: which rows get like predictions.

CLID is the mean cross entropy from a row of P to the same row of S. It grows with the logarithm of
the number of rows n, so that CLID - log n is what one compares: zero where the predictions know
nothing, below zero where both graphs agree on what belongs together.

This example draws both graphs for four networks in the plane.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import ListedColormap
from sklearn.datasets import make_blobs
from sklearn.preprocessing import StandardScaler

from sklearn_clidmu import CLIDMUClassifier, clid_loss
from sklearn_clidmu.datasets import make_label_noise
from sklearn_clidmu.mathematics.clid import feature_graph, prediction_graph

# %%
# Four networks, one set of labels
# --------------------------------
# Three classes of 100 rows, in the order of their classes; three labels in ten are wrong. The
# networks are
#
# - *untrained*: a learning rate of next to nothing leaves the network as it was drawn;
# - *memorised*: no weighting, no dropout, no weight decay, and many epochs: it learns many of the
#   wrong labels by heart;
# - *collapsed*: the labels of the first class count fifty times as much as all others, which is
#   where a reweighting ends that trusts only what was learned first;
# - *reweighted*: ``CLIDMUClassifier`` with its defaults.

CENTERS = [[-1.0, -0.6], [1.0, -0.6], [0.0, 1.1]]
X, y = make_blobs([100] * 3, centers=CENTERS, cluster_std=0.5, shuffle=False, random_state=0)
X = StandardScaler().fit_transform(X).astype(np.float32)
y_noisy, wrong = make_label_noise(y, rate=0.3, random_state=0)

plain = {"weighting": None, "dropout": 0, "weight_decay": 0, "ema_decay": None, "random_state": 0}
networks = {
    "untrained": CLIDMUClassifier(**plain, lr=1e-9, max_epochs=1),
    "memorised": CLIDMUClassifier(**plain, optimizer="adamw", max_epochs=200),
    "collapsed": CLIDMUClassifier(**plain, class_weight={0: 50}),
    "reweighted": CLIDMUClassifier(random_state=0),
}


def excess(features: torch.Tensor, logits: torch.Tensor) -> float:
    """CLID - log n."""
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
# Each square is a graph of all rows, sorted by their true class: the darker, the more alike two
# rows are. Every row of a square adds up to one. Above them is the plane, shaded by predicted
# class; crosses are the wrong labels.
#
# - *Untrained*: rows that lie near each other already have similar features, and S shows the
#   three classes. The predictions are nearly alike everywhere, so P does not: CLID is above log n.
# - *Memorised*: the predictions follow the wrong labels into islands, and P is full of stripes
#   where S has blocks. The network has learned, and CLID has hardly fallen.
# - *Collapsed*: all predictions are alike. No features can bring the CLID of a constant below
#   log n, which is how ``CLIDMUClassifier`` notices a collapse.
# - *Reweighted*: both graphs show the same three blocks, and CLID is lowest by far. No label was
#   needed to see that.

SHADES = ListedColormap(["#ffffff", "#bdd7e7", "#8c8c8c"])  # light to dark in greyscale, too

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
