from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refused
from scipy.spatial.distance import cdist, pdist

from fsgen.errors import Code
from fsgen.metrics.intervals import draws, interval
from fsgen.metrics.pairwise_lpips import SKETCH, Clusters, Spread


def points(n, d, seed=0, dtype=torch.float32):
    rng = torch.Generator().manual_seed(seed)
    return (torch.randn(n, d, generator=rng, dtype=torch.float64) + 0.5).to(dtype)


def spread(rows, batch=4):
    made = Spread()
    for part in rows.split(batch):
        made.add(part)
    return made


@pytest.mark.parametrize("d", [1, 5, SKETCH, 200_000])
@pytest.mark.parametrize("batch", [1, 4, 100])
def test_running_sums_hold_all_squared_distances(d, batch):
    x, y = points(11, d), points(7, d, seed=1) + 0.1
    found = spread(x, batch)
    assert found.n == 11
    assert found.within() == pytest.approx(pdist(x.double().numpy(), "sqeuclidean").mean(), rel=1e-9)
    assert found.between(spread(y, batch)) == pytest.approx(
        cdist(x.double(), y.double(), "sqeuclidean").mean(), rel=1e-9
    )


def test_closed_forms():
    simplex = spread(torch.eye(6))
    assert simplex.within() == pytest.approx(2)
    assert simplex.between(simplex) == pytest.approx(2 * 5 / 6)  # a sixth of the pairs are one point
    assert simplex.between(spread(torch.zeros(3, 6))) == pytest.approx(1)
    collapsed = spread(torch.full((5, 6), 3.3))
    assert collapsed.within() == 0 and collapsed.between(collapsed) == 0


@given(st.integers(2, 20), st.integers(1, 30), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_a_shift_of_both_changes_nothing_and_of_one_adds_its_square(n, d, seed):
    x, y = points(n, d, seed, torch.float64), points(n + 1, d, seed + 1, torch.float64)
    shifted = spread(x + 7)
    assert shifted.within() == pytest.approx(spread(x).within(), rel=1e-6, abs=1e-9)
    assert shifted.between(spread(y + 7)) == pytest.approx(spread(x).between(spread(y)), rel=1e-6)
    apart = spread(x - x.mean(dim=0)).between(spread(x - x.mean(dim=0) + 2))
    assert apart - spread(x).between(spread(x)) == pytest.approx(4 * d, rel=1e-6)


def test_sketches_keep_distances_whatever_the_shape_of_the_points():
    x = points(30, 50_000)
    x[:, ::1024] *= 30  # much in few places, as in a feature map with one bright column
    exact = pdist(x.numpy(), "sqeuclidean")
    ratio = pdist(spread(x).sketched(), "sqeuclidean") / exact
    assert ratio.mean() == pytest.approx(1, abs=0.05) and ratio.std() < 0.1
    few = points(10, SKETCH - 1)  # nothing is folded: only signs change
    np.testing.assert_allclose(pdist(spread(few).sketched()), pdist(few.numpy()), rtol=1e-5)


def test_resamples_of_few_coordinates_are_exact():
    x, y = points(9, 40, dtype=torch.float64), points(6, 40, 1, torch.float64)
    ours, theirs, counts = spread(x), spread(y), draws(9, 6)
    within, between = ours.within_resampled(counts), ours.between_resampled(theirs, counts)
    for row, drawn in enumerate(counts):
        who = np.repeat(np.arange(9), drawn)
        squares = cdist(x[who], x[who], "sqeuclidean")[who[:, None] != who]
        assert within[row] == pytest.approx(squares.mean(), rel=1e-5)
        assert between[row] == pytest.approx(cdist(x[who], y, "sqeuclidean").mean(), rel=1e-5)


def test_a_row_of_ones_gives_the_figure_and_one_point_alone_none():
    x, y = spread(points(20, 30_000)), spread(points(8, 30_000, 1))
    ones = np.ones((1, 20))
    assert x.within_resampled(ones)[0] == pytest.approx(x.within())
    assert x.between_resampled(y, ones)[0] == pytest.approx(x.between(y))
    alone = 20 * np.eye(20)[:1]
    assert np.isnan(x.within_resampled(alone)[0])
    collapsed = spread(torch.ones(20, 50))
    assert (collapsed.within_resampled(draws(20, 5)) == 0).all()


def test_sketches_spread_as_the_points_do():
    # Each point's own length differs, so the mean over pairs depends on who is drawn.
    x = points(60, 20_000) * torch.linspace(0.5, 1.5, 60)[:, None]
    counts, squares = draws(60, 400), cdist(x, x, "sqeuclidean")
    pairs = np.einsum("bi,ij,bj->b", counts, squares, counts) / (3600 - np.square(counts).sum(axis=1))
    assert spread(x).within_resampled(counts).std() == pytest.approx(pairs.std(), rel=0.1)


def test_intervals_of_the_mean_distance_hold_the_truth():
    held = 0
    for trial in range(200):
        found = spread(points(50, 3, seed=trial, dtype=torch.float64), batch=50)
        estimate = interval(found.within(), found.within_resampled(draws(50, 200, trial)), least=0)
        held += estimate.low < 6 < estimate.high  # twice the variance, in three dimensions
    assert 0.88 < held / 200 < 0.99


def test_refuses_sets_without_distances():
    for empty in (Spread(), spread(points(1, 4))):
        with refused(Code.TOO_FEW, "at least 2", f"got {empty.n}"):
            empty.within()
    with refused(Code.TOO_FEW, "got 3 and 0"):
        spread(points(3, 4)).between(Spread())
    with pytest.raises(ValueError, match="4 and 5"):
        spread(points(3, 4)).between(spread(points(3, 5)))


def clusters(anchors, rows, batch=4, **rules):
    made = Clusters(anchors, **rules)
    for part in rows.split(batch):
        made.add(part)
    return made


@pytest.mark.parametrize("batch", [1, 5, 100])
def test_each_sample_joins_its_nearest_anchor_and_the_first_count(batch):
    anchors, x = points(3, 70_000) + 5, points(40, 70_000, 1) + 5
    x[::2] += 0.3 * (anchors[1] - x[::2])
    squares = cdist(x, anchors, "sqeuclidean")
    found = clusters(anchors, x, batch, per_cluster=8)
    np.testing.assert_allclose(found.squares(x[:6]), squares[:6], rtol=1e-5)
    np.testing.assert_array_equal(found.nearest, squares.argmin(axis=1))
    np.testing.assert_array_equal(found.sizes, np.bincount(found.nearest, minlength=3))
    assert found.n == 40 and found.sizes.max() > 8
    for k, members in enumerate(found.members):
        assert members == [i for i, nearest in enumerate(found.nearest) if nearest == k][:8]
        expected = pdist(x[members].numpy(), "sqeuclidean").mean() if len(members) > 1 else np.nan
        assert found.values[k] == pytest.approx(expected, rel=1e-6, nan_ok=True)
    assert found.value == pytest.approx(np.nanmean(found.values))
    assert found.deviation == pytest.approx(np.nanstd(found.values))


def test_distances_to_anchors_survive_a_large_common_part():
    # As near to each other as 1e-3 of their length: what |a|^2 + |b|^2 - 2ab loses without centring.
    common = 100 * points(1, 300_000)
    anchors, x = common + 0.1 * points(4, 300_000, 1), common + 0.1 * points(5, 300_000, 2)
    exact = cdist(x.double(), anchors.double(), "sqeuclidean")
    np.testing.assert_allclose(Clusters(anchors).squares(x), exact, rtol=1e-5)


def line(*places):
    return torch.tensor([[float(place)] for place in places])


def test_empty_clusters_are_left_out_or_count_nothing():
    # Around 0: distances 1, 4, 1, whose mean is 2. Around 10: a pair at 1. Around 20: one. Around 30: none.
    anchors, x = line(0, 10, 20, 30), line(-1, 0, 1, 10, 11, 21)
    dropped, zero = clusters(anchors, x), clusters(anchors, x, empty="zero")
    np.testing.assert_array_equal(dropped.sizes, [3, 2, 1, 0])
    np.testing.assert_allclose(dropped.values, [2, 1, np.nan, np.nan])
    assert (dropped.value, dropped.deviation) == pytest.approx((1.5, 0.5))
    assert (zero.value, zero.deviation) == pytest.approx((0.75, np.std([2, 1, 0, 0])))
    assert clusters(anchors, x, least=3).value == pytest.approx(2)
    assert clusters(anchors, x, empty="zero", least=3).value == pytest.approx(0.5)
    assert clusters(anchors, x, per_cluster=2).value == pytest.approx(1)  # -1 and 0, 10 and 11
    assert clusters(anchors, line(0, 10), empty="zero").value == 0
    with refused(Code.TOO_FEW, "intra-LPIPS", "2 samples"):
        _ = clusters(anchors, line(0, 10)).value


def test_a_generator_that_replays_its_shots_has_no_variety():
    anchors = points(5, 100)
    found = clusters(anchors, anchors.repeat(6, 1))
    assert found.value == pytest.approx(0, abs=1e-9) and (found.sizes == 6).all()


@pytest.mark.parametrize("empty", ["drop", "zero"])
def test_resampled_clusters_obey_the_rules(empty):
    anchors, x = line(0, 10, 20), line(-1, 0, 1, 10, 11, 21)
    found, counts = clusters(anchors, x, empty=empty), draws(6, 200)
    assert found.resampled(np.ones((1, 6)))[0] == pytest.approx(found.value)
    replicates = found.resampled(counts)
    for row, drawn in zip(replicates, counts, strict=True):
        means = []
        for rows in ([0, 1, 2], [3, 4], [5]):
            who = np.repeat(rows, drawn[rows])
            off = who[:, None] != who
            if off.any():
                means.append(cdist(x[who], x[who], "sqeuclidean")[off].mean())
            elif empty == "zero":
                means.append(0)
        expected = np.mean(means) if means else np.nan
        assert row == pytest.approx(expected, rel=1e-5, nan_ok=True)
    assert np.isfinite(replicates).mean() > 0.9


def test_a_rule_without_pairs_is_a_mistake():
    for rule in ({"least": 1}, {"per_cluster": 1}):
        with pytest.raises(ValueError, match="2 members"):
            Clusters(line(0), **rule)
