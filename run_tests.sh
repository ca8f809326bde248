#!/usr/bin/env bash
# Sets up .venv with the development packages, then checks style, types and tests with coverage.
#
#   bash run_tests.sh                       everything; fails below 90 % line coverage
#   bash run_tests.sh tests/unit/config -x       arguments go to pytest; coverage is then only shown
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. environment/prepare.sh
prepare_environment dev

python=.venv/bin/python
# Tests run in several processes at once, whose threads would wait for each other's cores.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"
echo "ruff check";  "$python" -m ruff check .
echo "ruff format"; "$python" -m ruff format --check .
echo "mypy";        "$python" -m mypy

required=()
[ $# -gt 0 ] || required=(--cov-fail-under=90)
# One file per process at a time, slow ones first (tests/conftest.py puts them there); `-n 0` runs
# everything in one process, for debuggers.
parallel=(--numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder)
exec "$python" -m pytest "${parallel[@]}" --cov --cov-report=term ${required[@]+"${required[@]}"} "$@"
