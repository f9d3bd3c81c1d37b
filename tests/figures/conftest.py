import matplotlib
import matplotlib.pyplot as plt
import pytest

from helpers.figures.style import style


@pytest.fixture(autouse=True)
def canvas():
    """Draw with the tutorial's style, off screen."""
    backend = matplotlib.get_backend()
    plt.switch_backend("Agg")
    with plt.rc_context(style()):
        yield
    plt.close("all")
    plt.switch_backend(backend)


@pytest.fixture
def ax():
    return plt.subplots(figsize=(7, 4))[1]
