#!/bin/sh
# Rollouts by 1, 2 and 4 actors on Ray here, against the simulation, and 8 to 512 GPUs simulated:
#     sh scripts/measure_rollouts.sh results/scale
# Needs Ray (pip install 'irevla[ray]') and an idle machine: costs are seconds of the wall clock.
set -eu
for suite in metaworld pointmass; do
    suite_option=$([ "$suite" = metaworld ] || echo "--suite $suite")
    OMP_NUM_THREADS=1 RAY_USAGE_STATS_ENABLED=0 python -m irevla.cli.main bench scale --json $suite_option \
        > "$1/rollouts-$suite.json"
done
