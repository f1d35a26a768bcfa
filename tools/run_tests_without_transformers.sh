#!/usr/bin/env bash
# Run the tests of priors, backbones and attacks on the newest diffusers that is allowed,
# without transformers: run_tests_without_transformers.sh [PYTEST FLAGS]
# The environment links to the packages of the one that tools/setup_env.sh made.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
DIFFUSERS=0.42.1
VENV=${MMDIFF_VENV:-$PWD/.venv}
OTHER=$VENV-without-transformers

fail() {
    echo "run_tests_without_transformers: $*" >&2
    exit 1
}
[ -x "$VENV/bin/python" ] || fail "there is no $VENV; call bash tools/setup_env.sh first."
site() { "$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }

rm -rf "$OTHER"
"$VENV/bin/python" -m venv "$OTHER"
FROM=$(site "$VENV") TO=$(site "$OTHER")
for path in "$FROM"/*; do
    name=$(basename "$path")
    case $name in
        # Absent, newer here, or of the environment itself.
        transformers* | diffusers* | huggingface_hub* | pip* | __pycache__) continue ;;
        mmdiff* | __editable__*) continue ;;
    esac
    [ -e "$TO/$name" ] || ln -s "$path" "$TO/$name"
done
"$OTHER/bin/python" -m pip --disable-pip-version-check install --quiet \
    "diffusers==$DIFFUSERS" ||
    fail "pip could not install diffusers $DIFFUSERS; check the network (package index)."
OMP_NUM_THREADS=1 PYTHONPATH=$PWD "$OTHER/bin/python" -m pytest -o addopts= -ra \
    tests/diffusion tests/models tests/attacks "$@"
