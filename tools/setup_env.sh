#!/usr/bin/env bash
# Make the environment that mmdiff runs in: a virtual environment with torch, the
# maintained mm packages with mmcv's ops compiled against that torch, and mmdiff itself.
# A second call takes seconds. Variables: MMDIFF_VENV (default .venv), PYTHON (python3).
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
VENV=${MMDIFF_VENV:-$PWD/.venv}
PYTHON=${PYTHON:-python3}
# A matching pair; mmcv's ops are compiled against exactly this torch.
TORCH=2.8.0
TORCHVISION=0.23.0
MMCV=2.3.6

fail() {
    echo "setup_env: $*" >&2
    exit 1
}
say() { echo "setup_env: $*"; }

command -v "$PYTHON" >/dev/null || fail "there is no $PYTHON; install Python 3.10 - 3.12, or set PYTHON."
"$PYTHON" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' ||
    fail "$("$PYTHON" --version) is not supported; set PYTHON to a Python 3.10 - 3.12."
"$PYTHON" -c 'import venv, ensurepip' 2>/dev/null ||
    fail "$PYTHON has no venv; install it (Debian: apt install python3-venv)."

STAMP="$VENV/mmdiff-setup"
WANT=$(cat setup.py pyproject.toml tools/setup_env.sh | cksum; pwd)
if [ -f "$STAMP" ] && [ "$(cat "$STAMP")" = "$WANT" ]; then
    say "$VENV is up to date"
    exit 0
fi

FREE=$(df -Pk . | awk 'NR == 2 {print int($4 / 1048576)}')
[ "$FREE" -ge 8 ] || [ -f "$STAMP" ] ||
    fail "only $FREE GiB are free here and 8 are needed (torch is large); make room, or set MMDIFF_VENV to another disk."

[ -x "$VENV/bin/python" ] || "$PYTHON" -m venv "$VENV"
PIP=("$VENV/bin/python" -m pip --disable-pip-version-check)
install() {
    "${PIP[@]}" install --quiet "$@" ||
        fail "pip could not install: $*; read the lines above, check the network (package index) and call this again."
}

say "installing torch $TORCH (about 3 GB with its CUDA libraries)"
install --upgrade pip 'setuptools<81' wheel ninja
install "torch==$TORCH" "torchvision==$TORCHVISION"

# mmcv: on the index there is only source, and built in pip's isolation it has no ops.
TAG=$("$VENV/bin/python" -c 'import sys, torch
cuda = "cuda" + torch.version.cuda if torch.cuda.is_available() else "cpu"
print(f"py{sys.version_info[0]}{sys.version_info[1]}-torch{torch.__version__}-{cuda}")')
WHEELS="${XDG_CACHE_HOME:-$HOME/.cache}/mmdiff/wheels/mmcv$MMCV-$TAG"
if ! ls "$WHEELS"/*.whl >/dev/null 2>&1; then
    command -v c++ >/dev/null || command -v g++ >/dev/null ||
        fail "there is no C++ compiler for mmcv's ops; install one (Debian: apt install g++)."
    say "compiling mmcv's ops against torch $TORCH, once (about 7 minutes on two cores)"
    mkdir -p "$WHEELS.partial"
    LOG="$WHEELS.partial/build.log"
    PATH="$VENV/bin:$PATH" MMCV_WITH_OPS=1 MAX_JOBS=${MAX_JOBS:-$(nproc)} \
        "${PIP[@]}" wheel -v --no-build-isolation --no-deps --no-binary :all: \
        "onedl-mmcv==$MMCV" -w "$WHEELS.partial" >"$LOG" 2>&1 &
    BUILD=$!
    trap 'kill $BUILD 2>/dev/null || true' EXIT
    LAST=
    while kill -0 $BUILD 2>/dev/null; do
        sleep 3
        NOW=$(grep -oE '^ *\[[0-9]+/[0-9]+\]' "$LOG" | tail -n 1 || true)
        [ "$NOW" = "$LAST" ] || say "compiling$NOW"
        LAST=$NOW
    done
    trap - EXIT
    wait $BUILD || fail "mmcv did not compile; the end of $LOG: $(tail -n 3 "$LOG")"
    # Not grep -q: it would end the pipe early, which pipefail takes for an error.
    "$VENV/bin/python" -m zipfile -l "$WHEELS.partial"/*.whl | grep 'mmcv/_ext' >/dev/null ||
        fail "the mmcv that was built has no ops; see $LOG."
    rm -rf "$WHEELS"
    mv "$WHEELS.partial" "$WHEELS"
fi
say "installing mmdiff and the mm packages"
install --no-deps "$WHEELS"/*.whl
# The mm packages' set-ups import torch: no isolation for them either.
install --no-build-isolation "torch==$TORCH" -e '.[onedl,test]'
"$VENV/bin/python" -c 'import mmdiff' ||
    fail "mmdiff does not import in $VENV; remove that folder and call this again."
printf '%s' "$WANT" >"$STAMP"
say "done: $VENV (source $VENV/bin/activate)"
