"""How to construct and use every exported part, for the tests that all must pass.

A class that one of `FAMILIES` exports is under test at once (`tests/test_contracts.py`)
and fails there until `ARGUMENTS` says how to construct it.
"""

import keras
import numpy as np
import pytest
from keras import ops

import keras_vae_variance as kvv
from keras_vae_variance import likelihoods, posteriors, priors, regularizers, variances
from keras_vae_variance import ops as kvv_ops

FAMILIES = {
    variances: variances.Variance,
    likelihoods: likelihoods.Likelihood,
    posteriors: posteriors.Posterior,
    priors: priors.Prior,
    regularizers: regularizers.Regularizer,
}

EVENT = (4, 3, 2)  # height, width and channels all differ
FEATURES = 5
L = 2

# Constructor arguments; a callable makes a new part each time. Between them, the
# entries of a class give each argument a value that is not its default.
ARGUMENTS = {
    variances.Baggins: [{"information_factor": 1.0, "decay": 0.9}],
    variances.Fixed: [{"value": 0.3}],
    variances.Learned: [{}, {"per_pixel": True, "initial": 0.1, "rate": 1.0}],
    variances.MaximumLikelihood: [
        {},
        {"per_pixel": True, "decay": 0.9},
        {"per_example": True},
        {"per_pixel": True, "per_example": True, "epsilon": 0.0},
    ],
    variances.Predicted: [
        {},
        {"per_channel": False, "link": "softplus", "floor": 0.01},
        {"per_pixel": False, "link": "exp", "bounds": (1e-4, 10.0)},
        {"stage1": variances.Learned},
    ],
    likelihoods.Gaussian: [
        {"variance": variances.MaximumLikelihood},
        {"variance": variances.Predicted},
    ],
    likelihoods.Bernoulli: [{}, {"binary": True}],
    likelihoods.Categorical: [{}],
    likelihoods.BitwiseCategorical: [{}],
    likelihoods.LogisticMixture: [{"num_components": 3}],
    likelihoods.DiscretizedGaussian: [{}, {"variance": variances.Predicted}],
    likelihoods.DiscretizedLogistic: [{}, {"variance": variances.Predicted}],
    likelihoods.StudentT: [{}],
    posteriors.DiagonalGaussian: [
        {"latent_dim": L},
        {"latent_dim": L, "link": "softplus"},
        {"latent_dim": L, "link": "relu"},
    ],
    posteriors.IsotropicGaussian: [{"latent_dim": L, "rate": 2.0}],
    posteriors.ConstantGaussian: [{"latent_dim": L, "variance": 0.1}],
    posteriors.Deterministic: [{"latent_dim": L}],
    posteriors.SpatialGaussian: [{"channels": L, "link": "bounded"}],
    priors.StandardNormal: [{}],
    priors.Floating: [{"decay": 0.9}],
    regularizers.KL: [{"weight": 2.0}],
    regularizers.BILBO: [{"weight": 2.0}],
    regularizers.DIP: [
        {"weight": 2.0},
        {"kind": "II", "weight": 2.0, "diagonal_factor": 3.0},
    ],
    regularizers.MMD: [{"weight": 2.0, "seed": 1}],
    regularizers.LatentNorm: [{"weight": 2.0}],
    regularizers.DecoderGradientPenalty: [{"weight": 2.0, "seed": 1}],
}


def classes():
    """Every exported class but the families' base classes."""
    return [
        getattr(family, name)
        for family, base in FAMILIES.items()
        for name in family.__all__
        if getattr(family, name) is not base
    ]


def cases(*families):
    """A `pytest.param(cls, arguments)` for each entry, or for a class without one."""
    found = []
    for cls in classes():
        if families and not issubclass(cls, tuple(FAMILIES[f] for f in families)):
            continue
        for arguments in ARGUMENTS.get(cls, [None]):
            words = [f"{k}={_shown(v)}" for k, v in (arguments or {}).items()]
            name = f"{cls.__name__}({', '.join(words)})"
            found.append(pytest.param(cls, arguments, id=name))
    return found


def _shown(value):
    return f"{value.__name__}()" if callable(value) else value


def make(cls, arguments, **more):
    """A new part."""
    assert arguments is not None, f"say in contracts.ARGUMENTS how to make {cls}"
    given = {k: v() if callable(v) else v for k, v in arguments.items()}
    return cls(**given, **more)


# --------------------------------------------------------------------------------------
# A part by itself


class Use:
    """A new part, and one way to call every method that its family gives users.

    Calls take a dict of arrays with a leading batch, as `data` makes it, and give a
    dict of tensors: of a leading batch too, or of 1 where all examples share, or
    scalars of the batch.
    """

    def __init__(self, cls, arguments, event=EVENT, make=make):
        keras.utils.set_random_seed(0)
        self.part = make(cls, arguments)
        self.event = event
        self.prior = None
        shape = (None, *event)
        if isinstance(self.part, posteriors.Posterior):
            shape = (None, FEATURES)
        elif isinstance(self.part, priors.Prior):
            shape = (None, L)
        elif isinstance(self.part, regularizers.Regularizer):
            # The one prior that all regularizers take.
            self.prior = priors.Floating()
            kvv_ops.build_once(self.prior, (None, L))
        kvv_ops.build_once(self.part, shape)

    @property
    def variables(self):
        return self.part.variables + (self.prior.variables if self.prior else [])

    @property
    def draws(self):
        """Names of what is random: it goes by place in the batch, not by example."""
        return {"sample", "term"} if self.part._seed_generators else {"sample"}

    def data(self, n, seed=0):
        """Arrays that the part is called with."""
        random = np.random.default_rng(seed)
        arrays = {
            "x": random.uniform(size=(n, *self.event)),
            "mean": random.uniform(size=(n, *self.event)),
            "features": random.normal(size=(n, FEATURES)),
            "z_mean": random.normal(size=(n, L)),
        }
        if isinstance(self.part, (variances.Variance, likelihoods.Likelihood)):
            for name, head in self.part.heads(self.event).items():
                if name not in arrays:
                    arrays[name] = random.normal(size=(n, *head.shape))
        return {name: array.astype("float32") for name, array in arrays.items()}

    def latent(self, data):
        """A `types.Latent` of a shared variance and a standard normal prior."""
        shared = ops.full((1, L), 0.5)
        standard = 0.0 * shared, 0.0 * shared + 1.0
        return kvv.types.Latent(data["z_mean"] + 0.1, data["z_mean"], shared, *standard)

    def __call__(self, data, training=False):
        data = {name: ops.convert_to_tensor(array) for name, array in data.items()}
        part, mean = self.part, data["z_mean"]
        shared = ops.full((1, L), 0.5)
        latent = self.latent(data)
        if isinstance(part, variances.Variance):
            r2 = ops.square(data["x"] - data["mean"])
            v = part(r2, data, latent, training=training)
            return {"variance": v, "predicted": part.predict(data)}
        if isinstance(part, likelihoods.Likelihood):
            return {
                "nll": part(data["x"], data, latent, training=training),
                "mean": part.mean(data),
                "variance": part.variance(data),
                "sample": part.sample(data, seed=1),
            }
        if isinstance(part, posteriors.Posterior):
            mean, variance = part(data["features"])
            sample = part.sample(mean, variance, seed=1)
            return {"mean": mean, "variance": variance, "sample": sample}
        if isinstance(part, priors.Prior):
            result = part(mean, shared, training=training)
            return dict(zip(("mean", "variance"), result, strict=True))
        prior = self.prior(mean, shared, training=training)
        latent = kvv.types.Latent(mean + 0.1, mean, shared, *prior)
        term = part(data["x"], latent, decode=lambda z: {"mean": z}, training=training)
        return {"term": term}


# --------------------------------------------------------------------------------------
# A part inside of a VAE


def vae_with(cls, arguments, event=EVENT):
    """A small VAE with a new part in its place; the same one at every call.

    Its networks are linear: nothing is dead from the start, and the loss is smooth.
    """
    keras.utils.set_random_seed(0)
    part = make(cls, arguments)
    places = {
        "posterior": posteriors.DiagonalGaussian(L),
        "likelihood": likelihoods.Gaussian(variances.Fixed(0.3)),
        "prior": priors.StandardNormal(),
        "regularizers": [regularizers.KL()],
    }
    if isinstance(part, variances.Variance):
        places["likelihood"] = likelihoods.Gaussian(part)
    elif isinstance(part, likelihoods.Likelihood):
        places["likelihood"] = part
    elif isinstance(part, posteriors.Posterior):
        places["posterior"] = part
        if part.deterministic:
            places["regularizers"] = []
    elif isinstance(part, priors.Prior):
        places["prior"] = part
    else:
        places["posterior"] = posteriors.ConstantGaussian(L)
        places["prior"] = priors.Floating()
        places["regularizers"] = [part]
    networks = kvv.backbones.mlp(event, L, places["likelihood"], hidden=())
    return kvv.VAE(*networks, seed=0, **places)


def state(variables):
    """Values by path, in NumPy."""
    return [np.array(ops.convert_to_numpy(v)) for v in variables]
