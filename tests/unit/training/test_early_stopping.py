from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from clip_pkg.training.early_stopping import BestEpoch

scores = st.lists(st.none() | st.floats(-10, 10), min_size=1, max_size=30)


def run(values: list[float | None], **settings: object) -> BestEpoch:
    state = BestEpoch(**{"sign": 1, "patience": None, "min_delta": 0.0, **settings})  # type: ignore[arg-type]
    for epoch, value in enumerate(values, start=1):
        state = state.after(epoch, value)
    return state


@given(scores, st.sampled_from([1, -1]))
def test_best_is_the_first_of_the_best_values(values: list[float | None], sign: int) -> None:
    state = run(values, sign=sign)
    known = [sign * value for value in values if value is not None]
    if known:
        first = next(n for n, v in enumerate(values, 1) if v is not None and sign * v == max(known))
        assert state.epoch == first
        assert state.value == values[first - 1]
    else:
        assert state.epoch == 1


def test_patience_counts_epochs_without_a_real_gain() -> None:
    values = [1.0, 0.9995, 0.9992, 0.9991]  # each gain below min_delta
    state = run(values, sign=-1, patience=3, min_delta=0.001)
    assert state.should_stop
    assert state.epoch == 4
    assert not run(values[:3], sign=-1, patience=3, min_delta=0.001).should_stop
    assert not run([1.0, 0.9, 0.8, 0.7], sign=-1, patience=1, min_delta=0.001).should_stop


def test_small_steps_that_add_up_renew_patience() -> None:
    assert not run([1.0, 0.9996, 0.9992, 0.9988], sign=-1, patience=3, min_delta=0.001).should_stop


def test_an_undefined_metric_stops_instead_of_training_for_ever() -> None:
    assert run([None, None], patience=2).should_stop
