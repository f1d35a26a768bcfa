#!/usr/bin/env bash
# Make the environment that mmdiff runs in: a virtual environment with torch, the
# mm packages with mmcv's ops for that torch, and mmdiff itself. A second call takes
# seconds. Variables:
#   STACK         onedl (default): the maintained forks; openmmlab: the classic releases
#   MMDIFF_VENV   default .venv, for the classic stack .venv-openmmlab
#   PYTHON        default python3
#   MMCV_COMPILE  1: compile mmcv's ops although a prebuilt wheel might be there
#   MMCV_BASE_URL where prebuilt wheels are, as mim understands it
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
STACK=${STACK:-onedl}
PYTHON=${PYTHON:-python3}
# Matching versions; mmcv's ops are for exactly this torch.
case $STACK in
    onedl)
        VENV=${MMDIFF_VENV:-$PWD/.venv}
        TORCH=2.8.0 TORCHVISION=0.23.0 MMCV=onedl-mmcv==2.3.6 NEWEST=12 NUMPY=numpy
        ;;
    openmmlab)
        VENV=${MMDIFF_VENV:-$PWD/.venv-openmmlab}
        TORCH=2.1.2 TORCHVISION=0.16.2 MMCV=mmcv==2.1.0 NEWEST=11 NUMPY='numpy<2'
        ;;
    *)
        echo "setup_env: STACK=$STACK must be onedl or openmmlab." >&2
        exit 1
        ;;
esac

fail() {
    echo "setup_env: $*" >&2
    exit 1
}
say() { echo "setup_env: $*"; }

command -v "$PYTHON" >/dev/null || fail "there is no $PYTHON; install Python 3.10 - 3.$NEWEST, or set PYTHON."
"$PYTHON" -c "import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, $NEWEST))" ||
    fail "$("$PYTHON" --version) is not supported; set PYTHON to a Python 3.10 - 3.$NEWEST."
"$PYTHON" -c 'import venv, ensurepip' 2>/dev/null ||
    fail "$PYTHON has no venv; install it (Debian: apt install python3-venv)."

STAMP="$VENV/mmdiff-setup"
WANT=$(cat setup.py pyproject.toml tools/setup_env.sh | cksum; pwd; echo "$STACK")
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
install "torch==$TORCH" "torchvision==$TORCHVISION" "$NUMPY"

# What mim asks: which wheels are for this torch and these cards ("cpu" without any).
DEVICE=$("$VENV/bin/python" -c 'import torch
print("cu" + torch.version.cuda.replace(".", "") if torch.cuda.is_available() else "cpu")')
CARDS=$("$VENV/bin/python" -c 'import torch
kinds = {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}
print(";".join("%d.%d" % kind for kind in sorted(kinds)))')
if [ "$STACK" = onedl ]; then
    # 2.8.0 is torch280 there.
    PREBUILT="${MMCV_BASE_URL:-https://mmwheels.onedl.ai}/$DEVICE-torch${TORCH//./}/simple/onedl-mmcv/index.html"
else
    # Wheels for torch 2.1.0 are for 2.1.2 as well.
    PREBUILT="${MMCV_BASE_URL:-https://download.openmmlab.com}/mmcv/dist/$DEVICE/torch${TORCH%.*}.0/index.html"
fi
WHEELS="${XDG_CACHE_HOME:-$HOME/.cache}/mmdiff/wheels/${MMCV#onedl-}"
WHEELS="${WHEELS/==/}-$("$VENV/bin/python" -c 'import sys, torch
print(f"py{sys.version_info[0]}{sys.version_info[1]}-torch{torch.__version__}")')"
if [ "$DEVICE" = cpu ]; then WHEELS+=-cpu; else WHEELS+="-$DEVICE-${CARDS//;/-}"; fi

has_ops() {
    "$VENV/bin/python" -c '
import torch
from mmcv.ops import nms

device = "cuda" if torch.cuda.is_available() else "cpu"
boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 4]], device=device)
assert len(nms(boxes, torch.ones(2, device=device), 0.5)[1]) == 1' 2>/dev/null
}

try_prebuilt() {
    say "looking for a prebuilt ${MMCV%%=*} for torch $TORCH ($DEVICE)"
    rm -rf "$WHEELS.prebuilt"
    "${PIP[@]}" download --quiet --no-deps --no-index --only-binary :all: --retries 0 \
        --timeout 15 -f "$PREBUILT" "$MMCV" -d "$WHEELS.prebuilt" 2>/dev/null || {
        rm -rf "$WHEELS.prebuilt"
        return 1
    }
    # Its ops need what mmcv imports.
    install "$WHEELS.prebuilt"/*.whl
    if has_ops; then
        rm -rf "$WHEELS"
        mv "$WHEELS.prebuilt" "$WHEELS"
    else
        say "that one has no ops for this torch"
        "${PIP[@]}" uninstall --quiet --yes "${MMCV%%=*}"
        return 1
    fi
}

compile() {
    command -v c++ >/dev/null || command -v g++ >/dev/null ||
        fail "there is no C++ compiler for mmcv's ops; install one (Debian: apt install g++)."
    if [ "$DEVICE" != cpu ]; then
        command -v nvcc >/dev/null || [ -x "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" ] ||
            fail "there is no nvcc for mmcv's CUDA ops; install the CUDA toolkit of torch $TORCH, or hide the cards: CUDA_VISIBLE_DEVICES= bash tools/setup_env.sh."
    fi
    say "compiling mmcv's ops against torch $TORCH, once (about 7 minutes on two cores)"
    rm -rf "$WHEELS.partial"
    mkdir -p "$WHEELS.partial"
    LOG="$WHEELS.partial/build.log"
    # Of the cards that are here only: for all kinds it would take half an hour.
    PATH="$VENV/bin:$PATH" MMCV_WITH_OPS=1 MAX_JOBS=${MAX_JOBS:-$(nproc)} \
        TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-$CARDS} \
        "${PIP[@]}" wheel -v --no-build-isolation --no-deps --no-binary :all: \
        "$MMCV" -w "$WHEELS.partial" >"$LOG" 2>&1 &
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
}

# mmcv: on the index there is only source, and built in pip's isolation it has no ops.
if ls "$WHEELS"/*.whl >/dev/null 2>&1; then
    say "taking mmcv's wheel from $WHEELS"
elif [ "${MMCV_COMPILE:-0}" = 0 ] && try_prebuilt; then
    say "took the prebuilt mmcv of ${PREBUILT%/*}"
else
    compile
fi
say "installing mmdiff and the mm packages"
install --no-deps "$WHEELS"/*.whl
# The mm packages' set-ups import torch: no isolation for them either.
install --no-build-isolation "torch==$TORCH" -e ".[$STACK,test]"
# Without what it asks for: its pin of requests would downgrade four packages.
install --no-deps torchattacks==3.5.1
has_ops || fail "mmcv's ops do not run in $VENV; remove $WHEELS and call this again."
"$VENV/bin/python" -c 'import mmdiff' ||
    fail "mmdiff does not import in $VENV; remove that folder and call this again."
printf '%s' "$WANT" >"$STAMP"
say "done: $VENV (source $VENV/bin/activate)"
