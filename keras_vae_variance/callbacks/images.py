"""Pictures of a model while it trains."""

import pathlib
import random
import struct

import keras
import numpy as np
from keras import ops

from .. import plots
from ..checks import check_integer
from ..data import check_images, is_array

__all__ = ["ImageLogger"]


class ImageLogger(keras.callbacks.Callback):
    """Writes pictures of the model at the end of every `every`-th epoch of `fit`.

    - `overview_0001.png`: originals, reconstructions and samples of the prior, each
      with the standard deviations of its pixels (see `plots.overview`);
    - `latents_0001.png`: the posterior means of all of `x` (see `plots.latent_scatter`,
      and of more than 2 latents `plots.principal_components`). A model of one latent,
      or of several layers of them, has none.

    The number is the epoch, from 1 on as in Keras's progress bar. The same images are
    reconstructed every time and samples are drawn from the same seed, so that pictures
    differ by what the model has learned. Training is not changed: neither the model's
    random state nor its compiled steps are touched.

    Args:
        x: images that are encoded, an array of shape `(n, H, W, C)`, C 1 or 3, as `fit`
            takes it. The first `num_images` are reconstructed.
        folder: where the files are written; made where it is missing.
        every: number of epochs from one picture to the next.
        num_images: number of reconstructions, and of samples.
        labels: the class of each image, integers or strings of shape `(n,)`, which
            colour the latents, or None.
        sampler: one of `samplers`, whose samples are drawn too, or None. It is fitted
            to `x` every time, since the codes move as the model trains.
        tensorboard: folder of TensorBoard's logs for the same pictures, at the step
            that `keras.callbacks.TensorBoard` counts epochs by, or None.
        seed: int, of samples and of the sampler's fit.

    Raises:
        ValueError: if an argument is out of range; and at the start of `fit`, if the
            model's examples are no images or `x` is not of their shape.

    Example:

    >>> import keras, numpy as np, os, tempfile
    >>> import keras_vae_variance as kvv
    >>> x = np.random.default_rng(0).random((64, 8, 8, 1), "float32")
    >>> likelihood = kvv.likelihoods.Gaussian(kvv.variances.Learned())
    >>> encoder, decoder = kvv.backbones.mlp((8, 8, 1), 2, likelihood)
    >>> posterior = kvv.posteriors.DiagonalGaussian(2)
    >>> vae = kvv.VAE(encoder, decoder, posterior, likelihood)
    >>> vae.compile(keras.optimizers.Adam(1e-3))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     logger = kvv.callbacks.ImageLogger(x[:16], folder, every=2)
    ...     history = vae.fit(x, epochs=2, callbacks=[logger], verbose=0)
    ...     sorted(os.listdir(folder))
    ['latents_0002.png', 'overview_0002.png']
    """

    def __init__(
        self,
        x,
        folder,
        every=1,
        num_images=10,
        labels=None,
        sampler=None,
        tensorboard=None,
        seed=0,
    ):
        super().__init__()
        if not is_array(x) or len(x.shape) < 1 or not len(x):
            raise ValueError(
                "`x` must be an array of at least one image. "
                f"Received: x={getattr(x, 'shape', type(x).__name__)}"
            )
        for name, value, least in (
            ("every", every, 1),
            ("num_images", num_images, 1),
            ("seed", seed, 0),
        ):
            check_integer(name, value, least)
        if labels is not None and np.shape(labels) != (len(x),):
            raise ValueError(
                f"`labels` must be one class for each of the {len(x)} images. "
                f"Received: labels of shape {np.shape(labels)}"
            )
        self.x = np.asarray(ops.convert_to_numpy(x))
        self.folder = pathlib.Path(folder)
        self.every = int(every)
        self.num_images = int(num_images)
        self.labels = labels
        self.sampler = sampler
        self.tensorboard = tensorboard
        self.seed = int(seed)
        self._writer = None

    def set_model(self, model):
        """Checks that the model is one of such images, before training begins."""
        super().set_model(model)
        shape = tuple(getattr(model, "event_shape", ()))
        if len(shape) != 3 or shape[-1] not in (1, 3):
            raise ValueError(
                "ImageLogger draws images of shape (height, width, 1 or 3). "
                f"Received: model of examples of shape {shape}"
            )
        check_images(self.x, shape, model.likelihood.unit_interval)

    def on_train_begin(self, logs=None):
        """Makes the folder."""
        self.folder.mkdir(parents=True, exist_ok=True)

    def on_epoch_end(self, epoch, logs=None):
        """Writes the pictures of this epoch, where it has some."""
        if (epoch + 1) % self.every:
            return
        # Samplers that make networks draw from it.
        state = random.getstate()
        try:
            figures = self._figures(f"epoch {epoch + 1}")
        finally:
            random.setstate(state)
        for name, figure in figures.items():
            path = self.folder / f"{name}_{epoch + 1:04d}.png"
            figure.savefig(path, dpi=120)
            if self.tensorboard is not None:
                self._summarize(name, path.read_bytes(), epoch)

    def on_train_end(self, logs=None):
        """Closes TensorBoard's file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _figures(self, title):
        vae = self.model
        x = self.x[: self.num_images]
        generated = {"prior": vae.generate(len(x), seed=self.seed)}
        if self.sampler is not None:
            self.sampler.fit(vae, self.x, seed=self.seed)
            generated[type(self.sampler).__name__] = vae.generate(
                len(x), sampler=self.sampler, seed=self.seed
            )
        figures = {"overview": plots.overview(x, vae.reconstruct(x), generated, title)}
        if len(vae.latent_dims) == 1 and vae.latent_dim > 1:
            mean = vae.encode(self.x).mean
            two = vae.latent_dim == 2
            draw = plots.latent_scatter if two else plots.principal_components
            figures["latents"] = draw(mean, self.labels, title=title)
        return figures

    def _summarize(self, name, png, epoch):
        """Writes what `tf.summary.image` writes, which needs TensorBoard installed."""
        import tensorflow as tf

        if self._writer is None:
            self._writer = tf.summary.create_file_writer(str(self.tensorboard))
        width, height = struct.unpack(">II", png[16:24])
        metadata = tf.compat.v1.SummaryMetadata(
            plugin_data={"plugin_name": "images"},
            data_class="DATA_CLASS_BLOB_SEQUENCE",
        )
        # Whatever another callback has switched off.
        with self._writer.as_default(), tf.summary.record_if(True):
            tf.summary.write(
                name,
                tf.constant([str(width), str(height), png]),
                step=epoch,
                metadata=metadata,
            )
        self._writer.flush()
