#!/usr/bin/env bash
# Sets up one node of the cluster, as HDInsight's script action: Python 3.10 with the pinned packages, CNTK's Python 3.6,
# helpers, an archive for executors, and on head nodes two Jupyter kernels: one for the cluster's Spark, one for CNTK.
#   script_action.sh SOURCE
# SOURCE is the URI of tutorial.tar.gz, which hdfs can read, or the folder of a clone. The script does only what is
# missing. If it was interrupted, run it again. It prints one line for each step, with the time.
#
# Environment variables for other machines and accounts (in brackets: the default, for HDInsight):
#   TUTORIAL_PREFIX    the folder for everything [/opt/landcover]
#   TUTORIAL_PYTHON    a Python 3.10 [the node's own, otherwise conda's]
#   TUTORIAL_CONDA     the conda program [/usr/bin/miniforge/bin/conda]
#   TUTORIAL_SPARK     SPARK_HOME [/usr/hdp/current/spark3-client]
#   TUTORIAL_KERNELS   the folder of Jupyter's kernels [/usr/local/share/jupyter/kernels]
#   TUTORIAL_CNTK      no: leave CNTK out [yes]
#   TUTORIAL_HEAD      yes or no: whether this is a head node [yes if the host's name begins with hn]
set -euo pipefail
# Every account on the node may read the files that this script makes, and only root may change them.
umask 022

case ${1:-} in -h|--help)
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
    exit 0
esac
source=${1:?expected the URI of tutorial.tar.gz or a folder, got nothing. Run: script_action.sh abfs://container@account.dfs.core.windows.net/tutorial/tutorial.tar.gz}
# By default, tile stores and tables go into the storage container that the code comes from.
storage=
[[ $source != abfs*://*/tutorial/tutorial.tar.gz ]] || storage=${source%/tutorial/tutorial.tar.gz}
prefix=${TUTORIAL_PREFIX:-/opt/landcover}
spark=${TUTORIAL_SPARK:-/usr/hdp/current/spark3-client}
kernels=${TUTORIAL_KERNELS:-/usr/local/share/jupyter/kernels}
conda=${TUTORIAL_CONDA:-/usr/bin/miniforge/bin/conda}
head=${TUTORIAL_HEAD:-$(case $(hostname -s) in hn*) echo yes ;; *) echo no ;; esac)}
code=$prefix/tutorial
environment=$prefix/environment
executors=$prefix/executors.tar.gz
# The self-test's ten tiles, its network and their scores.
drawn=$prefix/self_test
launcher=$code/setup_scripts/hdinsight/node_environment.sh
# Packages that only the driver and its notebooks use. They stay out of the executors' archive.
drivers_only="scipy|pyogrio|ipykernel|ipywidgets|ipython|papermill|nbformat|nbclient|jupyter.*|widgetsnbextension|tensorflow.*|keras|h5py|ml-dtypes|\
grpcio|optree|absl-py|gast|astunparse|google-pasta|namex|opt-einsum|termcolor|matplotlib.*|\
jedi|fonttools|pygments|scikit-learn|tf2onnx|onnx|sympy|rich|contourpy|kiwisolver|pyzmq|tornado|prompt-toolkit|libclang"

step() {
    printf '%s %s %s\n' "$(date -u +%FT%TZ)" "$(hostname -s)" "$*"
}

fail() {
    step "failed: $*" >&2
    exit 2
}

mkdir -p "$prefix" 2>/dev/null || fail "expected a folder $prefix that this account may write, got none. Run it as root, or set TUTORIAL_PREFIX."
[ ! -d "$source" ] || source=$(CDPATH="" cd "$source" && pwd)
# Leave the folder in which the script was started: Python would look for modules there first.
cd "$prefix"
# Two runs at the same time wait for each other: autoscale may start a second one.
exec 9>"$prefix/lock"
flock 9

# Run storage commands as the account spark: HDInsight may refuse them from accounts outside the Hadoop group, even
# root.
hadoop_user=()
if [ "$(id -u)" = 0 ] && id spark >/dev/null 2>&1; then hadoop_user=(sudo -n -H -u spark); fi

# Replaces the old code as a whole. CNTK's environment, which an earlier run has made in the old folder, is kept.
get_code() {
    local part=$prefix/.tutorial.part
    rm -rf "$part"
    mkdir -p "$part"
    if [ -d "$source" ]; then
        # All files that git does not ignore, committed or not.
        git -C "$source" ls-files -z --cached --others --exclude-standard \
            | tar -C "$source" --null --ignore-failed-read --files-from - -cf - 2>/dev/null | tar -x -C "$part"
        [ -d "$part/helpers" ] || fail "expected the tutorial's git repository at $source, got none. Give its folder."
    else
        ${hadoop_user[@]+"${hadoop_user[@]}"} hdfs dfs -cat "$source" | tar -xz -C "$part" || fail "expected tutorial.tar.gz at $source, got none. Run upload.sh code."
    fi
    [ ! -d "$code/.venv-cntk" ] || mv "$code/.venv-cntk" "$part/.venv-cntk"
    rm -rf "$code"
    mv "$part" "$code"
    step "code: $(find "$code/helpers" -name '*.py' | wc -l) modules"
}

# Prints the node's own Python 3.10, if there is one that can make environments, and that still finds its packages when
# it runs from an unpacked archive. Debian's Python does not.
own_python() {
    local candidate miniforge=${conda%/bin/conda}
    for candidate in "$(command -v python3.10 || true)" "$miniforge"/bin/python3.10 "$miniforge"/envs/*/bin/python3.10 \
            /usr/bin/anaconda/envs/*/bin/python3.10; do
        if [ -x "$candidate" ] && "$candidate" -I -c 'import ensurepip, site, ssl, sys, venv
assert all(path.endswith("/site-packages") for path in site.getsitepackages())
print(sys.base_prefix + "/bin/python3.10")' 2>/dev/null; then return; fi
    done
}

find_python() {
    python=${TUTORIAL_PYTHON:-$(own_python)}
    [ -n "$python" ] || python=$prefix/python/bin/python3.10
    if [ "$python" = "$prefix/python/bin/python3.10" ] && ! "$python" -c '' 2>/dev/null; then
        rm -rf "$prefix/python"
        # conda's solver has sometimes run for an hour.
        timeout 1200 "$conda" create --yes --quiet python=3.10.16 --prefix "$prefix/python" --override-channels \
            --channel conda-forge >/dev/null \
            || fail "expected conda to install Python 3.10 within 20 minutes, but it failed or was too slow. Run it again, or set TUTORIAL_PYTHON."
    fi
    [ "$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" = 3.10 ] \
        || fail "expected Python 3.10 at $python, got none. Set TUTORIAL_PYTHON."
    step "interpreter: $("$python" --version) at $python"
}

# The stamp "complete" is written last. An environment without it is repaired if it was begun with the same packages,
# and otherwise made again from the beginning.
make_environment() {
    local wanted
    wanted="$(cksum < "$code/setup_scripts/hdinsight/requirements-cluster.txt") $python"
    if [ "$(cat "$environment/complete" 2>/dev/null)" = "$wanted" ] && "$environment/bin/python" -c '' 2>/dev/null; then
        step "environment: there already"
        return
    fi
    rm -f "$executors" "$environment/complete"
    if [ "$(cat "$environment/begun" 2>/dev/null)" != "$wanted" ] \
            || ! "$environment/bin/python" -m pip --version >/dev/null 2>&1; then
        rm -rf "$environment"
        "$python" -m venv "$environment"
        echo "$wanted" > "$environment/begun"
    fi
    # pip believes that a package is installed if its list of files exists. Remove the lists whose files are missing.
    "$environment/bin/python" -I - <<'PYTHON'
import importlib.metadata, pathlib, shutil, sysconfig
for folder in pathlib.Path(sysconfig.get_paths()["purelib"]).glob("*.dist-info"):
    files = importlib.metadata.PathDistribution(folder).files
    if not files or any(file.size is not None and not (
            file.locate().is_file() and file.locate().stat().st_size == file.size) for file in files):
        shutil.rmtree(folder)
PYTHON
    "$environment/bin/python" -I -m pip install --quiet --quiet --disable-pip-version-check --no-compile --no-deps --only-binary=:all: --require-hashes \
        --requirement "$code/setup_scripts/hdinsight/requirements-cluster.txt" \
        || fail "expected the packages of requirements-cluster.txt with their checksums, got the error above. Run it again."
    # Compile now, on all cores: the accounts that use the environment may not write to it.
    "$environment/bin/python" -W ignore -m compileall -q -q -j 0 "$environment/lib" || true
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
        timeout 1200 "$conda" create --yes --quiet --prefix "$prefix/python36" --override-channels --channel conda-forge python=3.6.15 >/dev/null || true
    fi
    if TUTORIAL_ENVIRONMENT=$environment CNTK_PYTHON=$python36 \
            CNTK_REQUIREMENTS=$code/setup_scripts/hdinsight/requirements-cluster-cntk.txt \
            "$code/setup_scripts/install_cntk.sh" >/dev/null; then
        step "CNTK: there"
    else
        step "CNTK: not available here; notebook 04 is skipped"
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
    # Copy only those shared libraries that the interpreter loads: Anaconda has hundreds in the same folder.
    ldd "$base/bin/python3.10" "$base"/lib/python3.10/lib-dynload/*.so | sed -n 's|.* => \(/[^ ]*\) (.*|\1|p' \
        | xargs realpath -s | sort -u | { grep "^$base/lib/" || true; } | xargs -r cp -L -t "$part/lib"
    tar -C "$base/lib/python3.10" --exclude=./site-packages --exclude=./test --exclude=__pycache__ --exclude=./idlelib \
        --exclude=./tkinter --exclude='./config-*' -cf - . | tar -x -C "$part/lib/python3.10"
    # The RECORD of a package lists its files. Links are enough here, because only the archive is kept.
    "$environment/bin/python" -I - "$part/lib/python3.10/site-packages" "$drivers_only" <<'PYTHON'
import importlib.metadata, os, re, sys
target, left_out = sys.argv[1:]
for package in importlib.metadata.distributions():
    name = package.metadata["Name"].lower().replace("_", "-")
    if re.fullmatch(left_out + "|pip", name):
        continue
    for file in package.files or ():
        path = str(package.locate_file(file))
        if not {"..", "__pycache__", "include", "tests"} & set(file.parts) and os.path.isfile(path):
            link = os.path.join(target, str(file))
            os.makedirs(os.path.dirname(link), exist_ok=True)
            if not os.path.lexists(link):  # Two packages may share a file.
                os.symlink(path, link)
PYTHON
    keep=$part/lib/python3.10/site-packages/helpers
    mkdir -p "$keep"
    tar -C "$code/helpers" --exclude=weights --exclude=__pycache__ -cf - . | tar -x -C "$keep"
    # Compile once here, and not in each executor of each job. Python must not compare the times of files, because
    # unpacking may change them.
    "$environment/bin/python" -W ignore -m compileall -q -q -j 0 --invalidation-mode unchecked-hash "$part/lib" || true
    tar -C "$part" --dereference -cf - . | gzip -1 > "$executors.part"
    # Unpack the archive as YARN does, and score the same ten tiles with an empty environment.
    rm -rf "$part"
    mkdir "$part"
    tar -xzf "$executors.part" -C "$part"
    env -i "$part/bin/python" -I "$code/setup_scripts/hdinsight/self_test.py" executor "$drawn" >/dev/null \
        || fail "expected an executors' archive that scores, got the error above. Run it again."
    rm -rf "$part"
    mv "$executors.part" "$executors"
    code_sum > "$prefix/executors.code"
    step "executors' archive: $(du -m "$executors" | cut -f1) MB, passed the self-test"
}

code_sum() {
    { cat "$environment/complete"; cd "$code"; find helpers setup_scripts/hdinsight/script_action.sh -type f -exec cksum {} + | sort; } | cksum
}

# $1: the kernel's name, $2: its title in Jupyter.
write_kernel() {
    local libraries
    libraries=$(echo "$spark"/python/lib/py4j-*.zip)
    mkdir -p "$kernels/$1"
    cat > "$kernels/$1/kernel.json.part" <<JSON
{
 "display_name": "$2",
 "language": "python",
 "argv": ["$launcher", "$environment/bin/python", "-m", "ipykernel_launcher", "-f", "{connection_file}"],
 "env": {
  "SPARK_HOME": "$spark",
  "PYTHONPATH": "$spark/python/lib/pyspark.zip:$libraries",
  "PYSPARK_PYTHON": "$environment/bin/python",
  "PYSPARK_DRIVER_PYTHON": "$environment/bin/python",
  "PYSPARK_SUBMIT_ARGS": "--deploy-mode client pyspark-shell",
  "TUTORIAL_MASTER": "yarn",
  "TUTORIAL_STORAGE": "$storage"
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
    # The kernel of notebook 04, which install_cntk.sh has made if CNTK is available.
    if [ -d "$environment/share/jupyter/kernels/cntk" ]; then
        rm -rf "$kernels/cntk"
        cp -r "$environment/share/jupyter/kernels/cntk" "$kernels/cntk"
        sed -i "s|\"argv\": \[|&\"$launcher\", |" "$kernels/cntk/kernel.json"
    fi
    step "kernels: $(find "$kernels" -name kernel.json | wc -l)"
}

# Draws ten tiles and scores them; on a head node with the cluster's own PySpark on the path.
test_itself() {
    local path=$code
    [ "$head" != yes ] || path=$spark/python/lib/pyspark.zip:$(echo "$spark"/python/lib/py4j-*.zip):$code
    rm -rf "$drawn"
    if ! PYTHONPATH=$path "$environment/bin/python" "$code/setup_scripts/hdinsight/self_test.py" \
            "$([ "$head" = yes ] && echo head || echo worker)" "$drawn" >/dev/null; then
        # Then the next run repairs it.
        rm -f "$environment/complete"
        fail "expected an environment that works, got the error above. Run it again."
    fi
    step "self-test: passed"
}

get_code
find_python
make_environment
make_cntk
test_itself
make_archive
register_kernels
