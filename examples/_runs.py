"""What the papers' scripts share: options, runs that are done once, their records.

A run is a function of its settings. Its numbers are kept in a JSON file beside the
settings; a script that is started again reads what is there already and goes on with
the rest, so that it can be interrupted at any time.
"""

import argparse
import hashlib
import importlib.metadata
import json
import os
import pathlib
import shutil
import sys
import tempfile
import time

import keras
import numpy as np

import keras_vae_variance as kvv

__all__ = [
    "add_data",
    "add_output",
    "archive",
    "bits_per_dimension",
    "floats",
    "hand_on",
    "load",
    "mosaic",
    "once",
    "parser",
    "sheet",
    "spread",
    "table",
    "trained",
    "versions",
]

_PATHS = ("--output-dir", "--data-dir", "--models-dir", "--data-file", "--output")
_PATHS += ("--classifier", "--squeezenet")
_PACKAGES = ("keras", "tensorflow", "tensorflow-probability", "scikit-learn", "numpy")


def parser(doc, script):
    """An `argparse` parser with the options of all scripts.

    Args:
        doc: the script's docstring.
        script: its `__file__`; results go to `results/<its name>` beside it.
    """
    options = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_output(options, script)
    options.add_argument(
        "--models-dir",
        type=pathlib.Path,
        help="keep weights here, and go on from what is there (default: OUTPUT/models)",
    )
    return options


def add_output(options, script):
    """Adds the options `--output-dir` and `--smoke`.

    Args:
        options: the parser.
        script: a script's `__file__`; results go to `results/<its name>` beside it,
            but those of a smoke run, which are no records, to a temporary folder.
    """
    script = pathlib.Path(script)
    results = script.parent / "results" / script.stem

    class Smoke(argparse.Action):
        def __call__(self, parser, namespace, values, option_string=None):
            namespace.smoke = True
            if namespace.output_dir == results:
                temporary = pathlib.Path(tempfile.gettempdir())
                namespace.output_dir = temporary / f"{script.stem}_{os.getpid()}"

    options.add_argument("--output-dir", type=pathlib.Path, default=results)
    options.add_argument(
        "--smoke",
        action=Smoke,
        nargs=0,
        default=False,
        help="a few steps only, with results among temporary files",
    )


def add_data(options, default, choices, file=None):
    """Adds the options of where the data are.

    Args:
        options: the parser.
        default: the data set where none is named.
        choices: the data sets that the script knows.
        file: what `--data-file` is, of a script that has it.
    """
    options.add_argument("--dataset", default=default, choices=choices)
    if file:
        options.add_argument("--data-file", help=file)
    options.add_argument("--data-dir", help="folder of TensorFlow Datasets")
    options.add_argument("--download", action="store_true", help="where it is absent")


def load(name, options, **arguments):
    """Images and labels of a data set, `((x_train, y_train), (x_test, y_test))`.

    uint8, but for scikit-learn's digits, which are float32 in [0, 1].

    Args:
        name: "digits", or a name of `datasets.load`.
        options: with `data_dir` and `download`.
        arguments: of `datasets.load`.
    """
    if name == "digits":
        return kvv.datasets.digits()
    return kvv.datasets.load(
        name, data_dir=options.data_dir, download=options.download, **arguments
    )


def archive(path):
    """The images of an .npz, `(n, height, width, channels)`."""
    with np.load(path) as arrays:
        (x,) = (arrays[k] for k in arrays.files if arrays[k].ndim >= 3)
    return x if x.ndim == 4 else x[..., None]


def floats(x):
    """Images in [0, 1], float32."""
    return x.astype("float32") / 255.0 if x.dtype == np.uint8 else x


def once(folder, name, settings, run):
    """The numbers of a run: from its file if it was done, else by doing it.

    Args:
        folder: where the record is.
        name: of its file, without `.json`.
        settings: all that the numbers depend on, plain values with a `seed`.
        run: called with the settings; returns a dict of numbers.

    Raises:
        ValueError: if there is a record of that name with other settings.
    """
    path = pathlib.Path(folder) / f"{name}.json"
    if path.exists():
        record = json.loads(path.read_text())
        if record["settings"] == json.loads(json.dumps(settings)):
            return record["numbers"]
        raise ValueError(
            f"{path} is of another run, which this one would overwrite: pass another "
            f"`--output-dir`. Received: settings={settings}"
        )
    keras.utils.set_random_seed(settings["seed"])
    keras.backend.clear_session()
    started, processed = time.time(), time.process_time()
    numbers = _plain(run(settings))
    record = {
        "command": _command(),
        "settings": settings,
        "versions": versions(),
        "seconds": round(time.time() - started, 1),
        "processor_seconds": round(time.process_time() - processed, 1),
        "numbers": numbers,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    # A line for each part: lists of numbers are long.
    lines = (f" {json.dumps(key)}: {json.dumps(part)}" for key, part in record.items())
    whole = path.with_suffix(".tmp")  # an interrupted write must leave no record
    whole.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    whole.replace(path)
    print(f"{name}: {record['seconds']} s", flush=True)
    return numbers


def versions():
    """Of the packages that numbers depend on."""
    return {name: importlib.metadata.version(name) for name in _PACKAGES}


def trained(folder, name, settings, vae, x, **fit_arguments):
    """Trains a compiled model, or takes the weights of an equal run.

    A run is known by its name and a hash of its settings. One that was interrupted goes
    on after the last epoch that it ended, and ends as if it had not been.

    Args:
        folder: where weights and backups are.
        name: of the run.
        settings: all that the weights depend on, plain values.
        vae: the compiled model, as it is before training.
        x: the data.
        fit_arguments: of `VAE.fit`.

    Returns:
        The model.
    """
    text = json.dumps(settings, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    path = pathlib.Path(folder) / f"{name}_{digest}.weights.h5"
    if path.exists():
        vae.load_weights(path)
        return vae
    path.parent.mkdir(parents=True, exist_ok=True)
    state = path.with_name(f"{name}_{digest}_state")
    started = time.time()
    resume = kvv.callbacks.Resume(state)
    vae.fit(x, callbacks=[resume], verbose=0, **fit_arguments)
    whole = path.with_name(f"{name}_{digest}_unfinished.weights.h5")
    vae.save_weights(whole)
    whole.replace(path)
    shutil.rmtree(state)
    print(f"{name}: trained in {time.time() - started:.0f} s", flush=True)
    return vae


def hand_on(first, second):
    """Gives the weights of a model's networks to another's of the same networks."""
    for part in ("encoder", "posterior", "decoder"):
        getattr(second, part).set_weights(getattr(first, part).get_weights())


def bits_per_dimension(vae, x, seed):
    """Bits of the levels of uint8 images by the ELBO, or None where there is no ELBO.

    A density is of images with noise of a level's width, and gives a bound.
    """
    known = vae.likelihood.normalized and not vae.posterior.deterministic
    if not known or x.dtype != np.uint8:
        return None
    dequantized = not vae.likelihood.discrete
    if dequantized:
        x = kvv.metrics.dequantize(x, seed=seed)
    values = vae.elbo(x, seed=seed)["elbo"]
    score = kvv.metrics.Score.of(vae, values, dequantized=dequantized)
    return score.on_levels().bits_per_dimension


def spread(values):
    """Mean and standard deviation over runs, `mean +- deviation (number)`."""
    values = np.asarray(values, "float64")
    deviation = values.std(ddof=1) if len(values) > 1 else float("nan")
    return f"{values.mean():.3f} +- {deviation:.3f} ({len(values)})"


def table(rows):
    """Prints rows of cells in columns."""
    rows = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (c.ljust(w) for c, w in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())


def mosaic(axis, images, title):
    """Shows images of a square number as one picture, on matplotlib axes."""
    side = int(len(images) ** 0.5)
    _, height, width, channels = images.shape
    picture = images.reshape(side, side, height, width, channels).swapaxes(1, 2)
    picture = picture.reshape(side * height, side * width, channels)
    picture = picture if channels == 3 else picture[..., 0]
    axis.imshow(np.clip(picture, 0, 1), cmap="gray", vmin=0, vmax=1)
    axis.set_title(title, fontsize=9)
    axis.set_axis_off()


def sheet(pictures, path, columns=6):
    """Writes a figure with the mosaic of each `{title: images}`."""
    import matplotlib.pyplot as plt

    columns = max(1, min(columns, len(pictures)))
    rows = max(1, -(-len(pictures) // columns))
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(1.7 * columns, 1.9 * rows),
        layout="constrained",
        squeeze=False,
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, (title, images) in zip(axes.flat, pictures.items(), strict=False):
        mosaic(axis, images, title)
    figure.savefig(path, dpi=80)


def _command():
    """The command line, without the reader's own folders."""
    words = [f"examples/{pathlib.Path(sys.argv[0]).name}", *sys.argv[1:]]
    for i, word in enumerate(words[:-1]):
        if word in _PATHS:
            words[i + 1] = word.strip("-").replace("-dir", "").upper()
    return "python " + " ".join(words)


def _plain(value):
    """Numbers as JSON has them, of six digits."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(v) for v in value]
    if isinstance(value, (bool, str)) or value is None:
        return value
    return float(f"{float(value):.6g}")
