#!/bin/sh
# Start or restart dockerd where no init system runs it, and wait until its API answers.
# Usage: engine.sh start|restart LOG_FILE SECONDS
set -eu

action=$1
log=$2
seconds=$3
pid_file=/var/run/docker.pid
socket=unix:///var/run/docker.sock

answers() {
    docker --host "$socket" version >/dev/null 2>&1
}

runs() {
    # A process that nobody has collected yet is gone, although its number is still taken.
    [ "$(cat "/proc/$1/comm" 2>/dev/null)" = dockerd ] && ! grep -q '^State:[[:space:]]*Z' "/proc/$1/status"
}

stop_engine() {
    [ -s "$pid_file" ] || return 0
    pid=$(cat "$pid_file")
    runs "$pid" || return 0
    kill "$pid"
    waited=0
    while runs "$pid"; do
        if [ "$waited" -ge "$((seconds * 2))" ]; then
            echo "dockerd (process $pid) did not stop within $seconds s; see $log" >&2
            exit 1
        fi
        waited=$((waited + 1))
        sleep 0.5
    done
}

if [ "$action" = restart ]; then
    stop_engine
elif answers; then
    echo "already running"
    exit 0
fi

mkdir -p "$(dirname "$log")"
# Its own session, and no stream of ours held open, nor the lock of the run (9): Docker outlives what started it.
setsid dockerd </dev/null >>"$log" 2>&1 9<&- &
started=$!

waited=0
until answers; do
    if ! runs "$started" && [ "$waited" -ge 2 ]; then
        echo "dockerd ended at once; the last lines of $log:" >&2
        tail -n 15 "$log" >&2
        exit 1
    fi
    if [ "$waited" -ge "$((seconds * 2))" ]; then
        echo "dockerd did not answer within $seconds s; the last lines of $log:" >&2
        tail -n 15 "$log" >&2
        exit 1
    fi
    waited=$((waited + 1))
    sleep 0.5
done
echo "started"
