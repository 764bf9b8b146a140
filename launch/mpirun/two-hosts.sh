#!/usr/bin/env bash
# Trains on two hosts (or more) with mpirun over ssh, without a batch system. Set the variables, then run it on the first host:
#   HOSTS=node1:2,node2:2 DATA=/data/cifar launch/mpirun/two-hosts.sh [train flags]
# All hosts see this folder and DATA under the same paths; ssh from the first to the others asks nothing. OUT need only be on the first.
set -euo pipefail
# shellcheck source=launch/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../lib.sh"

HOSTS=${HOSTS:-}                        # for instance HOSTS=node1:2,node2:2 — host:ranks, the first is this one
NETWORK=${NETWORK:-}                    # the network that joins them, for instance 10.0.0.0/24; empty: Open MPI chooses
THREADS=${THREADS:-1}                   # LibTorch's threads, and cores, of each rank
DATA=${DATA:-}                          # folder of the .bin files, or its parent; empty: $LOCKSTEP_DATA, data/ or ../shared/data
OUT=${OUT:-$top/runs/two-hosts}         # run folder, written by rank 0
RECIPE=${RECIPE:-tutorial}
SSH=${SSH:-ssh -x -o BatchMode=yes -o ConnectTimeout=10} # how a command gets to a host

usage="HOSTS=node1:2,node2:2 $0"
[ -n "$HOSTS" ] || fail 64 "HOSTS is not set" "$usage"
[[ $THREADS =~ ^[1-9][0-9]*$ ]] || fail 64 "THREADS=$THREADS is no number of threads" "$usage"
ranks=0
IFS=, read -ra entries <<<"$HOSTS"
for entry in "${entries[@]}"; do
  count=1
  case "$entry" in *:*) count=${entry##*:} ;; esac
  [[ $count =~ ^[1-9][0-9]*$ && -n ${entry%%:*} ]] || fail 64 "'$entry' in HOSTS is not host:ranks" "$usage"
  ranks=$((ranks + count))
done
cores=$(cpu_table | sort -u | wc -l)
first=${entries[0]##*:}
[[ $first =~ ^[0-9]+$ ]] || first=1
[ $((first * THREADS)) -le "$cores" ] ||
  fail 69 "$first ranks of $THREADS threads do not fit into the $cores cores of this host" "lower THREADS or the number of ranks"

binary=$top/build/release/lockstep
[ -x "$binary" ] || fail 69 "$binary is not built" "run launch/setup and launch/build on a host that shares this folder"
command -v mpirun >/dev/null || fail 69 "no mpirun" "run launch/setup on every host"
if [ -n "$DATA" ]; then
  data=$(cifar_folder "$DATA") || fail 66 "no CIFAR-10 in $DATA" "set DATA, or run $binary data fetch --out '$DATA'"
else
  find_cifar || fail 66 "no CIFAR-10 in data/ or ../shared/data" "set DATA, or run $binary data fetch --out '$top/data'"
  data=$found
fi

# The same program and data at the same paths on every host, found out before MPI starts.
read -ra ssh <<<"$SSH"
command -v "${ssh[0]}" >/dev/null || fail 69 "no ${ssh[0]} here" "install openssh-client, or set SSH to what reaches the hosts"
printf -v look '%s && test -x %q && test -f %q' 'command -v orted >/dev/null' "$binary" "$data/data_batch_1.bin"
for entry in "${entries[@]:1}"; do
  host=${entry%%:*}
  "${ssh[@]}" "$host" "$look" </dev/null ||
    fail 69 "$host cannot be reached, or lacks Open MPI, $binary or $data" "try: $SSH $host ls '$binary' '$data'; see that it asks nothing"
done

network=()
[ -z "$NETWORK" ] || network=(--mca oob_tcp_if_include "$NETWORK" --mca btl_tcp_if_include "$NETWORK" --mca btl "tcp,vader,self")
allow_root
# slot:PE=THREADS gives each rank as many cores as it has threads; mpirun says so when a host has too few.
exec mpirun -n "$ranks" --host "$HOSTS" --mca plm_rsh_agent "$SSH" --map-by "slot:PE=$THREADS" --bind-to core "${network[@]}" \
  "$binary" train --recipe "$RECIPE" --threads "$THREADS" --data-dir "$data" --out "$OUT" "$@" 2> >(less_noise >&2)
