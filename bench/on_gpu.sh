#!/usr/bin/env bash
# Run all that needs a GPU: runs by the real command; matrix products and collectives; attention; a
# profile of a step; steps in several ways; the other tests; whole steps of the 1B model, beside plain
# DDP; and, as long as there is time, the other kernels. It takes less than ten minutes on an H100.
#
#   bench/on_gpu.sh [FOLDER]                      FOLDER for logs and results; $OUT or on_gpu/
#   PARTS="tests step" MINUTES=20 GPUS=4 RECIPES=1b-interleave KERNELS=mlp,rope_qkv bench/on_gpu.sh
#
# Whole steps of both models beside the Trainer, transformers and Liger, in one to three rounds, as
# many as there is time for; each takes about three minutes a model, with PEER_COMPILE=whole four.
# PEERS names checkouts of nanochat or interleaved_lm:
#
#   PARTS=throughput MINUTES=9 RECIPES="1b-interleave 360m-interleave" \
#       WAYS="tresse ddp trainer transformers liger" PEERS=nanochat bench/on_gpu.sh
#
# Continuations beside transformers' own, by PARTS=generate, which needs transformers.
#
# Each part has its share of the minutes and its log; a part that fails does not stop the next one.
# The exit status is 1 if a part failed. The project must be installed for $PYTHON, with its extra
# dev for the tests; no network is needed. Without git, COMMIT is written into the results.
#
# To install it on a machine without a package index that has torch, triton, numpy, safetensors and
# tqdm: collect wheels elsewhere, in the project's root, with the machine's version of Python (the
# first is the project itself, tresse with its data, engine, kernels and bench),
#
#   python3.12 -m pip wheel --no-deps -w wheels . deepspeed py-cpuinfo
#   python3.12 -m pip download --no-deps -d wheels absl-py annotated-types docstring-parser einops execnet filelock \
#       hjson hypothesis iniconfig msgpack packaging pluggy protobuf psutil pydantic pydantic-core \
#       pygments pytest pytest-timeout pytest-xdist shtab sortedcontainers tensorboard typeguard \
#       typing-extensions typing-inspection tyro xxhash
#
# (17 MB; for the comparisons add liger-kernel, transformers and accelerate, and quack-kernels and
# flash-attn-4 with their own dependencies and site/nvidia_cutlass_dsl/dsl_packages on the path).
# Then run there, in the root of a copy of this tree with the wheels in it,
#
#   python3 -m pip install --no-index --no-deps --target site wheels/*.whl
#   PYTHONPATH=$PWD/site COMMIT=... MINUTES=9 bench/on_gpu.sh
set -uo pipefail
cd "$(dirname "$0")/.." || exit
export PYTHON=${PYTHON:-python3} PYTHONUNBUFFERED=1 PYTHONPATH=.:${PYTHONPATH:-}
PARTS=${PARTS:-smoke gemms attention profile step tests throughput kernels packer}
MINUTES=${MINUTES:-8}
export folder=${1:-${OUT:-on_gpu}}
mkdir -p "$folder"

declare -A weight=([smoke]=9 [gemms]=8 [attention]=13 [profile]=9 [step]=20 [tests]=15 [throughput]=18
    [kernels]=8 [packer]=3 [generate]=12)
declare -A shown=([smoke]=30 [gemms]=60 [attention]=30 [profile]=60 [step]=60 [tests]=40 [throughput]=40
    [kernels]=60 [packer]=20 [generate]=20) # last lines of a log
export RUN="-m torch.distributed.run --standalone --nproc-per-node ${GPUS:-1}"

# Several processes, since most of the time goes into imports and compiling kernels.
run_tests() {
    "$PYTHON" -m pytest -q -n 12 -p no:cacheprovider --tb short --maxfail 20 "$@"
}
smoke() {
    run_tests tests/gpu/test_gpu_run.py
}
tests() {
    run_tests tests/gpu --ignore tests/gpu/test_gpu_run.py
}
gemms() {
    "$PYTHON" $RUN bench/gemms.py --json "$folder/gemms.json" --rates "$folder/rates.json"
}
profile() {
    local recipe
    for recipe in ${RECIPES:-1b-interleave 360m-interleave}; do
        "$PYTHON" $RUN engine/profiling/profile_steps.py "$recipe" --out "$folder/profile-$recipe" \
            --rows-per-step $((75 * ${GPUS:-1})) || return 1
    done
}
attention() {
    measure_kernels attention "$1" --only attention
}
kernels() {
    measure_kernels kernels "$1" --only "${KERNELS:-mlp,add_rmsnorm,rope_qkv,linear_cross_entropy,adamw}"
}
measure_kernels() {
    "$PYTHON" bench/kernels/run.py --csv "$folder/$1.csv" --minutes "$2" "${@:3}"
}
step() {
    local status=0 recipe
    measure_step() {
        "$PYTHON" $RUN bench/step.py --recipes "$recipe" --steps 3 --warmup 1 \
            --json "$folder/step-$recipe-$1.json" "${@:2}" || status=1
    }
    for recipe in ${RECIPES:-1b-interleave 360m-interleave}; do
        measure_step ways --keep-swiglu no
        measure_step variants --ways engine --compile True False --keep-swiglu yes
        if "$PYTHON" -c "import flash_attn.cute" 2>/dev/null; then
            measure_step fa4 --ways engine --keep-swiglu no --attention fa4
        fi
    done
    return $status
}
throughput() {
    "$PYTHON" bench/throughput.py --recipes ${RECIPES:-1b-interleave} --ways ${WAYS:-tresse ddp} \
        ${PEERS:+--peer-dir $PEERS} --ranks ${GPUS:-1} --steps 18 --rounds 3 --warmup 2 \
        --peer-compile ${PEER_COMPILE:-layers} --minutes "$1" \
        --json "$folder/throughput.json" --plot "$folder/throughput.png"
}
packer() {
    "$PYTHON" bench/packer.py --tokens 20000000 --passes 5 --batches 100 \
        --json "$folder/packer.json"
}
generate() {
    "$PYTHON" bench/generate.py --shapes ${RECIPES:-1b-interleave 360m-interleave} \
        --batches 1 16 64 --rounds 3 --json "$folder/generate.json"
}
export -f run_tests smoke tests gemms attention profile kernels measure_kernels step throughput packer generate

calculate() { "$PYTHON" -c "print($1)"; }

sum=0
for part in $PARTS; do
    [[ -n ${weight[$part]:-} ]] || { echo "no part $part; expected ${!weight[*]}"; exit 2; }
    sum=$((sum + weight[$part]))
done
"$PYTHON" -c "import tresse.kernels.rope, torch, triton; print(torch.__version__, triton.__version__)" || exit 2
nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm,temperature.gpu --format=csv

failed=0 summary=""
for part in $PARTS; do
    seconds=$(calculate "round($MINUTES * 60 * ${weight[$part]} / $sum)")
    minutes=$(calculate "max(6, 0.8 * $seconds - 12) / 60") # the part ends before it is killed
    start=$SECONDS
    timeout --kill-after 10 "$seconds" bash -c "$part $minutes" >"$folder/$part.log" 2>&1
    status=$?
    case $status in
        0) verdict=passed ;;
        124 | 137) verdict="ended after its $seconds s" failed=1 ;;
        *) verdict="failed with status $status" failed=1 ;;
    esac
    summary+=$(printf '%-12s %4d s  %s' "$part" $((SECONDS - start)) "$verdict")$'\n'
    printf '\n== %s: %s\n' "$part" "$verdict"
    tail -n "${shown[$part]}" "$folder/$part.log"
done
printf '\n%s' "$summary"
exit $failed
