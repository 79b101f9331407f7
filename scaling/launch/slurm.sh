#!/bin/bash
{{options}}

# One task of the array is one worker. It takes runs from the results folder until none is left;
# which, no task need know. `scaling run` fills in what stands in braces. To change the rest, copy
# this file and name the copy in the study: [launch.slurm] template.

{{setup}}

task=${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}
stopped=
# USR1 asks a worker to stop as TERM does; srun passes it on, while at TERM it kills its tasks.
trap 'stopped=yes; kill -USR1 "$worker" 2>/dev/null' TERM INT USR1

# A worker that is killed (9: out of memory) is followed by another, which finds out whether it was
# the run's fault and says so in its record.
for attempt in 1 2 3 4 5; do
    {{worker}} &
    worker=$!
    if [ -n "$stopped" ]; then kill -USR1 "$worker"; fi # told before the worker had a number
    wait "$worker"
    code=$?
    while kill -0 "$worker" 2>/dev/null; do # a signal to this script ends `wait`, not the worker
        wait "$worker"
        code=$?
    done
    if [ "$code" -le 128 ] || [ -n "$stopped" ]; then break; fi
done

# 75: it has written its checkpoint and is to be started again; above 128: the signal came before it
# listened, which a time limit that is too short would repeat for ever. Only a task that still runs puts itself back into the queue: Slurm does so with one that
# it preempts, and one that scancel ends must not come back. Where the site forbids it, Slurm says so
# here, and a spare task takes over, or the same `scaling run` does.
unheard=$([ -n "$stopped" ] && [ "$code" -gt 128 ] && echo yes)
if [ "$code" -eq 75 ] || { [ -n "$unheard" ] && [ "${SLURM_RESTART_COUNT:-0}" -lt 20 ]; }; then
    if [ "$(squeue --noheader --jobs="$task" --format=%T)" = RUNNING ]; then
        scontrol requeue "$task"
    fi
elif [ -n "$unheard" ]; then
    echo "requeued 20 times, and stopped before it listened: give a longer [launch.slurm] time" >&2
fi
exit "$code"
