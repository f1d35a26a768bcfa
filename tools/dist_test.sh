#!/usr/bin/env bash
# Test on several GPUs of one or more machines: dist_test.sh CONFIG CKPT GPUS [FLAGS]
set -euo pipefail
CONFIG=$1
CHECKPOINT=$2
GPUS=$3
torchrun --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" \
    --nproc_per_node="$GPUS" --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    "$(dirname "$0")/test.py" "$CONFIG" "$CHECKPOINT" --launcher pytorch "${@:4}"
