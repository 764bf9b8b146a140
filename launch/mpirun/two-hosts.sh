#!/usr/bin/env bash
# Trains on two hosts with mpirun over ssh, without a batch system. Set the variables, then run it on the first host.
# Both hosts see this folder (and DATA and OUT on rank 0's host, DATA on both) under the same path, and ssh from the first to the second works without
# a password. docs/launching.md has the details.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

HOSTS=${HOSTS:-}                        # for instance HOSTS=node1:2,node2:2 — host:ranks, the first is this one
NETWORK=${NETWORK:-}                    # the network that joins them, for instance 10.0.0.0/24; empty: Open MPI chooses
THREADS=${THREADS:-1}                   # LibTorch's threads on each rank
DATA=${DATA:-$top/data}                 # folder of the .bin files, or its parent, on both hosts
OUT=${OUT:-$top/runs/two-hosts}         # run folder, written by rank 0
RECIPE=${RECIPE:-tutorial}

[ -n "$HOSTS" ] || fail 64 "HOSTS is not set" "HOSTS=node1:2,node2:2 $0"
binary=$top/build/release/lockstep
[ -x "$binary" ] || fail 69 "$binary is not built" "run launch/setup and launch/build on a host that shares this folder"
command -v mpirun >/dev/null || fail 69 "no mpirun" "run launch/setup on both hosts"
cifar_folder "$DATA" >/dev/null || fail 66 "no CIFAR-10 in $DATA" "set DATA, or run $binary data fetch --out '$DATA'"

ranks=0
IFS=, read -ra entries <<<"$HOSTS"
for entry in "${entries[@]}"; do
  count=1
  case "$entry" in *:*) count=${entry##*:} ;; esac
  [[ $count =~ ^[1-9][0-9]*$ ]] || fail 64 "'$entry' in HOSTS names no number of ranks" "HOSTS=node1:2,node2:2 $0"
  ranks=$((ranks + count))
done
# The same program at the same path on every host, found out before MPI starts.
for entry in "${entries[@]:1}"; do
  host=${entry%%:*}
  ssh -o BatchMode=yes -o ConnectTimeout=10 "$host" test -x "'$binary'" ||
    fail 69 "$host cannot be reached, or has no $binary" "see that 'ssh $host' asks nothing, and that the host mounts this folder"
done

network=()
[ -z "$NETWORK" ] || network=(--mca oob_tcp_if_include "$NETWORK" --mca btl_tcp_if_include "$NETWORK")
allow_root
# slot:PE=THREADS gives each rank as many cores as it has threads.
exec mpirun --quiet -n "$ranks" --host "$HOSTS" --map-by "slot:PE=$THREADS" --bind-to core "${network[@]}" \
  "$binary" train --recipe "$RECIPE" --threads "$THREADS" --data-dir "$DATA" --out "$OUT" "$@"
