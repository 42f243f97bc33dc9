"""pre-commit itself installs our hook from this repository and keeps a secret out of a commit."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from program_bench import ROOT, documented, program
from scan_maker import Maker

KEY = Maker(1).checked("ghp_")


def run(folder: Path, *command: str, check: bool = True, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a folder, with a home of its own; what pip is told of its index stays."""
    kept = {name: text for name, text in os.environ.items() if name.startswith("PIP_") or name in ("PATH", "LANG")}
    home = folder.parent / "home"
    environ = {**kept, "HOME": str(home), "GIT_CONFIG_NOSYSTEM": "1", "GIT_AUTHOR_NAME": "t", "GIT_COMMITTER_NAME": "t"}
    environ |= {"GIT_AUTHOR_EMAIL": "t@example.org", "GIT_COMMITTER_EMAIL": "t@example.org"}
    home.mkdir(exist_ok=True)
    environ |= more
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=check, timeout=150)


def published(folder: Path) -> str:
    """Make this work tree, as it is, the one commit of a repository in a folder; its id."""
    git = ("git", f"--git-dir={folder}", f"--work-tree={ROOT}")
    run(folder.parent, "git", "init", "-q", "--bare", str(folder))
    run(folder.parent, "git", f"--git-dir={folder}", "config", "core.bare", "false")
    run(ROOT, *git, "add", "--all")
    run(ROOT, *git, "commit", "-q", "-m", "as it is")
    return run(ROOT, *git, "rev-parse", "HEAD").stdout.strip()


def test_it_refuses_a_commit_with_a_secret(tmp_path: Path) -> None:
    """With the documented lines, for this repository; a commit without goes through."""
    pre_commit, folder = program("pre-commit"), tmp_path / "project"
    folder.mkdir()
    revision = published(tmp_path / "published")
    config = documented("scan-and-migrate.md", "With [pre-commit](https://pre-commit.com)", "yaml")
    config = config.replace("https://git.example/secret-broker", str(tmp_path / "published"))
    (folder / ".pre-commit-config.yaml").write_text(config.replace("v0.1.0", revision))
    run(folder, "git", "init", "-q")
    run(folder, pre_commit, "install")
    made = run(folder, pre_commit, "install-hooks", check=False)
    if "No matching distribution" in made.stdout + made.stderr:
        pytest.skip("the package index, from which pre-commit installs the hook, cannot be reached")
    assert made.returncode == 0, made
    scan = (sys.executable, "-m", "agent_sdk.cli", "scan", "--baseline", ".secret-scan.json", "--update-baseline")
    run(folder, *scan, PYTHONPATH=str(ROOT))
    (folder / "settings.ini").write_text("token = \n")
    run(folder, "git", "add", "--all")
    done = run(folder, "git", "commit", "-m", "clean", check=False)
    assert done.returncode == 0, done
    (folder / "settings.ini").write_text(f"token = {KEY}\n")
    refused = run(folder, "git", "commit", "-a", "-m", "leak", check=False)
    assert refused.returncode == 1
    assert "settings.ini:1:9: github-token" in refused.stdout + refused.stderr
    assert KEY not in refused.stdout + refused.stderr
    assert run(folder, "git", "log", "--oneline").stdout.count("\n") == 1
