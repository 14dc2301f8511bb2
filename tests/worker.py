"""What tests run in a process of its own: `python worker.py TASK ARGUMENTS`."""

import hashlib
import json
import sys

import keras
import tensorflow as tf
import tiny

import keras_vae_variance as kvv


def digest(vae):
    """A hash of weights, optimizer and random state."""
    sums = hashlib.sha256()
    for _, value in tiny.state(vae):
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
            encoder=lambda: tiny.dense_encoder(keras.layers.BatchNormalization()),
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
    with open(path, "w") as file:
        json.dump(digests, file)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
