#!/usr/bin/env bash
# Puts a model into the package, and makes again what tells of it. The same line goes on where it stopped.
#
#   bash benchmarks/new_model.sh OUT SCANS TRAINED     TRAINED is OUT of train_mini.sh cpu, with a candidate
#
# Made are upfusion_core/bundled/mini.safetensors, its card with sheets, and docs/mesh_photos.png. OUT keeps the
# evaluations of the bundled model: `main` and `version2` on 100 procedural test objects of each version, `scans` on the
# meshes of SCANS, `fast`, `draft` and `scans_fast` the fields of presets, `reference` the reference's of three objects if
# REFERENCE is 1 (hours); their rows of docs/performance.md are printed. docs/first_screen.jpg is drawn from OUT/demo and
# a screenshot of ComfyUI (docs/draw_first_screen.py). Found cameras do not hang on the model. WORKERS (default 2)
# processes measure. WORDS says what it was trained on, MACHINE where.
set -euo pipefail

OUT=${1:?a folder for the evaluations} SCANS=${2:?a folder of meshes} TRAINED=${3:?a folder of train_mini.sh cpu}
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python}
BUNDLED=upfusion_core/bundled/mini.safetensors
mkdir -p "$OUT"

upfusion() { "$PYTHON" -c "from upfusion_core.cli import main; main()" "$@"; }

evaluate() { # NAME OPTIONS...
    local folder="$OUT/$1" options=(--model mini --guidance 3 --alignment picture --workers "${WORKERS:-2}" --threads 1)
    shift
    if [ -f "$folder/report.json" ]; then return; fi
    if [ -f "$folder/run.json" ]; then options=(--resume) && set --; fi
    upfusion evaluate "${options[@]}" "$@" -o "$folder"
}

bundle() { # OPTIONS...
    local parts=("$TRAINED"/[0-9][0-9]-*/)
    "$PYTHON" benchmarks/bundle_mini.py "$TRAINED/candidate/model.safetensors" --after "$OUT/before.safetensors" \
        --runs "${parts[@]}" --machine "${MACHINE:-CPU cores}" --trained-on "${WORDS:-procedural objects}" --guidance 3 --force "$@"
}

if [ ! -f "$OUT/before.safetensors" ]; then cp "$BUNDLED" "$OUT/before.safetensors"; fi
if [ ! -f "$OUT/main/report.json" ]; then bundle; fi
views=(--photos 1,3,6 --views 4 --steps 20 --stages white,nearest,predict,sample)
evaluate main --data procedural --objects 100 "${views[@]}"
evaluate version2 --data procedural-2 --objects 100 --held-out 0 "${views[@]}"
evaluate scans --data "$SCANS" --objects 12 "${views[@]}"
fields=(--photos 3 --views 8 --stages field)
evaluate fast --data procedural --objects 20 --held-out 0 --preset fast "${fields[@]}"
evaluate scans_fast --data "$SCANS" --objects 12 --preset fast "${fields[@]}"
evaluate draft --data procedural --objects 20 --held-out 0 --preset draft "${fields[@]}"
if [ "${REFERENCE:-0}" = 1 ]; then evaluate reference --data procedural --objects 3 --held-out 0 --preset reference "${fields[@]}"; fi
bundle --report "$OUT/main/report.json"
rm -f upfusion_core/bundled/sheet_*.png
"$PYTHON" benchmarks/model_card.py "$OUT"/{main,version2,scans,fast,scans_fast}
upfusion demo --force -o "$OUT/demo"
cp "$OUT/demo/mesh_photos.png" docs/mesh_photos.png
"$PYTHON" - "$OUT" <<'PYTHON_END'
import json, sys
from itertools import combinations
from pathlib import Path
from statistics import fmean
from upfusion_core.evaluation.report import paired_difference

MEASURES = {"box_psnr": 2, "iou": 3, "sharpness": 2, "haarpsi": 3, "f_score_2": 3}
found = {}
for preset in ("reference", "fast", "draft"):
    paths = sorted(Path(sys.argv[1], preset, "objects").glob("*.json"))
    found[preset] = [json.loads(path.read_text(encoding="utf-8"))["values"]["field"]["3"] for path in paths]
def row(title, few, values):
    cells = [f"{values(name)['mean']:.{digits}f} ± {values(name)['stderr']:.{digits}f}" for name, digits in MEASURES.items()]
    print(f"| {title} | {few} | " + " | ".join(cells) + " |")
for preset, rows in found.items():
    for few in (3, 20):
        if len(rows) >= few:
            row(preset, few, lambda name: paired_difference([0.0] * few, [fmean(each[name]) for each in rows[:few]]))
for one, other in combinations(found, 2):
    if few := min(len(found[one]), len(found[other])):
        pair = lambda name: [[fmean(each[name]) for each in found[preset][:few]] for preset in (other, one)]
        row(f"{one} − {other}", few, lambda name: paired_difference(*pair(name)))
PYTHON_END
