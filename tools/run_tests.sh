#!/usr/bin/env bash
# Set up, then lint, check types and run all tests: run_tests.sh [PYTEST FLAGS]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash tools/setup_env.sh
BIN=${MMDIFF_VENV:-$PWD/.venv}/bin
"$BIN/ruff" check .
"$BIN/ruff" format --check .
"$BIN/mypy"
# Small operations: more threads than one only get in each other's way. So a process for
# each core, and each file of tests in one of them.
OMP_NUM_THREADS=1 "$BIN/python" -m pytest -n auto --dist loadfile "$@"
