"""Two replicas under `tf.distribute` train as one device does."""

import concurrent.futures
import contextlib
import socket

import numpy as np
import pytest
import tiny
import worker

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What a process with two logical devices found: see `worker.distribute`."""
    path = tmp_path_factory.mktemp("distribute") / "results.json"
    tiny.run_worker("distribute", path)
    return tiny.read_json(path)


@pytest.fixture(scope="module")
def workers(tmp_path_factory):
    """What each of two processes found: see `worker.two_workers`."""
    path = tmp_path_factory.mktemp("workers") / "results.json"
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(2)]
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        ports = [s.getsockname()[1] for s in sockets]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        runs = [
            pool.submit(tiny.run_worker, "two_workers", path, index, *ports)
            for index in range(2)
        ]
        for run in runs:
            run.result()
    return [tiny.read_json(f"{path}.{index}") for index in range(2)]


@pytest.mark.parametrize("case", worker.REPLICATED)
def test_two_replicas_equal_one(results, case):
    check_equal(*results["fits"][case])


@pytest.mark.parametrize("case", worker.TWO_WORKERS)
def test_two_workers_equal_one_device(results, workers, case):
    for found in workers:
        check_equal(results["fits"][case][0], found["fits"][case])


def test_workers_resume_from_one_state(workers):
    for found in workers:
        straight, killed, resumed = found["resumed"]
        assert killed is None
        assert straight == resumed == workers[0]["resumed"][0]


def test_metrics_under_strategies(results, workers):
    for one, several in [results["metrics"], *(w["metrics"] for w in workers)]:
        for actual, desired in zip(several, one, strict=True):
            np.testing.assert_allclose(actual, desired, rtol=1e-6)


def test_workers_of_different_seeds_are_an_error(workers):
    for found in workers:
        assert "same seed" in found["seeds"]


def check_equal(one, two):
    for actual, desired in zip(two["start"], one["start"], strict=True):
        np.testing.assert_array_equal(actual, desired)
    moved = 0
    for (_, actual), (name, desired), start in zip(
        two["weights"], one["weights"], one["start"], strict=True
    ):
        # Scalars are logarithms of variances, of a size of 3.
        rtol = 0 if np.ndim(desired) else 1e-5
        np.testing.assert_allclose(actual, desired, rtol, 1e-6, err_msg=name)
        moved += not np.array_equal(desired, start)
    # All but constants, such as a regularizer's weight.
    assert moved >= len(one["start"]) - 2
    for actual, desired in zip(two["momenta"], one["momenta"], strict=True):
        np.testing.assert_allclose(actual, desired, atol=1e-5, rtol=1e-4)
    assert two["history"].keys() == one["history"].keys()
    for name, values in one["history"].items():
        assert two["history"][name] == pytest.approx(values, rel=1e-5, abs=3e-5), name
    np.testing.assert_allclose(two["predictions"], one["predictions"], atol=1e-6)


@pytest.mark.parametrize("case", worker.REPLICATED)
def test_replicas_hold_equal_copies(results, case):
    assert results["fits"][case][1]["drift"] == 0.0


def test_statistics_and_starts_were_reached(results):
    def ends_with(case, name):
        weights = results["fits"][case][1]["weights"]
        found = [value for path, value in weights if path.endswith(name)]
        assert found
        return found

    for case, number in (("iso_i", 1), ("iso_d", 1), ("diag_i and bilbo", 2)):
        values = ends_with(case, "running/value")
        assert len(values) == number
        for value in map(np.array, values):
            assert (value > 0).all() and (value != 1).all()
    assert ends_with("learned", "started") == [1.0]


def test_noise_differs_between_replicas_and_steps(results):
    draws = results["draws"]
    for name in ("reconstruction", "penalty"):
        first, second, third, fourth = map(tuple, draws[name])
        assert len({first, second, third, fourth}) == 4
    # The rest is equal.
    assert all(values == draws["kl"][0] for values in draws["kl"])


def test_non_finite_data_on_one_replica_change_nothing_on_any(results):
    gate = results["gate"]
    assert "Step 1 " in gate["error"] and "non-finite x, recon" in gate["error"]
    assert gate["states"][0] == gate["states"][1] != gate["afterwards"]
    assert gate["drift"] == 0.0
    assert np.isfinite(gate["losses"]).all()
