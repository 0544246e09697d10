import pytest


@pytest.fixture
def warnings(monkeypatch):
    """The warnings that absl logs."""
    given = []
    monkeypatch.setattr("absl.logging.warning", lambda text, *args: given.append(text % args))
    return given
