#!/usr/bin/env bash
# Makes the environment of Microsoft Cognitive Toolkit 2.7, .venv-cntk, and its Jupyter kernel. CNTK's last release
# is for Python 3.6 on Linux. If you run it again, it does only what is missing. If CNTK is not available, it ends with
# status 3 and one line. Settings from the environment: CNTK_PYTHON, a Python 3.6.
set -euo pipefail
case ${1:-} in -h|--help)
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
    exit 0
esac
# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

cntk_environment=$repository/.venv-cntk
cntk_python=$cntk_environment/bin/python
# This file is written last. Without it this script repeats the installation, and the engine cntk does not use it.
cntk_stamp=$cntk_environment/complete
libraries=$cntk_environment/lib/mpi
# Only the Jupyter in .venv looks for kernels here.
kernel=$environment/share/jupyter/kernels/cntk

skip() {
    rm -rf "$kernel"
    echo "Skipping CNTK (notebook 04, the engine cntk, their tests): $*" >&2
    exit 3
}

is_python36() {
    "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] != (3, 6))' 2>/dev/null
}

# Prints the path of a Python 3.6. If there is none yet, conda or micromamba installs one.
find_python36() {
    local candidate conda
    if [ -n "${CNTK_PYTHON:-}" ]; then
        if is_python36 "$CNTK_PYTHON"; then echo "$CNTK_PYTHON"; fi
        return
    fi
    for candidate in python3.6 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.6.*/bin/python3.6 \
            "$cntk_environment-python/bin/python3.6"; do
        if is_python36 "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    for conda in conda micromamba; do
        command -v "$conda" >/dev/null || continue
        echo "Creating Python 3.6 with $conda." >&2
        if "$conda" create --yes --quiet --prefix "$cntk_environment-python" --override-channels \
                --channel conda-forge python=3.6 >&2 && is_python36 "$cntk_environment-python/bin/python3.6"; then
            echo "$cntk_environment-python/bin/python3.6"
            return
        fi
    done
}

# Prints the system's newest Open MPI library with this name: libmpi.so.40 is Open MPI 3 and 4, .20 is 2, .12 is 1.
mpi_library() {
    PATH=$PATH:/sbin:/usr/sbin ldconfig -p | awk -v name="$1" '
        index($1, name ".so.") == 1 && /x86-64/ { print $NF }' | sort -t. -k3,3nr | head -1
}

# CNTK was linked against Open MPI 1.10. Later releases still have the functions that it uses, in files of other names.
link_mpi() {
    local package
    if [ -z "$(mpi_library libmpi_cxx)" ]; then
        [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null \
            || skip "expected the system library libmpi_cxx, got none. Run: sudo apt-get install libopenmpi3"
        echo "Installing the system package libopenmpi3."
        apt-get update -qq || true
        # Ubuntu 24.04 and 18.04 have it under the other two names.
        for package in libopenmpi3 libopenmpi3t64 libopenmpi2; do
            if apt-get install -y -qq --no-install-recommends "$package" >/dev/null 2>&1; then break; fi
        done
        [ -n "$(mpi_library libmpi_cxx)" ] || skip "expected the system library libmpi_cxx, got none from" \
            "apt-get install libopenmpi3. Install Open MPI 2 to 4 with its C++ library."
    fi
    mkdir -p "$libraries"
    ln -sf "$(mpi_library libmpi)" "$libraries/libmpi.so.12"
    ln -sf "$(mpi_library libmpi_cxx)" "$libraries/libmpi_cxx.so.1"
}

register_kernel() {
    mkdir -p "$kernel"
    cat > "$kernel/kernel.json" <<JSON
{
 "display_name": "CNTK 2.7 (Python 3.6)",
 "language": "python",
 "argv": ["$cntk_python", "-m", "ipykernel_launcher", "-f", "{connection_file}"],
 "env": {"LD_LIBRARY_PATH": "$libraries", "TUTORIAL_PYTHON": "$python"}
}
JSON
}

# Trains one step, and sees the loss fall.
self_test() {
    LD_LIBRARY_PATH=$libraries "$cntk_python" - <<'PYTHON'
import numpy as np
from helpers.model.cntk_process import start_cntk
cntk = start_cntk(1)
x, y = cntk.input_variable((3, 8, 8)), cntk.input_variable(2)
model = cntk.layers.Dense(2)(cntk.layers.Convolution2D((3, 3), 4, activation=cntk.relu)(x))
loss = cntk.cross_entropy_with_softmax(model, y)
trainer = cntk.Trainer(model, loss, [cntk.sgd(model.parameters, cntk.learning_parameter_schedule(0.01))])
batch = {x: np.random.RandomState(0).rand(4, 3, 8, 8).astype("f"), y: np.eye(2, dtype="f")[[0, 1, 0, 1]]}
before = loss.eval(batch).mean()
trainer.train_minibatch(batch)
after = loss.eval(batch).mean()
assert after < before, (before, after)
print("CNTK {} trains: loss {:.3f}, after one step {:.3f}.".format(cntk.__version__, before, after))
PYTHON
}

if [ "$(uname -s)" != Linux ] || [ "$(uname -m)" != x86_64 ]; then
    skip "expected Linux on x86-64, which its last release was made for, got $(uname -s) on $(uname -m)."
fi
# The stamp changes with CNTK's lines of the requirements, and with the folder, because an environment that was moved no
# longer works. A cluster's nodes give their own list, CNTK_REQUIREMENTS, in which every package has its checksum.
hashed=${CNTK_REQUIREMENTS:-}
wanted="$(grep 'python_version < "3.7"' "$repository/requirements.txt" | cat - ${hashed:+"$hashed"} | cksum)"
wanted+=" $cntk_environment"
if [ -f "$cntk_stamp" ] && [ "$(cat "$cntk_stamp")" = "$wanted" ] && [ -e "$libraries/libmpi_cxx.so.1" ] \
        && "$cntk_python" -c '' 2>/dev/null; then
    # The main environment may be new, without the kernel's entry.
    register_kernel
    exit 0
fi
rm -rf "$cntk_stamp" "$kernel"
interpreter=$(find_python36)
[ -n "$interpreter" ] || skip "expected Python 3.6 in CNTK_PYTHON, on the path or in pyenv, or conda to install it," \
    "got ${CNTK_PYTHON:-none}. Run: pyenv install 3.6.15"
echo "Setting up CNTK 2.7 for $("$interpreter" --version 2>&1) in .venv-cntk: about 0.8 GB, two minutes."
"$interpreter" -m venv --clear "$cntk_environment"
link_mpi
# Python 3.6 comes with a pip that can't read today's wheels. pip 21.3.1 is the last for Python 3.6.
packages=("pip==21.3.1" "--requirement=$repository/requirements.txt")
if [ -n "$hashed" ]; then
    grep -A 1 '^pip==' "$hashed" > "$cntk_environment/pip.txt"
    packages=("--requirement=$cntk_environment/pip.txt" "--requirement=$hashed")
fi
for wanted_packages in "${packages[@]}"; do
    "$cntk_python" -I -m pip install --quiet --quiet --disable-pip-version-check ${hashed:+--require-hashes --no-deps} \
        "$wanted_packages" \
        || skip "expected CNTK's packages from the package index, got the error above. Run setup_scripts/install_cntk.sh again."
done
echo "$repository" > "$("$cntk_python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')/tutorial.pth"
self_test || skip "expected CNTK to train one step, got the error above. Remove .venv-cntk and run" \
    "setup_scripts/install_cntk.sh again."
register_kernel
echo "$wanted" > "$cntk_stamp"
