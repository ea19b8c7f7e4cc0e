#!/bin/sh
# Load the workers. With a scenario: `es load run`. Without: create users with many `es` processes in a closed loop, which
# needs `es` and POSIX tools only. Each command has a timeout of its own, and -t limits the whole run.
set -u

usage() {
    cat <<'TEXT'
usage: scripts/load.sh SCENARIO.toml [OPTIONS of `es load run`]
       scripts/load.sh [-p PROCESSES] [-n USERS] [-m single|bulk] [-b LINES] [-t SECONDS]

With a scenario, such as scripts/scenarios/smoke.toml, it is `es load run`: requests at given rates from one pipelined client,
a report, and a check that no command was lost or done twice. `es help load run` lists its options.

Without one it creates USERS users from PROCESSES processes at once, against the current ES_HOME: each process sends its next
command when the one before has ended, as a loop in a shell does.

  -p PROCESSES  processes at once, 1 to 256 (default 4)
  -n USERS      users to create in all, 1 to 10000000 (default 200)
  -m MODE       single: one `es users create` per user (default)
                bulk:   `es users create --from -` with LINES users each
  -b LINES      users per command in bulk mode, 1 to 100000 (default 500)
  -t SECONDS    start no new command after this time, 1 to 86400 (default 300)
  -h            show this

Without a scenario it prints one "name value" per line. The latency is that of a whole `es` command with the start of its process.
Exit code: 0 if every user was created, 1 if not, 2 for wrong usage, 130 if interrupted.
TEXT
}

wrong() {
    printf 'load.sh: %s\n' "$1" >&2
    usage >&2
    exit 2
}

# whole NAME VALUE MAX: exit unless VALUE is a whole number from 1 to MAX.
whole() {
    case $2 in
        '' | *[!0-9]* | 0* | ?????????*) wrong "$1 must be a whole number from 1 to $3" ;;
    esac
    [ "$2" -le "$3" ] || wrong "$1 must be a whole number from 1 to $3"
}

need_es() {
    command -v es >/dev/null || wrong "there is no \`es\` in PATH; activate its environment first"
}

case ${1-} in
    *.toml)
        need_es
        exec es load run "$@"
        ;;
esac

processes=4 users=200 mode=single lines=500 seconds=300
while getopts ':p:n:m:b:t:h' flag; do
    case $flag in
        p) processes=$OPTARG ;;
        n) users=$OPTARG ;;
        m) mode=$OPTARG ;;
        b) lines=$OPTARG ;;
        t) seconds=$OPTARG ;;
        h) usage && exit 0 ;;
        :) wrong "-$OPTARG needs a value" ;;
        *) wrong "there is no flag -$OPTARG" ;;
    esac
done
shift $((OPTIND - 1))
[ $# -eq 0 ] || wrong "unexpected argument '$1'"
whole -p "$processes" 256
whole -n "$users" 10000000
whole -b "$lines" 100000
whole -t "$seconds" 86400
case $mode in single | bulk) ;; *) wrong "-m must be single or bulk" ;; esac
need_es

# Milliseconds since 1970 with GNU, busybox and recent BSD date; whole seconds with others.
case $(date +%N) in
    '' | *[!0-9]*)
        printf 'load.sh: this date(1) has whole seconds only, so latencies are whole seconds\n' >&2
        now_ms() { printf '%s000\n' "$(date +%s)"; }
        ;;
    *)
        now_ms() {
            now=$(date +%s%N)
            printf '%s\n' "${now%??????}"
        }
        ;;
esac

work=${TMPDIR:-/tmp}/es-load.$$
(umask 077 && mkdir "$work") || exit 1
started_ms=$(now_ms)
deadline_ms=$((started_ms + seconds * 1000))
run=$started_ms-$$ # part of every address, so that runs do not share addresses

# single NAME FIRST LAST: create users one by one and print a line "milliseconds succeeded codes…" for each command.
single() {
    number=$2
    while [ "$number" -le "$3" ] && [ ! -e "$work/stop" ]; do
        begun_ms=$(now_ms)
        [ "$begun_ms" -lt "$deadline_ms" ] || return 0
        es users create --json --email "load-$run-$number@example.com" --name "Load $number" \
            >"$work/$1.out" 2>"$work/$1.err" </dev/null
        code=$?
        ended_ms=$(now_ms)
        if [ "$code" -eq 0 ]; then
            printf '%s 1\n' $((ended_ms - begun_ms))
        else
            printf '%s 0 %s\n' $((ended_ms - begun_ms)) "$(codes "$code" "$work/$1.err")"
        fi
        number=$((number + 1))
    done
}

# bulk NAME FIRST LAST: the same with many users in each command.
bulk() {
    number=$2
    while [ "$number" -le "$3" ] && [ ! -e "$work/stop" ]; do
        last=$((number + lines - 1))
        [ "$last" -le "$3" ] || last=$3
        awk -v run="$run" -v n="$number" -v last="$last" 'BEGIN {
            for (; n <= last; n++)
                printf "{\"email\":\"load-%s-%d@example.com\",\"name\":\"Load %d\"}\n", run, n, n
        }' >"$work/$1.in"
        begun_ms=$(now_ms)
        [ "$begun_ms" -lt "$deadline_ms" ] || return 0
        es users create --from - <"$work/$1.in" >"$work/$1.out" 2>"$work/$1.err"
        code=$?
        ended_ms=$(now_ms)
        asked=$((last - number + 1))
        answered=$(grep -c . "$work/$1.out")
        succeeded=$((answered - $(grep -c '"error":{' "$work/$1.out")))
        printf '%s %s' $((ended_ms - begun_ms)) "$succeeded"
        [ "$succeeded" -eq "$answered" ] || printf ' %s' "$(codes "$code" "$work/$1.out")"
        # A command that ended early leaves users without an answer.
        awk -v n=$((asked - answered)) -v code="$code" 'BEGIN { while (n-- > 0) printf " exit-%d", code; print "" }'
        number=$((last + 1))
    done
}

# codes EXIT FILE: print the error codes in a file, or the exit code if there are none.
codes() {
    awk -v code="$1" '
        match($0, /"code":"[^"]*"/) { printf "%s ", substr($0, RSTART + 8, RLENGTH - 9); found = 1 }
        END { if (!found) printf "exit-%d", code }
    ' "$2"
}

report() {
    ended_ms=$(now_ms)
    cat "$work"/*.times 2>/dev/null | sort -n >"$work/all"
    awk -v mode="$mode" -v processes="$processes" '
        { succeeded += $2; failed += NF - 2 }
        END {
            printf "mode %s\nprocesses %d\ncommands %d\n", mode, processes, NR
            printf "requests %d\nsucceeded %d\nfailed %d\n", succeeded + failed, succeeded, failed
        }
    ' "$work/all"
    awk '{ for (i = 3; i <= NF; i++) print $i }' "$work/all" | sort | uniq -c | awk '{ print "error", $2, $1 }'
    awk -v ms=$((ended_ms - started_ms)) '
        function percentile(share,    rank) {
            rank = int(NR * share)
            if (rank < NR * share) rank++
            return latency[rank]
        }
        { latency[NR] = $1; succeeded += $2 }
        END {
            if (ms < 1) ms = 1
            printf "seconds %.2f\nthroughput_per_s %.1f\n", ms / 1000, succeeded * 1000 / ms
            printf "latency_p50_ms %d\nlatency_p95_ms %d\n", percentile(0.50), percentile(0.95)
            printf "latency_p99_ms %d\nlatency_max_ms %d\n", percentile(0.99), latency[NR]
        }
    ' "$work/all"
}

# Each process looks for this file between two commands, so that it finishes the command under way.
interrupted=
trap 'interrupted=yes; : >"$work/stop"' INT TERM HUP
trap 'rm -rf "$work"' EXIT

[ "$processes" -le "$users" ] || processes=$users
process=0
while [ "$process" -lt "$processes" ]; do
    first=$((users * process / processes + 1))
    process=$((process + 1))
    "$mode" "$process" "$first" $((users * process / processes)) >"$work/$process.times" &
done
while ! wait; do :; done # a signal interrupts a wait
wait
report

[ -z "$interrupted" ] || exit 130
awk -v users="$users" '{ succeeded += $2 } END { exit succeeded != users }' "$work/all"
