"""Two-stage training: a global variance first, then one a pixel on a floor."""

import warnings

import keras
from keras import ops

from . import ops as kvv_ops
from .fitting import list_of
from .variances import Learned, Predicted

__all__ = ["fit_two_stage"]


def fit_two_stage(
    vae,
    x,
    y=None,
    *,
    epochs=(16, 14),
    tolerance=0.0,
    floor_fraction=0.5,
    stage1=None,
    optimizer=None,
    **fit_arguments,
):
    """Trains a VAE in the two stages of P0, Algorithm 1.

        stage 1    v = exp(parameter), one number for the data set        (P0, Eq. 9)
        stage 2    v = head(z) + floor_fraction * v_dataset               (P0, Eq. 11)

    where `v_dataset` is what stage 1 ended at, frozen. Learned from the start, a
    variance head gets stuck at small values; on a good mean and on a floor it does not.
    A stage ends after its epochs, or with the first epoch that improves the training
    loss (the negative ELBO) by less than `tolerance`.

    Both stages are one `fit`, whose epochs count on from stage 1 to stage 2: callbacks,
    validation data and `callbacks.Resume` work as ever, and with that an interrupted
    call, repeated, goes on in the stage that it was in. Stage, `v_dataset`
    and floor are weights, saved with the model. Both stages train encoder, decoder and
    posterior; stage 1 leaves the variance head out (but for regularizers of its own
    weights), stage 2 the global variance. A callback that stops training, such as
    `EarlyStopping`, stops both stages: let `tolerance` end them.

    Args:
        vae: a compiled `VAE` with `likelihoods.Gaussian(variances.Predicted(...))`,
            trained in place.
        x: data in any form that `fit` takes.
        y: labels, ignored.
        epochs: the largest number of epochs of each stage, a pair.
        tolerance: nats by which an epoch must improve the loss for its stage to go on;
            None for all epochs of both.
        floor_fraction: share of `v_dataset` that is the floor in stage 2; 1/2 in P0.
        stage1: the global variance model of stage 1; the default is the one that
            `Predicted` has already, else `Learned()`.
        optimizer: the optimizer of stage 2, whose configuration is taken. The default
            is the configuration that the VAE is compiled with, as the call begins.
        **fit_arguments: further arguments of `fit`, by name. With `initial_epoch` above
            0 a reloaded model goes on in the stage it is in; at 0 it starts anew.

    Returns:
        The VAE and the `History` of `fit`.

    Raises:
        ValueError: if the VAE has no `Predicted` variance, or an argument is out of
            range.

    Example:

    >>> import keras, numpy as np
    >>> import keras_vae_variance as kvv
    >>> x = np.random.default_rng(0).random((64, 8, 8, 1), "float32")
    >>> likelihood = kvv.likelihoods.Gaussian(kvv.variances.Predicted())
    >>> encoder, decoder = kvv.backbones.mlp((8, 8, 1), 2, likelihood)
    >>> posterior = kvv.posteriors.DiagonalGaussian(2)
    >>> vae = kvv.VAE(encoder, decoder, posterior, likelihood)
    >>> vae.compile(keras.optimizers.Adam(1e-3))
    >>> vae, history = kvv.fit_two_stage(vae, x, epochs=(2, 1), verbose=0)
    >>> vae.likelihood.variance_model.stage
    2
    """
    variance = getattr(vae.likelihood, "variance_model", None)
    if not isinstance(variance, Predicted):
        raise ValueError(
            "`vae` must be made with likelihoods.Gaussian(variances.Predicted(...)), "
            "so that its decoder has a variance head from the start. "
            f"Received: vae.likelihood={vae.likelihood}, its variance={variance}"
        )
    epochs = _check_arguments(epochs, tolerance, floor_fraction)
    vae.check_data(x, fit_arguments.get("batch_size"))
    configuration = keras.optimizers.serialize(optimizer or vae.optimizer)
    if not fit_arguments.get("initial_epoch"):
        with vae._scope():
            variance.begin_stage1(_fresh(stage1 or variance.stage1 or Learned()))
        if vae.optimizer.built:
            _recompile(vae, keras.optimizers.serialize(vae.optimizer))
    elif variance.stage is None:
        raise ValueError(
            "`initial_epoch` above 0 goes on with a model that two-stage training has "
            "begun with; this one has no stage. "
            f"Received: initial_epoch={fit_arguments['initial_epoch']}"
        )
    # What was traced in another stage computes another variance.
    vae.train_function = vae.test_function = vae.predict_function = None
    stages = _Stages(variance, epochs, tolerance, floor_fraction, configuration)
    stages.loads_state = optimizer is not None
    # First, so that what the others save at the end of an epoch is up to date.
    callbacks = [stages, *list_of(fit_arguments.pop("callbacks", None))]
    history = vae.fit(x, y, epochs=sum(epochs), callbacks=callbacks, **fit_arguments)
    if variance.stage == 1:
        warnings.warn(
            "Training was stopped in stage 1, so that the variance is still the global "
            "one. Let `tolerance` end the stages, or go on with `initial_epoch`.",
            stacklevel=2,
        )
    return vae, history


class _Stages(keras.callbacks.Callback):
    """Ends the stages. All that it remembers is weights, so that a resume knows it."""

    def __init__(self, variance, epochs, tolerance, floor_fraction, optimizer):
        """`optimizer` is a configuration: stage 1's may change in the meantime."""
        super().__init__()
        self.variance = variance
        self.epochs = epochs
        self.tolerance = tolerance
        self.floor_fraction = floor_fraction
        self.optimizer = optimizer
        # Whether a resume in stage 2 loads the state of stage 2's optimizer into one
        # of another configuration, that of stage 1.
        self.loads_state = False

    def on_epoch_begin(self, epoch, logs=None):
        if self.variance.stage == 1 and self._stage1_epochs():
            self.variance.begin_stage2(self.floor_fraction)
            _recompile(self.model, self.optimizer)
            self.loads_state = False
        elif self.variance.stage == 2 and self.loads_state:
            loaded = self.model.optimizer.variables
            _recompile(self.model, self.optimizer)
            _copy(loaded, self.model.optimizer.variables)
            self.loads_state = False

    def on_epoch_end(self, epoch, logs=None):
        variance = self.variance
        loss = float(logs["loss"])
        improvement = float(kvv_ops.concrete(variance.previous_loss)) - loss
        converged = self.tolerance is not None and improvement < self.tolerance
        variance.previous_loss.assign(loss)
        if variance.stage == 1:
            if converged or epoch + 1 >= self.epochs[0]:
                variance.stage1_epochs.assign(epoch + 1)
                variance.previous_loss.assign(float("inf"))
        elif converged or epoch + 1 >= self._stage1_epochs() + self.epochs[1]:
            self.model.stop_training = True

    def _stage1_epochs(self):
        """Epochs that stage 1 took, 0 while it lasts."""
        return int(kvv_ops.concrete(self.variance.stage1_epochs))


def _check_arguments(epochs, tolerance, floor_fraction):
    epochs = tuple(epochs) if isinstance(epochs, (tuple, list)) else (epochs,)
    if len(epochs) != 2 or any(not isinstance(e, int) or e < 1 for e in epochs):
        raise ValueError(
            "`epochs` must be two positive integers, one for each stage. "
            f"Received: epochs={epochs}"
        )
    if tolerance is not None and not isinstance(tolerance, (int, float)):
        raise ValueError(
            "`tolerance` must be a number of nats, or None. "
            f"Received: tolerance={tolerance}"
        )
    if not 0 <= floor_fraction <= 1:
        raise ValueError(
            "`floor_fraction` must lie between 0 and 1. "
            f"Received: floor_fraction={floor_fraction}"
        )
    return epochs


def _fresh(layer):
    """A new, unbuilt layer of the same configuration."""
    return type(layer).from_config(layer.get_config())


def _recompile(vae, optimizer):
    """Compiles with a new optimizer of the configuration `optimizer`."""
    scaled = isinstance(vae.optimizer, keras.optimizers.LossScaleOptimizer)
    with vae._scope():
        vae.compile(
            keras.optimizers.deserialize(optimizer),
            run_eagerly=vae.run_eagerly,
            steps_per_execution=vae.steps_per_execution,
            jit_compile=vae.jit_compile,
            auto_scale_loss=scaled,
        )
    vae.make_train_function()


def _copy(source, target):
    if [v.shape for v in source] != [v.shape for v in target]:
        warnings.warn(
            "The interrupted run's optimizer is of another kind than `optimizer`, "
            "which starts anew.",
            stacklevel=2,
        )
        return
    for old, new in zip(source, target, strict=True):
        new.assign(ops.convert_to_tensor(old))
