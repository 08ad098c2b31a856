#!/bin/sh
# Makes .venv with everything the demo and the tests need. Safe to run again; needs the network only when something is missing.
set -eu
cd "$(dirname "$0")/.."

fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then sudo "$@"; else return 1; fi
}

apt_install() { # package, what it is for
    command -v apt-get >/dev/null || fail "$2 is missing; install it with your system's package manager (Debian: $1), then try again"
    echo "setup: installing $1 ($2)"
    as_root sh -c "export DEBIAN_FRONTEND=noninteractive; apt-get install -y -q $1 || (apt-get update -q && apt-get install -y -q $1)" >/dev/null ||
        fail "$2 is missing; run 'sudo apt-get install $1', then try again"
}

for candidate in "${PYTHON:-python3}" python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$candidate; break; fi
done
[ -n "${python:-}" ] || fail "Python 3.11 or newer is needed; install it, or name it: make PYTHON=/path/to/python3.11 ..."
"$python" -c 'import venv, ensurepip' 2>/dev/null || apt_install python3-venv "Python's venv module"

# MuJoCo draws without a screen or a GPU through OSMesa. A CUDA machine draws through EGL and can do without it.
has_osmesa() { "$python" -c 'import ctypes.util, sys; sys.exit(ctypes.util.find_library("OSMesa") is None)'; }
[ -e /dev/nvidia0 ] || has_osmesa || apt_install libosmesa6 "the OSMesa library, which draws the pictures,"

[ -x .venv/bin/python ] || "$python" -m venv .venv
echo "setup: installing the Python packages (pinned in constraints.txt)"
.venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
touch .venv/ready
