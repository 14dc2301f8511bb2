"""Every part, on any shapes, sizes, parameters and magnitudes: laws that always hold.

`tests/test_contracts.py` has the same laws at one size; here hypothesis looks for
arguments and data that break them. It searches the same ones in every run.
"""

import contracts
import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keras import ops

import keras_vae_variance as kvv
from keras_vae_variance import likelihoods, posteriors, priors, regularizers, variances

searched = settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def numbers(low, high):
    """Numbers of any order of magnitude between two positive ones."""
    logs = st.floats(float(np.log10(low)), float(np.log10(high)))
    return logs.map(lambda power: float(10.0**power))


decays = st.floats(0.01, 0.999)
latent_dims = st.integers(1, 9)
spreads = st.sampled_from(["log_variance", "softplus", "relu", "bounded"])
weights = st.floats(0.0, 100.0)
booleans = st.booleans()
links = st.sampled_from(["sigmoid", "softplus", "exp"])
bounds = st.none() | st.tuples(numbers(1e-4, 0.1), st.none() | numbers(0.2, 10.0))


def arguments(cls, **strategies):
    return st.builds(lambda **values: (cls, values), **strategies)


fixed = arguments(variances.Fixed, value=numbers(1e-6, 1e6))
learned = arguments(
    variances.Learned,
    per_pixel=booleans,
    initial=numbers(1e-5, 1e3),
    rate=numbers(0.1, 10.0),
)
predicted = arguments(
    variances.Predicted,
    per_pixel=booleans,
    per_channel=booleans,
    link=links,
    bounds=bounds,
    floor=st.just(0.0) | numbers(1e-6, 0.1),
)
maximum_likelihood = arguments(
    variances.MaximumLikelihood,
    per_pixel=booleans,
    per_example=booleans,
    epsilon=numbers(1e-6, 1.0),
    decay=decays,
)
globals_ = fixed | learned | predicted
PARTS = {
    variances.Baggins: arguments(
        variances.Baggins, information_factor=numbers(0.01, 10.0), decay=decays
    ),
    variances.Fixed: fixed,
    variances.Learned: learned,
    variances.MaximumLikelihood: maximum_likelihood,
    variances.Predicted: predicted,
    likelihoods.Bernoulli: arguments(likelihoods.Bernoulli),
    likelihoods.BitwiseCategorical: arguments(likelihoods.BitwiseCategorical),
    likelihoods.Categorical: arguments(likelihoods.Categorical),
    likelihoods.DiscretizedGaussian: arguments(
        likelihoods.DiscretizedGaussian, variance=globals_
    ),
    likelihoods.DiscretizedLogistic: arguments(
        likelihoods.DiscretizedLogistic, variance=globals_
    ),
    likelihoods.Gaussian: arguments(
        likelihoods.Gaussian, variance=globals_ | maximum_likelihood
    ),
    likelihoods.LogisticMixture: arguments(
        likelihoods.LogisticMixture, num_components=st.integers(1, 7)
    ),
    likelihoods.StudentT: arguments(likelihoods.StudentT),
    posteriors.ConstantGaussian: arguments(
        posteriors.ConstantGaussian,
        latent_dim=latent_dims,
        variance=numbers(1e-4, 10.0),
    ),
    posteriors.Deterministic: arguments(
        posteriors.Deterministic, latent_dim=latent_dims
    ),
    posteriors.DiagonalGaussian: arguments(
        posteriors.DiagonalGaussian,
        latent_dim=latent_dims,
        link=spreads,
    ),
    posteriors.IsotropicGaussian: arguments(
        posteriors.IsotropicGaussian, latent_dim=latent_dims, rate=numbers(0.1, 20.0)
    ),
    posteriors.SpatialGaussian: arguments(
        posteriors.SpatialGaussian, channels=latent_dims, link=spreads
    ),
    priors.Floating: arguments(priors.Floating, decay=decays),
    priors.StandardNormal: arguments(priors.StandardNormal),
    regularizers.BILBO: arguments(regularizers.BILBO, weight=weights),
    regularizers.DecoderGradientPenalty: arguments(
        regularizers.DecoderGradientPenalty, weight=weights, seed=st.integers(0, 99)
    ),
    regularizers.DIP: arguments(
        regularizers.DIP,
        kind=st.sampled_from(["I", "II"]),
        weight=weights,
        diagonal_factor=weights,
    ),
    regularizers.KL: arguments(regularizers.KL, weight=weights),
    regularizers.LatentNorm: arguments(regularizers.LatentNorm, weight=weights),
    regularizers.MMD: arguments(
        regularizers.MMD, weight=weights, seed=st.integers(0, 99)
    ),
}
EVENTS = st.tuples(st.integers(1, 5), st.integers(1, 5), st.sampled_from([1, 3]))


def make(cls, values):
    """A part; arguments that are parts are pairs of a class and its arguments."""
    given = {k: make(*v) if _is_part(v) else v for k, v in values.items()}
    return cls(**given)


def _is_part(value):
    return isinstance(value, tuple) and isinstance(value[0], type)


def scaled(use, n, seed, scale):
    """Data with network outputs of this size; x as images have it, black and white."""
    data = use.data(n, seed)
    for name in data:
        if name not in ("x", "mean"):
            data[name] = scale * data[name]
    data["x"] = np.where(data["x"] < 0.3, 0.0, np.where(data["x"] > 0.8, 1, data["x"]))
    data["x"] = np.round(255 * data["x"]).astype("float32") / np.float32(255)
    return data


def test_every_class_is_here():
    assert set(PARTS) == set(contracts.classes())


@pytest.mark.slow
@pytest.mark.parametrize("cls", PARTS, ids=lambda cls: cls.__name__)
def test_any_data_and_arguments(cls):
    @searched
    @given(
        PARTS[cls],
        EVENTS,
        st.integers(1, 6),
        st.integers(0, 999),
        st.sampled_from([0.0, 1e-3, 1.0, 10.0]),
    )
    def check(part, event, n, seed, scale):
        use = contracts.Use(cls, {"part": None}, event, make=lambda *_: make(*part))
        data = scaled(use, n, seed, scale)
        for training in (True, False):
            for name, value in use(data, training=training).items():
                value = ops.convert_to_numpy(value)
                assert value.dtype == np.float32, name
                assert np.isfinite(value).all(), (name, training, value)
                assert value.ndim == 0 or value.shape[0] in (1, n), name
                if name in ("variance", "predicted"):
                    assert (value >= 0).all(), name
        # The same part comes from its configuration, with its weights.
        config = keras.saving.serialize_keras_object(use.part)
        again = keras.saving.deserialize_keras_object(config)
        assert keras.saving.serialize_keras_object(again) == config
        # What examples give is their own, where it is not of the batch.
        if n == 1 or not isinstance(use.part, (kvv.likelihoods.Likelihood)):
            return
        nll = ops.convert_to_numpy(use(data)["nll"])
        flipped = {name: array[::-1] for name, array in data.items()}
        turned = ops.convert_to_numpy(use(flipped)["nll"])
        np.testing.assert_allclose(turned[::-1], nll, rtol=1e-4, atol=1e-3)

    check()


@pytest.mark.slow
@searched
@given(
    st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3])),
    latent_dims,
    st.integers(2, 9),
    st.sampled_from([1, 2, 3, 8]),
    st.sampled_from(["uint8", "float16", "float32", "float64"]),
    globals_ | maximum_likelihood,
)
def test_any_shape_size_and_type_trains(event, latent_dim, n, batch_size, dtype, part):
    """One epoch of an odd data set; every number that comes back is finite."""
    variance = make(*part)
    likelihood = kvv.likelihoods.Gaussian(variance)
    encoder, decoder = kvv.backbones.mlp(event, latent_dim, likelihood, hidden=(4,))
    posterior = kvv.posteriors.DiagonalGaussian(latent_dim)
    vae = kvv.VAE(encoder, decoder, posterior, likelihood, seed=0)
    vae.compile(keras.optimizers.Adam(1e-3), run_eagerly=True)
    x = np.random.default_rng(0).uniform(size=(n, *event))
    x = np.round(255 * x).astype("uint8") if dtype == "uint8" else x.astype(dtype)
    statistic = isinstance(variance, variances.MaximumLikelihood)
    if statistic and batch_size == 1 and not variance.per_example:
        with pytest.raises(ValueError, match="batch_size"):
            vae.fit(x, batch_size=batch_size, verbose=0)
        return
    history = vae.fit(x, batch_size=batch_size, verbose=0).history
    assert all(np.isfinite(values).all() for values in history.values())
    result = vae.reconstruct(x)
    for value in map(ops.convert_to_numpy, result.values()):
        assert value.shape == x.shape and np.isfinite(value).all()
    assert np.isfinite(vae.elbo(x, seed=0)["elbo"]).all()
