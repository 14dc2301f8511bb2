"""A chain of two linear-Gaussian layers, whose evidence and posteriors are exact.

    z2 ~ N(0, I),  z1 = z2 W2 + b2 + noise of variance u,  x = z1 W1 + b1 + noise of v

With a diagonal `W2` and orthogonal rows of `W1` all of `q(z1|x)`, `q(z2|z1)`, `q(z2|x)`
and `q(z1|z2, x)` are Gaussians of diagonal covariance: both kinds of inference can be
exact. All here is float64 NumPy but for the model itself.
"""

import keras
import numpy as np
import oracles

import keras_vae_variance as kvv

D, N = 5, 6
X, Z1, Z2 = slice(0, 5), slice(5, 7), slice(7, 9)
INFERENCES = ("bottom_up", "top_down")

W1 = np.linalg.qr(np.random.default_rng(0).normal(size=(D, 2)))[0].T * [[1.5], [0.8]]
B1, V = np.linspace(-1, 1, D), 0.3
W2, B2, U = np.diag([0.9, -1.4]), np.array([0.5, -0.2]), np.array([0.4, 0.7])


def joint(temperatures=(1.0, 1.0)):
    """Mean and covariance of (x, z1, z2); the temperatures are those of z1 and z2."""
    t1, t2 = temperatures
    # Each as a linear function of independent noise of (x, z1, z2).
    maps = np.zeros((9, 9))
    maps[Z2, Z2] = t2 * np.eye(2)
    maps[Z2, Z1] = t2 * W2
    maps[Z1, Z1] = t1 * np.diag(np.sqrt(U))
    maps[:, X] = maps[:, Z1] @ W1
    maps[X, X] = np.sqrt(V) * np.eye(D)
    mean = np.concatenate([B2 @ W1 + B1, B2, np.zeros(2)])
    return mean, maps.T @ maps


def given(target, *conditions):
    """`A`, `c` and `S` of p(target | conditions) = N(conditions A + c, S)."""
    mean, covariance = joint()
    known = np.concatenate([np.arange(9)[s] for s in conditions])
    gain = np.linalg.solve(covariance[np.ix_(known, known)], covariance[known, target])
    left = covariance[target, target] - covariance[known, target].T @ gain
    return gain, mean[target] - mean[known] @ gain, left


def evidence(x):
    """log p(x) of each example."""
    mean, covariance = joint()
    return (
        oracles.tfd.MultivariateNormalTriL(
            mean[X], np.linalg.cholesky(covariance[X, X])
        )
        .log_prob(oracles.float64(x))
        .numpy()
    )


def examples(n=N):
    mean, covariance = joint()
    # By Cholesky: the signs of a singular value decomposition are the machine's own.
    rng = np.random.default_rng(1)
    draws = rng.multivariate_normal(mean, covariance, n, method="cholesky")
    return draws[:, X].astype("float32")


def heads(inference):
    """`A`, `c`, log of the diagonal of `S`: exact ones for the layers 1 and 2."""
    if inference == "bottom_up":
        exact = given(Z1, X), given(Z2, Z1)
    else:
        exact = given(Z1, Z2, X), given(Z2, X)
    for _, _, covariance in exact:
        np.testing.assert_allclose(covariance, np.diag(np.diag(covariance)), atol=1e-12)
    return [(a, c, np.log(np.diag(s))) for a, c, s in exact]


def perturbed(inference):
    """Others, not far from those."""
    random = np.random.default_rng(2)
    return [
        tuple(array + 0.07 * random.normal(size=array.shape) for array in layer)
        for layer in heads(inference)
    ]


def posterior(x, inference, layers):
    """Mean `(n, 4)` and covariance of q(z1, z2|x) by given heads."""
    (a1, c1, s1), (a2, c2, s2) = layers
    if inference == "bottom_up":
        first, second, (a, c) = (a1, c1, s1), s2, (a2, c2)
    else:
        # z1 is a function of (z2, x).
        first, second, (a, c) = (a2, c2, s2), s1, (a1[:2], x @ a1[2:] + c1)
    mean = x @ first[0] + first[1]
    spread = np.diag(np.exp(first[2]))
    mean = np.concatenate([mean, mean @ a + c], axis=1)
    across = spread @ a
    covariance = np.block([[spread, across], [across.T, a.T @ across]])
    covariance[2:, 2:] += np.diag(np.exp(second))
    order = [0, 1, 2, 3] if inference == "bottom_up" else [2, 3, 0, 1]
    return mean[:, order], covariance[np.ix_(order, order)]


def elbo(x, inference, layers):
    """log p(x) - KL(q(z1, z2|x) || p(z1, z2|x))."""
    x = oracles.float64(x)
    normal = oracles.tfd.MultivariateNormalTriL
    mean, covariance = posterior(x, inference, layers)
    a, c, true = given(slice(5, 9), X)
    gap = normal(mean, np.linalg.cholesky(covariance)).kl_divergence(
        normal(x @ a + c, np.linalg.cholesky(true))
    )
    return evidence(x) - gap.numpy()


def identity(size):
    return keras.Sequential([keras.Input((size,)), keras.layers.Activation("linear")])


def networks(inference, likelihood, shape=(D,), sizes=(2, 2)):
    """Encoders and decoders: nothing but what the heads and the likelihood make."""
    flat = int(np.prod(shape))
    first = keras.Sequential([keras.Input(shape), keras.layers.Flatten()])
    taken = sizes[:-1] if inference == "bottom_up" else [flat] * (len(sizes) - 1)
    encoders = [first, *map(identity, taken)]
    _, decoder = kvv.backbones.mlp(
        shape, sizes[0], likelihood, mean_activation=None, hidden=()
    )
    return encoders, [decoder, *map(identity, sizes[1:])]


def model(inference, layers=None, seed=0, **arguments):
    """The true generative model, with the exact posterior or with given heads."""
    likelihood = kvv.likelihoods.Gaussian(kvv.variances.Fixed(V))
    nets = networks(inference, likelihood)
    parts = [kvv.posteriors.DiagonalGaussian(2) for _ in range(2)]
    vae = kvv.HierarchicalVAE(
        *nets, parts, likelihood, inference=inference, seed=seed, **arguments
    )
    vae.decoders[0].set_weights([W1, B1])
    vae.conditionals[0].mean.set_weights([W2, B2])
    set_spread(vae.conditionals[0], np.log(U))
    for part, (a, c, log_s) in zip(
        vae.posteriors, layers or heads(inference), strict=True
    ):
        part.mean.set_weights([a, c])
        set_spread(part, log_s)
    return vae


def set_spread(part, log_variance):
    kernel, _ = part.spread.get_weights()
    part.spread.set_weights([0.0 * kernel, log_variance])
