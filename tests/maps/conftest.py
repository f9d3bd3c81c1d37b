import pytest

from helpers.maps.cells import Cells
from helpers.model import bundle
from helpers.runs import Run


@pytest.fixture(scope="session")
def run():
    """The default run of the notebooks."""
    run = Run("sample")
    if "precision" not in run.metrics().get("change", {}):
        pytest.fail("expected runs/sample/metrics.json of the default run, got none or a part. "
                    "Run setup_scripts/run_tests.sh without naming files, or setup_scripts/run_tutorial.sh first.")
    return run


@pytest.fixture(scope="session")
def cells(run):
    return Cells(bundle.load(run.models / "tensorflow"))
