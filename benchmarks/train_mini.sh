#!/usr/bin/env bash
# Trains the small bundled model, in stretches: the same line again goes on where the last one stopped.
#
#   bash benchmarks/train_mini.sh cpu OUT      goes on from the bundled model beside other work, for days (train_mini.py)
#   bash benchmarks/train_mini.sh gpu OUT      goes on from the bundled model, at its sizes, on a GPU
#   bash benchmarks/train_mini.sh gpu64 OUT    a new one of 64 x 64 pixels, on a GPU (the preset `mini`)
#
# On a GPU, MINUTES (default 25) is the time of each stage in one call, STAGES (default "autoencoder encoder diffusion")
# chooses stages. Let each stage train until its curves (OUT/STAGE/curves.png) are flat before the next begins: the encoder until
# more photos clearly help. Then measure it and put it into the package:
#
#   upfusion evaluate --model OUT/diffusion/model.safetensors --data procedural --objects 100 --guidance 3 -o OUT/report
#   python benchmarks/bundle_mini.py OUT/diffusion/model.safetensors --runs OUT/autoencoder OUT/encoder OUT/diffusion \
#       --machine "one H200" --guidance 3 --report OUT/report/report.json --force
#   python benchmarks/model_card.py OUT/report
set -euo pipefail

MODE=${1:?cpu, gpu or gpu64}
OUT=${2:?a folder for the runs}
case $OUT in /*) ;; *) OUT=$PWD/$OUT ;; esac
cd "$(dirname "$0")/.."
MINUTES=${MINUTES:-25}
STAGES=${STAGES:-autoencoder encoder diffusion}
PYTHON=${PYTHON:-python}
BUNDLED=upfusion_core/bundled/mini.safetensors
mkdir -p "$OUT"

upfusion() { "$PYTHON" -c "from upfusion_core.cli import main; main()" "$@"; }

# What a stage starts from: the newest model of another stage of this training, else nothing, or the bundled model.
starting_points() { # STAGE -> words after --init
    local stage=$1 found=()
    [ "$MODE" = gpu ] && found+=("$BUNDLED")
    case $stage in
        encoder) [ -f "$OUT/autoencoder/model.safetensors" ] && found+=("$OUT/autoencoder/model.safetensors") ;;
        diffusion) [ -f "$OUT/encoder/model.safetensors" ] && found+=("$OUT/encoder/model.safetensors") ;;
    esac
    echo "${found[@]:-}"
}

# The preset's settings with the bundled model's sizes and larger batches, as JSON.
write_config() { # STAGE FILE
    "$PYTHON" - "$1" "$2" "$MODE" "$BUNDLED" <<'PYTHON_END'
import json, sys
from dataclasses import replace
from upfusion_core.models.checkpoint import open_checkpoint
from upfusion_core.training.config import TrainConfig

stage, path, mode, bundled = sys.argv[1:]
config = replace(TrainConfig.preset("mini", stage), batch_size=64, precision="bf16")
if mode == "gpu":
    config = replace(config, model=open_checkpoint(bundled).config, learning_rate=1e-4)
with open(path, "w", encoding="utf-8") as file:
    json.dump(config.to_dict(), file, indent=2)
PYTHON_END
}

train_gpu() { # STAGE
    local stage=$1 folder="$OUT/$1" init=()
    if [ -f "$folder/training.pt" ]; then
        upfusion train -o "$folder" --resume --max-minutes "$MINUTES"
        return
    fi
    if [ -f "$folder/model.safetensors" ]; then
        echo "$folder is finished"
        return
    fi
    for source in $(starting_points "$stage"); do init+=(--init "$source"); done
    write_config "$stage" "$OUT/$stage.json"
    upfusion train "$stage" --config "$OUT/$stage.json" --data procedural -o "$folder" --max-minutes "$MINUTES" ${init[@]+"${init[@]}"}
}

case $MODE in
    cpu)
        if [ ! -d "$OUT/code" ]; then
            mkdir -p "$OUT/code.part"
            cp -r upfusion_core benchmarks "$OUT/code.part/"
            mv "$OUT/code.part" "$OUT/code"
        fi
        cd "$OLDPWD"
        export OMP_NUM_THREADS=1 PYTHONPATH="$OUT/code"
        exec "$PYTHON" "$OUT/code/benchmarks/train_mini.py" "$OUT"
        ;;
    gpu) [ -f "$BUNDLED" ] || { echo "there is no $BUNDLED to go on from; use gpu64" >&2; exit 2; } ;;
    gpu64) ;;
    *) echo "the first word must be cpu, gpu or gpu64, got $MODE" >&2; exit 2 ;;
esac
for stage in $STAGES; do train_gpu "$stage"; done
