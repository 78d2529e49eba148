#!/usr/bin/env bash
# Repeats every measurement at its real size, in order; `make bench` calls it.
#
# The timings take about 22 minutes on 2 cores: overhead 10, time split 5, reward fit 3, speed 2,
# store 2; beside imitation on the robots two hours more. Nothing else should run meanwhile. Label
# efficiency, HalfCheetah, teachers, noise and the zoo's settings are 385 runs of minutes each;
# stopped with Ctrl-C, they go on where they were, and finished runs are kept.
#
#   IMITATION_PYTHON=ENV/bin/python   measures imitation beside our reward fit (see README.md)
#   TRL_PYTHON=ENV/bin/python         measures TRL beside our text algorithms (see README.md)
#   DATA=FOLDER                       PandaLM, HH-RLHF and SST-2, for the measurements on real data
#   BENCH_WORKERS=2                   runs at once in label efficiency and teachers
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=1

# The timings come first: they want the machine cold and to themselves.
python benchmarks/overhead.py
if [[ -n "${IMITATION_PYTHON:-}" ]]; then
    python benchmarks/reward_fit.py --imitation-python "$IMITATION_PYTHON"
    python benchmarks/against_imitation.py --peer-python "$IMITATION_PYTHON"
else
    python benchmarks/reward_fit.py
fi
python benchmarks/time_split.py
python benchmarks/speed.py
python benchmarks/store.py
for script in rendering pictures viewer labelling labelling_kills sitting; do
    python "benchmarks/$script.py"
done
python benchmarks/sitting.py --labels 60 --steps 60000 --pause 4 --no-replay --out sitting_paced
if command -v xvfb-run >/dev/null; then
    SDL_VIDEODRIVER=x11 xvfb-run -a -s "-screen 0 1920x1080x24" python benchmarks/sitting.py --out sitting_xvfb
fi
for script in text_exact text_loop text_tasks text_sft text_reward text_sampling text_views; do
    python "benchmarks/$script.py"
done
# Real data of other people, where it is at hand (see README.md).
if [[ -n "${DATA:-}" ]]; then
    python benchmarks/human_agreement.py --data "$DATA"
    python benchmarks/text_real_data.py --data "$DATA"
    python benchmarks/text_sst2.py --data "$DATA"
fi
if [[ -n "${TRL_PYTHON:-}" ]]; then
    python benchmarks/against_trl.py --peer-python "$TRL_PYTHON"
fi
for spec in quick_start arithmetic halfcheetah label_efficiency teachers noise speed; do
    rlhf-gym benchmark "benchmarks/specs/$spec.yml" --workers "${BENCH_WORKERS:-2}"
done
rm -rf build/reacher
rlhf-gym train --env rlhf_gym/Reacher-v0 --out build/reacher
python benchmarks/fit_choices.py --run build/reacher
for env in HalfCheetah Hopper; do
    python benchmarks/adversary.py --env "rlhf_gym/$env-v0" --out "adversary_${env,,}"
done
python benchmarks/backflip.py --runs build/backflip --figure docs/figures/backflip.png
