"""Running averages: the bias correction, the exact mean, and what changes nothing."""

import numpy as np
import oracles
import pytest
import tensorflow as tf

from keras_vae_variance.running import RunningAverage

SHAPE = (1, 2, 3)


def average(**arguments):
    layer = RunningAverage(**arguments)
    layer.build(SHAPE)
    return layer


@pytest.fixture
def values():
    return np.random.default_rng(0).uniform(size=(7, *SHAPE)).astype("float32")


@pytest.mark.parametrize("decay", [0.5, 0.99])
def test_against_the_weighted_mean_of_all_batches(values, decay):
    """sum decay^(n-i) value_i / sum decay^(n-i): each batch, the first one included."""
    layer = average(initial=1.0, decay=decay)
    for n, value in enumerate(values, start=1):
        layer.update(value, count=tf.constant(8.0))
        expected = oracles.running_average(values[:n], decay)
        np.testing.assert_allclose(layer.value, expected, rtol=1e-5)
    # At last the latest batch counts by 1 - decay.
    assert float(layer.weight) == pytest.approx(1 - decay**7, rel=1e-5)


def test_the_first_batch_counts_fully(values):
    """To the bit, however far it lies from the initial value."""
    layer = average(initial=1.0)
    np.testing.assert_array_equal(layer.value, np.ones(SHAPE))
    layer.update(1e-8 * values[0], count=1.0)
    np.testing.assert_array_equal(layer.value, 1e-8 * values[0])


def test_exact_mean_over_examples(values):
    """By their number, from batches of any size, one example included."""
    layer = average()
    layer.update(values[0], 1.0)
    layer.reset()
    layer.exact = True
    counts = np.array([4.0, 4, 1, 0, 2.5, 3, 3])
    for value, count in zip(values, counts, strict=True):
        layer.update(value, tf.constant(count, tf.float32), enough=count > 1)
    expected = np.average(oracles.float64(values), axis=0, weights=counts)
    np.testing.assert_allclose(layer.value, expected, rtol=1e-6)


def test_an_exact_mean_counts_as_many_batches_afterwards(values):
    layer = average(decay=0.9)
    layer.exact = True
    for value in values[:3]:
        layer.update(value, 4.0)
    layer.exact = False
    layer.settle()
    mean = values[:3].mean(axis=0)
    layer.update(values[3], 4.0)
    np.testing.assert_allclose(layer.value, 0.9 * mean + 0.1 * values[3], rtol=1e-5)


def test_settling_an_empty_pass_leaves_it_empty(values):
    layer = average(initial=1.0)
    layer.settle()
    layer.update(values[0], 1.0)
    np.testing.assert_allclose(layer.value, values[0], rtol=1e-5)


@pytest.mark.parametrize("exact", [False, True])
def test_a_batch_without_examples_changes_nothing(values, exact):
    layer = average(initial=1.0)
    layer.exact = exact
    layer.update(np.full(SHAPE, np.nan, "float32"), count=0.0)
    np.testing.assert_array_equal(layer.value, np.ones(SHAPE))
    layer.update(values[0], 3.0)
    layer.update(values[1], 0.0)
    np.testing.assert_allclose(layer.value, values[0], rtol=1e-5)


def test_a_batch_that_is_not_enough_changes_nothing(values):
    layer = average()
    layer.update(values[0], 3.0)
    layer.update(values[1], 1.0, enough=tf.constant(False))
    np.testing.assert_allclose(layer.value, values[0], rtol=1e-5)
    layer.update(values[1], 1.0, enough=tf.constant(True))
    assert np.all(layer.value != values[0])


def test_reset(values):
    layer = average(initial=2.0)
    layer.update(values[0], 3.0)
    layer.reset()
    np.testing.assert_array_equal(layer.value, np.full(SHAPE, 2.0))
    layer.update(values[1], 3.0)
    np.testing.assert_allclose(layer.value, values[1], rtol=1e-5)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_in_a_graph(values, jit_compile):
    layer, eager = average(), average()
    update = tf.function(layer.update, jit_compile=jit_compile)
    for value in values:
        update(tf.constant(value), tf.constant(2.0))
        eager.update(value, 2.0)
    np.testing.assert_allclose(layer.value, eager.value, rtol=1e-6)


def test_takes_no_part_in_training():
    assert not average().trainable_variables
    assert len(average().non_trainable_variables) == 2


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.5, np.nan, "0.9", None])
def test_wrong_decay(decay):
    with pytest.raises(ValueError, match="`decay` must.*0 and 1. Received: decay="):
        RunningAverage(decay=decay)
