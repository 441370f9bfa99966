"""Modules of callers: they work, or an error says what is wrong with which module."""

import pickle
import warnings

import numpy as np
import pytest
import torch
from classifier.data import make_rows
from classifier.own_checks import assert_sound
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from torch import nn
from torch.nn.utils import parametrizations

from sklearn_clidmu import CLIDMUClassifier

X, y, _ = make_rows()

# Every kind of virtual step: closed form, double backward, none.
PASSES = [("evidence", "head"), ("evidence", "full"), ("vri", "full"), (None, "head")]


def fit(module, weighting="evidence", virtual_step="head", batch_size=64, **params):
    quick = {"max_epochs": 2, "warmup_epochs": 1, "n_folds": None, "random_state": 0}
    return CLIDMUClassifier(
        module=module,
        weighting=weighting,
        virtual_step=virtual_step,
        batch_size=batch_size,
        **{**quick, **params},
    ).fit(X, y)


def with_middle(*middle):
    """Two linear layers with something between them."""
    return lambda d, c: nn.Sequential(nn.Linear(d, 6), *middle, nn.ReLU(), nn.Linear(6, c))


class Output(nn.Module):
    """A linear layer whose output is made into something else."""

    def __init__(self, change, d, c):
        super().__init__()
        self.layer = nn.Linear(d, c)
        self.change = change

    def forward(self, rows):
        return self.change(self.layer(rows), rows)


def returning(change):
    return lambda d, c: Output(change, d, c)


# What works


class Counter(nn.Module):
    """Buffers written in place, replaced, and of integers."""

    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("scale", torch.ones(6))
        self.register_buffer("other", torch.ones(6))

    def forward(self, rows):
        if self.training:
            self.count += 1
            self.scale.mul_(0.99)
            self.other = self.other * 0.99
        return rows * self.scale * self.other


class Tied(nn.Module):
    def __init__(self, d, c):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(d, d), nn.Linear(d, d), nn.Linear(d, c)
        self.second.weight = self.first.weight

    def forward(self, rows):
        return self.head(self.second(self.first(rows).relu()).relu())


class TiedHead(nn.Module):
    def __init__(self, d, c):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(d, c), nn.Linear(c, c), nn.Linear(c, c)
        self.head.weight = self.second.weight

    def forward(self, rows):
        return self.head(self.second(self.first(rows).relu()).relu())


class Sine(torch.autograd.Function):
    """An operator without a forward mode."""

    @staticmethod
    def forward(ctx, rows):
        ctx.save_for_backward(rows)
        return rows.sin()

    @staticmethod
    def backward(ctx, error):
        return error * ctx.saved_tensors[0].cos()


class WithoutForwardMode(nn.Module):
    def forward(self, rows):
        return Sine.apply(rows)


class Frozen(nn.Sequential):
    """Two linear layers, one of which is not trained."""

    def __init__(self, d, c, frozen):
        super().__init__(nn.Linear(d, 6), nn.ReLU(), nn.Linear(6, c))
        self[frozen].requires_grad_(False)


class WithIntegers(nn.Module):
    """Has its integers before its other parameters."""

    def __init__(self, d, c):
        super().__init__()
        self.table = nn.Parameter(torch.arange(3), requires_grad=False)
        self.head = nn.Linear(d, c)

    def forward(self, rows):
        return self.head(rows)


WORKING = {
    "buffers": lambda d, c: with_middle(Counter())(d, c),
    "BatchNorm": lambda d, c: with_middle(nn.BatchNorm1d(6))(d, c),
    "tied weights": Tied,
    "tied head": TiedHead,
    "spectral norm": lambda d, c: nn.Sequential(
        parametrizations.spectral_norm(nn.Linear(d, 6)), nn.ReLU(), nn.Linear(6, c)
    ),
    "weight norm of the head": lambda d, c: nn.Sequential(
        nn.Linear(d, 6), nn.ReLU(), parametrizations.weight_norm(nn.Linear(6, c))
    ),
    "no forward mode": with_middle(WithoutForwardMode()),
    "float64": lambda d, c: with_middle()(d, c).double(),
    "half precision inside": returning(lambda logits, rows: logits.half()),
    "frozen body": lambda d, c: Frozen(d, c, frozen=0),
    "frozen head": lambda d, c: Frozen(d, c, frozen=2),
    "parameters that are integers": WithIntegers,
    "no linear layer, but a pair": lambda d, c: PairOfConvolution(d, c),
    "lazy layers": lambda d, c: nn.Sequential(nn.LazyLinear(6), nn.ReLU(), nn.LazyLinear(c)),
    "lazy buffers": lambda d, c: nn.Sequential(
        nn.LazyLinear(6), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(c)
    ),
    "what it has computed is kept": lambda d, c: Keeping(d, c),
    "attention": lambda d, c: Attention(c),
    "attention that ends in no linear layer": lambda d, c: Attention(c, scale=0.5),
    "a linear layer that is not called comes last": lambda d, c: Attention(c, head_first=True),
}


class Keeping(nn.Module):
    def __init__(self, d, c):
        super().__init__()
        self.body, self.head = nn.Linear(d, 6), nn.Linear(6, c)

    def forward(self, rows):
        self.hidden = self.body(rows).relu()
        return self.head(self.hidden)


class Attention(nn.Module):
    """Each feature attends to the others."""

    def __init__(self, c, scale=None, head_first=False):
        super().__init__()
        head = nn.Linear(4, c)
        if head_first:
            self.head = head
        self.embedding, self.attention = nn.Linear(1, 4), nn.MultiheadAttention(4, 2)
        self.head, self.scale = head, scale

    def forward(self, rows):
        tokens = self.embedding(rows.T[..., None])
        logits = self.head(self.attention(tokens, tokens, tokens)[0].mean(dim=0))
        return logits if self.scale is None else self.scale * logits


class PairOfConvolution(nn.Module):
    def __init__(self, d, c):
        super().__init__()
        self.body, self.head = nn.Conv1d(1, 3, 2), nn.Conv1d(3, c, d - 1)

    def forward(self, rows):
        features = self.body(rows[:, None, :]).relu()
        return self.head(features)[:, :, 0], features


@pytest.mark.parametrize(("weighting", "virtual_step"), PASSES)
@pytest.mark.parametrize("case", WORKING)
def test_module_of_an_unusual_kind_is_trained(case, weighting, virtual_step):
    in_batches = case in ("BatchNorm", "buffers", "half precision inside") and weighting == "vri"
    batch_size = 16 if in_batches else 64
    clf = fit(WORKING[case], weighting, virtual_step, batch_size)
    assert_sound(case, clf, X)
    assert clf.collapse_epoch_ is None
    assert clf.history_["train_loss"][1] != clf.history_["train_loss"][0]
    kinds = {p.dtype for p in clf.net_.module_.parameters() if p.is_floating_point()}
    assert kinds == {torch.float32 if in_batches else torch.float64}


@pytest.mark.parametrize("frozen", [0, 2])
def test_module_keeps_parameters_that_require_no_gradient(frozen):
    built = []

    def build(d, c):
        torch.manual_seed(0)
        built.append(Frozen(d, c, frozen))
        return built[-1]

    clf = fit(build, virtual_step="full")
    torch.manual_seed(0)
    initial = Frozen(4, 2, frozen).double()
    trained = clf.net_.module_.module
    assert torch.equal(trained[frozen].weight, initial[frozen].weight.float().double())
    assert not torch.equal(trained[2 - frozen].weight, initial[2 - frozen].weight)


# What cannot work


class Spoiled(nn.Module):
    """Not a number, in training and after, from some pass in training on."""

    def __init__(self, n_sound):
        super().__init__()
        self.n_sound = n_sound

    def forward(self, rows):
        self.n_sound -= self.training
        return rows * float("nan") if self.n_sound < 0 else rows


@pytest.mark.parametrize(("weighting", "virtual_step"), PASSES)
@pytest.mark.parametrize("n_sound", [-1, 0, 15])  # from the start, in training, in its second epoch
def test_module_that_turns_to_nan_is_named(n_sound, weighting, virtual_step):
    with pytest.raises(ValueError, match="module Sequential returns numbers that are not finite"):
        fit(lambda d, c: with_middle(Spoiled(n_sound))(d, c), weighting, virtual_step)


class Passing(Spoiled):
    """Not a number in some passes of training, and sound again afterwards."""

    def forward(self, rows):
        spoiled = super().forward(rows)
        return spoiled if self.training else rows


@pytest.mark.parametrize(("weighting", "virtual_step"), PASSES)
def test_module_of_nan_in_training_alone_ends_with_the_last_finite_network(weighting, virtual_step):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        clf = fit(lambda d, c: with_middle(Passing(15))(d, c), weighting, virtual_step)
    assert_sound("nan in training", clf, X)
    told = " ".join(str(warning.message) for warning in caught)
    assert ("diverged in epoch 2" in told) == (weighting is None)
    assert ("collapsed in epoch 2" in told) == (clf.collapse_epoch_ == 2) == (weighting is not None)


class NoLinear(nn.Conv1d):
    def __init__(self, d, c):
        super().__init__(1, c, d)

    def forward(self, rows):
        return super().forward(rows[:, None, :])[:, :, 0]


class NoParameters(nn.Module):
    def __init__(self, d, c):
        super().__init__()

    def forward(self, rows):
        return rows[:, :2], rows


def untrained(d, c):
    return nn.Linear(d, c).requires_grad_(False)


def with_attribute(layer):
    layer.computed = 2 * layer.weight
    return layer


def fails(logits, rows):
    raise RuntimeError("out of cheese")


UNFIT = {
    "no linear layer": (
        NoLinear,
        r"NoLinear calls no torch.nn.Linear.*return \(logits, features\)",
    ),
    "too many outputs": (lambda d, c: nn.Linear(d, c + 1), r"Linear .*, 2\), got \(2, 3\)"),
    "one output": (lambda d, c: nn.Linear(d, 1), r"Linear .*, 2\), got \(2, 1\)"),
    "a vector": (returning(lambda z, rows: z[:, 0]), r"Output .* got \(2,\)"),
    "three dimensions": (returning(lambda z, rows: z[:, :, None]), r"Output .* got \(2, 2, 1\)"),
    "a row less": (returning(lambda z, rows: z[1:]), r"Output .* got \(1, 2\) for 2 rows"),
    "features of a row less": (
        returning(lambda z, rows: (z, rows[1:])),
        r"Output .* features .* got \(1, 4\) for 2 rows",
    ),
    "features of a number": (returning(lambda z, rows: (z, rows.sum())), r"features .* got \(\)"),
    "no features": (returning(lambda z, rows: (z, None)), r"got features of type NoneType"),
    "a triple": (returning(lambda z, rows: (z, rows, rows)), r"got logits of type tuple"),
    "a dict": (returning(lambda z, rows: {"logits": z}), r"Output .* got logits of type dict"),
    "nothing": (returning(lambda z, rows: None), r"got logits of type NoneType"),
    "an array": (returning(lambda z, rows: z.detach().numpy()), r"got logits of type ndarray"),
    "integers": (returning(lambda z, rows: z.long()), r"got logits of type torch.int64"),
    "complex numbers": (returning(lambda z, rows: z + 1j), r"got logits of type torch.complex"),
    "no gradient": (returning(lambda z, rows: z.detach()), r"Output .* without a gradient"),
    "meta device": (lambda d, c: nn.Linear(d, c, device="meta"), r"Linear cannot .* on the CPU"),
    "output elsewhere": (returning(lambda z, rows: z.to("meta")), r"Output .* logits on meta"),
    "no parameters": (NoParameters, r"NoParameters has no parameters to train"),
    "nothing to train": (untrained, r"Linear has no parameters to train"),
    "another input": (lambda d, c: nn.Linear(d + 1, c), r"Linear cannot take .* shape \(2, 4\)"),
    "single precision alone": (
        lambda d, c: nn.Sequential(nn.Linear(d, 3), Cast(), nn.Linear(3, c)),
        r"Sequential cannot take .* torch.float64",
    ),
    "an error": (returning(fails), r"Output cannot take a batch .*out of cheese"),
    "too few columns": (
        returning(lambda z, rows: z * rows[:, 9:].sum() + {}[0]),
        r"Output cannot take a batch .* KeyError\(0\)",
    ),
    "a weight that is computed": (
        lambda d, c: with_attribute(nn.Linear(d, c)),
        r"Linear cannot be copied: .*parametrizations",
    ),
}


class Cast(nn.Module):
    def forward(self, rows):
        return rows.float()


@pytest.mark.parametrize(("weighting", "virtual_step"), PASSES)
@pytest.mark.parametrize("case", UNFIT)
def test_module_that_is_unfit_is_refused_by_its_name(case, weighting, virtual_step):
    module, message = UNFIT[case]
    with pytest.raises(ValueError, match=f"^module .*{message}"):
        fit(module, weighting, virtual_step)


@pytest.mark.parametrize(("weighting", "virtual_step"), PASSES)
def test_module_that_builds_no_network_is_refused(weighting, virtual_step):
    with pytest.raises(TypeError, match=r"module must build a torch\.nn\.Module .*got 'a network'"):
        fit(lambda d, c: "a network", weighting, virtual_step)


class Breaking(nn.Module):
    def forward(self, rows):
        if self.training:
            raise RuntimeError("out of cheese")
        return rows


@pytest.mark.parametrize(("weighting", "virtual_step"), PASSES)
def test_module_error_in_training_comes_through(weighting, virtual_step):
    before = torch.get_rng_state()
    clf = CLIDMUClassifier(
        module=with_middle(Breaking()), weighting=weighting, virtual_step=virtual_step
    )
    with pytest.raises(RuntimeError, match=r"^out of cheese$"):
        clf.fit(X, y)
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(NotFittedError):
        clf.predict(X)


def rows_of_another_width(d, c):
    return nn.Linear(3, c)


def test_loaded_module_that_does_not_fit_is_named():
    clf = fit(nn.Linear)
    state = clf.__getstate__()
    state["net_"]["network"]["module"] = rows_of_another_width
    with pytest.raises(ValueError, match="module Linear cannot take a batch of shape"):
        pickle.loads(pickle.dumps(clf)).__setstate__(state)


def test_predict_names_a_module_whose_output_is_not_finite():
    clf = fit(nn.Linear, batch_size=16)
    rows = np.where(np.arange(len(X))[:, None] == 5, 1e308, X)
    with pytest.raises(ValueError, match="module Linear returns numbers that are not finite"):
        clf.predict(rows)
