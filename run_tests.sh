#!/usr/bin/env bash
# Creates .venv with the development packages, then checks style and types and runs the tests.
#
#   bash run_tests.sh                         everything; fails below 90 % line coverage
#   bash run_tests.sh --fast                  style and tests/unit, which trains next to nothing
#   bash run_tests.sh tests/unit/config -x    arguments go to pytest; coverage is only reported
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. environment/prepare.sh
prepare_environment dev

python=.venv/bin/python
# Tests run in several processes, whose threads would wait for each other's cores.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"
# One file per process at a time, slow ones first (tests/conftest.py sorts them); one process more than
# cores, because slow tests often wait for others. `-n 0` runs everything in one process, for debuggers.
cores=$("$python" -c 'import os; print(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())')
pytest=("$python" -m pytest --numprocesses $((cores < 4 ? cores + 1 : 4)) --dist loadfile --no-loadscope-reorder)

echo "ruff check";  "$python" -m ruff check .
echo "ruff format"; "$python" -m ruff format --check .
if [ "${1-}" = --fast ]; then
  shift
  exec "${pytest[@]}" tests/unit "$@"
fi
echo "mypy";        "$python" -m mypy

required=()
[ $# -gt 0 ] || required=(--cov-fail-under=90)
exec "${pytest[@]}" --cov --cov-report=term ${required[@]+"${required[@]}"} "$@"
