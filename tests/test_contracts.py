"""What every exported variance, likelihood, posterior, prior and regularizer keeps."""

import contextlib
import functools
import inspect
import json

import keras
import numpy as np
import pytest
from backends import BACKEND, COMPILERS, arrays, compiled, value_and_gradients
from contracts import ARGUMENTS, EVENT, L, Use, cases, classes, make, state, vae_with
from keras import ops

from keras_vae_variance import likelihoods, posteriors, priors, regularizers, variances
from keras_vae_variance import ops as kvv_ops

each_part = pytest.mark.parametrize("cls, arguments", cases())


def close(actual, expected, rtol=1e-5, atol=1e-6):
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=atol)


# --------------------------------------------------------------------------------------
# The table


@pytest.mark.parametrize("cls", classes(), ids=lambda cls: cls.__name__)
def test_the_table_gives_every_argument_another_value_than_its_default(cls):
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
    named = [p for p in parameters if p.kind is not p.VAR_KEYWORD]
    assert cls in ARGUMENTS, f"say in contracts.ARGUMENTS how to make {cls}"
    for parameter in named:
        assert any(
            entry.get(parameter.name, parameter.default) != parameter.default
            for entry in ARGUMENTS[cls]
        ), parameter.name


def test_the_table_has_no_class_that_is_not_exported():
    assert set(ARGUMENTS) == set(classes())


# --------------------------------------------------------------------------------------
# Shapes and dtypes


def check_shapes(use, outputs, n):
    whole = (n, *use.event)
    latent = {(n, L), (1, L)}
    if isinstance(use.part, variances.Variance):
        for output in outputs.values():
            assert np.broadcast_shapes(output.shape, whole) == whole
            assert np.all(output > 0) and np.all(np.isfinite(output))
        return
    expected = {
        likelihoods.Likelihood: {"nll": {(n,)}},
        posteriors.Posterior: {"mean": {(n, L)}, "sample": {(n, L)}},
        priors.Prior: {"mean": {(1, L)}, "variance": {(1, L)}},
        regularizers.Regularizer: {"term": {(), (n,)}},
    }
    rest = whole if isinstance(use.part, likelihoods.Likelihood) else None
    for base, shapes in expected.items():
        if isinstance(use.part, base):
            for name, output in outputs.items():
                assert output.shape in shapes.get(name, {rest} if rest else latent)
                assert np.all(np.isfinite(output)), name


@each_part
def test_shapes(cls, arguments):
    of_x = issubclass(cls, (variances.Variance, likelihoods.Likelihood))
    for event in (EVENT, (6,)) if of_x else (EVENT,):
        use = Use(cls, arguments, event)
        for n in (5, 1):
            for training in (False, True):
                outputs = arrays(use(use.data(n), training=training))
                check_shapes(use, outputs, n)


@contextlib.contextmanager
def precision(name):
    """A dtype policy, or for a plain float type Keras's default for all of it."""
    policy, floatx = keras.config.dtype_policy(), keras.config.floatx()
    if name.startswith("float"):
        keras.config.set_floatx(name)
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(policy)


@pytest.mark.parametrize("types", ["mixed_float16", "float64"])
@each_part
def test_float32_under_any_precision(cls, arguments, types):
    """Not a bit of the result comes from another type."""
    plain = Use(cls, arguments)
    expected = [arrays(plain(plain.data(5), training)) for training in (True, False)]
    with precision(types):
        mixed = Use(cls, arguments)
        outputs = [arrays(mixed(mixed.data(5), training)) for training in (True, False)]
        objective = arrays(vae_with(cls, arguments).objective(plain.data(5)["x"]))
    assert {v.dtype for v in mixed.part.trainable_variables} <= {"float32"}
    for actual, wanted in zip(outputs, expected, strict=True):
        for name, value in actual.items():
            assert value.dtype == "float32", name
            np.testing.assert_array_equal(value, wanted[name])
    assert {term.dtype.name for term in objective.values()} == {"float32"}


# --------------------------------------------------------------------------------------
# Configuration and files


def plain(value):
    """A value as JSON has it."""
    return json.loads(json.dumps(value))


@each_part
def test_configuration(cls, arguments):
    part = make(cls, arguments)
    config = plain(part.get_config())
    for name, value in arguments.items():
        if not callable(value):
            assert config[name] == plain(value)
    again = cls.from_config(plain(config))
    assert plain(again.get_config()) == config
    whole = plain(keras.saving.serialize_keras_object(part))
    restored = keras.saving.deserialize_keras_object(whole)
    assert type(restored) is cls
    assert plain(restored.get_config()) == config


@each_part
def test_misspelled_argument(cls, arguments):
    with pytest.raises((TypeError, ValueError), match="mispelled"):
        make(cls, arguments, mispelled=1)


@each_part
def test_saved_in_a_vae(cls, arguments, tmp_path):
    """Weights, averages, random state: the next objective is the same to the bit."""
    vae = vae_with(cls, arguments)
    x = Use(cls, arguments).data(6)["x"]
    for part in np.split(x, 2):  # moves running averages and whatever starts from data
        vae.objective(part, training=True)
    for variable in vae.trainable_variables:
        variable.assign_add(np.full(variable.shape, 0.01, "float32"))
    path = tmp_path / "vae.keras"
    vae.save(path)
    loaded = keras.saving.load_model(path)
    pairs = zip(state(loaded.variables), state(vae.variables), strict=True)
    for actual, expected in pairs:
        np.testing.assert_array_equal(actual, expected)
    for training in (False, True):
        expected = arrays(vae.objective(x, training=training))
        actual = arrays(loaded.objective(x, training=training))
        assert actual.keys() == expected.keys()
        for name, term in expected.items():
            np.testing.assert_array_equal(actual[name], term)
    reconstruction = arrays(loaded.reconstruct(x))
    for name, value in arrays(vae.reconstruct(x)).items():
        np.testing.assert_array_equal(reconstruction[name], value)


# --------------------------------------------------------------------------------------
# Gradients


def loss(vae, x, weights=None):
    """The objective, whose terms are `(batch,)` or scalars of the batch."""
    terms = vae.objective(x, training=True, sample_weight=weights)
    if weights is None:
        weights = np.ones(len(x))
    share = ops.convert_to_tensor(weights / np.sum(weights), "float32")
    scale = {r.term: r.weight for r in vae.regularizers}
    return sum(
        ops.sum(share * term if len(term.shape) else term) * scale.get(name, 1.0)
        for name, term in terms.items()
    )


@each_part
def test_gradient(cls, arguments):
    """Every weight has one, and together they are the slope of the loss."""
    vae = vae_with(cls, arguments)
    use = Use(cls, arguments)
    vae.objective(use.data(8, seed=1)["x"], training=True)
    variables = vae.trainable_variables
    x, randomness = use.data(8)["x"], state(g.state for g in vae._generators())

    def value():
        for generator, before in zip(vae._generators(), randomness, strict=True):
            generator.state.assign(before)  # the same draws
        return loss(vae, x)

    _, gradients = value_and_gradients(value, vae)
    unused = []
    if getattr(make(cls, arguments), "stage1", None) is not None:
        unused = ["raw_variance"]  # the head of stage 2
    for variable, gradient in zip(variables, gradients, strict=True):
        if any(name in variable.path for name in unused):
            assert gradient is None
        else:
            assert np.all(np.isfinite(gradient)), variable.path
            assert np.any(gradient), variable.path
    pairs = [(v, g) for v, g in zip(variables, gradients, strict=True) if g is not None]
    slope = np.sqrt(sum(float(np.sum(g**2)) for _, g in pairs))
    # A short way along the gradient and back. float32 resolves losses of about 15 to
    # 1e-6; the slopes are greater than 1.
    step = min(0.02, 0.02 / slope)
    values = []
    for way in (step, -2 * step):
        for variable, gradient in pairs:
            variable.assign_add(way / slope * gradient)
        values.append(float(arrays(value())))
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(slope, rel=3e-3)


# --------------------------------------------------------------------------------------
# Laws of the batch


# TensorFlow has graphs of its own, and XLA takes seconds a part.
SLOW = {"xla"} if "graph" in COMPILERS else {}


@pytest.mark.parametrize(
    "compiler",
    [pytest.param(c, marks=pytest.mark.slow if c in SLOW else ()) for c in COMPILERS],
)
@each_part
def test_compiled_as_eager(cls, arguments, compiler):
    results = []
    for compiles in (False, True):
        use = Use(cls, arguments)

        def run(data, use=use):
            return use(data, training=True), use(data, training=False)

        if compiles:
            run = compiled(run, use.variables, compiler)
        data = {k: ops.convert_to_tensor(v) for k, v in use.data(5).items()}
        results.append((arrays(run(data)), state(use.variables)))
    (expected, expected_state), (actual, actual_state) = results
    for one, other in zip(actual, expected, strict=True):
        for name in other:
            # XLA makes other random numbers of the same seed.
            if not (compiler == "xla" and name in use.draws):
                close(one[name], other[name])
    for one, other in zip(actual_state, expected_state, strict=True):
        close(one, other)


@each_part
def test_order_of_the_examples(cls, arguments):
    """What belongs to an example moves with it, and the rest stays."""
    order = np.array([3, 0, 4, 1, 2])
    first, second = Use(cls, arguments), Use(cls, arguments)
    data = first.data(5)
    for training in (True, False):
        expected = arrays(first(data, training=training))
        moved = {name: array[order] for name, array in data.items()}
        actual = arrays(second(moved, training=training))
        for name, value in expected.items():
            if name not in first.draws:
                per_example = value.ndim and len(value) == 5
                close(actual[name], value[order] if per_example else value)
    for one, other in zip(state(first.variables), state(second.variables), strict=True):
        close(one, other)


@each_part
def test_integer_weights_are_repeated_examples(cls, arguments, monkeypatch):
    """In the loss, in every gradient and in the running averages."""
    monkeypatch.setattr(kvv_ops, "normal", lambda shape, seed: ops.zeros(shape))
    counts = np.array([2, 1, 0, 3, 1])
    x = Use(cls, arguments).data(5)["x"]
    results = []
    for inputs, weights in (
        (x, counts.astype("float32")),
        (np.repeat(x, counts, axis=0), None),
    ):
        vae = vae_with(cls, arguments)
        gradients = []
        for _ in range(2):  # the second from moved averages
            value, found = value_and_gradients(
                functools.partial(loss, vae, inputs, weights), vae
            )
            gradients += [*found, value]
        gradients = [g for g in gradients if g is not None]
        results.append([*gradients, *state(vae.variables)])
    # float32 resolves losses of about 15 to 1e-6. Learned's gradient, which is 0
    # where it starts, is 10 D/2 = 120 times a rounding error. What JAX compiles sums
    # the two batches in orders of their own.
    atol = 5e-5 if BACKEND == "tensorflow" else 2e-4
    for weighted, repeated in zip(*results, strict=True):
        close(weighted, repeated, atol=atol)
