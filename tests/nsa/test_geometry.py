"""The closed forms of lengths and counts are what counting finds, and lengths without meaning are refused."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.nsa import oracle
from tests.nsa.cases import geometries
from workloads.nsa.geometry import Geometry

lengths = st.integers(1, 150)
positions = st.integers(0, 149)
few = settings(max_examples=60, deadline=None)


@few
@given(geometries(), st.integers(0, 150))
def test_compressed_tokens_are_the_complete_ones(g, seq_len):
    assert g.num_compressed(seq_len) == len(oracle.starts(seq_len, g))


@few
@given(geometries(), positions)
def test_a_query_sees_the_compressed_tokens_that_end_at_or_before_it(g, t):
    assert g.visible_compressed(t) == len(oracle.seen_compressed(t, 150, g))


@few
@given(geometries(), st.integers(0, 150))
def test_selection_blocks_cover_the_sequence_the_last_one_maybe_incomplete(g, seq_len):
    assert g.num_blocks(seq_len) == len({position // g.select_len for position in range(seq_len)})


@few
@given(geometries(), positions, st.randoms(use_true_random=False))
def test_selected_keys_do_not_depend_on_which_blocks_score_best(g, t, random):
    scores = [random.random() for _ in range(g.num_blocks(t + 1))]
    assert g.selected_keys(t) == len(oracle.seen_selected(oracle.choose(scores, t, g), t, g))


@few
@given(geometries(), positions)
def test_selected_keys_are_at_most_n_blocks_and_at_most_all(g, t):
    assert g.selected_keys(t) <= min(g.num_select * g.select_len, t + 1)


@few
@given(geometries(), positions)
def test_window_keys_are_the_last_w(g, t):
    assert g.window_keys(t) == len(oracle.seen_window(t, g))


@few
@given(geometries(), lengths)
def test_sums_are_over_all_queries(g, seq_len):
    queries = range(seq_len)
    assert g.sums(seq_len) == {
        "dense": sum(t + 1 for t in queries),
        "sliding": sum(len(oracle.seen_window(t, g)) for t in queries),
        "compressed": sum(len(oracle.seen_compressed(t, seq_len, g)) for t in queries),
        "selected": sum(g.selected_keys(t) for t in queries),
    }


@few
@given(geometries(), st.integers(1, 40))
def test_seq_len_of_is_the_shortest_whose_last_query_sees_that_many(g, count):
    shortest = g.seq_len_of(count)
    assert g.visible_compressed(shortest - 1) == count
    assert g.visible_compressed(shortest - 2) == count - 1


@pytest.mark.parametrize(("lengths", "message"), [
    ({"block_len": 0}, "block_len=0: expected at least 1"),
    ({"stride": 0}, "stride=0: expected at least 1"),
    ({"stride": -16}, "stride=-16: expected at least 1"),
    ({"select_len": 0}, "select_len=0: expected at least 1"),
    ({"window": 0}, "window=0: expected at least 1"),
    ({"block_len": 40}, "block_len=40: expected a multiple of stride=16"),
    ({"select_len": 72}, "select_len=72: expected a multiple of stride=16"),
    ({"stride": 12}, "block_len=32: expected a multiple of stride=12"),
    ({"block_len": 8}, "block_len=8: expected a multiple of stride=16"),
    ({"num_select": 2}, "num_select=2: expected at least 3, the blocks that are always selected"),
])  # fmt: skip
def test_lengths_that_the_equations_do_not_cover_are_refused(lengths, message):
    with pytest.raises(ValueError, match="expected") as caught:
        Geometry(**lengths)
    assert str(caught.value) == message


def test_the_defaults_are_the_papers():
    assert Geometry() == Geometry(block_len=32, stride=16, select_len=64, num_select=16, window=512)
