"""`SequenceVAE` against closed forms, against `VAE`, and as a file."""

import keras
import numpy as np
import oracles
import pytest
import tiny
from keras import ops
from scipy import stats

import keras_vae_variance as kvv
from keras_vae_variance import futures
from keras_vae_variance import ops as kvv_ops
from keras_vae_variance.metrics import video

A = np.diag([0.9, -0.6])
C = np.array([[1.0, 0.5], [0.5, -1.0], [0.0, 0.0]]) @ np.diag([1.0, 0.7])
Q = np.diag([0.5, 1.0])
R = 0.3
T, D, L = 5, 3, 2


def identity(size):
    return keras.Sequential([keras.Input((None, size)), keras.layers.Identity()])


def linear_rnn(size, kernel, recurrent):
    layer = keras.layers.SimpleRNN(
        len(recurrent), activation=None, use_bias=False, return_sequences=True
    )
    network = keras.Sequential([keras.Input((None, size)), layer])
    network.set_weights([kernel, recurrent])
    return network


def state_space(posterior_network, predictor, prior_network, n_past=0, n_future=T):
    """A linear-Gaussian `SequenceVAE` that emits `C g` with noise of variance `R`."""
    encoder = keras.Sequential([keras.Input((D,)), keras.layers.Identity()])
    decoder = keras.Sequential(
        [keras.Input((L,)), keras.layers.Dense(D, use_bias=False)]
    )
    decoder.set_weights([C.T])
    return kvv.SequenceVAE(
        encoder,
        decoder,
        posterior_network,
        predictor,
        prior_network,
        kvv.posteriors.DiagonalGaussian(L),
        kvv.likelihoods.Gaussian(kvv.variances.Fixed(R)),
        n_past=n_past,
        n_future=n_future,
        seed=0,
    )


def set_heads(head, weights, variance, bias=0.0):
    head.mean.set_weights([weights, np.zeros(L) + bias])
    log = np.log(np.broadcast_to(variance, (L,)))
    head.spread.set_weights([np.zeros((len(weights), L)), log])


def riccati():
    """Predictive and filtered covariance, and the gain, where they have settled."""
    p = Q
    for _ in range(500):
        gain = p @ C.T @ np.linalg.inv(C @ p @ C.T + R * np.eye(D))
        v = (np.eye(L) - gain @ C) @ p
        p = A @ v @ A.T + Q
    return p, v, gain


def kalman(shift=0.0, scale=1.0):
    """SVG-LP whose prior is the Kalman predictor and whose posterior is the filter."""
    p, v, gain = riccati()
    kernel, recurrent = gain.T, ((np.eye(L) - gain @ C) @ A).T
    h, z = keras.Input((None, D)), keras.Input((None, L))
    predictor = keras.Model([h, z], keras.layers.Identity()(z))
    networks = [linear_rnn(D, kernel, recurrent) for _ in range(2)]
    vae = state_space(networks[0], predictor, networks[1])
    set_heads(vae.posterior, np.eye(L), scale * np.diag(v), shift)
    set_heads(vae.prior_head, A.T, np.diag(p))
    return vae


def joint(first, noise=Q):
    """Covariance of the states `s_t = A s_t-1 + noise`, of all times."""
    cov = np.zeros((T, L, T, L))
    now = first
    for t in range(T):
        cross = now
        for u in range(t, T):
            cov[u, :, t], cov[t, :, u] = cross, cross.T
            cross = A @ cross
        now = A @ now @ A.T + noise
    return cov.reshape(T * L, T * L)


EMIT = np.kron(np.eye(T), C)


def condition(cov, emit, x):
    """Mean and covariance of Gaussian states given `x = emit s + noise`."""
    gain = cov @ emit.T @ np.linalg.inv(emit @ cov @ emit.T + R * np.eye(len(emit)))
    return x @ gain.T, cov - gain @ emit @ cov


def evidence(x, cov):
    marginal = EMIT @ cov @ EMIT.T + R * np.eye(T * D)
    return stats.multivariate_normal(cov=marginal).logpdf(x.reshape(len(x), -1))


def sequences(n, cov, seed=0):
    rng = np.random.default_rng(seed)
    states = rng.multivariate_normal(np.zeros(T * L), cov, n, method="cholesky")
    x = states @ EMIT.T + np.sqrt(R) * rng.standard_normal((n, T * D))
    return x.reshape(n, T, D).astype("float32")


def mean_bounds(vae, x, copies=200, draws=10):
    """Mean and standard error of the single-draw bounds of each sequence."""
    values = ops.convert_to_numpy(
        vae.elbo(np.repeat(x, copies, 0), draws, seed=1)["elbo"]
    ).reshape(len(x), copies)
    return values.mean(1), values.std(1, ddof=1) / np.sqrt(copies)


def test_bound_is_tight_where_the_posterior_is_the_kalman_filter():
    """Given the frames before, later ones say no more of `z_t`: the filter is all."""
    p, _, _ = riccati()
    cov = joint(p)
    x, vae = sequences(3, cov), kalman()
    mean, error = mean_bounds(vae, x)
    assert (error < 0.2).all()
    assert (np.abs(mean - evidence(x, cov)) < 4 * error).all()
    latent = vae.encode(x)
    for t in range(T):
        # By brute force: the states given the first t + 1 frames.
        seen = EMIT[: (t + 1) * D]
        states, v = condition(cov, seen, x[:, : t + 1].reshape(len(x), -1))
        now = slice(t * L, (t + 1) * L)
        np.testing.assert_allclose(latent.mean[:, t], states[:, now], atol=1e-5)
        for s2 in np.asarray(latent.variance[:, t]):
            np.testing.assert_allclose(np.diag(s2), v[now, now], atol=1e-5)
    # The last of these is the Kalman smoother's too, given all frames.


def test_bound_falls_by_the_divergence_of_a_wrong_posterior():
    p, v, _ = riccati()
    cov, shift, scale = joint(p), 0.2, 1.5
    x = sequences(3, cov)
    mean, error = mean_bounds(kalman(shift, scale), x)
    v = np.diag(v)
    gap = T * 0.5 * np.sum(scale - 1.0 - np.log(scale) + shift**2 / v)
    assert gap > 10 * error.max()
    assert (np.abs(mean - (evidence(x, cov) - gap)) < 4 * error).all()


def innovations():
    """Latents are the noise of the states, `s_t = A s_t-1 + sqrt(Q) z_t`."""
    h, z = keras.Input((None, D)), keras.Input((None, L))
    rnn = keras.layers.SimpleRNN(
        L, activation=None, use_bias=False, return_sequences=True
    )
    predictor = keras.Model([h, z], rnn(z))
    predictor.set_weights([np.sqrt(Q).T, A.T])
    rng = np.random.default_rng(1)
    network = linear_rnn(D, rng.normal(0, 0.3, (D, L)), rng.normal(0, 0.3, (L, L)))
    vae = state_space(network, predictor, None)
    set_heads(vae.posterior, np.eye(L), 0.4)
    return vae


def test_gap_of_the_bound_is_the_divergence_from_the_kalman_smoother():
    cov = joint(Q)
    x, vae = sequences(3, cov), innovations()
    mean, error = mean_bounds(vae, x)
    # x is linear in the noise: states are `spread z`.
    spread = np.zeros((T, L, T, L))
    for t in range(T):
        for u in range(t, T):
            spread[u, :, t] = np.linalg.matrix_power(A, u - t) @ np.sqrt(Q)
    spread = spread.reshape(T * L, T * L)
    np.testing.assert_allclose(spread @ spread.T, cov, atol=1e-12)
    smoothed, covariance = condition(
        np.eye(T * L), EMIT @ spread, x.reshape(len(x), -1)
    )
    latent = vae.encode(x)
    mu = np.asarray(latent.mean, "float64").reshape(len(x), -1)
    s2 = np.asarray(latent.variance, "float64").reshape(len(x), -1)
    precision = np.linalg.inv(covariance)
    away = smoothed - mu
    kl = 0.5 * (
        s2 @ np.diag(precision)
        + np.einsum("ni,ij,nj->n", away, precision, away)
        - T * L
        + np.linalg.slogdet(covariance)[1]
        - np.log(s2).sum(1)
    )
    assert (kl > 10 * error).all()
    assert (np.abs(mean - (evidence(x, cov) - kl)) < 4 * error).all()


def test_generated_sequences_have_the_covariance_of_the_state_space():
    n = 4000
    sample = innovations().generate(n, noise=True, seed=3)["sample"]
    sample = np.asarray(sample).reshape(n, -1)
    expected = EMIT @ joint(Q) @ EMIT.T + R * np.eye(T * D)
    scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    # The error of a covariance is at most sqrt(2 / n) of its scale.
    assert np.abs((np.cov(sample.T) - expected) / scale).max() < 4.5 * np.sqrt(2 / n)


@pytest.mark.parametrize(
    "variance",
    [
        kvv.variances.MaximumLikelihood,
        lambda: kvv.variances.MaximumLikelihood(per_example=True),
        kvv.variances.Predicted,
        kvv.variances.Baggins,
    ],
)
def test_one_frame_without_a_past_equals_vae(variance):
    def pair():
        return tiny.compiled(variance=variance, compile={"run_eagerly": True})

    if variance is kvv.variances.Baggins:
        plain = tiny.compiled(
            variance=variance,
            posterior=kvv.posteriors.ConstantGaussian,
            prior=kvv.priors.Floating,
            compile={"run_eagerly": True},
        )
    else:
        plain = pair()
    parts = (
        keras.models.clone_model(plain.encoder),
        keras.models.clone_model(plain.decoder),
    )
    for copy, network in zip(parts, (plain.encoder, plain.decoder), strict=True):
        copy.set_weights(network.get_weights())
    posterior, likelihood, prior = (
        type(p).from_config(p.get_config())
        for p in (plain.posterior, plain.likelihood, plain.prior)
    )
    size = plain.encoder.output_shape[-1]
    h, z = keras.Input((None, size)), keras.Input((None, tiny.L))
    video = kvv.SequenceVAE(
        *parts,
        identity(size),
        keras.Model([h, z], keras.layers.Identity()(z)),
        None,
        posterior,
        likelihood,
        n_past=0,
        n_future=1,
        prior=prior,
        seed=5,
    )
    video.compile(keras.optimizers.SGD(1e-3), run_eagerly=True)
    posterior.set_weights(plain.posterior.get_weights())
    x = tiny.images(10)
    weights = np.arange(10) % 3 + 1.0
    histories = [
        vae.fit(data, batch_size=4, epochs=2, verbose=0, sample_weight=weights).history
        for vae, data in ((plain, x), (video, x[:, None]))
    ]
    for name, values in histories[0].items():
        np.testing.assert_allclose(histories[1][name], values, rtol=1e-5, err_msg=name)
    pairs = zip(
        [
            w
            for p in ("encoder", "decoder", "posterior")
            for w in getattr(plain, p).weights
        ],
        [
            w
            for p in ("encoder", "decoder", "posterior")
            for w in getattr(video, p).weights
        ],
        strict=True,
    )
    for one, two in pairs:
        np.testing.assert_allclose(two, one, atol=1e-6, err_msg=one.path)
    for vae in (plain, video):
        vae.calibrate(x if vae is plain else x[:, None])
    bounds = plain.elbo(x, seed=2), video.elbo(x[:, None], seed=2)
    for name, values in bounds[0].items():
        np.testing.assert_allclose(bounds[1][name], values, rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(
        video.reconstruct(x[:, None])["variance"][:, 0],
        plain.reconstruct(x)["variance"],
        rtol=1e-5,
    )


# --------------------------------------------------------------------------------------
# A small model of SVG's networks


def small(variance=kvv.variances.MaximumLikelihood, frames="dcgan", **arguments):
    keras.utils.set_random_seed(0)
    likelihood = kvv.likelihoods.Gaussian(variance())
    networks = kvv.backbones.svg(
        (8, 8, 1), L, likelihood, frames=frames, features=4, units=4, channels=2
    )
    posterior = kvv.posteriors.DiagonalGaussian(L)
    arguments = {"n_past": 2, "n_future": 2, "seed": 1, **arguments}
    vae = kvv.SequenceVAE(*networks, posterior, likelihood, **arguments)
    vae.compile(keras.optimizers.Adam(1e-2), run_eagerly=True)
    return vae


@pytest.fixture(scope="module")
def videos():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (6, 4, 8, 8, 1), dtype="uint8")


def test_no_frame_is_predicted_from_itself_or_later_ones(videos):
    vae = small(n_past=3, n_future=1)
    x = videos / np.float32(255)
    for late in range(1, 4):
        changed = x.copy()
        changed[:, late:] = 1.0 - changed[:, late:]
        one, two = vae.encode(x), vae.encode(changed)
        # Step 0 predicts frame 1; its prior knows frames before, its posterior itself.
        np.testing.assert_array_equal(
            one.prior_mean[:, :late], two.prior_mean[:, :late]
        )
        np.testing.assert_array_equal(one.mean[:, : late - 1], two.mean[:, : late - 1])
        assert not np.allclose(one.mean[:, late - 1], two.mean[:, late - 1])
        h, skips = vae._encode_frames(ops.convert_to_tensor(x))
        h2, skips2 = vae._encode_frames(ops.convert_to_tensor(changed))
        z = ops.zeros((6, 3, L))
        means = [
            np.asarray(vae._decode_steps(*args, z)["mean"]).reshape(6, 3, 8, 8, 1)
            for args in ((h, skips), (h2, skips2))
        ]
        np.testing.assert_allclose(means[0][:, :late], means[1][:, :late], atol=1e-6)
        if late < 3:
            assert not np.allclose(means[0][:, late], means[1][:, late], atol=1e-4)


def test_futures_are_what_teacher_forcing_makes_of_them(videos, monkeypatch):
    vae = small(n_past=3, n_future=1)
    rng = np.random.default_rng(0)
    for head in (vae.posterior, vae.prior_head):  # variances that differ
        head.spread.bias.assign(rng.normal(size=L) - 1)
    draws = rng.normal(size=(6, 4, L)).astype("float32")  # 2 known latents, 2 ahead
    monkeypatch.setattr(kvv_ops, "normal", lambda shape, seed: draws)
    future = vae.predict_frames(videos, n_future=2, seed=0)["mean"][0]
    past = ops.cast(videos[:, :3], "float32") / 255.0
    x = ops.concatenate([past, future], axis=1)
    longer = small(n_past=3, n_future=2)
    longer.set_weights(vae.get_weights())
    h, skips = longer._encode_frames(x)
    q = longer.encode(np.asarray(x))
    z = ops.concatenate(
        [
            (q.mean + np.sqrt(q.variance) * draws)[:, :2],
            (q.prior_mean + np.sqrt(q.prior_variance) * draws)[:, 2:],
        ],
        axis=1,
    )
    means = np.reshape(longer._decode_steps(h, skips, z)["mean"], (6, 4, 8, 8, 1))
    np.testing.assert_allclose(means[:, 2:], future, atol=1e-5)


@pytest.mark.parametrize("frames", ["dcgan", "vgg"])
def test_gradients_reach_every_weight(frames, videos):
    import tensorflow as tf

    vae = small(kvv.variances.Predicted, frames)
    with tf.GradientTape() as tape:
        loss = vae._forward(videos, True)[1]["loss"]
    gradients = tape.gradient(loss, vae.trainable_variables)
    for variable, gradient in zip(vae.trainable_variables, gradients, strict=True):
        assert gradient is not None and np.any(gradient != 0), variable.path


def test_weights_equal_repeated_sequences(videos):
    vae = small()
    # Without batch normalisation's moments, which know no weights.
    x, repeated = videos[:2], videos[[0, 0, 1]]
    h = vae.seed_generator.state.numpy().copy()
    vae.posterior.spread.bias.assign(np.full(L, -60.0))  # no noise in z
    found = []
    for data, weights in ((x, np.array([2.0, 1.0])), (repeated, None)):
        vae.seed_generator.state.assign(h)
        with kvv_ops.batch(data, weights) as batch:
            prepared = vae.prepare(data)
            _, _, nll = vae._pass_by(prepared, False, True, vae.seed_generator)
            found.append(float(batch.mean(nll)[0]))
            found.append(
                float(vae.likelihood.variance_model.running.value.numpy().max())
            )
            vae.likelihood.variance_model.running.reset()
    assert found[0] == pytest.approx(found[2], rel=1e-5)
    assert found[1] == pytest.approx(found[3], rel=1e-5)


def test_terms_are_sums_over_predicted_frames(videos):
    vae = small(lambda: kvv.variances.Fixed(0.5))
    terms = vae.elbo(videos, seed=0)
    assert terms["elbo"].shape == (6,)
    # At variance 0.5 the constant alone is known: 3 frames of 64 pixels.
    constant = 3 * 64 * 0.5 * np.log(2 * np.pi * 0.5)
    assert (np.asarray(terms["reconstruction"]) > constant).all()
    assert (np.asarray(terms["reconstruction"]) < constant + 3 * 64).all()
    assert vae.targets(videos).shape == vae.reconstruct(videos)["mean"].shape


def test_uint8_is_scaled(videos):
    vae = small()
    for name in ("elbo", "kl"):
        np.testing.assert_allclose(
            vae.elbo(videos, seed=0)[name],
            vae.elbo((videos / 255.0).astype("float32"), seed=0)[name],
            rtol=1e-5,
        )


@pytest.mark.slow
def test_mixed_precision_trains_in_float32_terms(videos):
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        vae = small()
    finally:
        keras.mixed_precision.set_global_policy("float32")
    history = vae.fit(videos, batch_size=3, epochs=1, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert vae.elbo(videos, seed=0)["elbo"].dtype == "float32"
    assert np.isfinite(vae.predict_frames(videos, seed=0)["mean"]).all()


@pytest.mark.slow
def test_a_file_holds_the_model(videos, tmp_path):
    vae = small(n_past=1, n_future=3)
    vae.fit(videos, batch_size=3, verbose=0)
    vae.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for one, two in (
        (vae.elbo(videos, seed=1), loaded.elbo(videos, seed=1)),
        (vae.predict_frames(videos, seed=1), loaded.predict_frames(videos, seed=1)),
    ):
        for name, values in one.items():
            np.testing.assert_array_equal(two[name], values)
    tiny.assert_same(tiny.state(loaded), tiny.state(vae))


@pytest.mark.slow
def test_saved_model_takes_conditioning_frames(videos, tmp_path):
    import tensorflow as tf

    vae = small()
    vae.export(tmp_path / "served", verbose=False)
    served = tf.saved_model.load(str(tmp_path / "served"))
    x = (videos / 255.0).astype("float32")
    seed = np.array([1, 2], "int32")
    for found, expected in (
        (
            served.serve(x[:, :2], seed)["mean"],
            vae.predict_frames(x[:, :2], seed=seed)["mean"][0],
        ),
        (served.reconstruct(x)["variance"], vae.reconstruct(x)["variance"]),
        (served.encode(x)["mean"], vae.encode(x).mean),
        (served.elbo(x, seed)["elbo"], vae.elbo(x, seed=seed)["elbo"]),
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda vae, x: vae.decode(np.zeros((1, L))), "predict_frames"),
        (lambda vae, x: vae.generate(3), "n_past=2"),
        (lambda vae, x: vae.predict_frames(x[:, :1]), r"batch, 2, 8, 8, 1"),
        (lambda vae, x: vae.predict_frames(x, n_future=0), "n_future=0"),
        (lambda vae, x: vae.fit(x[:, :3], verbose=0), r"batch, 4, 8, 8, 1"),
        (lambda vae, x: vae.elbo(x[0]), r"x\[None\]"),
        (lambda vae, x: vae.export("path", format="onnx"), "format='onnx'"),
        (lambda vae, x: small(n_past=-1), "n_past=-1"),
        (
            lambda vae, x: kvv.metrics.mutual_information(vae, x),
            "one vector of latents",
        ),
        (
            lambda vae, x: kvv.samplers.GaussianMixture(2).fit(vae, x),
            "one vector of latents",
        ),
        (lambda vae, x: kvv.metrics.log_likelihood(vae, x), "one vector of latents"),
        (lambda vae, x: small(n_future=0), "n_future=0"),
        (lambda vae, x: small(n_past=0), "1 skips"),
        (lambda vae, x: small(prior=kvv.priors.Floating()), "prior_network"),
        (
            lambda vae, x: small(regularizers=[kvv.regularizers.DIP()]),
            "KL alone",
        ),
    ],
)
def test_errors_say_what_to_do(call, message, videos):
    vae = small()
    with pytest.raises(ValueError, match=message):
        call(vae, videos)


@pytest.mark.parametrize(
    "part, network, message",
    [
        ("posterior_network", None, "`posterior_network` must be a Keras model"),
        ("posterior_network", identity(D + 1), r"inputs of shape \(None, 5, 3\)"),
        ("prior_network", identity(D + 1), r"inputs of shape \(None, 5, 3\)"),
        (
            "predictor",
            identity(D),
            r"\(None, 5, 3\), \(None, 5, 2\), that of the steps",
        ),
        (
            "decoder",
            keras.Sequential([keras.Input((7,)), keras.layers.Dense(D)]),
            r"shape \(None, 2\), that",
        ),
    ],
)
def test_networks_that_do_not_fit_are_named(part, network, message):
    vae = kalman()
    parts = {name: getattr(vae, name) for name in kvv.SequenceVAE._PARTS}
    parts |= {part: network, "prior": None}
    with pytest.raises(ValueError, match=message):
        kvv.SequenceVAE(**parts, n_past=0, n_future=T)


@pytest.mark.parametrize(
    "outputs, message",
    [
        (lambda h: {"h": h}, "list of it and of the skips, of known shapes"),
        (lambda h: keras.KerasTensor((None, None)), "known shapes"),
    ],
)
def test_an_encoder_of_other_outputs_is_an_error(outputs, message):
    class Encoder(keras.Model):
        input_shape = (None, D)

        def call(self, x):
            return outputs(x)

    networks = kalman()
    with pytest.raises(ValueError, match=message):
        kvv.SequenceVAE(
            Encoder(),
            networks.decoder,
            networks.posterior_network,
            networks.predictor,
            networks.prior_network,
            networks.posterior,
            networks.likelihood,
            n_past=0,
            n_future=T,
        )


def ahead(size):
    """What each step gives is of the next one."""
    x = keras.Input((None, size))
    return keras.Model(x, ops.roll(x, -1, axis=1))


@pytest.mark.parametrize("part", ["prior_network", "predictor"])
def test_networks_that_look_ahead_are_an_error(part):
    vae = kalman()
    parts = {name: getattr(vae, name) for name in kvv.SequenceVAE._PARTS}
    h, z = keras.Input((None, D)), keras.Input((None, L))
    predictor = keras.Model([h, z], ahead(L)(z))
    parts |= {part: ahead(D) if part == "prior_network" else predictor, "prior": None}
    with pytest.raises(ValueError, match=f"`{part}` must be causal"):
        kvv.SequenceVAE(**parts, n_past=0, n_future=T)


# --------------------------------------------------------------------------------------
# Networks, data and metrics


def convolution(channels_in, channels_out, side):
    """Weights of a convolution without bias and of its batch normalisation."""
    return side * side * channels_in * channels_out + 2 * channels_out


def lstm(inputs, units):
    return 4 * (inputs + units + 1) * units


@pytest.mark.parametrize("frames", ["dcgan", "vgg"])
def test_numbers_of_parameters_are_the_published_ones(frames):
    """SM-MNIST: 64x64, 128 features, 256 units, 10 latents."""
    likelihood = kvv.likelihoods.Gaussian(kvv.variances.MaximumLikelihood())
    networks = kvv.backbones.svg((64, 64, 1), 10, likelihood, frames=frames)
    end = convolution(512, 128, 4)
    start = convolution(128, 512, 4)
    if frames == "dcgan":
        widths = [(1, 64), (64, 128), (128, 256), (256, 512)]
        encoder = sum(convolution(*pair, 4) for pair in widths) + end
        doubled = [(1024, 256), (512, 128), (256, 64)]
        decoder = sum(convolution(*pair, 4) for pair in doubled) + start
        decoder += 4 * 4 * 128 * 1 + 1
    else:
        down = [(1, 64), (64, 64), (64, 128), (128, 128)]
        down += [(128, 256), (256, 256), (256, 256)]
        down += [(256, 512), (512, 512), (512, 512)]
        encoder = sum(convolution(*pair, 3) for pair in down) + end
        up = [(1024, 512), (512, 512), (512, 256)]
        up += [(512, 256), (256, 256), (256, 128), (256, 128), (128, 64), (128, 64)]
        decoder = sum(convolution(*pair, 3) for pair in up) + start
        decoder += 3 * 3 * 64 * 1 + 1
    recurrent = 128 * 256 + 256 + lstm(256, 256)
    predictor = 138 * 256 + 256 + 2 * lstm(256, 256) + 256 * 128 + 128
    expected = [encoder, decoder, recurrent, predictor, recurrent]
    found = [
        sum(int(np.prod(w.shape)) for w in network.trainable_weights)
        for network in networks
    ]
    assert found == expected


def test_other_sizes_of_frames_and_heads_fit():
    likelihood = kvv.likelihoods.Gaussian(kvv.variances.Predicted(per_pixel=False))
    networks = kvv.backbones.svg((28, 20, 3), 2, likelihood, channels=2, features=4)
    outputs = networks[1].output
    assert outputs["mean"].shape == (None, 28, 20, 3)
    assert outputs["raw_variance"].shape == (None, 1, 1, 3)


@pytest.mark.parametrize("stochastic", [True, False])
def test_digits_stay_whole_and_in_the_box(stochastic):
    x, again = (
        kvv.datasets.moving_digits(
            20, length=30, size=16, num_digits=1, stochastic=stochastic, seed=4
        )
        for _ in range(2)
    )
    np.testing.assert_array_equal(x, again)
    other = kvv.datasets.moving_digits(20, length=30, size=16, num_digits=1, seed=5)
    assert not np.array_equal(x, other)
    # A digit that left the box would lose pixels.
    total = x.sum(axis=(2, 3, 4), dtype=int)
    assert (total == total[:, :1]).all() and (total > 0).all()
    # It moves in every frame, one pixel along each side, or none where it bounced.
    rows = x.any(axis=(3, 4)).argmax(axis=2).astype(int)
    step = np.abs(np.diff(rows, axis=1))
    assert step.max() == 1 and step.mean() > 0.8
    assert {0, 1} <= set(np.unique(rows > 7))  # it comes to both sides


def test_several_digits_and_users_images():
    images = np.ones((1, 3, 3))
    x = kvv.datasets.moving_digits(5, 4, 12, 2, images=images, seed=0)
    assert set(np.unique(x)) == {0, 255}
    assert (x.sum(axis=(2, 3, 4), dtype=int) // 255 <= 18).all()
    with pytest.raises(ValueError, match="Received: size=3"):
        kvv.datasets.moving_digits(5, 4, 3, 2, images=images)
    with pytest.raises(ValueError, match="Received: values"):
        kvv.datasets.moving_digits(5, 4, 12, images=3.0 * images)


def test_ssim_and_psnr_equal_slow_ones():
    rng = np.random.default_rng(0)
    x = rng.random((2, 9, 8, 2))
    y = np.clip(x + 0.2 * rng.standard_normal(x.shape), 0, 1)
    for i in range(2):
        values = []
        for top in range(3):
            for left in range(2):
                for c in range(2):
                    window = np.s_[i, top : top + 7, left : left + 7, c]
                    a, b = x[window].ravel(), y[window].ravel()
                    s = np.cov(a, b)
                    values.append(
                        (2 * a.mean() * b.mean() + 1e-4)
                        * (2 * s[0, 1] + 9e-4)
                        / (a.mean() ** 2 + b.mean() ** 2 + 1e-4)
                        / (s[0, 0] + s[1, 1] + 9e-4)
                    )
        assert kvv.metrics.ssim(x, y)[i] == pytest.approx(np.mean(values), rel=1e-9)
    error = np.mean((x - y) ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose(kvv.metrics.psnr(x, y), -10 * np.log10(error))
    with pytest.raises(ValueError, match="at least 7"):
        kvv.metrics.ssim(x[:, :6], y[:, :6])


@pytest.mark.parametrize("score", [kvv.metrics.ssim, kvv.metrics.psnr])
def test_scores_of_uint8_are_those_of_floats(score):
    x, y = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8, 1), dtype="uint8")
    np.testing.assert_allclose(score(x, y), score(x / 255.0, y / 255.0))
    with pytest.raises(
        TypeError, match="`x` must be uint8 or float. Received: x.dtype=int64"
    ):
        score(x.astype("int64"), y.astype("int64"))
    for value in (np.nan, -0.1, 2.0):
        with pytest.raises(ValueError, match=r"`y` must lie in \[0, 1\]"):
            score(x, np.full(y.shape, value))


def drawn(monkeypatch, n):
    """Lets `predict_frames` give known frames, of which it is asked for any number."""
    frames = np.random.default_rng(1).random((n, 6, 2, 8, 8, 1)).astype("float32")
    frames = 1.2 * frames  # some above 1, as a decoder without a sigmoid has them
    asked = []

    def predict_frames(self, x, n_future, num_samples, noise, seed):
        rows = slice(sum(asked) // 6, sum(asked) // 6 + num_samples)
        asked.append(len(x) * num_samples)
        return {k: ops.convert_to_tensor(frames[rows]) for k in ("mean", "variance")}

    monkeypatch.setattr(kvv.SequenceVAE, "predict_frames", predict_frames)
    return frames, asked


def test_best_of_samples_is_the_best_by_its_mean(videos, monkeypatch):
    frames, asked = drawn(monkeypatch, 30)
    best = kvv.metrics.best_of_samples(small(), videos, 30, seed=0)
    truth = np.broadcast_to(videos[:, 2:] / 255.0, frames.shape)
    for score in ("ssim", "psnr"):
        scores = getattr(kvv.metrics, score)(np.minimum(frames, 1.0), truth)
        chosen = scores.mean(axis=2).argmax(axis=0)
        expected = scores[chosen, np.arange(6)]
        np.testing.assert_allclose(getattr(best, score), expected, rtol=1e-6)
    assert asked == [30 * 6]


def test_few_futures_of_large_frames_are_drawn_at_once(videos, monkeypatch):
    _, asked = drawn(monkeypatch, 30)
    monkeypatch.setattr(video, "_NUMBERS", 20 * 2 * 64)
    kvv.metrics.best_of_samples(small(), videos, 30, seed=0)
    assert asked == [3 * 6] * 10


def test_best_of_samples_is_a_function_of_its_seed(videos):
    few, many, again = (
        kvv.metrics.best_of_samples(small(), videos, n, seed=0, batch_size=4)
        for n in (1, 20, 20)
    )
    assert few.ssim.shape == many.psnr.shape == (6, 2)
    np.testing.assert_array_equal(many.ssim, again.ssim)
    assert many.psnr.mean() > few.psnr.mean()


def test_scores_of_futures_take_data_in_any_form(videos):
    import tensorflow as tf

    stream = tf.data.Dataset.from_tensor_slices(videos).batch(4)
    vae = small()
    for score in (kvv.metrics.best_of_samples, kvv.metrics.horizon_coverage):
        one, two, three = (
            score(vae, x, num_samples=2, seed=0, batch_size=4)
            for x in (videos, stream, (videos, np.zeros(6)))
        )
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(one, three)


def test_coverage_adds_up_futures(videos, monkeypatch):
    frames, _ = drawn(monkeypatch, 30)
    frames = oracles.float64(frames)
    found = kvv.metrics.horizon_coverage(small(), videos, 0.5, num_samples=30, seed=0)
    variance = frames.mean(axis=0) + 31 / 30 * frames.var(axis=0, ddof=1)
    error = np.abs(videos[:, 2:] / 255.0 - frames.mean(axis=0))
    inside = error <= stats.norm.ppf(0.75) * np.sqrt(variance)
    np.testing.assert_allclose(found, inside.mean(axis=(0, 2, 3, 4)), rtol=1e-12)


@pytest.mark.parametrize("name", ["best_of_samples", "horizon_coverage"])
@pytest.mark.parametrize(
    "change, error, message",
    [
        (lambda x: x[:, :2], ValueError, "more than 2 frames.*6, 2, 8, 8, 1"),
        (lambda x: x[:0], ValueError, "at least one example.*0, 4, 8, 8, 1"),
        (lambda x: x[0], ValueError, r"n_past=2 frames.*x\[None\]"),
        (lambda x: x[:, :, :4], ValueError, "x.shape=.6, 4, 4, 8, 1"),
        (lambda x: x / 255.0 * np.nan, ValueError, "1536 values of x that are NaN"),
        (lambda x: x.astype("int32"), TypeError, "x.dtype=int32"),
    ],
)
def test_scores_of_futures_say_what_they_need(name, change, error, message, videos):
    with pytest.raises(error, match=message):
        getattr(kvv.metrics, name)(small(), change(videos))


def test_scores_of_futures_need_a_model_of_sequences(videos):
    for name in ("best_of_samples", "horizon_coverage"):
        score = getattr(kvv.metrics, name)
        with pytest.raises(TypeError, match="SequenceVAE. Received: VAE"):
            score(tiny.compiled(), videos)
        with pytest.raises(ValueError, match="n_past=0"):
            score(kalman(), np.zeros((2, T, D), "float32"))
    with pytest.raises(ValueError, match="sides of at least 7.*shape .10,"):
        kvv.metrics.best_of_samples(walk(10, 3), np.zeros((9, 9, 10), "float32"))
    with pytest.raises(ValueError, match=r"`x` must lie in \[0, 1\]"):
        kvv.metrics.best_of_samples(small(), 2.0 * videos.astype("float32"))


@pytest.mark.parametrize("name", ["best_of_samples", "horizon_coverage"])
def test_a_model_that_predicts_nan_is_an_error(name, videos):
    vae = small()
    vae.decoder.set_weights(
        [np.full_like(w, np.nan) for w in vae.decoder.get_weights()]
    )
    with pytest.raises(ValueError, match="`model` must predict finite"):
        getattr(kvv.metrics, name)(vae, videos)


def test_many_futures_come_in_parts(videos, monkeypatch):
    """Which are no part of what is drawn."""
    vae = small()
    whole = vae.predict_frames(videos, num_samples=4, seed=0)
    monkeypatch.setattr(futures, "CHUNK", 5)
    parts = vae.predict_frames(videos, num_samples=4, seed=0)
    for name, values in whole.items():
        assert values.shape == (4, 6, 2, 8, 8, 1)
        np.testing.assert_allclose(parts[name], values, rtol=1e-5, atol=1e-6)


def test_parts_of_futures_have_noise_of_their_own(videos, monkeypatch):
    vae = small()
    monkeypatch.setattr(futures, "CHUNK", 5)
    one = np.repeat(videos[:1], 6, axis=0)
    found = vae.predict_frames(one, num_samples=5, noise=True, seed=0)["sample"]
    assert found.shape == (5, 6, 2, 8, 8, 1)
    assert len(np.unique(np.reshape(found, (30, -1)), axis=0)) == 30
    again = vae.predict_frames(one, num_samples=5, noise=True, seed=0)["sample"]
    np.testing.assert_array_equal(found, again)


def test_frames_are_a_batch_enough_for_its_statistics(videos):
    """One sequence a step has three frames to take the error of."""
    history = small().fit(videos, batch_size=1, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    one = small(n_past=1, n_future=1)
    with pytest.raises(ValueError, match="batch_size=1"):
        one.fit(videos[:, :2], batch_size=1, verbose=0)


@pytest.mark.slow
def test_saved_model_without_past_generates(tmp_path):
    import tensorflow as tf

    vae = kalman()
    vae.export(tmp_path / "served", verbose=False)
    served = tf.saved_model.load(str(tmp_path / "served"))
    seed = np.array([1, 2], "int32")
    expected = vae.generate(3, seed=seed)
    for found in (served.generate(3, seed), served.serve(3, seed)):
        for name in ("mean", "variance"):
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-5)


def walk(size, n_future, a=0.9):
    """`x_t = a x_t-1 + noise` of variance 0.25."""
    h, z = keras.Input((None, size)), keras.Input((None, 1))
    decoder = keras.Sequential([keras.Input((size,)), keras.layers.Rescaling(a)])
    return kvv.SequenceVAE(
        keras.Sequential([keras.Input((size,)), keras.layers.Identity()]),
        decoder,
        identity(size),
        keras.Model([h, z], keras.layers.Identity()(h)),
        None,
        kvv.posteriors.DiagonalGaussian(1),
        kvv.likelihoods.Gaussian(kvv.variances.Fixed(0.25)),
        n_past=1,
        n_future=n_future,
        seed=0,
    )


def test_coverage_of_a_right_model_is_the_level_over_the_horizon():
    """x_t = a x_t-1 + noise: the variance of what is far ahead adds up."""
    a, size, n, ahead = 0.9, 50, 40, 4
    vae = walk(size, 1, a)
    rng = np.random.default_rng(0)
    x = [rng.standard_normal((n, size))]
    for _ in range(ahead):
        x.append(a * x[-1] + 0.5 * rng.standard_normal((n, size)))
    x = np.stack(x, axis=1).astype("float32")
    found = kvv.metrics.horizon_coverage(vae, x, num_samples=100, seed=1)
    assert found.shape == (ahead,)
    # 2000 pixels: 0.0067; 100 futures blur the interval's ends.
    np.testing.assert_allclose(found, 0.9, atol=0.025)
    alone = kvv.metrics.horizon_coverage(vae, x, num_samples=1, seed=1)
    assert alone[-1] < 0.8
    np.testing.assert_allclose(alone[0], 0.9, atol=0.025)  # of one step it knows all
    # 0.885 of ten: by their plain variance about an estimated mean it would be 0.863.
    few = kvv.metrics.horizon_coverage(vae, x, num_samples=10, seed=1)
    assert 0.875 < few[-1] < 0.9


def test_its_score_counts_the_predicted_frames(videos):
    vae = small()
    values = np.linspace(-3, -2, 6)
    # Four frames, of which all but the first are predicted.
    assert vae.target_shape == vae.targets(videos).shape[1:] == (3, 8, 8, 1)
    assert kvv.metrics.Score.of(vae, values).size == 3 * 64
    pixels = small(lambda: kvv.variances.Learned(per_pixel=True, initial=0.1))
    variance = kvv.metrics.equivalent_variance(pixels)
    np.testing.assert_allclose(variance, np.full((8, 8, 1), 0.1), rtol=1e-5)


def test_its_prior_is_no_one_distribution():
    vae = small()
    with pytest.raises(ValueError, match="knows the frames before"):
        kvv.samplers.Prior().fit(vae)
    identical = tiny.compiled(compile={"run_eagerly": True})
    sampler = kvv.samplers.Prior().fit(identical)
    with pytest.raises(ValueError, match="one vector of latents"):
        kvv.metrics.kl_to_prior(sampler, vae)


@pytest.mark.parametrize("name", ["posterior_network", "prior_network", "predictor"])
def test_what_a_network_adds_to_the_loss_counts(name, videos):
    vae = small()
    network = getattr(vae, name)

    class Penalty(keras.layers.Layer):
        def call(self, inputs):
            self.add_loss(ops.convert_to_tensor(7.0))
            return inputs

    setattr(vae, name, keras.Model(network.inputs, Penalty()(network.output)))
    logs = vae.evaluate(videos, batch_size=6, verbose=0, return_dict=True)
    expected = logs["reconstruction"] + logs["kl"] + 7.0
    assert logs["loss"] == pytest.approx(expected, abs=1e-3)
