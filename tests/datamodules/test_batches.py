"""Batches counted in utterances: what they hold, what decides them, how they are dealt out to processes."""

import math
import random

import pytest
import torch
from lightning.fabric.utilities.distributed import DistributedSamplerWrapper

from merc.batch import consecutive_batches
from merc.datamodules.batches import TrainingLoader, UtteranceBatches

MELD_LIKE = [random.Random(n).randint(1, 33) for n in range(300)]
LONG = [random.Random(n).randint(50, 100) for n in range(100)]
MIXED = [1, 400, 1, 1, 90, 3, 3, 200, 1, 7]


def sizes(batches, lengths):
    return [sum(lengths[index] for index in batch) for batch in batches]


@pytest.mark.parametrize("lengths", [MELD_LIKE, LONG, MIXED, [5], [7] * 10], ids=["short", "long", "mixed", "1", "=="])
@pytest.mark.parametrize("batch_size", [1, 16, 160, 10**6])
def test_every_epoch_deals_out_every_conversation_once_in_as_many_batches(lengths, batch_size):
    sampler = UtteranceBatches(lengths, batch_size)
    expected = max(1, min(len(lengths), math.ceil(sum(lengths) / batch_size)))
    for epoch in range(5):
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert len(batches) == len(sampler) == expected
        assert all(batches)
        assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))


def test_batches_have_about_as_many_utterances_on_any_corpus():
    for lengths in (MELD_LIKE, LONG):
        sampler = UtteranceBatches(lengths, 160)
        found = sizes(sampler, lengths)
        mean = sum(lengths) / len(sampler)
        assert 140 < mean <= 160
        assert max(abs(size - mean) for size in found) <= max(lengths)
        # The cut is at the nearest conversation: half of one is the typical error, and it is made up for later.
        assert sum(abs(size - mean) for size in found) / len(found) < max(lengths) / 2


def test_a_conversation_of_every_utterance_count_fits():
    """A giant takes most of the utterances; the others still fill the batches that are left."""
    sampler = UtteranceBatches([1000, 1, 1, 1], 100)
    assert len(sampler) == 4
    assert sorted(sizes(sampler, sampler.lengths)) == [1, 1, 1, 1000]


def test_the_seed_and_the_epoch_decide_the_order_and_nothing_else():
    def order(seed, epoch):
        torch.manual_seed(seed)
        sampler = UtteranceBatches(MELD_LIKE, 160)
        torch.rand(3)  # what else draws numbers does not matter
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(0, 0) == order(0, 0) and order(0, 3) == order(0, 3)
    drawn = [order(seed, epoch) for seed in (0, 1, 2) for epoch in (0, 1, 2)]
    assert all(a != b for index, a in enumerate(drawn) for b in drawn[:index])


def test_asking_again_in_the_same_epoch_gives_the_same_batches():
    sampler = UtteranceBatches(MELD_LIKE, 160)
    assert list(sampler) == list(sampler)


def test_processes_share_out_the_batches_of_an_epoch():
    torch.manual_seed(4)
    shares = [
        DistributedSamplerWrapper(UtteranceBatches(MELD_LIKE, 160), num_replicas=2, rank=rank, shuffle=False)
        for rank in (0, 1)
    ]
    whole = UtteranceBatches(MELD_LIKE, 160)
    for sampler in (*shares, whole):
        sampler.set_epoch(7)
    expected = list(whole)
    first, second = map(list, shares)
    assert len(first) == len(second) == math.ceil(len(expected) / 2)
    dealt = [batch for pair in zip(first, second, strict=True) for batch in pair]
    assert dealt[: len(expected)] == expected


def test_nothing_to_deal_out_is_no_batch():
    assert list(UtteranceBatches([], 160)) == [] == consecutive_batches([], 160)


@pytest.mark.parametrize("make", [UtteranceBatches, consecutive_batches])
def test_a_batch_of_nothing_is_refused(make):
    with pytest.raises(ValueError, match="counted in utterances: expected batch_size >= 1, found 0"):
        make([3, 4], 0)


@pytest.mark.parametrize("budget", [1, 40, 1024])
@pytest.mark.parametrize("lengths", [MELD_LIKE, LONG, MIXED], ids=["short", "long", "mixed"])
def test_consecutive_batches_keep_the_order_and_the_budget(lengths, budget):
    batches = consecutive_batches(lengths, budget)
    assert [index for batch in batches for index in batch] == list(range(len(lengths)))
    for size, batch, after in zip(sizes(batches, lengths), batches, [*batches[1:], None], strict=True):
        assert size <= budget or len(batch) == 1
        assert after is None or size + lengths[after[0]] > budget  # and no smaller than need be


def test_a_loader_without_a_trainer_deals_out_everything():
    loader = TrainingLoader(range(10), batch_size=None)
    assert [int(item) for item in loader] == list(range(10)) and len(loader) == 10
    assert loader.state_dict() == {}
