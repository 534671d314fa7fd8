# Finds a Python of at least 3.10 and names it in PYTHON (sourced by the other scripts).
for candidate in ${PYTHON:-} python3 python3.14 python3.13 python3.12 python3.11 python3.10; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
        PYTHON=$candidate
        break
    fi
    PYTHON=
done
if [ -z "${PYTHON:-}" ]; then
    echo "greenagent needs Python 3.10 or newer; set PYTHON to one" >&2
    exit 1
fi
