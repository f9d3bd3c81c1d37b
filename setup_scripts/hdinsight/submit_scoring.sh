#!/usr/bin/env bash
# Scores a tile store on the cluster without a notebook, with spark-submit on YARN. Spark sends the executors' Python as
# an archive, so nothing has to be installed on the nodes. If the job stops, run the same command again, and it
# continues.
#   submit_scoring.sh TILES MODEL TABLE [--dry-run] [options of score_tiles.py]
# Settings from the environment: TUTORIAL_PREFIX and TUTORIAL_SPARK as in script_action.sh; MASTER (yarn); SUBMIT_OPTIONS,
# more options of spark-submit, separated by blanks. On a YARN cluster that you share with others, choose your queue and
# limit the executors:  SUBMIT_OPTIONS="--queue maps --conf spark.dynamicAllocation.maxExecutors=4". The job itself chooses
# the cores and the memory of an executor.
# Credentials come from the environment or the file of storage_token.sh, never from an argument.
set -euo pipefail

fail() {
    echo "$*" >&2
    exit 2
}

dry_run=no arguments=()
for argument in "$@"; do
    case $argument in
        --dry-run) dry_run=yes ;;
        --help|-h) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit 0 ;;
        *) arguments+=("$argument") ;;
    esac
done
[ ${#arguments[@]} -ge 3 ] || fail "expected the URIs of tiles, model and table, got ${#arguments[@]} of them." \
    "Run: submit_scoring.sh TILES MODEL TABLE"
prefix=${TUTORIAL_PREFIX:-/opt/landcover}
spark=${TUTORIAL_SPARK:-/usr/hdp/current/spark3-client}
master=${MASTER:-yarn}
here=$(CDPATH="" cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# All other Spark settings are the cluster's own. The program must be the copy of the code from which the archive was
# made.
read -r -a options <<< "${SUBMIT_OPTIONS:-}"
command=("$spark/bin/spark-submit" --master "$master" --deploy-mode client --name landcover-scoring
    ${options[@]+"${options[@]}"} --archives "$prefix/executors.tar.gz#environment"
    "$prefix/tutorial/setup_scripts/score_tiles.py" "${arguments[@]}" --master "$master")
printf '+ PYSPARK_DRIVER_PYTHON=%q PYSPARK_PYTHON=./environment/bin/python' "$prefix/environment/bin/python"
printf ' %q' "${command[@]}"
printf '\n'
[ $dry_run = no ] || exit 0
# Spark needs this folder to prepare a job. Since October 2023 HDInsight refuses storage commands from accounts outside
# the Hadoop group.
if [ "$master" = yarn ] && command -v hdfs >/dev/null && ! refused=$(hdfs dfs -mkdir -p .sparkStaging 2>&1); then
    fail "expected the account $(id -un) to be allowed to write to the cluster's storage, got: ${refused##*$'\n'}" \
        "Run it as an account that is allowed to: sudo -H -u spark $here/submit_scoring.sh …"
fi
# Executors unpack the archive in their working folder, so the path of their Python is relative. YARN would also pass
# PYTHONPATH to them, and its packages would hide those of the archive.
unset PYTHONPATH
export PYSPARK_DRIVER_PYTHON=$prefix/environment/bin/python PYSPARK_PYTHON=./environment/bin/python
exec "$here/node_environment.sh" "${command[@]}"
