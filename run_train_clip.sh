#!/usr/bin/env bash
# Cross-validates every config of CONFIG_FILE. On a fresh machine it first creates .venv.
#
#   bash run_train_clip.sh                                   uses the settings below
#   DATA_DIR=my_images GPUS="0 1" bash run_train_clip.sh     environment variables override settings
#   bash run_train_clip.sh --overwrite                       further options are passed to train_clip.py
#   bash run_train_clip.sh --help                            shows this and the settings
#
# Paths are relative to this file's folder. Hyperparameters are set in CONFIG_FILE only.
# The options of train_clip.py: python train_clip.py --help
set -euo pipefail
DEMO_DIR=demo_data
SETTINGS="DATA_DIR OUTPUT_BASE_DIR CONFIG_FILE USE_MULTI_CONFIG GPUS LOG_DIR"
for name in $SETTINGS; do printf -v "FROM_ENVIRONMENT_$name" '%s' "${!name-}"; done

# ---------------------------------------------------------------- settings
# Images: a folder per class, or a CSV file with the columns path,label[,group]
DATA_DIR="single_label_data"

# Results: OUTPUT_BASE_DIR/<config name>/
OUTPUT_BASE_DIR="checkpoints/clip_models"

# The list of configs
CONFIG_FILE="train_clip_config.json"

# true: train every config of the list; false: the file must contain exactly one
USE_MULTI_CONFIG=true

# GPUs to use; without a GPU, training runs on the CPU and the log says so
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

from=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")"
for word in "$@"; do
  if [ "$word" = --help ] || [ "$word" = -h ]; then
    sed -n '2,/^# ----*$/ { s/^# \{0,1\}//; /^set -e/d; /SETTINGS/d; /^DEMO_DIR/d; p; }' run_train_clip.sh
    exit
  fi
done
. environment/prepare.sh

if [ ! -e "$DATA_DIR" ]; then
  if [ "$DATA_DIR" != single_label_data ]; then
    echo "run_train_clip.sh: DATA_DIR '$DATA_DIR' does not exist (looked in $PWD)." >&2
    echo "Set it to a folder with one folder of images per class." >&2
    exit 2
  fi
  echo "There is no $DATA_DIR yet: training on an example, handwritten digits in $DEMO_DIR."
  DATA_DIR=$DEMO_DIR
fi

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

prepare_environment runtime

if [ "$DATA_DIR" = "$DEMO_DIR" ] && [ ! -e "$DEMO_DIR" ]; then
  .venv/bin/python -m clip_pkg.study.demo "$DEMO_DIR"
fi

# From another folder with its whole path, which the commands printed at the end then have.
script=train_clip.py
[ "$from" = "$PWD" ] || script=$PWD/train_clip.py
exec .venv/bin/python "$script" "${arguments[@]}" "$@"
