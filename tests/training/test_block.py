"""Blocks of batches against the batches that were entered."""

import pytest
import torch

from sklearn_clidmu.training.batches import Labels
from sklearn_clidmu.training.block import Block


def make_batch(n, n_classes=3, d=4):
    """Logits, features, losses and errors, in the layout that they have in training; labels."""
    outputs = (
        torch.randn(n, n_classes),
        torch.randn(n, d),
        torch.rand(n),
        torch.randn(n_classes, n).T,
    )
    return outputs, Labels(torch.randperm(100)[:n], torch.randint(n_classes, (n,)), torch.rand(n))


def check_stacks(block, batches):
    outputs, labels = block.stacks()
    for i, (entered, its_labels) in enumerate(batches):
        for stack, part in zip((*outputs, *labels), (*entered, *its_labels), strict=True):
            assert stack.dtype == part.dtype
            assert len(stack) == len(batches)
            assert torch.equal(stack[i], part)


@pytest.mark.parametrize("n_entered", [1, 2, 3])
def test_stacks_hold_the_batches_in_their_order(n_entered):
    block, batches = Block(3), [make_batch(5) for _ in range(n_entered)]
    for batch in batches:
        assert not block.is_full
        assert block.fits(5)
        block.enter(*batch)
    assert block.n_entered == n_entered
    assert block.is_full == (n_entered == 3)
    check_stacks(block, batches)


def test_batches_of_another_size_do_not_fit_until_the_block_begins_anew():
    block = Block(3)
    for n in (5, 4, 5):
        assert block.fits(n)
        block.enter(*make_batch(n))
        assert block.fits(n)
        assert not block.fits(9 - n)
        block.clear()
    batches = [make_batch(4), make_batch(4)]
    for batch in batches:
        block.enter(*batch)
    check_stacks(block, batches)


def test_batches_that_are_overwritten_stay_as_they_were_entered():
    block, (outputs, labels) = Block(2), make_batch(5)
    block.enter(outputs, labels)
    expected = [part.clone() for part in (*outputs, *labels)]
    for part in (*outputs, *labels):
        part.zero_()
    entered, its_labels = block.stacks()
    for stack, part in zip((*entered, *its_labels), expected, strict=True):
        assert torch.equal(stack[0], part)
