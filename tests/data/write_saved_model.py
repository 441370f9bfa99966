"""Write a small model as the version at hand saves it, and what it predicts.

Run it once for every version that is released, and when the format of saved files changes, from
the root of the repository: ``python tests/data/write_saved_model.py``. The files stay: every later
version has to load them (tests/estimator/test_saving.py).
"""

from pathlib import Path

import numpy as np

import sklearn_clidmu


def main():
    """Fit a model with two networks and a weighting net, save it, and record predictions."""
    rng = np.random.default_rng(0)
    y = np.arange(60) % 3
    X = rng.normal(size=(60, 4)) + 3 * np.eye(3, 4)[y]
    clf = sklearn_clidmu.CLIDMUClassifier(
        hidden_layer_sizes=(6, 5), max_epochs=4, batch_size=16, n_snapshots=2, random_state=0
    )
    clf.fit(X, np.array(["ant", "bee", "wasp"])[y])
    name = Path(__file__).parent / f"model-{sklearn_clidmu.__version__}"
    clf.save(f"{name}.safetensors")
    figures = {"noise_scores": clf.noise_scores_, "sample_weights": clf.sample_weights_}
    np.savez(f"{name}.npz", X=X, probabilities=clf.predict_proba(X), **figures)


if __name__ == "__main__":
    main()
