#!/bin/sh
# Run the main commands with real output, in a temporary home. Needs `es` in PATH.
set -eu

ES_HOME=$(mktemp -d "${TMPDIR:-/tmp}/es-demo.XXXXXX")
export ES_HOME
unset ES_BROKER ES_STORE ES_DATABASE ES_VAULT ES_KEK_FILE ES_AUTOSTART  # your own parts and data are not used
trap 'es down >/dev/null 2>&1 || true; rm -rf "$ES_HOME"' EXIT
trap 'exit 130' INT TERM
trap 'exit 141' PIPE

bold='' plain=''
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then bold=$(printf '\033[1m') plain=$(printf '\033[0m'); fi
say() { printf '\n%s# %s%s\n' "$bold" "$*" "$plain"; }
run() {
  printf '$ es'
  for word in "$@"; do
    case $word in *[!A-Za-z0-9_./@=:-]*) printf " '%s'" "$word" ;; *) printf ' %s' "$word" ;; esac
  done
  printf '\n'
  es "$@"
}

say 'Start the workers in a temporary home'
run up

say 'Ids: unique, numeric, sortable by time'
printf '$ es ids next -n 3\n'
IDS=$(es ids next -n 3)
printf '%s\n' "$IDS"
run ids decode "${IDS##*
}"

say 'An account'
printf '$ es users create --email ada@example.com --name "Ada Lovelace"\n'
ID=$(es users create --email ada@example.com --name 'Ada Lovelace')
printf '%s\n' "$ID"
run users get "$ID"

say 'A rename, and all events of the account'
run users rename "$ID" 'Ada King'
run users history "$ID"

say 'The stored events: personal fields are sealed with the data key of this user'
run streams read "user-$ID"

say 'Rebuild the read model from the events, without an interruption of queries'
run projections rebuild users

say 'Erase the person: without the data key, no copy of the data can be opened'
run gdpr erase "$ID" --yes
run users get "$ID"
run users history "$ID"

say 'Stop'
run down
