#!/usr/bin/env bash
# on_gpus.sh 1|all|shared PROGRAM: runs PROGRAM on one rank, on a rank for each GPU, or on two ranks that share one.
set -euo pipefail
# shellcheck source=launch/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../../launch/lib.sh"

how=$1
program=$2
gpus=${LOCKSTEP_GPUS:-$(gpu_count)}
skip() { echo "SKIPPED: $1"; exit 0; }
[ "$gpus" -gt 0 ] || skip "no GPU on this machine"
ranks=$gpus
case $how in
  1) ranks=1 ;;
  all) [ "$gpus" -gt 1 ] || skip "one GPU only" ;;
  shared)
    ranks=2
    # NCCL 2.30 permits this as an experiment; NVLS must be off.
    export CUDA_VISIBLE_DEVICES="${CUDA_VISIBLE_DEVICES:-0}" NCCL_MULTI_RANK_GPU_ENABLE=1 NCCL_NVLS_ENABLE=0 NCCL_MAX_CTAS=4
    ;;
esac
allow_root
exec mpirun --quiet --bind-to none --oversubscribe -n "$ranks" "$program"
