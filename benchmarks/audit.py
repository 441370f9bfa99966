"""Compare the estimated label noise of real data sets with the true noise, and with cleanlab.

    python benchmarks/audit.py [--data FOLDER] [--sets a,b] [--noises none,symmetric-10,...]
        [--seeds 1] [--out audit.csv]

Noises are those of accuracy.py, such as none, symmetric-5, pairflip-40 and real.

Needs ``pip install cleanlab pandas``. Three methods:

- fit: one fit of CLIDMUClassifier, with ``noise_rate_`` and ``find_label_issues(clf)``;
- out of fold: ``find_label_issues(scores, y, suggested=...)`` with the probabilities of three folds
  of the same classifier, with ``n_folds=None`` to save time; the noise rate is the share of issues;
- cleanlab: its ``find_label_issues`` and noise rate, from the same out-of-fold probabilities.

"class error" is the absolute error of the share of wrong labels among those given to a class,
averaged over the labels. "matrix" is half the absolute error of a row of ``transition_matrix_``,
averaged over the rows of the table. Appends to a CSV file and skips the cells in it, as accuracy.py
does.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accuracy_tables import to_markdown
from cleanlab.count import estimate_joint
from cleanlab.filter import find_label_issues as cleanlab_issues
from noisy_data import RATED_NOISES, Case, known_sets, load, make_case, noises
from sklearn.metrics import confusion_matrix
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from sklearn_clidmu import CLIDMUClassifier, find_label_issues


def count_joint(mask: np.ndarray, given: np.ndarray, suggested: np.ndarray) -> np.ndarray:
    """Count corrected labels (rows) by given ones (columns)."""
    return confusion_matrix(np.where(mask, suggested, given), given).astype(float)


def audit(case: Case, seed: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the mask of the issues and the joint counts of every method."""
    given = case.y_noisy
    clf = CLIDMUClassifier(random_state=seed).fit(case.X, given)
    folds = StratifiedKFold(3, shuffle=True, random_state=seed)
    quick = CLIDMUClassifier(random_state=seed, n_folds=None)
    proba = cross_val_predict(quick, case.X, given, cv=folds, method="predict_proba")
    scores, suggested = 1 - proba[np.arange(len(given)), given], proba.argmax(axis=1)
    fit = find_label_issues(clf).mask
    out_of_fold = find_label_issues(scores.clip(0, 1), given, suggested=suggested).mask
    return {
        "fit": (fit, count_joint(fit, given, clf.suggested_labels_)),
        "out of fold": (out_of_fold, count_joint(out_of_fold, given, suggested)),
        "cleanlab": (cleanlab_issues(given, proba, n_jobs=1), estimate_joint(given, proba).T),
    }


def compare(mask: np.ndarray, joint: np.ndarray, case: Case) -> dict[str, float]:
    """Compare issues and joint counts with the truth."""
    wrong = case.y_noisy != case.y
    truth = confusion_matrix(case.y, case.y_noisy)

    def class_rates(counts: np.ndarray) -> np.ndarray:
        return 1 - counts.diagonal() / np.maximum(counts.sum(axis=0), 1e-12)

    def transition_matrix(counts: np.ndarray) -> np.ndarray:
        return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1e-12)

    labels, classes = truth.sum(axis=0) / truth.sum(), truth.sum(axis=1) / truth.sum()
    matrix_error = abs(transition_matrix(joint) - transition_matrix(truth)).sum(axis=1) / 2
    found, rate = (mask & wrong).sum(), 1 - joint.trace() / joint.sum()
    return {
        "true rate": wrong.mean(),
        "estimated": rate,
        "error": abs(rate - wrong.mean()),
        "class error": labels @ abs(class_rates(joint) - class_rates(truth)),
        "matrix": classes @ matrix_error,
        "precision": found / mask.sum() if wrong.any() and mask.any() else np.nan,
        "recall": found / wrong.sum() if wrong.any() else np.nan,
    }


def run(args: argparse.Namespace, known: list[str]) -> None:
    """Append the missing cells to the file."""
    cells = read(args.out)
    done = set(zip(cells["set"], cells["noise"], cells["seed"], strict=True))
    torch.set_num_threads(1)
    for seed in range(args.seeds):
        for name in args.sets or known:
            data = load(name, args.data)
            for noise in noises(data, args.noises):
                if (name, noise, seed) in done:
                    continue
                case = make_case(data, noise, seed)
                methods = audit(case, seed).items()
                keys = {"set": name, "noise": noise, "seed": seed}
                rows = [{**keys, "method": m, **compare(*found, case)} for m, found in methods]
                new = not args.out.exists()
                pd.DataFrame(rows).to_csv(args.out, mode="a", header=new, index=False)
                print(name, noise, seed, f"{rows[0]['estimated']:.3f}", flush=True)


def read(path: Path) -> pd.DataFrame:
    """Read the cells in the file; "none" is a kind of noise, not a missing value."""
    if not path.exists():
        return pd.DataFrame(columns=["set", "noise", "seed"])
    return pd.read_csv(path, keep_default_na=False, na_values=["", "nan"])


def print_table(cells: pd.DataFrame) -> None:
    """Average over the cells of each kind of noise, in percent."""
    noisy = cells[cells["noise"] != "none"].assign(noise="all noisy")
    cells = pd.concat([cells, noisy]).drop(columns=["set", "seed"])
    cells["noise"] = pd.Categorical(cells["noise"], [*RATED_NOISES, "all noisy"])
    print(to_markdown(100 * cells.groupby(["noise", "method"], observed=True).mean(), 1))


def main() -> None:
    """Run the missing cells and print the table, in percent."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of .npz files, instead of OpenML")
    parser.add_argument("--sets", type=lambda text: text.split(","))
    parser.add_argument("--noises", type=lambda text: text.split(","), default=RATED_NOISES)
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds")
    parser.add_argument("--out", type=Path, default=Path("audit.csv"))
    args = parser.parse_args()
    known = known_sets(args.data)
    run(args, known)
    print_table(read(args.out))


if __name__ == "__main__":
    main()
