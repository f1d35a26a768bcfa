#!/usr/bin/env bash
# Train on several GPUs of one or more machines: dist_train.sh CONFIG GPUS [FLAGS]
set -euo pipefail
CONFIG=$1
GPUS=$2
torchrun --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" \
    --nproc_per_node="$GPUS" --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    "$(dirname "$0")/train.py" "$CONFIG" --launcher pytorch "${@:3}"
