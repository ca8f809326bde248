#!/usr/bin/env bash
# Trains the next-item model with InfoNCE, or with what it is compared with. On a fresh machine it
# first makes .venv.
#
#   ./run.sh                          InfoNCE: cosines against all sampled items of the batch
#   ./run.sh bce                      binary cross-entropy with one sampled item per position
#   DATA=log.txt ./run.sh bce --num_epochs 8     further options go to main.py
#
# Relative paths start at this file's folder. Results: results/infonce, results/bce.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. environment/prepare.sh
prepare_environment runtime
cd examples/next_item

# One `user item` pair of whole numbers per line, each user's in time order
DATA="${DATA:-interactions.txt}"

loss=(--use_infonce --infonce_temperature 0.2)
case ${1-} in
  infonce) shift ;;
  bce) shift && loss=() ;;
esac

exec ../../.venv/bin/python -u main.py \
  --data "$DATA" \
  --batch_size 256 \
  --lr 0.0007 \
  --num_epochs 4 \
  --dropout_rate 0.2 \
  --hidden_units 64 \
  --num_blocks 2 \
  --num_heads 2 \
  --norm_first \
  --maxlen 101 \
  --l2_emb 1e-6 \
  ${loss[@]+"${loss[@]}"} \
  "$@"
