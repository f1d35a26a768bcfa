#!/usr/bin/env bash
# Set up, then train and attack a model on an embedded demo:
#   quickstart.sh [detection | classification] [FLAGS]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash tools/setup_env.sh
# Small operations: more threads than one only get in each other's way, and the number of
# threads changes sums in the last digits, which training carries on.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
exec "${MMDIFF_VENV:-$PWD/.venv}/bin/python" tools/quickstart.py "$@"
