#!/usr/bin/env bash
# Repeats every measurement at its real size, in order; `make bench` calls it.
#
# On 2 cores about 2 hours: label efficiency 60 to 90 minutes (20 runs, two at once; finished ones
# are kept), overhead 10, time split 5, reward fit 3, store 2. Nothing else should run meanwhile.
#
#   IMITATION_PYTHON=ENV/bin/python   measures imitation beside our reward fit (see README.md)
#   BENCH_WORKERS=2                   runs at once in the label efficiency measurement
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=1

# The timings come first: they want the machine cold and to themselves.
python benchmarks/overhead.py
if [[ -n "${IMITATION_PYTHON:-}" ]]; then
    python benchmarks/reward_fit.py --imitation-python "$IMITATION_PYTHON"
else
    python benchmarks/reward_fit.py
fi
python benchmarks/time_split.py
python benchmarks/store.py
python benchmarks/label_efficiency.py --seeds 20 21 22 23 24 --labels 700 350 \
    --workers "${BENCH_WORKERS:-2}"
