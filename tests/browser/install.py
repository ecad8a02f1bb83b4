#!/usr/bin/env python3
"""Installs what the browser tests need and this machine lacks: Chromium and Node from Debian, npm's part under .cache/.

    install.py

Debian's packages are installed as root, or by a sudo that asks nothing. The variable CHROMIUM names another browser. What
cannot be installed is said in a sentence, with exit code 1. Does nothing where everything is there.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
CACHE = HERE.parents[1] / ".cache/browser"
PINNED = ["package.json", "package-lock.json"]
# Keep in step with chromium.mjs.
BROWSERS = ["chromium", "chromium-browser", "google-chrome"]
NODE = (20, 19)


def fail(sentence):
    raise SystemExit(f"browser tests: {sentence}")


def debian(*packages):
    """Installs packages of the distribution; says what to do where that is not possible."""
    wanted = " ".join(packages)
    by_hand = f"install {wanted} by hand"
    if shutil.which("apt-get") is None:
        fail(f"there is no apt-get on this machine; {by_hand}")
    root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    if root and (shutil.which("sudo") is None or subprocess.run([*root, "true"], stderr=subprocess.DEVNULL).returncode):
        fail(f"only root can install what is missing: sudo apt-get install {wanted}")
    print(f"browser tests: installing {wanted}", flush=True)
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "--yes", "--no-install-recommends", *packages]):
        if subprocess.run([*root, "apt-get", "--quiet=2", *command], env=quiet).returncode:
            fail(f"apt-get {command[0]} failed; {by_hand}")


def chromium():
    named = os.environ.get("CHROMIUM")
    if named and not Path(named).is_file():
        fail(f"CHROMIUM names {named}, which is not there")
    if not named and not any(map(shutil.which, BROWSERS)):
        debian("chromium", "fonts-dejavu-core")


def node():
    if shutil.which("node") is None or shutil.which("npm") is None:
        debian("nodejs", "npm")
    version = subprocess.run(["node", "--version"], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < NODE:
        fail(f"Node {version} is too old; install {'.'.join(map(str, NODE))} or newer and put it into PATH")


def packages():
    """Exactly what the lock file says, once for each state of it."""
    installed = CACHE / "installed"
    pinned = b"".join((HERE / name).read_bytes() for name in PINNED)
    if installed.exists() and installed.read_bytes() == pinned:
        return
    CACHE.mkdir(parents=True, exist_ok=True)
    for name in PINNED:
        shutil.copyfile(HERE / name, CACHE / name)
    if subprocess.run(["npm", "ci", "--no-audit", "--no-fund", "--silent"], cwd=CACHE).returncode:
        fail("npm ci failed; look at what it said above, and whether its registry can be reached")
    installed.write_bytes(pinned)


if __name__ == "__main__":
    chromium()
    node()
    packages()
    sys.exit()
