"""
Custom PyTorch modules
======================

``CLIDMUClassifier`` trains a multi-layer perceptron by default. ``module`` replaces it by any
PyTorch module, and rows may then have any shape. Here a small convolutional network is trained on
scikit-learn's bundled digits, images of 8 x 8 pixels; two labels in five are wrong.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from sklearn_clidmu import CLIDMUClassifier
from sklearn_clidmu.datasets import make_label_noise

# %%
# The network
# -----------
# The module is created as ``module(shape, n_classes)``; for rows that are vectors, the first
# argument is the number of features. It returns logits. The method also needs the last hidden
# features: they are the input of the last linear layer. A module without a linear layer returns
# the pair ``(logits, features)``.


class Convolutions(nn.Sequential):
    """Two convolutions, for rows of shape (1, height, width)."""

    def __init__(self, shape: tuple[int, int, int], n_classes: int) -> None:
        channels, height, width = shape
        super().__init__(
            nn.Conv2d(channels, 16, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(32 * (height // 2) * (width // 2), n_classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits of shape (n, n_classes)."""
        return super().forward(images)


# %%
# Fit
# ---
# A module gets the rows as they are, so they are scaled here. All pixels have the same unit and are
# scaled together. All parameters but those of the default network (``hidden_layer_sizes`` and
# ``dropout``) apply.

images, y = load_digits(return_X_y=True)
images = ((images - images.mean()) / images.std()).reshape(-1, 1, 8, 8).astype(np.float32)
X, X_test, y, y_test = train_test_split(images, y, test_size=0.3, stratify=y, random_state=0)
y_noisy, wrong = make_label_noise(y, rate=0.4, random_state=0)

models = {
    "unweighted": CLIDMUClassifier(module=Convolutions, weighting=None, random_state=0),
    "weighted": CLIDMUClassifier(module=Convolutions, random_state=0),
}
for name, clf in models.items():
    clf.fit(X, y_noisy)
    print(
        f"{name:10s}  test accuracy {clf.score(X_test, y_test):.3f}, "
        f"AUROC of the noise scores {roc_auc_score(wrong, clf.noise_scores_):.3f}"
    )

# %%
# A convolutional network has few parameters and memorizes little of symmetric noise, even without
# weights. With weights it makes about half of the errors.
#
# Examples
# --------
# The first test images that the unweighted network misclassifies, with its prediction above and the
# prediction of the weighted network below.

unweighted, weighted = (clf.predict(X_test) for clf in models.values())
rows = np.flatnonzero(unweighted != y_test)[:8]

figure, axes = plt.subplots(1, 8, figsize=(10, 2), layout="constrained")
for ax, row in zip(axes, rows, strict=True):
    ax.imshow(X_test[row, 0], cmap="gray_r")
    ax.set(xticks=[], yticks=[])
    ax.set_title(f"unweighted: {unweighted[row]}", fontsize=9)
    ax.set_xlabel(f"weighted: {weighted[row]}", fontsize=9)
print(f"{(weighted[rows] == y_test[rows]).sum()} of these {len(rows)} are right with weights")

figure.savefig("custom_module.png", dpi=120)
print("figure: custom_module.png")
