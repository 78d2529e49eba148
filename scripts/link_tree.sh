#!/bin/sh
# Writes build/typecheck/rlhf_gym/, a folder of links that shows the package as it is installed.
#
# envs/, agents/ and feedback/ are sub-packages of rlhf_gym through setuptools' package-dir, which
# type checkers do not read: without these links mypy checks the core only and still reports
# success. Used by `make check`:
#   MYPYPATH=build/typecheck mypy -p rlhf_gym --explicit-package-bases
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
tree="$root/build/typecheck/rlhf_gym"

rm -rf "$tree" # links of deleted modules would be checked for ever
mkdir -p "$tree"
for entry in "$root"/rlhf_gym/*.py "$root"/rlhf_gym/py.typed; do
    ln -s "../../../rlhf_gym/$(basename -- "$entry")" "$tree/"
done
for room in envs agents feedback; do
    ln -s "../../../$room" "$tree/$room"
done
