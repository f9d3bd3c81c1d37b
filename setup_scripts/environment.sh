# shellcheck shell=bash
# The scripts beside it source this one. It makes the repository's own Python environment, .venv, and leaves its
# interpreter in $python. It installs only when the requirements, the interpreter or the folder have changed.
# It works with bash 3.2, which macOS still has.

repository=$(CDPATH="" cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
environment=$repository/.venv
python=$environment/bin/python
# This file is written when everything is installed, so that a half-finished installation is done again.
stamp=$environment/complete

fail() {
    echo "$*" >&2
    exit 2
}

# Prints the version of an interpreter, if the requirements have wheels for it and it can make environments.
usable_version() {
    "$1" -c 'import sys, venv, ensurepip
if (3, 11) <= sys.version_info[:2] <= (3, 13): print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null
}

find_python() {
    local candidate
    if [ -n "${PYTHON:-}" ]; then
        [ -n "$(usable_version "$PYTHON")" ] || fail "expected Python 3.11, 3.12 or 3.13 with its venv module in" \
            "PYTHON, got $PYTHON ($("$PYTHON" --version 2>/dev/null || echo "which does not run"))." \
            "Set PYTHON to one of these, or unset it."
        echo "$PYTHON"
        return
    fi
    for candidate in python3.12 python3.11 python3.13 python3 python; do
        if [ -n "$(usable_version "$candidate")" ]; then
            command -v "$candidate"
            return
        fi
    done
    fail "expected Python 3.11, 3.12 or 3.13 on the path, got $(python3 --version 2>/dev/null || echo none)." \
        "Install one from python.org (on Debian and Ubuntu python3.11 and python3.11-venv), or set PYTHON to it."
}

# Installs the shared libraries and programs that a file lists. If that needs a password, it prints the command instead.
install_system_packages() {
    local wanted package rest missing=""
    [ "$(uname -s)" = Linux ] || return 0
    while read -r wanted package rest; do
        case $wanted in
            ''|'#'*) continue ;;
            *.so*) "$python" -c 'import ctypes, sys; ctypes.CDLL(sys.argv[1])' "$wanted" 2>/dev/null && continue ;;
            # Debian keeps the programs of a web server in a folder that is not on the path.
            *) PATH=$PATH:/usr/lib/cgi-bin command -v "$wanted" >/dev/null && continue ;;
        esac
        missing="$missing $package"
    done < "$1"
    [ -n "$missing" ] || return 0
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "Installing system packages:$missing"
        # Split into words on purpose: one for each package.
        # shellcheck disable=SC2086
        apt-get update -qq && apt-get install -y -qq --no-install-recommends $missing >/dev/null \
            || echo "Could not install them. Run: apt-get install$missing" >&2
    else
        echo "Skipping system packages that are missing. Run: sudo apt-get install$missing" >&2
    fi
}

make_environment() {
    local wanted interpreter
    # The folder is part of the stamp because an environment that was moved no longer works.
    wanted="$(cksum < "$repository/requirements.txt") $environment"
    if [ -f "$stamp" ] && "$python" -c '' 2>/dev/null \
        && [ "$(cat "$stamp")" = "$wanted $(usable_version "${PYTHON:-$python}")" ]; then
        return
    fi
    interpreter=$(find_python)
    echo "Setting up Python $(usable_version "$interpreter") in .venv: about 4 GB, some minutes."
    rm -f "$stamp"
    "$interpreter" -m venv --clear "$environment"
    install_system_packages "$repository/setup_scripts/system_packages.txt"
    # -I: otherwise a package on another program's PYTHONPATH counts as installed. pip compiles one file at a time; the
    # line after it uses all cores.
    "$python" -I -m pip install --quiet --disable-pip-version-check --no-compile -r "$repository/requirements.txt"
    "$python" -W ignore -m compileall -q -q -j 0 "$environment/lib" || true
    "$python" -I -m pip install --quiet --disable-pip-version-check --no-deps --editable "$repository"
    echo "$wanted $(usable_version "$python")" > "$stamp"
    echo "Set up: $("$python" --version), $("$python" -m pip list --disable-pip-version-check 2>/dev/null \
        | tail -n +3 | wc -l | tr -d ' ') packages."
}

# TUTORIAL_ENVIRONMENT names an environment that is there already, as on a cluster's node (hdinsight/script_action.sh).
if [ -n "${TUTORIAL_ENVIRONMENT:-}" ]; then
    case $TUTORIAL_ENVIRONMENT in
        /*) environment=$TUTORIAL_ENVIRONMENT ;;
        *) environment=$PWD/$TUTORIAL_ENVIRONMENT ;;
    esac
    python=$environment/bin/python
    [ -x "$python" ] || fail "expected a Python environment in TUTORIAL_ENVIRONMENT, got $TUTORIAL_ENVIRONMENT without" \
        "bin/python. Set it to one, or unset it."
else
    make_environment
fi
