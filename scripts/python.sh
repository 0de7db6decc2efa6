# Sets PYTHON: the interpreter of the virtual environment that scripts/setup makes, else python3.
# Sourced by the scripts beside it, with `here` set to their folder.
if [ -z "${PYTHON:-}" ]; then
    PYTHON=python3
    if [ -x "$here/../.venv/bin/python" ]; then PYTHON="$here/../.venv/bin/python"; fi
fi
