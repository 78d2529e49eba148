#!/usr/bin/env bash
# Repeats every measurement at its real size, in order; `make bench` calls it.
#
# The timings take about 22 minutes on 2 cores: overhead 10, time split 5, reward fit 3, speed 2,
# store 2; beside imitation on the robots two hours more. Nothing else should run meanwhile. Label
# efficiency, HalfCheetah, teachers, noise and the zoo's settings are 385 runs of minutes each;
# stopped with Ctrl-C, they go on where they were, and finished runs are kept. What cannot be
# measured on this machine, or fails, is named at the end, and the rest is measured all the same.
#
#   BENCH_RESULTS=FOLDER              where results go; default: runs/bench, beside nothing that was
#                                     measured before (with benchmarks/results, runs are made that are
#                                     not on file, and all other measurements take the place of those
#                                     that are)
#   IMITATION_PYTHON=ENV/bin/python   measures imitation beside our reward fit (see README.md)
#   TRL_PYTHON=ENV/bin/python         measures TRL beside our text algorithms (see README.md)
#   DATA=FOLDER                       PandaLM, HH-RLHF and SST-2, for the measurements on real data
#   BENCH_WORKERS=2                   runs at once in label efficiency and teachers
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=1
BENCH_RESULTS="$(realpath -m "${BENCH_RESULTS:-runs/bench}")"
export BENCH_RESULTS

trap 'exit 130' INT
failed=()
measure() {
    echo "== $*"
    "$@" || failed+=("$*")
}

# The timings come first: they want the machine cold and to themselves.
measure python benchmarks/overhead.py
if [[ -n "${IMITATION_PYTHON:-}" ]]; then
    measure python benchmarks/reward_fit.py --imitation-python "$IMITATION_PYTHON"
    measure python benchmarks/against_imitation.py --peer-python "$IMITATION_PYTHON"
else
    measure python benchmarks/reward_fit.py
fi
measure python benchmarks/time_split.py
measure python benchmarks/speed.py
measure python benchmarks/store.py
for script in rendering pictures viewer labelling labelling_kills sitting hostile; do
    measure python "benchmarks/$script.py"
done
measure python benchmarks/sitting.py --labels 60 --steps 60000 --pause 4 --no-replay --out sitting_paced
if command -v xvfb-run >/dev/null; then
    SDL_VIDEODRIVER=x11 measure xvfb-run -a -s "-screen 0 1920x1080x24" \
        python benchmarks/sitting.py --out sitting_xvfb
fi
for script in text_exact text_loop text_tasks text_sft text_reward text_sampling text_views; do
    measure python "benchmarks/$script.py"
done
# Real data of other people, where it is at hand (see README.md).
if [[ -n "${DATA:-}" ]]; then
    for script in human_agreement text_real_data text_sst2; do
        measure python "benchmarks/$script.py" --data "$DATA"
    done
fi
if [[ -n "${TRL_PYTHON:-}" ]]; then
    measure python benchmarks/against_trl.py --peer-python "$TRL_PYTHON"
fi
for spec in quick_start arithmetic halfcheetah label_efficiency teachers noise speed; do
    measure rlhf-gym benchmark "benchmarks/specs/$spec.yml" --workers "${BENCH_WORKERS:-2}" \
        --out "$BENCH_RESULTS/${spec//_/-}"
done
rm -rf build/reacher
measure rlhf-gym train --env rlhf_gym/Reacher-v0 --out build/reacher
measure python benchmarks/fit_choices.py --run build/reacher
for env in HalfCheetah Hopper; do
    measure python benchmarks/adversary.py --env "rlhf_gym/$env-v0" --out "adversary_${env,,}"
done
measure python benchmarks/backflip.py --runs "$BENCH_RESULTS/backflip" --figure "$BENCH_RESULTS/backflip.png"

if ((${#failed[@]})); then
    echo "== not measured, for the reasons above:"
    printf '   %s\n' "${failed[@]}"
    exit 1
fi
echo "== all results lie in $BENCH_RESULTS"
