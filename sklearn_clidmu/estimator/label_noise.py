"""Which labels are taken to be wrong, and what that says of the noise."""

from __future__ import annotations

import numpy as np

from sklearn_clidmu.estimator.labels import NO_LABEL

ALLOWANCE = 1.25
"""How many labels of a class may count as wrong, in units of how many all other rows say are."""


def find_wrong(
    scores: np.ndarray, given: np.ndarray, suggested: np.ndarray, right: np.ndarray | None
) -> np.ndarray:
    """Mask of the labels taken to be wrong, shape (n,), bool.

    Those that are not the most probable class; of each class the most suspect, up to
    :data:`ALLOWANCE` times what a judgement by all other rows estimates. The network alone
    disagrees with right labels where classes overlap; that judgement alone does not say which.

    Parameters
    ----------
    scores : ndarray of shape (n,)
        Higher means more suspect; not read for rows without a label.
    given, suggested : ndarray of shape (n,), int
        Codes of the given label and of the most probable class.
    right : ndarray of shape (n_classes,) or None
        Share of right labels among those given to each class, by all other rows; None for no
        bound.
    """
    wrong = (given != suggested) & (given != NO_LABEL)
    if right is None:
        return wrong
    for code, share in enumerate(right):
        rows = np.flatnonzero(wrong & (given == code))
        allowed = round(ALLOWANCE * (1 - share) * np.count_nonzero(given == code))
        most_suspect_first = np.argsort(-scores[rows], kind="stable")
        wrong[rows[most_suspect_first[allowed:]]] = False
    return wrong


def count_joint(
    wrong: np.ndarray, given: np.ndarray, suggested: np.ndarray, n_classes: int
) -> np.ndarray:
    """Count rows by given label (row) and by mended label (column), those without one left out.

    Parameters
    ----------
    wrong : ndarray of shape (n,), bool
        From :func:`find_wrong`; a wrong label is mended by the suggested one.
    given, suggested : ndarray of shape (n,), int
    n_classes : int

    Returns
    -------
    ndarray of shape (n_classes, n_classes), int
    """
    labelled = given != NO_LABEL
    mended = np.where(wrong, suggested, given)[labelled]
    joint = np.zeros((n_classes, n_classes), dtype=np.int64)
    np.add.at(joint, (given[labelled], mended), 1)
    return joint


def noise_matrix(joint: np.ndarray) -> np.ndarray:
    """Probability of the given label (row) in a true class (column), from counts.

    A class that no row is taken to be of keeps its labels: nothing is known of its noise.
    """
    mass = joint.sum(axis=0)
    return np.where(mass > 0, joint / np.maximum(mass, 1), np.eye(len(joint)))
