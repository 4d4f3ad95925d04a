#!/usr/bin/env bash
# All measurements that need a CUDA GPU, in one go.
#
#     bash benchmarks/gpu.sh OUT WEIGHTS [PART...]
#
# OUT is a folder for results, WEIGHTS a folder of full-size weights. PARTs, all of them unless named:
#   tests    pytest -m gpu
#   grids    the grid's backends at 2^18 to 2^22 points; Triton should be 10 times as fast as torch, forward and
#            backward, at 2^20
#   step     guided step in float16 beside the released code in its own precision; at most 1/4 of its time.
#            UPFUSION_REFERENCE, PYTORCH3D_REFERENCE and DINOV2_REFERENCE name its checkouts (see released_code.py)
#   fast     six photos to a textured GLB; at most 90 s and 8 GB of GPU memory
#   render   rays a second
#   scaling  cost against photos, cameras, pixels and rays
#   paper    what cards should need for `fast` by arithmetic, bytes and launches, beside what the part fast measured;
#            minutes on a CPU
# A part that fails does not stop the others; the script then ends with status 1 and names it. PYTHON chooses the
# interpreter. DRY_RUN=1 prints the commands and runs nothing. At the end summary.txt holds all tables: paste it into an
# issue of the form "A GPU's figures", so that what was never measured gets known.
set -uo pipefail

usage() { sed -n "2,19p" "$0" | sed 's/^# \{0,1\}//'; }

if [ "${1:-}" = "-h" ] || [ "${1:-}" = "--help" ]; then usage; exit 0; fi
if [ "$#" -lt 2 ]; then usage >&2; exit 2; fi

out=$1; weights=$2; shift 2
known="tests grids step fast render scaling paper"
parts=${*:-$known}
for part in $parts; do
    case " $known " in
        *" $part "*) ;;
        *) echo "gpu.sh: parts are $known, got $part" >&2; exit 2 ;;
    esac
done
if [ ! -d "$weights" ]; then echo "gpu.sh: WEIGHTS must be a folder, got $weights" >&2; exit 2; fi

python=${PYTHON:-python}
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$out"
failed=""

# run NAME COMMAND...: its output goes to the terminal and to OUT/NAME.txt
run() {
    local name=$1; shift
    echo "== $name:$(printf " '%s'" "$@")"  # folders may have blanks in their names
    if [ -n "${DRY_RUN:-}" ]; then return; fi
    if ! "$@" 2>&1 | tee "$out/$name.txt"; then failed="$failed $name"; fi
}

for part in $parts; do
    case $part in
        tests) run tests "$python" -m pytest -m gpu -q "$here/../tests" ;;
        grids)
            run grids "$python" "$here/grids.py" --device cuda --points 18,19,20,21,22 --out "$out/grids.json"
            run grids_positions "$python" "$here/grids.py" --device cuda --points 20 --positions \
                --out "$out/grids_positions.json"
            ;;
        step)
            step=("$python" "$here/guided_step.py" "$weights" --device cuda --dtype float16 --turns 20)
            run step "${step[@]}" --out "$out/step.json"
            run step_channels_last "${step[@]}" --channels-last --out "$out/step_channels_last.json"
            run step_recorded "${step[@]}" --channels-last --record --out "$out/step_recorded.json"
            run step_batch8 "${step[@]}" --channels-last --record --batch 8 --out "$out/step_batch8.json"
            run step_compiled "${step[@]}" --channels-last --compile --out "$out/step_compiled.json"
            ;;
        fast)
            run fast "$python" "$here/distillation.py" --weights "$weights" --presets fast --photos 6 --device cuda \
                --dtype float16 --texture 2048 --glb "$out" --out "$out/fast.json"
            ;;
        render) run render "$python" "$here/rendering.py" --device cuda --sizes 128 256 512 --out "$out/render.json" ;;
        scaling)
            run scaling "$python" "$here/scaling.py" --weights "$weights" --device cuda --out "$out/scaling.json" \
                --plot "$out/scaling.png"
            ;;
        paper) run paper "$python" "$here/paper.py" --texture 2048 --measured "$out/fast.json" --out "$out/paper.json" ;;
    esac
done

if [ -z "${DRY_RUN:-}" ]; then
    for file in "$out"/*.txt; do
        [ "$(basename "$file")" = summary.txt ] || { echo "== $(basename "$file" .txt)"; cat "$file"; }
    done > "$out/summary.txt"
fi
if [ -n "$failed" ]; then echo "failed:$failed" >&2; exit 1; fi
