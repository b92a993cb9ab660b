"""Lend the host's pip settings and certificates to an image build, without leaving them in the image."""

from __future__ import annotations

import configparser
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CERTIFICATES = Path("/etc/ssl/certs")
_PASSED_ON = (
    "index-url",
    "extra-index-url",
    "trusted-host",
    "find-links",
    "proxy",
    "timeout",
    "retries",
    "cert",
    "no-index",
)


@contextmanager
def mounts(cache: Path) -> Iterator[list[str]]:
    """`-v` options for a build: certificates, a pip.conf with the host's settings, and a download cache."""
    settings = host_settings()
    cache.mkdir(parents=True, exist_ok=True)
    options = ["-v", f"{cache}:/root/.cache/pip:rw"]
    if CERTIFICATES.is_dir():
        options += ["-v", f"{CERTIFICATES}:{CERTIFICATES}:ro"]
    for path in local_paths(settings):
        options += ["-v", f"{path}:{path}:ro"]
    with tempfile.TemporaryDirectory(prefix="trimtab-pip-") as folder:
        config = Path(folder) / "pip.conf"
        config.write_text(pip_conf(settings), encoding="utf-8")
        config.chmod(0o644)
        yield [*options, "-v", f"{config}:/etc/pip.conf:ro"]


def host_settings() -> dict[str, str]:
    """pip's settings on this machine; what the environment says wins over files, as in pip itself."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], check=False, capture_output=True, text=True
    ).stdout
    return parse_settings(listed)


def parse_settings(listed: str) -> dict[str, str]:
    """`pip config list` output -> option: value, the options of `install` and the environment last."""
    rank = {"global": 0, "install": 1, ":env:": 2}
    found: dict[str, tuple[int, str]] = {}
    for line in listed.splitlines():
        key, _, value = line.partition("=")
        section, _, option = key.partition(".")
        if section in rank and option in _PASSED_ON:
            text = value.strip().strip("'\"").replace("\\n", "\n")
            if option not in found or rank[section] >= found[option][0]:
                found[option] = (rank[section], text)
    return {option: text for option, (_, text) in found.items()}


def local_paths(settings: dict[str, str]) -> list[str]:
    """Folders and files on this machine that the settings name and that the certificates mount does not cover."""
    words = [word for option in ("find-links", "cert") for word in settings.get(option, "").split()]
    paths = [word for word in words if word.startswith("/") and Path(word).exists()]
    return [path for path in paths if not Path(path).is_relative_to(CERTIFICATES)]


def pip_conf(settings: dict[str, str]) -> str:
    """The settings as a pip.conf."""
    config = configparser.RawConfigParser()
    config["global"] = {"disable-pip-version-check": "true", "root-user-action": "ignore"}
    for option, value in settings.items():
        config["global"][option] = "\n".join(value.split())
    lines = ["[global]"]
    for option, value in config["global"].items():
        lines.append(f"{option} = " + value.replace("\n", "\n    "))
    return "\n".join(lines) + "\n"
