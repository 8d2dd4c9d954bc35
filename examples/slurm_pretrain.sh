#!/bin/bash
# Pre-training on several nodes under SLURM: sbatch examples/slurm_pretrain.sh
#
# Adapt the #SBATCH lines, GPUS and the command. --out (RUN) must be on storage that all nodes share.
# A job that is preempted, reaches its time limit or loses a node resumes where it was: see docs/scale.md.

#SBATCH --job-name=mrm-pretrain
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=08:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@300
# SIGTERM reaches the processes of the step 300 s before the time limit, so that they can save

set -u
RUN=${RUN:-runs/mimic}
RECORDS=${RECORDS:-training.csv}
GPUS=${GPUS:-8}
PORT=${PORT:-29500}
MAX_REQUEUES=${MAX_REQUEUES:-100}

before=$(readlink "$RUN/last" || true)
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

trap ':' TERM # if the shell gets the signal too, it must outlive the step
# --kill-on-bad-exit: if a node is lost, the others would otherwise wait for it for ever
srun --kill-on-bad-exit=1 torchrun \
    --nnodes "$SLURM_JOB_NUM_NODES" --nproc-per-node "$GPUS" \
    --rdzv-backend c10d --rdzv-endpoint "$head:$PORT" --rdzv-id "$SLURM_JOB_ID" \
    --shutdown-timeout 240 \
    -m mrm pretrain mimic --records "$RECORDS" --out "$RUN" "$@" &
step=$!
wait "$step"
status=$?
while kill -0 "$step" 2>/dev/null; do # a signal interrupts wait
    wait "$step"
    status=$?
done

# 0: the run is finished. Anything else: it was stopped, or something failed. It is worth another try if the run has
# made progress; an error that occurs at once, such as a missing file, is not repeated for ever.
if [ "$status" -ne 0 ] && [ "$(readlink "$RUN/last" || true)" != "$before" ]; then
    if [ "${SLURM_RESTART_COUNT:-0}" -lt "$MAX_REQUEUES" ]; then
        echo "status $status, but the run has moved on from ${before:-the start}: requeueing"
        scontrol requeue "$SLURM_JOB_ID"
        exit 0
    fi
    echo "requeued $MAX_REQUEUES times already: giving up"
fi
exit "$status"
