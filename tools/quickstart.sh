#!/usr/bin/env bash
# Set up, then train and attack a detector on the embedded demo: quickstart.sh [FLAGS]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash tools/setup_env.sh
exec "${MMDIFF_VENV:-$PWD/.venv}/bin/python" tools/quickstart.py "$@"
