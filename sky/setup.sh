#!/usr/bin/env bash
# Finds a Python that has what the worker needs, or makes one with sky/requirements.txt; writes its path to .python.
set -eu

if [ -n "${CROSSOVER_SETUP:-}" ]; then
    bash -euc "$CROSSOVER_SETUP" || { echo "error: launch.setup ended with exit code $?" >&2; exit 1; }
fi

# Whether a Python ($1) is new enough and has the packages named behind it.
has() {
    "$@" 2>/dev/null
}
check='import importlib.util as u, sys; from importlib.metadata import version as v; names = sys.argv[1:]
sys.exit(not (sys.version_info >= (3, 11) and all(map(u.find_spec, names)) and tuple(map(int, v("torch").split(".")[:2])) >= (2, 11)))'

use() {
    echo "using $1"
    echo "$1" > .python
    exit 0
}

if [ -n "${CROSSOVER_PYTHON:-}" ]; then
    has "$CROSSOVER_PYTHON" -c "$check" torch numpy scipy || {
        echo "error: $CROSSOVER_PYTHON is no Python of 3.11 or later with torch >= 2.11, numpy and scipy" >&2
        exit 1
    }
    use "$CROSSOVER_PYTHON"
fi

# Where images that bring torch keep their Python: on the PATH, conda's, a venv's.
torch=""
for candidate in python3 python /opt/conda/bin/python /venv/main/bin/python /opt/venv/bin/python /usr/bin/python3; do
    path=$(command -v "$candidate" 2>/dev/null) || continue
    if has "$path" -c "$check" torch numpy scipy; then
        use "$path"
    elif [ -z "$torch" ] && has "$path" -c "$check" torch; then
        torch=$path
    fi
done

venv=$HOME/crossover-venv
uv=$(command -v uv || command -v "$HOME/.local/bin/uv" || true)
if [ -n "$torch" ]; then
    echo "$torch has torch; adding the rest of sky/requirements.txt beside it"
    options=--system-site-packages
    wanted=$(grep -v '^\(#\|torch=\)' sky/requirements.txt)
else
    echo "no Python here has torch >= 2.11; installing sky/requirements.txt"
    options=""
    wanted=$(grep -v '^#' sky/requirements.txt)
fi
if [ -n "$uv" ]; then
    [ -x "$venv/bin/python" ] || "$uv" venv --quiet $options --python "${torch:-3.11}" "$venv"
    "$uv" pip install --quiet --python "$venv/bin/python" $wanted
else
    "${torch:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        echo "error: neither uv nor a Python of 3.11 or later is here; name an image that has torch with launch.image=docker:NAME" >&2
        exit 1
    }
    [ -x "$venv/bin/python" ] || "${torch:-python3}" -m venv $options "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check $wanted
fi
has "$venv/bin/python" -c "$check" torch numpy scipy || { echo "error: the installed torch can't be used" >&2; exit 1; }
use "$venv/bin/python"
