# What the launchers share; sourced by them, not run.
#
# `step COMMAND...` runs a command, or with --dry-run prints it, quoted so that a shell would take
# it back. `retry COMMAND...` repeats the job itself until it is done or cannot be done:
#
#   0 all claims hold, 1 a claim fails, 2 a mistake in the call     final: passed on
#   3 the experiment raised                                        final, a resumed run would too
#   130 Ctrl-C                                                     final, someone wanted it to end
#   anything else (143 SIGTERM, 137 SIGKILL, 255 a lost host)       resumed, at most RETRIES times

dry_run=false
RETRIES=${RETRIES:-100}
PAUSE=${PAUSE:-30}

say() { printf '%s\n' "$*" >&2; }

fail() {
  say "$(basename -- "$0"): $*"
  exit 2
}

quoted() {
  local word line=''
  for word in "$@"; do
    case $word in
      '' | *[!a-zA-Z0-9_./:=,@%+-]*) word="'${word//\'/\'\\\'\'}'" ;;
    esac
    line+="${line:+ }$word"
  done
  printf '%s\n' "$line"
}

step() { if $dry_run; then quoted "$@"; else "$@"; fi; }

is_final() { [ "$1" -le 3 ] || [ "$1" -eq 130 ]; }

retry() {
  local attempt=0 status
  if $dry_run; then
    quoted "$@"
    return
  fi
  while :; do
    status=0
    "$@" || status=$?
    is_final "$status" && return "$status"
    attempt=$((attempt + 1))
    if [ "$attempt" -gt "$RETRIES" ]; then
      say "$(basename -- "$0"): status $status; gave up after $RETRIES retries"
      return "$status"
    fi
    say "$(basename -- "$0"): status $status; retry $attempt of $RETRIES in $PAUSE s"
    sleep "$PAUSE"
  done
}

# The job's own words: everything after `--` or from the first word that is no option of the
# launcher. Every job can be resumed, so every job is told to.
need_job() {
  [ $# -gt 0 ] || fail "say what to run: SLUG [options of jaxsci run]; --help explains"
}
