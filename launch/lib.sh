# What the launch scripts share. Sourced by bash; sets $top, the project's folder.
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# fail CODE MESSAGE HINT: exit codes as docs/exit-codes.md has them.
fail() {
  printf '%s: error: %s\nhint: %s\n' "$(basename "$0")" "$2" "$3" >&2
  exit "$1"
}

say() { printf '%s\n' "$*" >&2; }

# The folder of the .bin files below $1 (itself or its cifar-10-batches-bin); fails without.
cifar_folder() {
  local dir
  for dir in "$1" "$1/cifar-10-batches-bin"; do
    [ -f "$dir/data_batch_1.bin" ] && printf '%s\n' "$dir" && return 0
  done
  return 1
}

# Cores that this process may use.
cores() { nproc; }

# mpirun refuses to start as root unless told so twice: it cannot know that this is a container.
allow_root() {
  if [ "$(id -u)" = 0 ]; then
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
  fi
}
