"""The maths that every part shares, and the only switches between Keras backends.

Terms are sums over the event in nats; means run over the global batch, that is over
all replicas and, where there are any, by example weight.
"""

from .backend import (
    all_gather,
    all_reduce,
    compiled,
    concrete,
    host,
    jacobian,
    jvp,
    need_tensorflow,
    num_replicas,
    vjp,
)
from .global_batch import (
    Batch,
    batch,
    batch_mean,
    batch_of,
    never_empty,
    note_added_losses,
    present,
)
from .layers import build_once
from .maths import (
    LOG_2_PI,
    gaussian_kl,
    gaussian_log_prob,
    slerp,
    soft_clip,
    sum_event,
)
from .random import as_seed, fold_replica, normal, split_seed

__all__ = [
    "Batch",
    "LOG_2_PI",
    "all_gather",
    "all_reduce",
    "as_seed",
    "batch",
    "batch_mean",
    "batch_of",
    "build_once",
    "compiled",
    "concrete",
    "fold_replica",
    "gaussian_kl",
    "gaussian_log_prob",
    "host",
    "jacobian",
    "jvp",
    "need_tensorflow",
    "never_empty",
    "normal",
    "note_added_losses",
    "num_replicas",
    "present",
    "slerp",
    "soft_clip",
    "split_seed",
    "sum_event",
    "vjp",
]
