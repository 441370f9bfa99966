"""What the labels of all other rows have to do with a fit, and how far trust goes by them."""

import numpy as np
import pytest
import torch

from sklearn_clidmu import CLIDMUClassifier
from sklearn_clidmu.estimator import preparation
from sklearn_clidmu.estimator.preparation import judge_labels, prepare, start_over

from .data import SMALL, make_rows

X, y, _ = make_rows(150, n_classes=3)
REGIMES = {"one batch": 256, "several batches": 32}


def small(**params):
    return CLIDMUClassifier(**{**SMALL, **params})


@pytest.fixture(params=REGIMES)
def batch_size(request):
    return REGIMES[request.param]


def prepared(rows=X, labels=y, weight=None, held_out=(), **settings):
    weight = np.ones(len(rows)) if weight is None else weight
    torch.manual_seed(0)
    return prepare(
        rows,
        labels,
        weight,
        held_out=np.array(held_out, dtype=int),
        n_classes=3,
        device=torch.device("cpu"),
        **{"evidence": True, "batch_size": 32, "dtype": "float64", **settings},
    )


# Who asks for it


@pytest.mark.parametrize("weighting", ["wnet", "vri", None])
def test_rows_are_judged_by_all_others_only_for_the_net_that_asks(
    weighting, batch_size, monkeypatch
):
    def refuse(*args, **kwargs):
        raise AssertionError("not asked for")

    monkeypatch.setattr(preparation, "leave_one_out_shares", refuse)
    clf = small(weighting=weighting, batch_size=batch_size).fit(X, y)
    assert not hasattr(clf.weight_net_, "believed")
    with pytest.raises(AssertionError, match="not asked for"):
        small(batch_size=batch_size).fit(X, y)


def test_without_evidence_nothing_is_known_of_rivals():
    data = prepared(evidence=False)
    assert data.noise is None
    assert data.ledger.evidence()[:, 3].eq(0.5).all()


# What it says


def test_rivals_and_belief_see_wrong_labels_before_any_training(batch_size):
    rows, labels, flipped = make_rows(150, n_classes=3, noise=0.2)
    data = prepared(rows, labels, batch_size=batch_size)
    rivalry = data.ledger.evidence()[:, 3].numpy()
    assert rivalry.dtype == np.float64
    order = rivalry.argsort()[::-1]
    assert flipped[order[: flipped.sum()]].mean() > 0.8
    right = [(~flipped)[labels == k].mean() for k in range(3)]
    np.testing.assert_allclose(data.noise.believed, right, atol=0.15)
    assert data.noise.rate.item() == pytest.approx(flipped.mean(), abs=0.1)


def test_belief_tells_a_noisy_class_from_a_clean_one(batch_size):
    rng = np.random.RandomState(0)
    truth = np.arange(240) % 3
    rows = rng.normal(size=(240, 4)) + 5 * np.eye(3, 4)[truth]
    labels = np.where((truth == 0) & (rng.uniform(size=240) < 0.4), 1, truth)
    believed = prepared(rows, labels, batch_size=batch_size).noise.believed
    assert believed.argmin() == 1
    # In one batch, where rows may be repeated, few of them count as seen: less is dared.
    assert believed[1] < believed[[0, 2]].min() - (0.01 if batch_size > 240 else 0.05)


def test_rows_that_are_not_trained_on_are_judged_but_judge_nobody(batch_size):
    weight = np.ones(len(X))
    weight[::5] = 0
    held_out = np.arange(1, len(X), 10)
    outside = np.flatnonzero(weight == 0).tolist() + held_out.tolist()
    other = y.copy()
    other[outside] = (other[outside] + 1) % 3
    before, after = (
        prepared(labels=labels, weight=weight, held_out=held_out, batch_size=batch_size)
        for labels in (y, other)
    )
    trained = np.setdiff1d(np.arange(len(X)), outside)
    for first, second in zip(before.noise, after.noise, strict=True):
        assert torch.equal(first, second)
    first, second = before.ledger.evidence()[:, 3], after.ledger.evidence()[:, 3]
    assert torch.equal(first[trained], second[trained])
    assert first[outside].ne(second[outside]).all()


@pytest.mark.parametrize("fits_one_batch", [True, False])
def test_shares_rivalry_and_the_estimate_of_noise_are_of_the_dtype_of_the_rows(fits_one_batch):
    rows = torch.tensor(X, dtype=torch.float32)
    shares, noise = judge_labels(rows, torch.tensor(y), 3, torch.ones(len(X)), fits_one_batch)
    rivalry = prepared(dtype="float32", batch_size=256 if fits_one_batch else 32).ledger.rivalry
    assert {figures.dtype for figures in (shares, rivalry, *noise)} == {torch.float32}
    assert (shares.shape, rivalry.shape) == ((len(X), 3), (len(X),))
    assert [tuple(figures.shape) for figures in noise] == [(3, 3), (), (3,), ()]
    assert ((noise.believed > 0) & (noise.believed < 1)).all()


def test_judging_labels_draws_nothing_from_the_global_generator(batch_size):
    torch.manual_seed(0)
    state = torch.get_rng_state()
    prepared(batch_size=batch_size)
    assert torch.equal(torch.get_rng_state(), state)


def test_equal_rows_tell_nothing_apart(batch_size):
    data = prepared(np.ones_like(X), y, batch_size=batch_size)
    evidence = data.ledger.evidence()[:, 3]
    assert evidence.isfinite().all()
    assert all(figures.isfinite().all() for figures in data.noise)
    for k in range(3):
        torch.testing.assert_close(evidence[y == k], evidence[y == k][:1].expand(sum(y == k)))


# What trust comes to in the end


@pytest.mark.parametrize("early_stopping", [False, True])
def test_the_mean_trust_in_a_class_is_the_share_of_its_labels_that_is_believed(
    batch_size, early_stopping, monkeypatch
):
    kept = []
    monkeypatch.setattr(
        "sklearn_clidmu.estimator.classifier.prepare",
        lambda *args, **kwargs: kept.append(prepare(*args, **kwargs)) or kept[-1],
    )
    weight = np.random.RandomState(0).randint(0, 3, len(X)).astype(float)
    params = {"early_stopping": early_stopping, "meta_lr": 0.05, "dtype": "float64"}
    clf = small(batch_size=batch_size, warmup_epochs=1, **params).fit(X, y, weight)
    [data] = kept
    trained = data.ledger.sample_weight.numpy()
    assert (trained > 0).sum() == len(data.training)
    means = [np.average(clf.sample_weights_[y == k], weights=trained[y == k]) for k in range(3)]
    believed = clf.weight_net_.believed.numpy()
    np.testing.assert_allclose(believed, data.noise.believed)
    # sample_weights_ have mean one, so that a factor is left.
    np.testing.assert_allclose(means / believed, np.mean(means / believed), rtol=1e-6)
    assert clf.sample_weights_[y == 0].std() > 1e-3


def test_trust_is_below_one_before_it_is_normalised():
    clf = small(batch_size=32).fit(X, y)
    believed = clf.weight_net_.believed.numpy()
    right = np.average(believed, weights=np.bincount(y))
    trust = clf.sample_weights_ * right  # the mean trust, with unit sample weights
    assert trust.max() < 1
    assert trust.min() > 0


@pytest.mark.parametrize("seed", range(2))
def test_one_wrong_label_is_the_most_suspect_the_least_trusted_and_changes_no_prediction(
    batch_size, seed
):
    rows, labels, _ = make_rows(150, n_classes=3, noise=0, seed=seed)
    rows = rows * 0.5 + 3 * np.eye(3, 4)[labels]
    spoiled = labels.copy()
    spoiled[7] = (spoiled[7] + 1) % 3
    clean, clf = (
        small(batch_size=batch_size, max_epochs=10).fit(rows, given) for given in (labels, spoiled)
    )
    np.testing.assert_array_equal(clean.predict(rows), labels)
    np.testing.assert_array_equal(clf.predict(rows), labels)
    assert clf.noise_scores_.argmax() == 7
    assert clf.sample_weights_.argmin() == 7


# No false alarms


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("seed", range(2))
def test_labels_of_much_noise_raise_no_alarm(n_classes, seed, batch_size):
    rows, labels, _ = make_rows(150, n_classes=n_classes, noise=0.3, seed=seed)
    clf = small(batch_size=batch_size, max_epochs=12, random_state=seed)
    assert clf.fit(rows, labels).collapse_epoch_ is None  # and no ConvergenceWarning


# What is kept


def test_a_row_takes_32_bytes_beside_its_features():
    data = prepared(dtype="float32")
    assert data.training is data.everything
    data = start_over(data, distrust=torch.zeros(len(X), dtype=torch.float32))
    kept = {**vars(data.everything), **vars(data.ledger)}
    del kept["X"]
    storages = {
        part.untyped_storage().data_ptr(): part.untyped_storage().nbytes()
        for part in kept.values()
        if isinstance(part, torch.Tensor)
    }
    assert sum(storages.values()) == 32 * len(X)
