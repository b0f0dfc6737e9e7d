# Makes the environment that scripts/run and scripts/test work in; sourced by them, not run.
#
# `ready [EXTRA]` leaves a `.venv` in the checkout with the package (editable) and an extra's
# dependencies. A stamp in `.venv`, written last, holds a checksum of what the environment was made
# from: while it is right nothing is done, and an installation that was cut short has none.
#
# PYTHON=/path/to/python chooses the Python that a new environment is made with.

root=$(cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv

say() { printf '%s\n' "$*" >&2; }

# One line, and out: 2 where the machine lacks something, 1 where something went wrong.
fail() {
  local status=$1
  shift
  say "jaxsci: $*"
  exit "$status"
}

# What an environment is made from: the checkout's place, its metadata, the constraints, the extra.
checksum() {
  local files=("$root/pyproject.toml")
  [ -f "$root/scripts/constraints.txt" ] && files+=("$root/scripts/constraints.txt")
  { printf '%s\n' "$root" "$1" && cat -- "${files[@]}"; } | cksum
}

# Whether the stamp of one of these extras is right; the empty name is the package alone.
is_ready() {
  local extra stamp
  [ -x "$venv/bin/python" ] || return 1
  for extra in "$@"; do
    stamp=$venv/.jaxsci-stamp-${extra:-run}
    [ -f "$stamp" ] && [ "$(cat -- "$stamp")" = "$(checksum "$extra")" ] && return 0
  done
  return 1
}

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

# Sets `python` to the first Python that will do, or to nothing, with the reason in `lack`.
find_python() {
  local name path
  local names=(python3 python3.14 python3.13 python3.12 python3.11 python)
  [ -n "${PYTHON:-}" ] && names=("$PYTHON")
  python='' lack="no ${names[0]} here that runs"
  for name in "${names[@]}"; do
    path=$(command -v -- "$name") || continue
    "$path" -c '' >/dev/null 2>&1 || continue
    if ! is_new_enough "$path"; then
      case $lack in no\ *) lack="$path is $("$path" --version 2>&1), too old" ;; esac
    elif [ -z "$uv" ] && ! "$path" -c 'import venv, ensurepip' >/dev/null 2>&1; then
      lack="$path has no venv module (Debian, Ubuntu: apt install python3-venv)"
    else
      python=$path
      break
    fi
  done
  return 0
}

# Keeps an environment that works, whoever made it; makes one where there is none.
make_venv() {
  local why=''
  if [ -e "$venv" ] || [ -L "$venv" ]; then
    if [ -f "$venv/.jaxsci-installing" ]; then
      why='its last installation was cut short'
    elif [ -f "$venv/.jaxsci-root" ] && [ "$(cat -- "$venv/.jaxsci-root")" != "$root" ]; then
      why='it was moved here from another folder'
    elif ! "$venv/bin/python" -c '' >/dev/null 2>&1; then
      why='its Python does not run'
    elif ! is_new_enough "$venv/bin/python"; then
      why='its Python is older than 3.11'
    else
      return 0
    fi
  fi
  find_python
  [ -n "$python$uv" ] || fail 2 "needs Python 3.11 or newer with pip and venv, or uv: $lack"
  say "jaxsci: making .venv${why:+ anew: $why}"
  rm -rf -- "$venv"
  if [ -n "$uv" ]; then
    "$uv" venv --quiet --python "${python:->=3.11}" "$venv" >"$log" 2>&1 ||
      fail 2 "uv cannot make .venv with Python 3.11 or newer: $(last_line) (all of it: $log)"
  else
    "$python" -m venv "$venv" >"$log" 2>&1 ||
      fail 2 "$python cannot make .venv: $(last_line) (all of it: $log)"
  fi
}

install_packages() {
  local extra=$1 constraints=() command status=0
  [ -f "$root/scripts/constraints.txt" ] && constraints=(-c "$root/scripts/constraints.txt")
  if [ -n "$uv" ]; then
    command=("$uv" pip install --python "$venv/bin/python")
  else
    # An environment that uv made has no pip.
    "$venv/bin/python" -m pip --version >/dev/null 2>&1 ||
      "$venv/bin/python" -m ensurepip >"$log" 2>&1 ||
      fail 2 '.venv has no pip, and its Python no ensurepip to get it: delete .venv or install uv'
    command=("$venv/bin/python" -m pip install --disable-pip-version-check --retries 2)
  fi
  # Stays behind if this is killed, and then the environment cannot be trusted.
  : >"$venv/.jaxsci-installing"
  "${command[@]}" ${constraints[@]+"${constraints[@]}"} -e "$root${extra:+[$extra]}" \
    >"$log" 2>&1 || status=$?
  rm -f -- "$venv/.jaxsci-installing"
  [ "$status" = 0 ] && return
  if grep -Eiq "$no_network" "$log"; then
    fail 1 "no network: the packages cannot be fetched (all of it: $log)"
  fi
  fail 1 "the packages cannot be installed: $(last_line) (all of it: $log)"
}

no_network='name resolution|name or service not known|nodename nor servname|network is unreachable'
no_network+='|connection refused|connection timed out|read timed out|no route to host'
no_network+='|failed to establish a new connection|dns error|error sending request|proxyerror'
no_network+='|cannot connect to proxy'

last_line() { grep -Ei 'error|cannot|denied|no space' "$log" | tail -n 1 || tail -n 1 "$log"; }

# ready [EXTRA]: the environment is there, or the script ends with a line that says why not.
ready() {
  local extra=${1:-} accepted
  accepted=("$extra")
  # What the tests need contains what a run needs.
  [ -n "$extra" ] || accepted+=(test)
  is_ready "${accepted[@]}" && return
  uv=$(command -v uv || true)
  log=$root/.cache/install.log
  { mkdir -p "$root/.cache" && : >>"$root/.cache/venv.lock"; } 2>/dev/null ||
    fail 1 "cannot write in $root"
  # Two calls at once would install into each other's half-made environment.
  if command -v flock >/dev/null; then
    exec 9>"$root/.cache/venv.lock"
    flock -n 9 || { say 'jaxsci: another call is making .venv; waiting' && flock 9; }
  fi
  if ! is_ready "${accepted[@]}"; then
    rm -f -- "$venv"/.jaxsci-stamp-*
    make_venv
    say "jaxsci: installing packages into .venv; the first time takes a minute or two"
    install_packages "$extra"
    printf '%s\n' "$root" >"$venv/.jaxsci-root"
    checksum "$extra" >"$venv/.jaxsci-stamp-${extra:-run}"
  fi
  exec 9>&- # Lets the next one in.
}
