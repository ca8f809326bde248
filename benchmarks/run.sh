#!/usr/bin/env bash
# Adds to .venv what the benchmarks compare with, then runs one of them.
#
#   bash benchmarks/run.sh losses --sizes 256     a script of this folder, then its options
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ ! -f "benchmarks/${1-}.py" ]; then
  echo "benchmarks/run.sh: name a script of this folder and its options, such as: losses --help" >&2
  exit 2
fi
. environment/prepare.sh
prepare_environment bench
exec .venv/bin/python -m "benchmarks.$1" "${@:2}"
