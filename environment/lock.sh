#!/usr/bin/env bash
# Writes the lock files from the version ranges in pyproject.toml. Needs uv and a package index.
#
#   bash environment/lock.sh              keeps the pins that still fit the ranges
#   bash environment/lock.sh --upgrade    takes the newest versions
#
# One version per package for Python 3.11 to 3.14 and every platform (markers say where it is needed),
# with the hashes of all its files and no word about where they are downloaded from.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
uv=$(command -v uv || true)
"${uv:-/}" --version >/dev/null 2>&1 || uv=.venv/bin/uv

lock() { # NAME, then inputs and options
  local name=$1
  shift
  "$uv" pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest --generate-hashes \
    --no-annotate --no-header --no-emit-index-url --no-emit-find-links \
    --output-file "environment/$name.lock" "$@"
}

# setuptools is needed to install the checkout itself without a build environment of its own.
build_requirement=$(mktemp)
trap 'rm -f "$build_requirement"' EXIT
echo "setuptools>=77" >"$build_requirement"

lock dev pyproject.toml "$build_requirement" --extra dev "$@"
lock runtime pyproject.toml "$build_requirement" --constraints environment/dev.lock "$@"
# What is compared with, and none of what it pulls in besides: its losses need nothing of that.
lock bench pyproject.toml --extra bench --no-deps --constraints environment/dev.lock "$@"
echo uv | lock installer - "$@"
