#!/usr/bin/env bash
# Measures this machine: the project's engines beside other ways to score the same tiles. Sets up what is missing, then
# prints the table with the goals beside it and writes results/<processor>.json, the figure, and the README's tables. It
# takes an hour to an hour and a half on two cores. --only measures one part. --quick rehearses it on a few tiles in
# minutes, and writes to runs/benchmark only.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../../setup_scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../setup_scripts/environment.sh"
"$repository/setup_scripts/install_cntk.sh" || true

# Daft, Ray and imagecodecs are only compared with, so they stay out of the tutorial's environment. Packages that both
# environments need have the same version in both, except pyarrow: Daft needs an older one. imagecodecs 2026.3.6 is the
# last for Python 3.11. Without aiohttp several of Ray's threads ask fsspec at once for a module that needs it, and one
# of them fails.
others=$repository/.venv-benchmark
wanted="$(cksum < "$repository/requirements.txt") daft 0.7.26 ray 2.60.0 imagecodecs 2026.3.6 aiohttp 3.14.5 $others"
if [ ! -f "$others/complete" ] || [ "$(cat "$others/complete")" != "$wanted" ]; then
    echo "Setting up Daft and Ray in .venv-benchmark: about 1 GB, two minutes."
    "$python" -m venv --clear "$others"
    grep -E '^(numpy|pandas|pillow|fsspec|onnx|onnxruntime|psutil)==.*python_version >= "3.11"' \
        "$repository/requirements.txt" > "$others/requirements.txt"
    "$others/bin/python" -m pip install --quiet --disable-pip-version-check -r "$others/requirements.txt" \
        "daft==0.7.26" "ray[data]==2.60.0" "imagecodecs==2026.3.6" "aiohttp==3.14.5"
    echo "$wanted" > "$others/complete"
fi
cd "$repository"
"$python" setup_scripts/sample
exec "$python" tests/benchmarks/benchmark.py --others "$others/bin/python" "$@"
