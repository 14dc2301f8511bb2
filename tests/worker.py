"""What tests run in a process of its own: `python worker.py TASK ARGUMENTS`."""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import sys
import time

import keras
import numpy as np
import tensorflow as tf
import tiny

import keras_vae_variance as kvv


def digest(vae, random=True):
    """A hash of weights, optimizer and random state."""
    sums = hashlib.sha256()
    for _, value in tiny.state(vae, random):
        sums.update(f"{value.dtype} {value.shape}".encode())
        sums.update(value.tobytes())
    return sums.hexdigest()


# --------------------------------------------------------------------------------------
# Runs that are resumed


class Interrupt(keras.callbacks.Callback):
    """Stops a run in the middle of its third epoch, as a killed process would."""

    def __init__(self):
        super().__init__()
        self.epoch = None

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.epoch == 2 and batch == 1:
            raise KeyboardInterrupt


def resume(path):
    keras.utils.set_random_seed(0)
    tf.config.experimental.enable_op_determinism()
    x = tiny.images(20)

    def start(**arguments):
        return tiny.compiled(
            keras.optimizers.Adam(1e-2),
            variance=kvv.variances.Learned,
            encoder=random_encoder,
            compile=EAGER,
            **arguments,
        )

    def fit(vae, epochs, **arguments):
        vae.fit(
            x,
            batch_size=8,
            epochs=epochs,
            verbose=0,
            validation_data=x[:5],
            **arguments,
        )
        return digest(vae)

    digests = {
        "straight": fit(start(), 4),
        "rerun": fit(start(), 4),
        "other seed": fit(start(seed=6), 4),
    }
    vae = start()
    fit(vae, 2)
    digests["initial_epoch"] = fit(vae, 4, initial_epoch=2)

    def backup():
        folder = f"{path}.backup"
        return keras.callbacks.BackupAndRestore(folder, delete_checkpoint=False)

    vae = start()
    try:
        fit(vae, 4, callbacks=[backup(), Interrupt()])
    except KeyboardInterrupt:
        digests["interrupted"] = digest(vae)
    # Other initial weights: all must come from the backup.
    digests["backup"] = fit(start(weights=9), 4, callbacks=[backup()])
    write(digests, path)


# --------------------------------------------------------------------------------------
# Models that are saved, and loaded in another process


def mixed_float16():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        return tiny.compiled(keras.optimizers.Adam(1e-2), compile=EAGER)
    finally:
        keras.config.set_dtype_policy("float32")


def stage1():
    vae = model(variance=kvv.variances.Predicted)
    vae.likelihood.variance_model.begin_stage1(kvv.variances.Learned())
    return vae


def stage2():
    vae = stage1()
    vae.likelihood.variance_model.begin_stage2(0.5)
    return vae


def model(compile=None, **arguments):
    optimizer = keras.optimizers.Adam(1e-2)
    return tiny.compiled(optimizer, compile=compile or EAGER, **arguments)


def maximum_likelihood(**arguments):
    return model(variance=lambda: kvv.variances.MaximumLikelihood(**arguments))


def random_encoder():
    return tiny.dense_encoder(
        keras.layers.BatchNormalization(), keras.layers.Dropout(0.5)
    )


def bilbo():
    return model(
        posterior=kvv.posteriors.ConstantGaussian,
        prior=kvv.priors.Floating,
        regularizers=lambda: [kvv.regularizers.BILBO(0.5)],
    )


EAGER = {"run_eagerly": True}
SAVED = {
    "fixed": model,
    "in a graph": lambda: model(compile={"steps_per_execution": 2}),
    "learned": lambda: model(variance=kvv.variances.Learned),
    "iso_i": maximum_likelihood,
    "diag_i": lambda: maximum_likelihood(per_pixel=True),
    "iso_d": lambda: maximum_likelihood(per_example=True),
    "diag_d": lambda: maximum_likelihood(per_pixel=True, per_example=True),
    "predicted": lambda: model(variance=kvv.variances.Predicted),
    "stage 1": stage1,
    "stage 2": stage2,
    "bilbo": bilbo,
    "bernoulli": lambda: model(likelihood=kvv.likelihoods.Bernoulli),
    "own decoder": lambda: model(decoder=tiny.PlainDecoder),
    "random layers": lambda: model(encoder=random_encoder),
    "mixed_float16": mixed_float16,
    "two layers": lambda: model(cls=tiny.two_layers),
    "sequence": lambda: model(
        variance=kvv.variances.MaximumLikelihood, cls=tiny.sequence
    ),
}


def record(vae, x):
    """What a model is, and how its training goes on."""
    optimizer = getattr(vae.optimizer, "inner_optimizer", vae.optimizer)
    now = {
        "optimizers": [type(vae.optimizer).__name__, type(optimizer).__name__],
        "iterations": int(optimizer.iterations.numpy()),
        "state": digest(vae),
        "predictions": [float(v.sum()) for v in vae.predict(x, verbose=0).values()],
    }
    history = vae.fit(x, batch_size=8, epochs=2, initial_epoch=1, verbose=0).history
    return {**now, "history": history, "state afterwards": digest(vae)}


def save(folder):
    keras.utils.set_random_seed(0)
    tf.config.experimental.enable_op_determinism()
    records = {}
    for name, build in SAVED.items():
        vae = build()
        x = tiny.images(12)
        vae.fit(x, batch_size=8, verbose=0)
        vae.save(f"{folder}/{name}.keras")
        records[name] = record(vae, x)
    write(records, f"{folder}/saved.json")


def load(folder):
    keras.utils.set_random_seed(1)
    tf.config.experimental.enable_op_determinism()
    records = {}
    for name in SAVED:
        vae = keras.saving.load_model(f"{folder}/{name}.keras")
        records[name] = record(vae, tiny.images(12))
    write(records, f"{folder}/loaded.json")


# --------------------------------------------------------------------------------------
# Models that go from one backend to another


def exchanged(**arguments):
    # This epsilon, since without it rounding decides the step where a gradient is 0,
    # as that of Learned where it starts.
    return tiny.compiled(keras.optimizers.Adam(1e-2, epsilon=1.0), **arguments)


# Without noise, of which every backend has its own.
EXCHANGED = {
    "learned": lambda: exchanged(
        variance=kvv.variances.Learned,
        posterior=tiny.NoiselessDiagonal,
        encoder=lambda: tiny.dense_encoder(keras.layers.BatchNormalization()),
    ),
    "diag_i": lambda: exchanged(
        variance=lambda: kvv.variances.MaximumLikelihood(per_pixel=True),
        posterior=tiny.NoiselessDiagonal,
        encoder=penalized_encoder,
    ),
    "bilbo": lambda: exchanged(
        posterior=tiny.Noiseless,
        prior=kvv.priors.Floating,
        regularizers=lambda: [kvv.regularizers.BILBO(0.5)],
    ),
    "two stages": lambda: exchanged(
        variance=kvv.variances.Predicted, posterior=tiny.NoiselessDiagonal
    ),
    "two layers": lambda: exchanged(
        cls=tiny.two_layers,
        variance=kvv.variances.MaximumLikelihood,
        posterior=tiny.NoiselessDiagonal,
    ),
    "sequence": lambda: exchanged(
        cls=tiny.sequence,
        variance=kvv.variances.MaximumLikelihood,
        posterior=tiny.NoiselessDiagonal,
    ),
}


def exchange(folder):
    """Trains each model of the folder; writes models and a record of each."""
    backend = keras.backend.backend()
    records = {}
    for name in EXCHANGED:
        vae = keras.saving.load_model(f"{folder}/{name}.keras")
        records[name] = exchanged_record(name, vae)
        vae.save(f"{folder}/{name}.{backend}.keras")
    write(records, f"{folder}/{backend}.json")


def exchanged_record(name, vae):
    """What one epoch, or one of both stages, gives."""
    x, weights = tiny.images(20), np.arange(20) % 3 + 1.0
    if name == "two stages":
        jit = vae.jit_compile
        _, history = kvv.fit_two_stage(vae, x, epochs=(1, 1), batch_size=8, verbose=0)
    else:
        x = np.round(255 * x).astype("uint8") if name == "diag_i" else x
        jit = vae.jit_compile
        history = vae.fit(
            x,
            batch_size=8,
            sample_weight=weights,
            validation_data=(x[:5], None, weights[:5]),
            verbose=0,
        )
    state = [(path, value.tolist()) for path, value in tiny.state(vae)]
    return {
        "jit_compile": jit,
        "history": history.history,
        "state": state,
        "reconstruction": vae.predict(x, verbose=0)["mean"].tolist(),
    }


# --------------------------------------------------------------------------------------
# Two replicas


def penalized_encoder():
    return tiny.dense_encoder(
        tiny.MeanPenalty(), keras.layers.Dense(4, kernel_regularizer="l2")
    )


def normalized_encoder():
    # Without it the moments would be those of each replica's share.
    return tiny.dense_encoder(keras.layers.BatchNormalization(synchronized=True))


def convolutions():
    """With an empty share, oneDNN's convolutions fail in a graph."""
    return keras.Sequential(
        [
            keras.Input(tiny.SHAPE),
            keras.layers.Conv2D(2, 3, strides=2, activation="relu"),
            kvv.backbones.layers.BatchNormalization(),
            keras.layers.Flatten(),
            keras.layers.Dense(8),
        ]
    )


def infogan(index):
    """A network of a backbone with batch normalisation, and smooth.

    At a ReLU that rounding alone puts above or below 0, replicas and one device part.
    """
    likelihood = kvv.likelihoods.Gaussian(kvv.variances.Fixed(0.1))
    sizes = {"channels": 2, "units": 8}
    network = kvv.backbones.infogan(tiny.SHAPE, tiny.L, likelihood, **sizes)[index]
    for layer in network.layers:
        if getattr(layer, "activation", None) is keras.activations.relu:
            layer.activation = keras.activations.softplus
    return network


REPLICATED = {
    "iso_i": {"variance": kvv.variances.MaximumLikelihood},
    "iso_d": {
        "variance": lambda: kvv.variances.MaximumLikelihood(per_example=True),
    },
    "learned": {
        "variance": kvv.variances.Learned,
        "encoder": normalized_encoder,
    },
    "diag_i and bilbo": {
        "variance": lambda: kvv.variances.MaximumLikelihood(per_pixel=True),
        "posterior": tiny.Noiseless,
        "prior": kvv.priors.Floating,
        "regularizers": lambda: [kvv.regularizers.BILBO()],
    },
    "baggins and dip": {
        "variance": kvv.variances.Baggins,
        "posterior": tiny.Noiseless,
        "prior": kvv.priors.Floating,
        "regularizers": lambda: [kvv.regularizers.BILBO(), kvv.regularizers.DIP("II")],
    },
    "mmd": {
        "posterior": kvv.posteriors.Deterministic,
        "regularizers": lambda: [kvv.regularizers.MMD()],
    },
    "losses of networks": {"encoder": penalized_encoder},
    "convolutions": {"encoder": convolutions},
    "infogan": {"encoder": lambda: infogan(0), "decoder": lambda: infogan(1)},
    "stream": {"variance": kvv.variances.MaximumLikelihood},
    "two stages": {"variance": kvv.variances.Predicted},
    "two layers": {
        "cls": tiny.two_layers,
        "variance": kvv.variances.MaximumLikelihood,
    },
    "sequence": {
        "variance": kvv.variances.MaximumLikelihood,
        "cls": tiny.sequence,
    },
}
WEIGHTED = ("iso_i", "baggins and dip", "mmd", "sequence")
VALIDATED = ("iso_i", "diag_i and bilbo", "mmd")
EXECUTED = {"iso_d": 3, "learned": 2}  # steps of an execution, where more than one


def distribute(path):
    cpu = tf.config.list_physical_devices("CPU")[0]
    devices = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(cpu, devices)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    assert strategy.num_replicas_in_sync == 2
    results = {
        "fits": {
            name: [
                replicated_fit(scope, name, arguments)
                for scope in (contextlib.nullcontext(), strategy.scope())
            ]
            for name, arguments in REPLICATED.items()
        },
        "draws": replicated_draws(strategy),
        "gate": replicated_gate(strategy),
        "metrics": replicated_metrics(strategy),
    }
    write(results, path)


def replicated_fit(scope, name, arguments):
    """20 steps on batches of 5, 5 and 1: shares of 3 and 2, and of 1 and none.

    Nine of two stages, which keep a loss among the weights.
    """
    x, weights = tiny.images(11), np.arange(11) % 3 + 1.0
    if name == "infogan":
        # No batch of one: normalising it divides its rounding by sqrt(1e-3).
        x = x[:10]
    if name == "iso_d":
        x = np.round(255 * x).astype("uint8")
    with scope:
        options = {"run_eagerly": True}
        if tf.distribute.has_strategy():
            options = {"steps_per_execution": EXECUTED.get(name, 1)}
        vae = tiny.compiled(
            keras.optimizers.SGD(1e-3, momentum=0.5),
            compile=options,
            **{"posterior": tiny.NoiselessDiagonal, **arguments},
        )
        if name == "two stages":  # all weights there are, for `start`
            vae.likelihood.variance_model.begin_stage1(kvv.variances.Learned())
    start = [weight.tolist() for weight in vae.get_weights()]
    arguments = {}
    if name in WEIGHTED:
        arguments["sample_weight"] = weights
    if name in VALIDATED:
        arguments |= {"validation_data": x[:5], "validation_batch_size": 4}
    if name == "stream":
        x = tf.data.Dataset.from_tensor_slices(x).batch(5)
    else:
        arguments["batch_size"] = 5
    if name == "two stages":
        _, history = kvv.fit_two_stage(
            vae, x, epochs=(2, 1), tolerance=None, verbose=0, **arguments
        )
    else:
        epochs = 10 if name == "infogan" else 7
        history = vae.fit(x, epochs=epochs, verbose=0, **arguments)
    assert name == "two stages" or vae.optimizer.iterations >= 20
    history = history.history
    predictions = 0.0
    if name == "iso_d":
        predictions = vae.predict(x, batch_size=5, verbose=0)["mean"].tolist()
    return {
        "start": start,
        "weights": [[w.path, w.value.numpy().tolist()] for w in vae.weights],
        "momenta": [v.value.numpy().tolist() for v in vae.optimizer.variables],
        "drift": max(drift(vae)),
        "history": history,
        "predictions": predictions,
    }


def two_workers(path, index, *ports):
    """The same by one of two processes, and what several workers are for besides."""
    addresses = [f"127.0.0.1:{port}" for port in ports]
    task = {"type": "worker", "index": int(index)}
    cluster = {"cluster": {"worker": addresses}, "task": task}
    os.environ["TF_CONFIG"] = json.dumps(cluster)
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    fits = {
        name: replicated_fit(strategy.scope(), name, REPLICATED[name])
        for name in TWO_WORKERS
    }
    results = {"fits": fits, "resumed": [], "metrics": replicated_metrics(strategy)}
    for folder, kill in (("straight", None), ("killed", 4), ("killed", None)):
        weights = replicated_resume(strategy, f"{path}.{folder}", kill)
        results["resumed"].append(weights)
    with strategy.scope():
        vae = tiny.compiled(keras.optimizers.SGD(1e-3), seed=int(index))
    try:
        vae.fit(tiny.images(4), verbose=0)
    except ValueError as error:
        results["seeds"] = str(error)
    write(results, f"{path}.{index}")


TWO_WORKERS = ("iso_i", "iso_d", "convolutions", "stream", "two stages")
TWO_WORKERS += ("two layers", "sequence")


def replicated_metrics(strategy):
    """What comes after training: exact averages and metrics."""
    results = []
    for scope in (contextlib.nullcontext(), strategy.scope()):
        with scope:
            vae = tiny.make(variance=kvv.variances.MaximumLikelihood)
            features = [keras.Input(tiny.SHAPE), keras.layers.Flatten()]
            features = keras.Sequential(features, name="pixels")
        x = tiny.images(20)
        vae.calibrate(x)
        values = kvv.metrics.log_likelihood(vae, x, num_samples=3, seed=0)
        results.append([vae.likelihood.variance_model.predict({}).numpy().tolist()])
        results[-1].append(np.asarray(values).tolist())
        images = np.asarray(vae.generate(20, seed=0)["mean"])
        distance = kvv.metrics.frechet_distance(x, images, features)
        results[-1].append(float(distance))
    return results


class KillAfter(keras.callbacks.Callback):
    """Raises after so many batches."""

    def __init__(self, batches):
        super().__init__()
        self.batches = batches

    def on_train_batch_end(self, batch, logs=None):
        self.batches -= 1
        if not self.batches:
            raise KeyboardInterrupt


def replicated_resume(strategy, folder, kill):
    """The weights after a run of `fit` with Resume, or None where it was killed."""
    with strategy.scope():
        vae = tiny.compiled(keras.optimizers.SGD(1e-3, momentum=0.5))
    callbacks = [kvv.callbacks.Resume(folder, save_freq=1)]
    if kill:
        callbacks.append(KillAfter(kill))
    try:
        x = tiny.images(11)
        vae.fit(x, batch_size=4, epochs=2, callbacks=callbacks, verbose=0)
    except KeyboardInterrupt:
        return None
    return [weight.tolist() for weight in vae.get_weights()]


def drift(vae):
    """How far the replicas' copies of each variable are apart."""
    for variable in vae.weights:
        copies = getattr(variable.value, "values", (variable.value,))
        yield float(np.ptp([copy.numpy() for copy in copies], axis=0).max())


def replicated_draws(strategy):
    """Terms of equal data on both replicas, which differ in the noise alone."""
    with strategy.scope():
        vae = tiny.make()
        penalized = tiny.make(
            posterior=tiny.Noiseless,
            regularizers=lambda: [kvv.regularizers.DecoderGradientPenalty()],
        )
    x = tiny.images(3)

    @tf.function
    def terms():
        def step():
            # An unweighted objective needs no other replica's data.
            penalty = penalized.objective(x)["decoder_gradient_penalty"]
            return {**vae.objective(x), "penalty": penalty}

        return strategy.run(step)

    draws = {}
    for _ in range(2):
        for name, values in terms().items():
            for value in strategy.experimental_local_results(values):
                draws.setdefault(name, []).append(value.numpy().tolist())
    return draws


def replicated_gate(strategy):
    """Non-finite data on the second replica alone."""

    def start():
        with strategy.scope():
            vae = tiny.compiled(
                keras.optimizers.Adam(1e-2),
                variance=kvv.variances.Learned,
                posterior=tiny.NoiselessDiagonal,
            )
        return vae

    def stream(*batches):
        return tf.data.Dataset.from_tensor_slices(np.concatenate(batches)).batch(4)

    good, bad = tiny.images(4), tiny.images(4, seed=1)
    bad[3, 0, 0, 0] = np.nan
    vae, other = start(), start()
    result = {}
    try:
        vae.fit(stream(good, bad, good), verbose=0)
    except kvv.NonFiniteLossError as error:
        result["error"] = str(error)
    other.fit(stream(good), verbose=0)
    result["states"] = [digest(vae, random=False), digest(other, random=False)]
    result["drift"] = max(drift(vae))
    result["losses"] = vae.fit(stream(good, good), verbose=0).history["loss"]
    result["afterwards"] = digest(vae, random=False)
    return result


def mixture(path):
    """Fits of a mixture by one device, and by two with shares of 7 of each chunk."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    devices = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(cpu, devices)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    em = kvv.samplers.expectation_maximization
    em.CHUNK = 7 * (5 + 2)  # features of 2 latents, and 2 components
    sums, seen = em._sums, []

    def recorded(z, *arguments):
        seen.append([z.shape[0], tf.identity(z).device[-1:]])
        return sums(z, *arguments)

    em._sums = recorded
    x = tiny.images(40)
    results = []
    for scope in (contextlib.nullcontext(), strategy.scope()):
        seen.clear()
        with scope:
            vae = tiny.make()
            sampler = kvv.samplers.GaussianMixture(2).fit(vae, x, seed=0)
            log_prob = sampler.log_prob(sampler.sample(5, seed=1))
        arrays = {name: value.tolist() for name, value in sampler._arrays.items()}
        results.append(
            {"log_prob": log_prob.numpy().tolist(), "seen": sorted(seen), **arrays}
        )
    write(results, path)


# --------------------------------------------------------------------------------------
# Runs that are killed


def two_stages(folder, result, begun=None):
    """A run of both stages; writes the hash of what it ends with."""
    keras.utils.set_random_seed(0)
    tf.config.experimental.enable_op_determinism()
    x = tiny.images(22)
    vae = model(
        variance=kvv.variances.Predicted,
        encoder=random_encoder,
        regularizers=lambda: [kvv.regularizers.KL()],
    )
    resume = kvv.callbacks.Resume(folder, save_freq=1)
    weight = kvv.callbacks.WeightSchedule(np.linspace(0.1, 1.0, 20), "kl")
    if begun is not None:
        os.write(begun, b".")
    _, history = kvv.fit_two_stage(
        vae,
        x,
        epochs=(2, 2),
        tolerance=None,
        batch_size=4,
        validation_data=x[:5],
        callbacks=[resume, weight],
        verbose=0,
    )
    variance = vae.likelihood.variance_model
    write([digest(vae), variance.stage, history.epoch, history.history], result)


def kill(path, kills):
    """Kills runs at random moments, `kills` times in all; what those gave that ended.

    Each run is a child of this process, which has imported all and computed nothing.
    """
    folder, result, ended = f"{path}.state", f"{path}.result", []
    random = np.random.default_rng(0)

    def run(seconds=None):
        """Whether it was killed so many seconds after it had begun."""
        read, begun = os.pipe()
        child = os.fork()
        if child == 0:
            two_stages(folder, result, begun)
            os._exit(0)
        os.close(begun)
        assert os.read(read, 1)
        os.close(read)
        if seconds is not None:
            time.sleep(seconds)
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            return True
        assert status == 0
        with open(result) as file:
            ended.append(json.load(file))
        shutil.rmtree(folder)
        return False

    started = time.time()
    run()
    whole, killed = time.time() - started, 0
    while killed < int(kills):
        killed += run(random.uniform(0.0, 0.7 * whole))
    run()
    write({"ended": ended, "seconds": whole}, path)


def full_disk(folder):
    import test_resume

    print("RESULT", test_resume.full_disk(folder), flush=True)
    os._exit(0)  # without HDF5's own end, which writes what is left


def write(value, path):
    with open(path, "w") as file:
        json.dump(value, file)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
