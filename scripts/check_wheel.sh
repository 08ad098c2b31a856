#!/bin/sh
# Builds the wheel and tries it where there is no repository: the core alone, then each extra alone.
# Takes minutes and some GB in a temporary folder: `sh scripts/check_wheel.sh [EXTRA ...]`.
set -eu
cd "$(dirname "$0")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
constraints=$PWD/constraints.txt
"${PYTHON:-python3}" -m pip wheel --quiet --no-deps --wheel-dir "$work" .
wheel=$(echo "$work"/irevla-*.whl)
cd "$work"

tiny="--threads 1 --rl-tasks left-disc-new --expert.episodes 2 --sft.steps 4 --sl.steps 4 --ppo.steps 64
    --ppo.rollout 8 --harvest.episodes 1 --harvest.attempts 2 --eval.episodes 1 --eval.interim 0"

try() { # extra ("core" for none)
    echo "wheel: $1"
    rm -rf venv out
    "${PYTHON:-python3}" -m venv venv
    case $1 in
        core) what=$wheel ;;
        *) what="$wheel[$1]" ;;
    esac
    venv/bin/python -m pip install --quiet --disable-pip-version-check -c "$constraints" "$what"
    case $1 in
        core | hub | franka)
            # shellcheck disable=SC2086
            venv/bin/irevla run pointmass --out out/run $tiny --eval.no-videos >/dev/null 2>&1
            ;;
        report)
            # shellcheck disable=SC2086
            venv/bin/irevla run pointmass --out out/run $tiny >/dev/null 2>&1
            test -s out/run/report.html
            ;;
        tensorboard)
            # shellcheck disable=SC2086
            venv/bin/irevla run pointmass --out out/run $tiny --eval.no-videos --tensorboard >/dev/null 2>&1
            ;;
        lora)
            # shellcheck disable=SC2086
            venv/bin/irevla run pointmass --out out/run $tiny --eval.no-videos --model.lora.rank 2 >/dev/null 2>&1
            ;;
        metaworld) venv/bin/irevla collect metaworld --out out/d --tasks window-close --expert.episodes 1 ;;
        kitchen) venv/bin/irevla collect kitchen --out out/d --tasks light-on --expert.episodes 1 ;;
        libero) venv/bin/irevla collect libero --out out/d --tasks object-0 --expert.episodes 1 ;;
        panda) venv/bin/irevla collect panda-sim --out out/d --tasks button-press --expert.episodes 1 ;;
    esac
    case $1 in
        hub) venv/bin/python -c "import irevla.models.hub, transformers, peft, accelerate" ;;
        franka) venv/bin/python -c "import franky, cv2" ;;
    esac
}

for extra in ${*:-core metaworld kitchen panda lora hub franka report tensorboard}; do
    try "$extra"
done
echo "wheel: all of it works"
