#!/usr/bin/env bash
# Scores a tile store on the cluster without a notebook: spark-submit on YARN, with the executors' Python as an archive,
# for clusters that nobody may change. Run again after whatever stopped it, and it goes on.
#   submit_scoring.sh TILES MODEL TABLE [--dry-run] [options of score_tiles.py]
# Settings from the environment: TUTORIAL_PREFIX, TUTORIAL_SPARK as in script_action.sh; MASTER (yarn); EXECUTORS and CORES
# (as the cluster has). Credentials come from the environment or the file of storage_token.sh, never from an argument.
set -euo pipefail

dry_run=no arguments=()
for argument in "$@"; do
    if [ "$argument" = --dry-run ]; then dry_run=yes; else arguments+=("$argument"); fi
done
if [ ${#arguments[@]} -lt 3 ]; then
    echo "expected the URIs of tiles, model and table, got ${#arguments[@]} of them. Run: submit_scoring.sh TILES MODEL TABLE" >&2
    exit 2
fi
prefix=${TUTORIAL_PREFIX:-/opt/landcover}
spark=${TUTORIAL_SPARK:-/usr/hdp/current/spark3-client}
master=${MASTER:-yarn}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
code=$(cd "$here/../.." && pwd)
command=("$spark/bin/spark-submit" --master "$master" --deploy-mode client --name landcover-scoring
    --archives "$prefix/executors.tar.gz#environment"
    # Scala's and the committer's own settings are the cluster's; these are ours.
    --conf spark.executorEnv.PYTHONPATH= --conf spark.sql.execution.arrow.pyspark.enabled=true)
[ -z "${EXECUTORS:-}" ] || command+=(--num-executors "$EXECUTORS")
[ -z "${CORES:-}" ] || command+=(--executor-cores "$CORES")
command+=("$code/setup_scripts/score_tiles.py" "${arguments[@]}" --master "$master")
printf '+ PYSPARK_DRIVER_PYTHON=%q PYSPARK_PYTHON=./environment/bin/python' "$prefix/environment/bin/python"
printf ' %q' "${command[@]}"
printf '\n'
[ $dry_run = no ] || exit 0
# Executors unpack the archive beside their work, so their Python has no place of its own.
export PYSPARK_DRIVER_PYTHON=$prefix/environment/bin/python PYSPARK_PYTHON=./environment/bin/python PYTHONPATH=$code
exec "$here/node_environment.sh" "${command[@]}"
