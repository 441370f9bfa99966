import math

import pytest

from sklearn_clidmu.training.monitor import Monitor
from sklearn_clidmu.training.net import StopTraining
from sklearn_clidmu.training.progress import Progress

from .helpers import Diary, Script, make_ledger, make_meta_step, make_net, make_table, train_loss


def train(*callbacks, held_out=None, warmup_epochs=0):
    table = make_table(20)
    meta_step = make_meta_step(table, warmup_epochs=warmup_epochs)
    monitor = Monitor(table, 0.5, make_ledger(20), held_out)
    net = make_net(meta_step, train_loss(), monitor, *callbacks, weighting="wnet", max_epochs=3)
    return net.fit(table)


def last_line(capsys):
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.split("\r")[-1]


def test_a_bar_on_stderr_shows_the_figures_of_the_last_epoch(capsys):
    net = train(Progress(), held_out=make_table(9))
    line = last_line(capsys)
    assert line.startswith("CLID-MU: 100%")
    assert "3/3" in line
    row = net.history[-1]
    assert f"loss={row['train_loss']:.3f}" in line
    assert f"meta loss={row['meta_loss']:.3f}" in line
    assert f"CLID - log n={row['clid']:.3f}" in line
    assert f"validation={row['valid_score']:.3f}" in line


def test_figures_that_do_not_exist_are_not_shown(capsys):
    train(Progress(), warmup_epochs=3)
    line = last_line(capsys)
    assert "loss=" in line
    assert "meta loss" not in line
    assert "validation" not in line


def test_figures_that_are_not_finite_are_not_shown(capsys):
    net = make_net(Script(train_loss=[math.nan], clid=[0.5]), Progress())
    net.fit(make_table(20))
    line = last_line(capsys)
    assert "CLID - log n=0.500" in line
    assert "nan" not in line
    assert " loss" not in line


def test_the_bar_is_closed_when_training_ends_early(capsys):
    class Stop(Diary):
        def on_epoch_end(self, net, **kwargs):
            raise StopTraining

    progress = Progress()
    train(progress, Stop())
    assert "1/3" in last_line(capsys)
    assert progress.bar.disable  # tqdm's word for closed


@pytest.mark.parametrize("held_out", [None, 9])
def test_nothing_is_written_without_the_bar(capsys, held_out):
    train(held_out=None if held_out is None else make_table(held_out))
    assert capsys.readouterr() == ("", "")
