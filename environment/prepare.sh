# Makes .venv hold what the lock files pin, plus this package, or ends with a sentence; needs Python >= 3.11.
#
#   bash environment/prepare.sh runtime     from anywhere; the launchers source it and call prepare_environment
#
#   runtime  what training needs
#   dev      runtime and the tests' packages, with the same pins
#   bench    dev and the packages that the benchmarks compare with
#
# Copies of the installed lock files in .venv/.installed, written last, say what is there. The file
# .venv/.installing exists while an installation runs, so an interrupted one is recognised and repaired.

say() { echo "Environment: $*"; }

# Prints the first usable Python. PYTHON, where it is set, is the only candidate.
find_python() {
  local needed="venv, ensurepip" candidate
  has_uv && needed="venv" # uv installs without pip
  # Running it is the only proof: version managers put placeholders on the PATH.
  for candidate in ${PYTHON:-python3.13 python3.12 python3.11 python3.14 python3 python}; do
    if "$candidate" -c "import sys, $needed; sys.exit(sys.version_info < (3, 11))" >/dev/null 2>&1; then
      echo "$candidate"
      return
    fi
  done
  say "no Python 3.11 or newer with its venv module was found${PYTHON:+ (PYTHON=$PYTHON)}." >&2
  say "Install one (on Debian and Ubuntu: python3 and python3-venv), or name one: PYTHON=/path/to/python3" >&2
  return 2
}

has_uv() { uv --version >/dev/null 2>&1; }

locks_of() {
  case $1 in
    runtime) echo runtime ;;
    dev) echo dev runtime ;;
    bench) echo bench dev runtime ;;
  esac
}

# Prints why .venv cannot be completed in place; nothing if it can.
why_broken() {
  if ! .venv/bin/python -c "" 2>/dev/null; then
    echo "its Python does not start"
  elif ! .venv/bin/python -c "import sys; sys.exit(sys.version_info < (3, 11))"; then
    echo "its Python is older than 3.11"
  elif [ -e .venv/.installing ]; then
    echo "an earlier set-up was interrupted"
  elif [ -e .venv/.installed/checkout ] && [ "$(cat .venv/.installed/checkout)" != "$PWD" ]; then
    echo "it was made for another folder"
  fi
}

is_ready() {
  local lock
  for lock in $(locks_of "$1"); do
    cmp -s "environment/$lock.lock" ".venv/.installed/$lock.lock" || return 1
  done
  [ -z "$(why_broken)" ]
}

# Installs lock files, then this package: with uv, which is fetched where it is missing, else with pip.
# Empty arrays are unset variables to bash 3, which macOS has: ${quiet[@]+…}.
install_locked() {
  local uv=uv pip=(.venv/bin/python -m pip --disable-pip-version-check --no-input) quiet=() lock
  [ -t 2 ] || quiet=(--quiet) # progress bars are for terminals
  if ! has_uv; then
    .venv/bin/python -m ensurepip >/dev/null 2>&1
    say "fetching uv with pip."
    uv=.venv/bin/uv
    "${pip[@]}" ${quiet[@]+"${quiet[@]}"} install --only-binary :all: --require-hashes --requirement environment/installer.lock
  fi
  # As pip does, trust the system's certificates: a company's proxy is not among uv's own. The second name
  # is that of older versions of uv.
  export UV_SYSTEM_CERTS="${UV_SYSTEM_CERTS-true}" UV_NATIVE_TLS="${UV_NATIVE_TLS-true}"
  local install=("$uv" pip install --python .venv/bin/python ${quiet[@]+"${quiet[@]}"}) binary=(--no-build) offline=--offline
  if "$uv" --version >/dev/null 2>&1; then
    # uv does not read pip's settings; a mirror named there is meant for uv as well.
    if [ -z "${UV_DEFAULT_INDEX-}${UV_INDEX_URL-}" ]; then
      local index
      index=$("$base" -m pip config list 2>/dev/null | sed -n "s/^[a-z:]*\.index-url='\(.*\)'$/\1/p" | head -n 1)
      [ -z "$index" ] || export UV_DEFAULT_INDEX="$index"
    fi
  else
    say "uv is not available; installing with pip, which takes longer."
    install=("${pip[@]}" ${quiet[@]+"${quiet[@]}"} install) binary=(--only-binary :all:) offline=--no-index
  fi
  for lock in "$@"; do
    "${install[@]}" "${binary[@]}" --no-deps --require-hashes --requirement "environment/$lock.lock" || return 1
  done
  "${install[@]}" --no-deps --no-build-isolation "$offline" --editable .
}

build_environment() {
  local kind=$1 reason=missing started=$SECONDS
  if [ -L .venv ]; then # it may serve other checkouts: remove the link, never its target
    say ".venv was a link to $(readlink .venv), which is left unchanged."
    rm .venv
  elif [ -e .venv ]; then
    reason=$(why_broken)
  fi
  if [ -n "$reason" ]; then
    say "creating .venv ($reason) with $("$base" --version 2>&1)."
    if ! "$base" -m venv --clear $(has_uv && echo --without-pip) .venv; then
      say "$base could not create .venv; on Debian and Ubuntu it needs the package python3-venv." >&2
      return 1
    fi
  fi
  rm -rf .venv/.installed
  touch .venv/.installing
  say "installing the pinned packages; PyTorch with its CUDA libraries is several GB."
  local pinned=(runtime)
  [ "$kind" = runtime ] || pinned=(dev)
  [ "$kind" != bench ] || pinned+=(bench)
  if ! install_locked "${pinned[@]}"; then
    say "the packages could not be installed (see above). It needs a package index and 8 GB of disk space." >&2
    say "Run the same command again to resume." >&2
    return 1
  fi
  local lock
  mkdir -p .venv/.installed
  for lock in $(locks_of "$kind"); do cp "environment/$lock.lock" .venv/.installed/; done
  echo "$PWD" >.venv/.installed/checkout
  rm .venv/.installing
  say "ready after $((SECONDS - started)) s."
}

prepare_environment() {
  unset PYTHONHOME PYTHONPATH # packages from elsewhere must not stand in for the pinned ones
  # uv installs sources only. Each worker imports 3,000 of them: 4 s of a core from the bytecode that the
  # first one leaves, 10 s where none may be left.
  unset PYTHONDONTWRITEBYTECODE
  is_ready "$1" && return
  local base
  base=$(find_python) || exit
  (
    # One launcher at a time changes .venv; where flock is missing, start only one.
    if command -v flock >/dev/null; then
      flock --nonblock 9 || { say "waiting for another launcher that is setting up .venv." && flock 9; }
    fi
    is_ready "$1" || build_environment "$1"
  ) 9>.venv.lock || exit
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
  set -euo pipefail
  case "$#${1-}" in
    1runtime | 1dev | 1bench) ;;
    *) echo "usage: bash environment/prepare.sh runtime|dev|bench" >&2 && exit 2 ;;
  esac
  cd "$(dirname "${BASH_SOURCE[0]}")/.."
  prepare_environment "$1"
  say "ready: python train_clip.py --help"
fi
