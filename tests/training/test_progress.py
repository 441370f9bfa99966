import math
import re

import pytest

from sklearn_clidmu.training.monitor import Monitor
from sklearn_clidmu.training.net import StopTraining
from sklearn_clidmu.training.progress import progress

from .helpers import Diary, Script, make_ledger, make_meta_step, make_net, make_table, train_loss


class Stop(Diary):
    def on_epoch_end(self, net, **kwargs):
        raise StopTraining


def train(verbose, *more, held_out=None, warmup_epochs=0, n_trainings=1, n_expected=None):
    """Trainings of three epochs each; returns the last net."""
    table = make_table(20)
    with progress(verbose, n_expected or n_trainings) as watchers:
        for _ in range(n_trainings):
            meta_step = make_meta_step(table, warmup_epochs=warmup_epochs)
            monitor = Monitor(table, 0.5, make_ledger(20), held_out)
            shown = [callback for _, callback in watchers]
            callbacks = (meta_step, train_loss(), monitor, *shown, *more)
            net = make_net(*callbacks, weighting="wnet", max_epochs=3).fit(table)
    return net


def last_line(capsys):
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.split("\r")[-1]


# The bar


def test_a_bar_on_stderr_shows_the_figures_of_the_last_epoch(capsys):
    row = train(1, held_out=make_table(9)).history[-1]
    line = last_line(capsys)
    assert line.startswith("CLID-MU 1/1: 100%")
    assert "3/3" in line
    loss, clid, score = row["train_loss"], row["clid"], row["valid_score"]
    assert line.rstrip().endswith(f"loss {loss:.3f}, CLID {clid:.3f}, valid {score:.3f}]")


def test_one_bar_counts_the_epochs_of_all_trainings(capsys):
    train(1, n_trainings=2)
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1  # it is one and the same line
    lines = captured.err.split("\r")
    assert any(line.startswith("CLID-MU 1/2:  50%") and "3/6" in line for line in lines)
    assert lines[-1].startswith("CLID-MU 2/2: 100%")
    assert "6/6" in lines[-1]


def test_figures_that_do_not_exist_are_not_shown(capsys):
    train(1)
    line = last_line(capsys)
    assert "loss " in line
    assert "valid" not in line


def test_figures_that_are_not_finite_are_not_shown(capsys):
    with progress(1, 1) as [(_, bar)]:
        make_net(Script(train_loss=[math.nan], clid=[0.5]), bar).fit(make_table(20))
    line = last_line(capsys)
    assert line.rstrip().endswith(", CLID 0.500]")
    assert "nan" not in line


@pytest.mark.parametrize(("n_trainings", "total"), [(1, 1), (2, 2)])
def test_epochs_that_were_not_needed_are_taken_off_the_bar(n_trainings, total, capsys):
    train(1, Stop(), n_trainings=n_trainings)
    line = last_line(capsys)
    assert f"{n_trainings}/{total} [" in line
    assert "100%" in line


def test_the_bar_is_closed_where_fewer_trainings_are_taken_than_expected(capsys):
    train(1, n_expected=2)
    line = last_line(capsys)
    assert "3/6" in line
    assert line.endswith("\n")


def test_without_a_training_there_is_no_bar(capsys):
    with progress(1, 2):
        pass
    assert capsys.readouterr() == ("", "")


def test_the_bar_is_closed_after_an_error(capsys):
    class Break(Diary):
        def on_epoch_end(self, net, **kwargs):
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        train(1, Break())
    assert last_line(capsys).endswith("\n")


# The log


def test_the_log_has_a_line_an_epoch_with_its_figures(capsys):
    held_out = make_table(9)
    history = train(2, held_out=held_out).history
    out, err = capsys.readouterr()
    assert err == ""
    head, *lines = out.splitlines()
    assert re.split(r"  +", head) == [
        *("training", "epoch", "loss", "meta loss", "CLID - log n", "validation")
    ]
    for epoch, (line, row) in enumerate(zip(lines, history, strict=True), start=1):
        figures = [row[key] for key in ("train_loss", "meta_loss", "clid", "valid_score")]
        assert line.split() == ["1/1", f"{epoch}/3", *(f"{figure:.4f}" for figure in figures)]


def test_the_log_is_aligned(capsys):
    train(2, held_out=make_table(9), n_trainings=2, warmup_epochs=1)
    head, *lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6  # one head for all
    ends = [match.end() for match in re.finditer(r"loss|meta loss|log n|validation", head)][-4:]
    for line in lines:
        assert [match.end() for match in re.finditer(r"\S+", line)][2:] == ends


def test_the_log_has_a_dash_for_a_figure_that_does_not_exist(capsys):
    train(2, warmup_epochs=1)
    _, first, second, _ = capsys.readouterr().out.splitlines()
    assert first.split()[3] == "-"  # no meta loss before the first meta step
    assert math.isfinite(float(second.split()[3]))


# Silence


@pytest.mark.parametrize("held_out", [None, 9])
def test_nothing_is_written_at_0(capsys, held_out):
    train(0, held_out=None if held_out is None else make_table(held_out))
    assert capsys.readouterr() == ("", "")
