"""The main job in one file: a two-stage VAE on scikit-learn's 8x8 digits.

    python examples/quickstart.py

Trains a VAE whose decoder learns its variance (P0, Algorithm 1: one number for the data
set first, then one a pixel), fits a Gaussian mixture to its latent space, prints the
numbers that matter, draws one figure, and saves a SavedModel that it loads again. No
download; under two minutes on two cores. Expect a variance of about 0.01 after stage 1
and, after stage 2, a log likelihood that is clearly higher, highest with the mixture.

`--smoke` shrinks it to seconds, to check that it runs.
"""

import argparse
import json
import os
import pathlib
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

import keras_vae_variance as kvv

LATENT_DIM = 8


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output-dir", default="quickstart_output")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="a few steps only")
    options = parser.parse_args()
    folder = pathlib.Path(options.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(options.seed)
    started = time.time()

    (x_train, _), (x_test, _) = kvv.datasets.digits()
    epochs, weights, components = (80, 80), 100, 20
    if options.smoke:
        x_train, x_test = x_train[:128], x_test[:64]
        epochs, weights, components = (1, 1), 5, 4

    # The parts: a decoder that predicts a variance for each pixel, its networks, a VAE.
    likelihood = kvv.likelihoods.Gaussian(kvv.variances.Predicted())
    encoder, decoder = kvv.backbones.depth_to_space(
        x_train.shape[1:], LATENT_DIM, likelihood
    )
    posterior = kvv.posteriors.DiagonalGaussian(LATENT_DIM)
    vae = kvv.VAE(encoder, decoder, posterior, likelihood, seed=options.seed)
    vae.compile(keras.optimizers.Adam(2e-3))

    # Training, in two stages; a copy of the model as stage 1 leaves it.
    stage1_file = str(folder / "stage1.keras")
    _, history = kvv.fit_two_stage(
        vae,
        x_train,
        epochs=epochs,
        tolerance=None,
        batch_size=64,
        verbose=2 if options.smoke else 0,
        callbacks=[
            keras.callbacks.LambdaCallback(
                on_epoch_end=lambda epoch, logs: (
                    vae.save(stage1_file) if epoch + 1 == epochs[0] else None
                )
            )
        ],
    )
    stage1 = keras.models.load_model(stage1_file)
    v_dataset = float(vae.likelihood.variance_model.v_dataset)

    # Sampling: the prior does not match where the codes lie; a mixture does.
    prior = kvv.samplers.Prior().fit(vae)
    mixture = kvv.samplers.GaussianMixture(components).fit(vae, x_train, seed=0)

    def log_likelihood(model, sampler):
        values = kvv.metrics.log_likelihood(
            model, x_test, num_samples=weights, sampler=sampler, seed=0
        )
        return values.mean()

    stage1_mixture = kvv.samplers.GaussianMixture(components).fit(
        stage1, x_train, seed=0
    )
    closed_form = stage1.evaluate(x_train, verbose=0, return_dict=True)["mse"] / 64
    test = vae.evaluate(x_test, verbose=0, return_dict=True)
    result = vae.reconstruct(x_test)
    z_scores = (x_test - result["mean"]) / np.sqrt(result["variance"])
    rows = [
        ("stage 1: learned variance", v_dataset),
        ("stage 1: its closed form (P0, Eq. 10)", closed_form),
        ("stage 1: log likelihood, prior (nats)", log_likelihood(stage1, None)),
        ("stage 1: log likelihood, mixture", log_likelihood(stage1, stage1_mixture)),
        ("stage 2: log likelihood, prior", log_likelihood(vae, prior)),
        ("stage 2: log likelihood, mixture", log_likelihood(vae, mixture)),
        ("stage 2: bound that its floor sets", -32 * np.log(np.pi * v_dataset)),
        ("stage 2: squared error of a test image", test["mse"]),
        ("stage 2: KL of a test image (nats)", test["kl"]),
        ("stage 2: stddev of the z-scores (1 is calibrated)", float(np.std(z_scores))),
    ]
    print(f"\nDigits, {len(x_train)} training and {len(x_test)} test images")
    for name, value in rows:
        print(f"  {name:<52}{value:>10.4g}")
    record = {
        "command": "python examples/quickstart.py",
        "settings": {"epochs": epochs, "weights": weights, "components": components},
        "seed": options.seed,
        "versions": {"keras": keras.__version__, "tensorflow": tf.__version__},
        "seconds": round(time.time() - started),
        "numbers": {name: float(value) for name, value in rows},
    }
    name = f"digits_two_stage_seed{options.seed}.json"
    (folder / name).write_text(json.dumps(record, indent=1) + "\n")

    # One figure.
    shown = 10
    figure = kvv.plots.overview(
        x_test[:shown],
        {name: value[:shown] for name, value in result.items()},
        {
            "prior": vae.generate(shown, sampler=prior, seed=1),
            "mixture": vae.generate(shown, sampler=mixture, seed=1),
        },
    )
    figure.savefig(folder / "quickstart.png", dpi=110)
    kvv.plots.history(history, stage1_epochs=epochs[0]).savefig(
        folder / "history.png", dpi=100
    )

    vae.save(str(folder / "vae.keras"))  # for Keras, to train on or to evaluate.py

    # Serving: a SavedModel with the mixture inside, which TensorFlow alone can load.
    vae.export(str(folder / "saved_model"), sampler=mixture, verbose=False)
    served = tf.saved_model.load(str(folder / "saved_model"))
    images = served.generate(tf.constant(4), tf.constant([0, 1]))["mean"]
    difference = np.abs(served.reconstruct(x_test)["mean"] - result["mean"]).max()
    print(f"  SavedModel: generated {images.shape}, reconstructs to {difference:.1e}")
    print(f"  Figure, models and SavedModel in {folder}; {time.time() - started:.0f} s")


if __name__ == "__main__":
    main()
