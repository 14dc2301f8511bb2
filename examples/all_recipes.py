"""Every recipe of the package on one data set, with one network.

    python examples/all_recipes.py
    python examples/all_recipes.py --dataset mnist --data-dir DIR --epochs 5

Dense networks of 200 units, 8 latents, batches of 100, Adam at 1e-3; no tuning of any
model. Printed are, on the test set, the ELBO in nats (of probabilities for the discrete
likelihoods, of densities for the others; `-` where there is none, in brackets where the
likelihood is not normalised and bounds nothing), the same in bits per dimension for
uint8 images, and the squared error of an image. This shows
that each model trains, and what it gives out of the box; the papers' comparisons, with
their networks and lengths, are the other scripts'. A variance a pixel without bounds
may diverge on pixels that are the same in all images, as P2 says (Section 5.3).

Runs on scikit-learn's digits without a download, in about 3 minutes on two cores.
Writes a JSON for each recipe to `examples/results/all_recipes`; what is there already
is not run again. `--smoke` shrinks all of it to seconds.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import _runs
import keras
import numpy as np

import keras_vae_variance as kvv

VARIANTS = {
    "beta_vae": {"beta": 0.02},
    "rae_gp": {"kind": "gp"},
    "rae_sn": {"kind": "sn"},
}
RECIPES = [*kvv.recipes.__all__, "rae_gp", "rae_sn"]


def main():
    options = parse()
    x_train, x_test = load(options)
    rows = [["recipe", "ELBO", "bits / dim", "mse", "variance"]]
    for name in options.recipes:
        settings = {
            "recipe": name,
            "dataset": options.dataset,
            "epochs": options.epochs,
            "batch_size": 100,
            "learning_rate": 1e-3,
            "latent_dim": 8,
            "seed": 0,
            "smoke": options.smoke,
        }

        def run(settings):
            return train(settings, x_train, x_test)

        file = f"{options.dataset}_{name}_seed0"
        numbers = _runs.once(options.output_dir, file, settings, run)
        if "diverged" in numbers:
            rows.append([name, "diverged", "-", "-", "-"])
            continue
        elbo = shown(numbers["elbo"], 1)
        rows.append(
            [
                name,
                elbo if numbers["normalized"] else f"({elbo})",
                shown(numbers["bits_per_dimension"], 3),
                shown(numbers["mse"], 2),
                shown(numbers["variance"], 5),
            ]
        )
    print(f"\nOn the test set of {options.dataset}, at one draw of z an image")
    _runs.table(rows)


def shown(number, digits):
    return "-" if number is None else f"{number:.{digits}f}"


def parse():
    parser = _runs.parser(__doc__, __file__)
    _runs.add_data(parser, "digits", ("digits", "mnist", "fashion_mnist"))
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument(
        "--recipes",
        nargs="+",
        default=RECIPES,
        choices=RECIPES,
    )
    options = parser.parse_args()
    if options.smoke:
        options.epochs = 2
        options.recipes = ["dip_vae", "wae_mmd", "rae_gp", "two_stage", "student_t_vae"]
    return options


def load(options):
    (x_train, _), (x_test, _) = _runs.load(options.dataset, options)
    return (x_train[:200], x_test[:50]) if options.smoke else (x_train, x_test)


def train(settings, x_train, x_test):
    name = settings["recipe"]
    function = "rae" if name.startswith("rae_") else name
    vae = getattr(kvv.recipes, function)(
        x_train.shape[1:],
        settings["latent_dim"],
        backbone=kvv.backbones.mlp,
        seed=settings["seed"],
        **VARIANTS.get(name, {}),
    )
    vae.compile(keras.optimizers.Adam(settings["learning_rate"]))
    try:
        fit(vae, x_train, settings)
    except kvv.NonFiniteLossError as error:
        return {"diverged": str(error)}
    vae.calibrate(x_train)
    logs = vae.evaluate(x_test, batch_size=500, verbose=0, return_dict=True)
    return {
        **logs,
        "elbo": mean_elbo(vae, x_test, settings["seed"]),
        "normalized": vae.likelihood.normalized,
        "bits_per_dimension": _runs.bits_per_dimension(vae, x_test, settings["seed"]),
    }


def fit(vae, x_train, settings):
    arguments = {"batch_size": settings["batch_size"], "verbose": 0}
    if settings["recipe"] == "two_stage":
        first = settings["epochs"] // 2
        epochs = first, settings["epochs"] - first
        kvv.fit_two_stage(vae, x_train, epochs=epochs, tolerance=None, **arguments)
    else:
        vae.fit(x_train, epochs=settings["epochs"], **arguments)


def mean_elbo(vae, x, seed):
    """Mean over the examples, or None where there is no ELBO."""
    if vae.posterior.deterministic:
        return None
    return np.mean(vae.elbo(x, seed=seed)["elbo"])


if __name__ == "__main__":
    main()
