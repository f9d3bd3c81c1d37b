#!/usr/bin/env bash
# Sets up one node of the cluster, as HDInsight's script action: Python 3.10 with the pinned packages, CNTK's Python 3.6,
# helpers, an archive of what executors need, and on head nodes two Jupyter kernels wired to the cluster's Spark.
#   script_action.sh SOURCE [CLIENT_ID]
# SOURCE is tutorial.tar.gz at a URI that hdfs can read, or a folder; CLIENT_ID names the managed identity. It does what
# is missing and nothing twice; after an end in the middle, run it again. One line a step, with its time.
#
# Settings, for a rehearsal on another machine (in brackets: on HDInsight):
#   TUTORIAL_PREFIX    where everything goes [/opt/landcover]
#   TUTORIAL_PYTHON    a Python 3.10 to start from [one that conda makes]
#   TUTORIAL_SPARK     SPARK_HOME [/usr/hdp/current/spark3-client]
#   TUTORIAL_KERNELS   Jupyter's kernels [/usr/local/share/jupyter/kernels]
#   TUTORIAL_CNTK      no: leave CNTK out [yes]
#   TUTORIAL_HEAD      yes or no: whether this is a head node [by its name, hn…]
set -euo pipefail

source=${1:?expected where tutorial.tar.gz lies, got nothing. Run: script_action.sh abfs://container@account.dfs.core.windows.net/tutorial/tutorial.tar.gz}
client_id=${2:-}
prefix=${TUTORIAL_PREFIX:-/opt/landcover}
spark=${TUTORIAL_SPARK:-/usr/hdp/current/spark3-client}
kernels=${TUTORIAL_KERNELS:-/usr/local/share/jupyter/kernels}
conda=${TUTORIAL_CONDA:-/usr/bin/miniforge/bin/conda}
head=${TUTORIAL_HEAD:-$(case $(hostname -s) in hn*) echo yes ;; *) echo no ;; esac)}
code=$prefix/tutorial
environment=$prefix/environment
executors=$prefix/executors.tar.gz
# What only the driver and its notebooks use stays out of the executors' archive.
drivers_only="ipykernel|ipywidgets|ipython|papermill|nbformat|nbclient|jupyter.*|widgetsnbextension|tensorflow.*|keras|h5py|ml-dtypes|\
grpcio|optree|absl-py|gast|astunparse|google-pasta|namex|opt-einsum|termcolor|matplotlib.*|\
debugpy|jedi|fonttools|pygments|scikit-learn|tf2onnx|onnx|sympy|rich|contourpy|kiwisolver|pyzmq|tornado|prompt-toolkit|libclang"

step() {
    printf '%s %s %s\n' "$(date -u +%FT%TZ)" "$(hostname -s)" "$*"
}

fail() {
    step "failed: $*" >&2
    exit 2
}

mkdir -p "$prefix" 2>/dev/null || fail "expected to be allowed to write $prefix, got refused. Run it as root, or set TUTORIAL_PREFIX."
[ ! -d "$source" ] || source=$(cd "$source" && pwd)
# What lies where it was started is none of its business, and Python would look there first.
cd "$prefix"
# Autoscale may start it while it runs.
exec 9>"$prefix/lock"
flock 9

# The new code takes the old one's place as a whole. What an earlier run of it made, CNTK's environment, moves along.
get_code() {
    local part=$prefix/.tutorial.part
    rm -rf "$part"
    mkdir -p "$part"
    if [ -d "$source" ]; then
        git -C "$source" archive HEAD | tar -x -C "$part" 2>/dev/null || fail "expected a git repository at $source, got none."
    else
        hdfs dfs -cat "$source" | tar -xz -C "$part" || fail "expected tutorial.tar.gz at $source, got none. Run upload.sh code."
    fi
    [ ! -d "$code/.venv-cntk" ] || mv "$code/.venv-cntk" "$part/.venv-cntk"
    rm -rf "$code"
    mv "$part" "$code"
    step "code: $(find "$code/helpers" -name '*.py' | wc -l) modules"
}

find_python() {
    python=${TUTORIAL_PYTHON:-$prefix/python/bin/python3.10}
    if [ -z "${TUTORIAL_PYTHON:-}" ] && ! "$python" -c '' 2>/dev/null; then
        rm -rf "$prefix/python"
        "$conda" create --yes --quiet --prefix "$prefix/python" --override-channels --channel conda-forge python=3.10.16 \
            >/dev/null || fail "expected conda to make Python 3.10, got the error above. Run it again, or set TUTORIAL_PYTHON."
    fi
    [ "$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" = 3.10 ] \
        || fail "expected Python 3.10 at $python, got none. Set TUTORIAL_PYTHON."
    step "interpreter: $("$python" --version)"
}

# The stamp is written last: an environment without it is made anew.
make_environment() {
    local wanted
    wanted="$(cksum < "$code/setup_scripts/hdinsight/requirements-cluster.txt") $python"
    if [ "$(cat "$environment/complete" 2>/dev/null)" = "$wanted" ] && "$environment/bin/python" -c '' 2>/dev/null; then
        step "environment: there already"
        return
    fi
    rm -rf "$environment" "$executors"
    "$python" -m venv "$environment"
    "$environment/bin/python" -m pip install --quiet --quiet --disable-pip-version-check --no-deps --only-binary=:all: --require-hashes \
        --requirement "$code/setup_scripts/hdinsight/requirements-cluster.txt" \
        || fail "expected the packages of requirements-cluster.txt with their checksums, got the error above. Run it again."
    echo "$code" > "$("$environment/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')/tutorial.pth"
    echo "$wanted" > "$environment/complete"
    step "environment: $(find "$environment/lib/python3.10/site-packages" -maxdepth 1 -name '*.dist-info' | wc -l) packages"
}

make_cntk() {
    if [ "${TUTORIAL_CNTK:-yes}" = no ]; then
        step "CNTK: left out"
        return
    fi
    local python36=${CNTK_PYTHON:-$prefix/python36/bin/python3.6}
    if [ -z "${CNTK_PYTHON:-}" ] && ! "$python36" -c '' 2>/dev/null; then
        "$conda" create --yes --quiet --prefix "$prefix/python36" --override-channels --channel conda-forge python=3.6.15 >/dev/null || true
    fi
    if TUTORIAL_ENVIRONMENT=$environment CNTK_PYTHON=$python36 "$code/setup_scripts/install_cntk.sh" >/dev/null; then
        step "CNTK: there"
    else
        step "CNTK: not to be had here; notebook 04 is skipped"
    fi
}

# Interpreter, standard library and packages in one archive that runs wherever it is unpacked.
make_archive() {
    if [ -f "$executors" ] && [ "$(cat "$prefix/executors.code" 2>/dev/null)" = "$(code_sum)" ]; then
        step "executors' archive: there already"
        return
    fi
    local part=$prefix/.executors.part base keep
    base=$("$environment/bin/python" -c 'import sys; print(sys.base_prefix)')
    rm -rf "$part"
    mkdir -p "$part/bin" "$part/lib/python3.10/site-packages"
    cp -L "$base/bin/python3.10" "$part/bin/python"
    find "$base/lib" -maxdepth 1 -name '*.so*' -exec cp -L {} "$part/lib/" \;
    tar -C "$base/lib/python3.10" --exclude=./site-packages --exclude=./test --exclude=__pycache__ --exclude=./idlelib \
        --exclude=./tkinter --exclude='./config-*' -cf - . | tar -x -C "$part/lib/python3.10"
    # What each package has installed is in its RECORD; links instead of copies, for the archive is all that stays.
    "$environment/bin/python" -I - "$part/lib/python3.10/site-packages" "$drivers_only" <<'PYTHON'
import importlib.metadata, os, re, sys
target, left_out = sys.argv[1:]
for package in importlib.metadata.distributions():
    name = package.metadata["Name"].lower().replace("_", "-")
    if re.fullmatch(left_out + "|pip", name):
        continue
    for file in package.files or ():
        path = str(package.locate_file(file))
        if ".." not in file.parts and "__pycache__" not in file.parts and "include" not in file.parts and os.path.isfile(path):
            link = os.path.join(target, str(file))
            os.makedirs(os.path.dirname(link), exist_ok=True)
            if not os.path.lexists(link):  # Two packages may share a file.
                os.symlink(path, link)
PYTHON
    keep=$part/lib/python3.10/site-packages/helpers
    mkdir -p "$keep"
    tar -C "$code/helpers" --exclude=weights --exclude=pretraining -cf - . | tar -x -C "$keep"
    tar -C "$part" --dereference -cf - . | gzip -1 > "$executors.part"
    mv "$executors.part" "$executors"
    rm -rf "$part"
    code_sum > "$prefix/executors.code"
    step "executors' archive: $(du -m "$executors" | cut -f1) MB"
}

code_sum() {
    { echo "$drivers_only"; cat "$environment/complete"; find "$code/helpers" -type f -exec cksum {} + | sort; } | cksum
}

# $1: its name, $2: its title, $3: where driver and executors find Python.
write_kernel() {
    local libraries
    libraries=$(echo "$spark"/python/lib/py4j-*.zip)
    mkdir -p "$kernels/$1"
    cat > "$kernels/$1/kernel.json.part" <<JSON
{
 "display_name": "$2",
 "language": "python",
 "argv": ["$environment/bin/python", "-m", "ipykernel_launcher", "-f", "{connection_file}"],
 "env": {
  "SPARK_HOME": "$spark",
  "PYTHONPATH": "$spark/python/lib/pyspark.zip:$libraries:$code",
  "PYSPARK_PYTHON": "$environment/bin/python",
  "PYSPARK_DRIVER_PYTHON": "$environment/bin/python",
  "TUTORIAL_MASTER": "yarn",
  "AZURE_CLIENT_ID": "$client_id"
 }
}
JSON
    mv "$kernels/$1/kernel.json.part" "$kernels/$1/kernel.json"
}

register_kernels() {
    if [ "$head" != yes ]; then
        step "kernels: only on head nodes"
        return
    fi
    [ -f "$spark/python/lib/pyspark.zip" ] || fail "expected Spark's Python at $spark/python/lib, got none. Set TUTORIAL_SPARK."
    write_kernel landcover "Land cover (Spark)"
    # Notebook 04's, made by install_cntk.sh where CNTK can be had.
    if [ -d "$environment/share/jupyter/kernels/cntk" ]; then
        rm -rf "$kernels/cntk"
        cp -r "$environment/share/jupyter/kernels/cntk" "$kernels/cntk"
    fi
    step "kernels: $(find "$kernels" -name kernel.json | wc -l)"
}

# Imports everything, and scores with the engine; on a head node with the cluster's own PySpark on the path.
test_itself() {
    local path=$code
    [ "$head" != yes ] || path=$spark/python/lib/pyspark.zip:$(echo "$spark"/python/lib/py4j-*.zip):$code
    PYTHONPATH=$path HEAD=$head "$environment/bin/python" - <<'PYTHON' || fail "expected an environment that works, got the error above."
import os, warnings
warnings.simplefilter("ignore")
import adlfs, numpy, onnxruntime, pandas, pyarrow, rasterio
from helpers import scoring, storage, tilestore
if os.environ["HEAD"] == "yes":
    import pyspark
    assert pyspark.__version__ >= "3.3", pyspark.__version__
table = pyarrow.Table.from_pandas(pandas.DataFrame({"image": [b"bytes"], "label": numpy.arange(1)}))
assert table.to_pandas()["image"][0] == b"bytes"
PYTHON
    step "self-test: passed"
}

get_code
find_python
make_environment
make_cntk
make_archive
register_kernels
test_itself
