"""P3's learned sharpness on MNIST (Table 2, Figs. 11 to 14).

    python examples/sharp_images.py --data-dir DIR

P3's residual network with 256 latents, batches of 100, Adam at 1e-3. Printed are ELBOs
of the test images at one draw of z, in bits a pixel as P3 has them, of densities of
images in [0, 1] and without the constant `log(2 pi) / 2` (1.33 bits), which P3 leaves
out. P3 has 0.06 for F-VAE, of variance 1/2, and 4.89 for LV-VAE, of a variance a pixel,
after 1,000 epochs; `--epochs` is 10 here.

    fixed       variance 1/2                                           (F-VAE)
    scalar      one learned variance                                   (LS-VAE, Eq. 10)
    vector      a variance a pixel that the decoder gives              (LV-VAE, Eq. 11)
    bounded     the same, clipped softly from below at 1 / (12 255^2), the variance of
                rounding to levels: what is below describes the levels, not images

At variance 1/2 no model can have more than half a bit. With a variance a pixel a pixel
that is black in each image gives any number of bits, until the variance is 0 in float32
and the loss NaN; then the run ends, and the script says at which step. The figure has,
for each decoder, test images, reconstructions, means of samples of the prior, and draws
of `p(x|z)` for them. Writes a JSON for each run to `examples/results/sharp_images`;
what is there already is not run again, and an interrupted training goes on after its
last epoch.
`--smoke` shrinks all of it to seconds; `--dataset digits` needs no data set.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import functools

import _runs
import keras
import numpy as np

import keras_vae_variance as kvv

ROUNDING = 1 / (12 * 255**2)
METHODS = {
    "fixed": functools.partial(kvv.recipes.vae, variance=0.5),
    "scalar": kvv.recipes.l_vae_scalar,
    "vector": kvv.recipes.l_vae_vector,
    "bounded": functools.partial(kvv.recipes.l_vae_vector, bounds=(ROUNDING, None)),
}
PAPER = {"fixed": 0.06, "vector": 4.89}


def main():
    parser = _runs.parser(__doc__, __file__)
    _runs.add_data(parser, "mnist", ("mnist", "fashion_mnist", "digits"))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    (x_train, _), (x_test, _) = _runs.load(options.dataset, options)
    latent_dim = 256
    if options.smoke:
        x_train, x_test = x_train[:200], x_test[:64]
        options.epochs, latent_dim = 1, 16
    results, pictures = {}, {}
    for seed in range(options.seeds):
        for method in options.methods:
            settings = {
                "method": method,
                "dataset": options.dataset,
                "latent_dim": latent_dim,
                "epochs": options.epochs,
                "batch_size": 100,
                "learning_rate": 1e-3,
                "seed": seed,
                "smoke": options.smoke,
            }

            def run(settings):
                return measure(settings, x_train, x_test, options)

            name = f"{options.dataset}_{method}_seed{seed}"
            numbers = _runs.once(options.output_dir, name, settings, run)
            results.setdefault(method, []).append(numbers)
            if "pictures" in numbers and method not in pictures:
                pictures[method] = numbers["pictures"]
    report(results, options)
    draw(pictures, options)


def train(settings, x_train, options):
    vae = METHODS[settings["method"]](
        x_train.shape[1:],
        settings["latent_dim"],
        backbone=kvv.backbones.resnet,
        seed=settings["seed"],
    )
    vae.compile(keras.optimizers.Adam(settings["learning_rate"]))
    return _runs.trained(
        options.models_dir or options.output_dir / "models",
        f"{settings['dataset']}_{settings['method']}",
        settings,
        vae,
        x_train,
        batch_size=settings["batch_size"],
        epochs=settings["epochs"],
    )


def measure(settings, x_train, x_test, options):
    try:
        vae = train(settings, x_train, options)
    except kvv.NonFiniteLossError as error:
        return {"diverged": str(error)}
    seed = settings["seed"]
    terms = {k: np.mean(v) for k, v in vae.elbo(x_test, seed=seed).items()}
    size = np.prod(x_test.shape[1:])
    density = terms["elbo"] + size / 2 * np.log(2 * np.pi)
    images = vae.generate(9, noise=True, seed=seed)
    logs = vae.evaluate(x_test, batch_size=500, verbose=0, return_dict=True)
    pictures = {
        "test images": _runs.floats(x_test[:9]),
        "reconstructions": vae.reconstruct(x_test[:9])["mean"],
        "means of samples": images["mean"],
        "draws of samples": images["sample"],
    }
    return {
        **terms,
        "bits_per_pixel": density / size / np.log(2),
        "mse": logs["mse"],
        "variance": logs["variance"],
        "pictures": {k: np.round(np.asarray(v), 2) for k, v in pictures.items()},
    }


def report(results, options):
    names = "elbo", "kl", "mse", "variance"
    rows = [["decoder", "bits a pixel", "P3", *names]]
    for method, runs in results.items():
        paper = PAPER.get(method, "") if options.dataset == "mnist" else ""
        finite = [run for run in runs if "diverged" not in run]
        for run in runs:
            if "diverged" in run:
                print(f"{method}: {run['diverged']}")
        if finite:
            cells = [np.mean([run[name] for run in finite]) for name in names]
            bits = [run["bits_per_pixel"] for run in finite]
            rows.append([method, _runs.spread(bits), paper, *np.round(cells, 4)])
        else:
            rows.append([method, "diverged", paper, *[""] * len(names)])
    print("\nTest images: bits a pixel without the constant; nats")
    _runs.table(rows)


def draw(pictures, options):
    titled = {
        f"{method}: {name}": np.asarray(images)
        for method, sets in pictures.items()
        for name, images in sets.items()
    }
    path = options.output_dir / f"{options.dataset}_pictures.png"
    _runs.sheet(titled, path, columns=4)


if __name__ == "__main__":
    main()
