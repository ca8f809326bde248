#!/usr/bin/env bash
# Compares losses for pre-training without labels: trains every config, then writes the table and
# the curves. On a fresh machine it first makes .venv. The same command goes on after a stop.
#
#   DATA_DIR=cifar100 ./run.sh                 or cifar10: downloaded, or made from the archive there
#   DATA_DIR=train TEST_DIR=test ./run.sh
#   CONFIG_FILE=gpu_config.json DATA_DIR=train TEST_DIR=test ./run.sh --gpus 0,1
#
# Further options go to train_clip.py. Relative paths start at this file's folder. Results:
# OUTPUT_DIR, with comparison.md, comparison.csv, comparison.json and curves.svg in it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

# Folders with one folder of images per class; the test images are looked at once, at the end
DATA_DIR="${DATA_DIR:?set DATA_DIR to the folder of training images, or to cifar100}"
images=
case $DATA_DIR in
  cifar10 | cifar100) images=$DATA_DIR DATA_DIR=$images/train TEST_DIR=${TEST_DIR:-$images/test} ;;
esac
TEST_DIR="${TEST_DIR:?set TEST_DIR to the folder of test images}"
CONFIG_FILE="${CONFIG_FILE:-train_clip_config.json}"
OUTPUT_DIR="${OUTPUT_DIR:-results}"

for folder in "$DATA_DIR" "$TEST_DIR"; do
  { [ -e "$folder" ] || [ -n "$images" ]; } && continue
  echo "run.sh: '$folder' does not exist (looked in $PWD)." >&2
  exit 2
done
DATA_DIR=$(realpath -m "$DATA_DIR") TEST_DIR=$(realpath -m "$TEST_DIR")
CONFIG_FILE=$(realpath "$CONFIG_FILE") OUTPUT_DIR=$(realpath -m "$OUTPUT_DIR")

cd ../..
. environment/prepare.sh
prepare_environment runtime
[ -z "$images" ] || .venv/bin/python -m examples.contrastive.cifar "$images" "examples/contrastive/$images"

mkdir -p "$OUTPUT_DIR"
configs="$OUTPUT_DIR/configs.json"
TEST_DIR="$TEST_DIR" .venv/bin/python - "$CONFIG_FILE" >"$configs" <<'PYTHON'
import json, os, pathlib, sys

text = pathlib.Path(sys.argv[1]).read_text(encoding="utf-8")
sys.stdout.reconfigure(encoding="utf-8")
print(text.replace('"TEST_DIR"', json.dumps(os.environ["TEST_DIR"])), end="")
PYTHON

.venv/bin/python train_clip.py --data-dir "$DATA_DIR" --output-dir "$OUTPUT_DIR" \
  --log-dir "$OUTPUT_DIR/logs" --config-file "$configs" --multi-config \
  --continue-pretrain --continue-finetune "$@"

exec .venv/bin/python train_clip.py compare "$OUTPUT_DIR" --metric acc --output \
  "$OUTPUT_DIR"/comparison.{md,csv,json} "$OUTPUT_DIR/curves.svg"
