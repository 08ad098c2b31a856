#!/bin/sh
# The figures of docs/performance.md that need a CUDA device, one JSON object a line, into FILE.
# `irevla` is on the PATH. Exit code 1 where one could not be measured.
#
#     sh scripts/measure_gpu.sh FILE

set -u
file=${1:?the file for the results}
status=0
: >"$file"

measure() {
    echo "irevla bench $*" >&2
    timeout 300 irevla bench "$@" --json >>"$file" || {
        echo "failed: irevla bench $*" >&2
        status=1
    }
}

measure encode --vlm blip2
measure encode --vlm blip2 --lora --batch 16
measure encode --vlm blip2 --lora --batch 16 --compile
measure sft --vlm blip2 --batch 32
measure sft --vlm blip2
measure sft --vlm blip2 --compile
measure sft --vlm blip2 --gradient-checkpointing
measure ppo-update --vlm blip2
measure memory
measure encode --vlm tiny
measure sft --vlm tiny
measure ppo-update --vlm tiny
exit $status
