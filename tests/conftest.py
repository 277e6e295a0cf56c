"""Strict settings for every test, made before jax starts its backends."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")

import itertools
import pathlib
import signal
import subprocess
import sys

import jax
import pytest

# Eight devices on one CPU, so that anything sharded is tested everywhere.
DEVICES = "--xla_force_host_platform_device_count=8"
# What a test compiles runs once or twice: the best machine code would take longer to make than it saves.
QUICK = (
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
)


def _known(flags: str) -> bool:
    """Returns whether this XLA knows the flags: it ends a process that gives it others."""
    trial = [sys.executable, "-c", "import jax; jax.devices()"]
    return not subprocess.run(trial, env={**os.environ, "XLA_FLAGS": flags}, capture_output=True).returncode


if "XLA_FLAGS" not in os.environ:  # workers have them from the process that starts them
    os.environ["XLA_FLAGS"] = f"{DEVICES} {QUICK}" if _known(QUICK) else DEVICES

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
_TESTS = itertools.count(1)  # of this process


def pytest_configure(config):
    """What was compiled once is kept, for the processes that tests start and for the next run (`--cache-clear`)."""
    folder = os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(config.cache.mkdir("jax")))
    jax.config.update("jax_compilation_cache_dir", folder)


@pytest.fixture(autouse=True)
def forgotten():
    """Frees what tests have compiled once it fills a third of the memory map; looks every 25 of them.

    XLA maps several pieces of memory for each program, a hundred tests of contracts 49,000 of them, and Linux ends a
    process that has mapped 65,530.
    """
    yield
    if next(_TESTS) % 25 == 0 and _mapped() > 20_000:
        jax.clear_caches()


def _mapped() -> int:
    """Returns how many pieces of memory this process has mapped; elsewhere than on Linux, where none count, 0."""
    try:
        with open("/proc/self/maps", "rb") as maps:
            return sum(1 for _ in maps)
    except OSError:
        return 0


@pytest.fixture
def x64():
    """Runs the test in float64."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture(scope="session")
def data_dir() -> pathlib.Path:
    """The folder of optional multilingual sets; a test that asks for it skips when it is absent."""
    default = pathlib.Path(__file__).parents[2] / "shared" / "data"
    path = pathlib.Path(os.environ.get("JAXMETA_DATA", default))
    if not path.is_dir():
        pytest.skip(f"no data folder at {path}; set JAXMETA_DATA to one")
    return path


@pytest.fixture
def data_folder(data_dir):
    """Returns the file of one of those sets by its name, or skips the test."""

    def find(name: str) -> pathlib.Path:
        path = data_dir / name / f"{name}.tsv"
        if not path.is_file():
            pytest.skip(f"no {path}")
        return path

    return find


@pytest.fixture
def standard_promotion():
    """For tests that call code of others which promotes on its own, such as optax.adam (`decay ** count`)."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(autouse=True, scope="session")
def interruptible():
    """Ctrl-C means what it means at a terminal: a shell that starts the tests in its background has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
