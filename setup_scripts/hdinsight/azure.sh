# shellcheck shell=bash
# The other scripts source this file. It reads the settings, handles --dry-run, and runs and shows commands.

here=$(CDPATH="" cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck disable=SC2034
repository=$(CDPATH="" cd "$here/../.." && pwd)
# shellcheck source-path=SCRIPTDIR source=settings.sh
source "$here/settings.sh"
dry_run=no

fail() {
    echo "$*" >&2
    exit 2
}

# Settings become part of commands, here, on the nodes and in Azure's queries, so only harmless characters are allowed.
for setting in group location storage container identity cluster ssh_user jupyter_user head_size worker_size zookeeper_size; do
    [[ ${!setting} =~ ^[A-Za-z0-9][A-Za-z0-9_.-]*$ ]] || fail "expected letters, digits, dots, hyphens and underscores in the" \
        "setting $setting, got '${!setting}'. Correct it in settings.sh or in the environment."
done
for setting in workers least_workers most_workers head_cents worker_cents zookeeper_cents storage_cents; do
    [[ ${!setting} =~ ^[0-9]{1,6}$ ]] || fail "expected a whole number in the setting $setting, got '${!setting}'. Correct it" \
        "in settings.sh or in the environment."
done
[[ $script_uri =~ ^(https://[A-Za-z0-9][A-Za-z0-9./_~%-]*)?$ ]] || fail "expected an https address in the setting script_uri, got" \
    "'$script_uri'. Correct it in settings.sh or in the environment."

# Prints the help text: the comment at the beginning of the script.
usage() {
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
}

# Handles --dry-run and --help, and puts the other arguments into "${arguments[@]}".
read_arguments() {
    local argument
    arguments=()
    for argument in "$@"; do
        case $argument in
            --dry-run) dry_run=yes ;;
            --help|-h) usage; exit 0 ;;
            *) arguments+=("$argument") ;;
        esac
    done
    [ $dry_run = yes ] || command -v az >/dev/null \
        || fail "expected the Azure CLI (az) on the path, got none. Install it: learn.microsoft.com/cli/azure/install-azure-cli," \
            "or see the commands with --dry-run."
}

shown() {
    printf '+'
    printf ' %q' "$@"
    printf '\n'
}

# Shows a command and runs it; a dry run only shows it.
run() {
    shown "$@"
    [ $dry_run = yes ] || "$@"
}

# Prints the output of a command. A dry run prints the first argument instead, and shows the command on standard error.
ask() {
    local stand_in=$1
    shift
    if [ $dry_run = yes ]; then
        shown "$@" >&2
        echo "$stand_in"
    else
        "$@"
    fi
}

# Whether a resource exists. In a dry run none does.
is_there() {
    if [ $dry_run = yes ]; then
        shown "$@"
        return 1
    fi
    "$@" >/dev/null 2>&1
}

# Prints one line for each family of machines: its name in Azure's quotas, and the cores that the cluster needs at
# autoscale's upper limit. Standard_E8ads_v5 belongs to the family EADSV5 and has 8 cores. (In sizes before version 3
# the number in the name was not the number of cores.)
wanted_cores() {
    printf '%s\n' "$head_size 2" "$worker_size $most_workers" "$zookeeper_size 3" | awk '{
        size = substr(toupper($1), index($1, "_") + 1)
        match(size, /[0-9]+/)
        rest = substr(size, RSTART + RLENGTH)
        gsub(/^-[0-9]+|_/, "", rest)
        cores[substr(size, 1, RSTART - 1) rest] += substr(size, RSTART, RLENGTH) * $2
    } END { for (family in cores) print family, cores[family] }' | sort
}

# HDInsight has quotas of its own, one for each family of machines in a region.
check_quota() {
    local usage family cores free
    usage=$(ask "" az hdinsight list-usage --location "$location" --output tsv \
        --query "(value || @)[].[name.value, limit, currentValue]")
    while read -r family cores; do
        echo "This cluster needs $cores free cores of the family $family in HDInsight's quota for $location."
        [ $dry_run = no ] || continue
        free=$(awk -v family="$family" '{
            name = toupper($1)
            gsub(/^STANDARD|FAMILY$|_/, "", name)
            if (name == family) print $2 - $3
        }' <<< "$usage")
        if [ -z "$free" ]; then
            echo "Azure reports no quota for this family. Look it up in the portal, under Quotas."
        elif [ "$free" -lt "$cores" ]; then
            fail "expected $cores free cores of the family $family in $location, got $free. Ask Azure for more" \
                "(portal: Quotas, Azure HDInsight), or choose other sizes or most_workers in settings.sh."
        fi
    done < <(wanted_cores)
}

dollars() {
    printf '$%d.%02d' $(($1 / 100)) $(($1 % 100))
}

show_prices() {
    local least most
    least=$((2 * head_cents + 3 * zookeeper_cents + least_workers * worker_cents))
    most=$((2 * head_cents + 3 * zookeeper_cents + most_workers * worker_cents))
    echo "Cost of $cluster: $(dollars $least) an hour with $least_workers workers, $(dollars $most) with $most_workers," \
        "from its creation until you run delete_cluster.sh, even when it is idle."
    echo "Cost of the storage $storage: $(dollars "$storage_cents") a month for each gigabyte. (Prices of settings.sh; look yours up.)"
}
