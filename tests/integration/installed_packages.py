"""Packages of others for tests: installed as `pip` would, into a folder that is on a path and nowhere else."""

import shutil
import tomllib
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "deploy" / "examples" / "mounted"
GROUP = "secret_broker.providers"


def install(site: Path, name: str, offers: dict[str, str], **modules: str) -> None:
    """Install a distribution.

    Args:
        site: the folder; it must be on the path of whoever is to find it.
        name: the distribution's name; its version is 1.0.
        offers: its entry points, such as `{"keepass": "broker_keepass:KIND"}`.
        modules: the text of its modules.
    """
    info = site / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = [f"{kind} = {target}\n" for kind, target in offers.items()]
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n" + "".join(lines))
    for module, text in modules.items():
        (site / f"{module}.py").write_text(text)


def install_example(site: Path) -> None:
    """Install the example of `deploy/examples`, with the entry points of its own `pyproject.toml`."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    install(site, project["name"], project["entry-points"][GROUP])
    shutil.copy(EXAMPLE / "broker_mounted.py", site)
