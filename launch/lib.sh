# shellcheck shell=bash disable=SC2034,SC2154
# What the launch scripts share. Sourced by bash; sets $top, the project's folder.
top=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)

# fail CODE MESSAGE HINT: exit codes as docs/exit-codes.md has them.
fail() {
  printf '%s: error: %s\nhint: %s\n' "$(basename -- "$0")" "$2" "$3" >&2
  exit "$1"
}

say() { printf '%s\n' "$*" >&2; }

# The comment at the head of a script, from line 2 to line $1, is its help.
help() { sed -n "2,${1}s/^# \{0,1\}//p" "$0"; }

# The folder of the .bin files below $1 (itself or its cifar-10-batches-bin); fails without.
cifar_folder() {
  local dir
  for dir in "$1" "$1/cifar-10-batches-bin"; do
    if [ -f "$dir/data_batch_1.bin" ]; then
      realpath -s -- "$dir"
      return
    fi
  done
  return 1
}

# find_cifar: makes $found the folder of the .bin files where nobody named one: below $LOCKSTEP_DATA, or else below data/ and ../shared/data,
# of the current folder (where the command itself looks too) and then of the project's. Fails without, and for a LOCKSTEP_DATA without data.
find_cifar() {
  local place
  found=
  if [ -n "${LOCKSTEP_DATA:-}" ]; then
    found=$(cifar_folder "$LOCKSTEP_DATA") || fail 66 "no data_batch_1.bin in LOCKSTEP_DATA=$LOCKSTEP_DATA" \
      "name the folder of the .bin files or its parent there, or unset LOCKSTEP_DATA to have the data looked for elsewhere"
    return
  fi
  for place in data ../shared/data "$top/data" "$top/../shared/data"; do
    if found=$(cifar_folder "$place"); then return; fi
  done
  return 1
}

# CPUs that this process may use. (nproc would take OMP_NUM_THREADS for an answer.)
cpus() { env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc; }

# A line for each CPU of this machine, the same for hyper-threads of one core. mpirun counts slots and binds in cores.
cpu_table() { lscpu --parse=CORE,SOCKET 2>/dev/null | grep -v '^#' || seq "$(cpus)"; }

# mpirun refuses to start as root unless told so twice: it cannot know that this is a container.
allow_root() {
  if [ "$(id -u)" = 0 ]; then
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
  fi
}

# hold_signals: makes $hold the words before a program that keep a request to stop for it while it is loaded; none where env is too old.
hold_signals() {
  hold=()
  ! env --block-signal=USR1,TERM,INT true 2>/dev/null || hold=(env "--block-signal=USR1,TERM,INT")
}

# heed_signals [MESSAGE]: from now on the first SIGINT, SIGTERM, SIGHUP or SIGUSR1 only makes $asked its name, says MESSAGE, and becomes a
# SIGUSR1 ("save and stop") for the command of run_apart; one that comes half a second later or more becomes a SIGTERM for it. (The same
# request often comes twice in a row, to a process and to its group.) 85 after a Ctrl-C is no failure: $code becomes 0.
heed_signals() {
  local name
  child='' asked='' stop_message=${1:-} at_terminal=no
  if [ -t 0 ]; then
    at_terminal=yes
    exec </dev/null # outside the terminal's foreground group nobody may read from it
  fi
  # shellcheck disable=SC2064
  for name in INT TERM HUP USR1; do trap "heed $name" "$name"; done
}

heed() {
  local now=${EPOCHREALTIME/[.,]/}
  heard=yes
  if [ -z "$asked" ]; then
    asked=$1 asked_us=$now
    [ -z "$stop_message" ] || say "$stop_message"
    [ -z "$child" ] || pass_request_on
  elif [ $((now - asked_us)) -ge 500000 ] && [ -n "$child" ]; then
    # mpirun, its ranks ended, still takes a second or two; a SIGTERM would then crash it, and hide that the ranks have saved.
    ! has_living_children "$child" || kill -TERM "$child" 2>/dev/null || true
  fi
}

# True as well where the system does not tell.
has_living_children() {
  local list pid state
  list=$(cat "/proc/$1/task/$1/children" 2>/dev/null) || return 0
  for pid in $list; do
    state=$(sed 's/.*) //' "/proc/$pid/stat" 2>/dev/null) || continue
    [ "${state:0:1}" = Z ] || return 0
  done
  return 1
}

# mpirun loses a request that comes before it has started the ranks.
pass_request_on() {
  [ $((${EPOCHREALTIME/[.,]/} - started_us)) -ge 300000 ] || sleep 0.3
  kill -USR1 "$child" 2>/dev/null || true
}

# run_apart COMMAND…: runs it to its end; $code is its exit code. It has a process group of its own, so that Ctrl-C, or a kill of this
# script's group, does not reach it; should this script be killed, it gets a SIGTERM.
run_apart() {
  local tether=()
  ! setpriv --pdeathsig TERM true 2>/dev/null || tether=(setpriv --pdeathsig TERM)
  started_us=${EPOCHREALTIME/[.,]/}
  set -m
  "${tether[@]}" "$@" &
  child=$!
  set +m
  bound='' late='' here=''
  [ -z "$asked" ] || pass_request_on # it came between the start and the line above
  while :; do
    heard=
    code=0
    wait "$child" 2>/dev/null || code=$? # bash itself would say by which signal it ended
    [ -n "$heard" ] || break # a wait that a signal ended says nothing about the command
  done
  child=
  if [ -n "$bound" ]; then
    { kill -KILL -- "-$bound" && wait "$bound"; } 2>/dev/null || true
    [ -z "$late" ] || code=75
  fi
  if [ "$code" = 85 ] && [ "$asked" = INT ] && [ $at_terminal = yes ]; then code=0; fi
}

# bound_end: for a trap on USR2, by which less_noise tells that a rank has told an error: from then on mpirun may not outlive the ranks of
# this host for long. (It waits without end for the daemon of a host that it lost.) Where it had to be ended, $code is 75.
bound_end() {
  heard=yes
  if [ -z "$bound" ]; then
    ! has_ranks "${child:-$!}" 2>/dev/null || here=yes
    set -m # so that a kill of its group ends its sleep too
    end_late "${child:-$!}" &
    bound=$!
    set +m
  else
    late=yes
  fi
}

# end_late PID: 15 s after its last rank here (if it has some), or 5 minutes after the error, a SIGKILL for this mpirun and its children, the ways to other
# hosts among them; the daemons that it can reach end with it. (At a SIGTERM an mpirun that already ends a job crashes, and says so on a page.)
end_late() {
  local i pids=() without=0
  trap - INT TERM HUP USR1 USR2
  for ((i = 0; i < 3000 && without < 150; ++i)); do
    sleep 0.1
    # shellcheck disable=SC2015
    kill -0 "$1" && kill -0 $$ || return
    if has_ranks "$1"; then here=yes without=0; else without=$((without + 1)); fi
    [ -n "$here" ] || without=0
  done 2>/dev/null
  say "run: mpirun has not ended with the ranks of this host, so another host does not answer; ending mpirun"
  kill -USR2 $$
  read -ra pids 2>/dev/null <"/proc/$1/task/$1/children" || true
  kill -KILL "$1" "${pids[@]}" 2>/dev/null
}

# Whether this mpirun has children that run $binary: a rank that told an error may still be saving.
has_ranks() {
  local pid pids=() name=${binary##*/} comm
  read -ra pids <"/proc/$1/task/$1/children" || true
  for pid in "${pids[@]}"; do
    comm=
    read -r comm <"/proc/$pid/comm" || true
    [ "$comm" != "${name:0:15}" ] || return 0
  done
  return 1
}

# Passes mpirun's standard error on, less the pages that only repeat what a rank's own message and the exit code say. (Its --quiet
# would also hide which rank was killed by a signal, and nobody else tells that.) It outlives an interrupt, to pass on the last words.
# less_noise PID: tells this process of a rank's first error, by a SIGUSR2.
less_noise() {
  local line page='' rule listener=${1:-}
  rule=$(printf -- '-%.0s' {1..74})
  trap '' INT TERM HUP USR1
  while IFS= read -r line || [ -n "$line" ]; do
    if [ -n "$listener" ] && [[ $line = 'lockstep: error: '* ]]; then
      kill -USR2 "$listener" 2>/dev/null || true
      listener=
    fi
    if [ -n "$page" ]; then
      page+=$'\n'$line
      [ "$line" = "$rule" ] || continue
      case "$page" in
        *'Primary job  terminated normally'* | *'processes exited with non-zero status'* | *'MPI_ABORT was invoked on rank'*) ;;
        *) printf '%s\n' "$page" ;;
      esac
      page=
    elif [ "$line" = "$rule" ]; then
      page=$line
    elif [ "$line" != 'mpirun: Forwarding signal 10 to job' ]; then
      printf '%s\n' "$line"
    fi
  done
  [ -z "$page" ] || printf '%s\n' "$page"
}

# GPUs that this process may use: those that nvidia-smi lists and CUDA_VISIBLE_DEVICES leaves; 0 without a driver that answers.
# CUDA reads that variable up to the first entry that names no GPU.
gpu_count() {
  local list there entry entries visible=0
  list=$(timeout -k 2 20 nvidia-smi -L 2>/dev/null </dev/null) || list=
  there=$(grep -c '^GPU ' <<<"$list") || true # slices (MIG) stand on lines of their own, indented
  if [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
    IFS=, read -ra entries <<<"$CUDA_VISIBLE_DEVICES"
    for entry in "${entries[@]}"; do
      entry=${entry// /}
      [[ $entry =~ ^(-1|NoDevFiles|)$ ]] && break
      [[ $entry =~ ^[0-9]+$ ]] && [ "$entry" -ge "$there" ] && break
      visible=$((visible + 1))
    done
    there=$((visible < there ? visible : there))
  fi
  printf '%s\n' "$there"
}
