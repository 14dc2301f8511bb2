"""Fixtures of all tests. A test that takes long is marked `slow`."""

import os

# Before TensorFlow is imported, which reads them once.
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
if os.environ["KERAS_BACKEND"] == "jax":
    # JAX compiles every operation of every shape, and the tests compute little.
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import gc
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_vae_variance  # noqa: F401

# The collector spends a sixth of the tests' time on modules, which stay, and on graphs.
gc.collect()
gc.freeze()
gc.set_threshold(20_000, 20, 20)

# ../shared, where present, holds real data for development.
SHARED = Path(__file__).parents[2] / "shared"


def pytest_runtest_setup(item):
    """Leaves slow tests out after the time that CI gives them, a Unix time."""
    until = os.environ.get("SLOW_TESTS_UNTIL")
    if until and item.get_closest_marker("slow") and time.time() > float(until):
        pytest.skip("no time left for slow tests on this machine")


@pytest.fixture(autouse=True)
def seeded():
    """Every test begins from the same random state, whatever ran before it."""
    keras.utils.set_random_seed(0)


@pytest.fixture(scope="session")
def shared():
    """The folder of real data sets; the test is skipped where there is none."""
    if not (SHARED / "data").is_dir():
        pytest.skip("no real data beside the checkout")
    return SHARED / "data"


@pytest.fixture(scope="session")
def tfds_dir(shared, tmp_path_factory):
    """A `data_dir` with MNIST and Fashion-MNIST, prepared by TFDS (about 30 s)."""
    data_dir = tmp_path_factory.mktemp("tfds")
    tool = SHARED / "tools" / "tfds_offline.py"
    command = [sys.executable, str(tool), str(shared), str(data_dir)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return data_dir


@pytest.fixture
def images():
    """24 grey 8x8 images in [0, 1], float32."""
    rng = np.random.default_rng(0)
    return rng.uniform(size=(24, 8, 8, 1)).astype("float32")
