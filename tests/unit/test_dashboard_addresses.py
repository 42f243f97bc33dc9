"""Where the dashboard listens: this host alone, and elsewhere only in a container."""

from pathlib import Path

import pytest

from broker_worker.cli import dashboard
from broker_worker.core.errors import SetupError


def test_by_default_only_this_host_reaches_it() -> None:
    """Both addresses that `localhost` means."""
    assert dashboard._addresses(in_container=False) == ("127.0.0.1", "::1")


def test_outside_a_container_it_never_listens_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The option alone is not believed."""
    monkeypatch.setattr(dashboard, "_CONTAINER_MARKERS", (str(tmp_path / "no"),))
    with pytest.raises(SetupError, match="no container"):
        dashboard._addresses(in_container=True)


def test_in_a_container_it_listens_on_the_container_s_addresses(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What reaches those is for the host to publish."""
    marker = tmp_path / ".dockerenv"
    marker.touch()
    monkeypatch.setattr(dashboard, "_CONTAINER_MARKERS", (str(marker),))
    assert dashboard._addresses(in_container=True) == ("0.0.0.0",)
