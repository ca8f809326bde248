#!/usr/bin/env bash
# Trains every config of CONFIG_FILE with cross-validation. On a fresh machine it first makes .venv.
#
#   bash run_train_clip.sh                                   with the settings below
#   DATA_DIR=my_images GPUS="0 1" bash run_train_clip.sh     an environment variable wins over a setting
#   bash run_train_clip.sh --overwrite                       further options go to train_clip.py
#
# Relative paths start at this file's folder. Hyperparameters have one place, CONFIG_FILE.
set -euo pipefail
SETTINGS="DATA_DIR OUTPUT_BASE_DIR CONFIG_FILE USE_MULTI_CONFIG GPUS LOG_DIR"
for name in $SETTINGS; do printf -v "FROM_ENVIRONMENT_$name" '%s' "${!name-}"; done

# ---------------------------------------------------------------- settings
# Images: a folder per class, or a CSV file with the columns path,label[,group]
DATA_DIR="single_label_data"

# Results: OUTPUT_BASE_DIR/<config name>/
OUTPUT_BASE_DIR="checkpoints/clip_models"

# The list of configs
CONFIG_FILE="train_clip_config.json"

# true: train every config of the list; false: the file must hold exactly one
USE_MULTI_CONFIG=true

# GPUs to use; where there is none, training runs on the CPU and says so
GPUS=(0)

# One log file per config and GPU, made for tail -f
LOG_DIR="logs/clip_training"
# -------------------------------------------------------------------------

for name in $SETTINGS; do
  given="FROM_ENVIRONMENT_$name"
  [ -n "${!given}" ] || continue
  if [ "$name" = GPUS ]; then
    read -r -a GPUS <<<"${!given//,/ }"
  else
    printf -v "$name" '%s' "${!given}"
  fi
done

cd "$(dirname "${BASH_SOURCE[0]}")"
. environment/prepare.sh

arguments=(--data-dir "$DATA_DIR" --output-dir "$OUTPUT_BASE_DIR" --config-file "$CONFIG_FILE")
case $USE_MULTI_CONFIG in
  true | True | TRUE | 1 | yes) arguments+=(--multi-config) ;;
  false | False | FALSE | 0 | no) ;;
  *)
    echo "run_train_clip.sh: USE_MULTI_CONFIG is '$USE_MULTI_CONFIG'; it must be true or false." >&2
    exit 2
    ;;
esac
if [ -n "${GPUS[*]-}" ]; then
  arguments+=(--gpus "$(IFS=, && echo "${GPUS[*]}")")
fi
arguments+=(--log-dir "$LOG_DIR")

if [ ! -e "$DATA_DIR" ] && [ "$DATA_DIR" != single_label_data ]; then
  echo "run_train_clip.sh: DATA_DIR '$DATA_DIR' does not exist (looked in $PWD)." >&2
  echo "Set it to a folder with one folder of images per class." >&2
  exit 2
fi

prepare_environment runtime

if [ ! -e "$DATA_DIR" ]; then
  echo "DATA_DIR '$DATA_DIR' does not exist: making a small example there (handwritten digits)."
  .venv/bin/python -m clip_pkg.study.demo "$DATA_DIR"
fi

exec .venv/bin/python train_clip.py "${arguments[@]}" "$@"
