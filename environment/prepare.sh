# Sourced by the launchers, in the checkout: `prepare_environment runtime` or `prepare_environment dev`
# makes .venv ready, or ends the script with a sentence. Nothing but Python >= 3.11 has to be there.

# Prints the first Python that can make an environment. PYTHON, where it is set, is the only candidate.
find_python() {
  local needed="venv, ensurepip" candidates="python3.13 python3.12 python3.11 python3.14 python3 python"
  uv --version >/dev/null 2>&1 && needed="venv" # uv installs without pip
  local candidate
  while read -r candidate; do
    # Being on PATH is not enough: some names there only say that no such version is installed.
    if "$candidate" -c "import sys, $needed; sys.exit(sys.version_info < (3, 11))" >/dev/null 2>&1; then
      printf '%s\n' "$candidate"
      return 0
    fi
  done < <(if [ -n "${PYTHON-}" ]; then printf '%s\n' "$PYTHON"; else printf '%s\n' $candidates; fi)
  {
    echo "Environment: no Python 3.11 or newer with its venv module was found (tried: ${PYTHON:-$candidates})."
    echo "Install one (on Debian and Ubuntu: python3 and python3-venv), or name one: PYTHON=/path/to/python3"
  } >&2
  return 1
}

prepare_environment() {
  local kind=$1 base
  unset PYTHONHOME PYTHONPATH # packages from elsewhere must not stand in for the pinned ones
  # uv installs sources only. Every worker imports 3,000 of them, which takes 4 s of a core from the
  # bytecode that the first one leaves, and 10 s where none may be left.
  unset PYTHONDONTWRITEBYTECODE
  if .venv/bin/python environment/prepare.py check "$kind" 2>/dev/null; then
    return 0
  fi
  base=$(find_python) || exit 2
  "$base" environment/prepare.py build "$kind" || exit
}
