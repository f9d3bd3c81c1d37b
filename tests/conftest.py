import os
import socket
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


def pytest_configure():
    """Close the network, but for this machine: a test that needs the world outside is a test that fails at random."""
    for name in ("connect", "connect_ex"):
        setattr(socket.socket, name, only_loopback(getattr(socket.socket, name)))


def only_loopback(connect):
    def checked(self, address, *args):
        if self.family != socket.AF_UNIX and not is_loopback(address[0]):
            raise OSError(f"the tests' network is closed: tried to reach {address}")
        return connect(self, address, *args)
    return checked


def is_loopback(host):
    return host in ("localhost", "::1", "0.0.0.0", "") or host.startswith("127.")


@pytest.fixture
def nobody(monkeypatch):
    """An environment without credentials for storage."""
    from helpers.credentials import TOKEN_FILE, VARIABLES
    for name in VARIABLES + (TOKEN_FILE,):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def spark():
    """The one Spark session of all tests, on two cores of this machine."""
    from helpers.cluster import session
    running = session.start("local[2]", "tests")
    yield running
    session.stop(running)


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A bundle that is made in a moment."""
    import tiny
    return tiny.model(tmp_path_factory.mktemp("model") / "bundle")


@pytest.fixture(scope="session")
def sample_world():
    """The embedded sample counties as a catalogue, drawn once into data/ and kept there."""
    from helpers.land import catalog
    import sample
    from helpers.runs import home
    sample.draw(home() / "data" / "sample-0")
    return catalog.open("sample")


@pytest.fixture(scope="session")
def real_data():
    """The folder of real pictures and maps that some tests compare with."""
    folder = Path(os.environ.get("REAL_DATA") or REPOSITORY.parent / "shared" / "real")
    if not folder.is_dir():
        pytest.skip(f"no real data in {folder}: set REAL_DATA to a folder that holds aerial/, geo/ and weights/")
    return folder


@pytest.fixture
def mount_small_disk(tmp_path):
    """Mounts a disk of a size, such as ``"1m"``, so that it really is full in the middle of a job; its folder."""
    mounted = []

    def mount(size):
        folder = tmp_path / "disk"
        folder.mkdir()
        if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)],
                                          capture_output=True).returncode:
            pytest.skip("only root may mount a small disk")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


# They read what the notebooks' run has measured.
AFTER_NOTEBOOKS = {"tests/notebooks/test_results.py",
                   *(f"tests/maps/test_{name}.py" for name in ("cells", "files", "new_development", "page"))}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Of two processes that run tests, one has the notebooks and what follows from them; a file is never divided."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.partition("::")[0]
            return "tutorial" if file.endswith(".ipynb") or file in AFTER_NOTEBOOKS else file

    return ByFile(config, log)


def pytest_collection_modifyitems(items):
    """Notebook 04 runs in CNTK's kernel: without that its cells are skipped, and the reason told."""
    cells = [item for item in items if item.path.name == "04_retraining_cntk.ipynb"]
    if cells:
        from helpers import InputError
        from helpers.model.engine_cntk import cntk_environment
        try:
            cntk_environment()
        except InputError as error:
            for item in cells:
                item.add_marker(pytest.mark.skip(reason=str(error)))
