#!/usr/bin/env bash
# Installs FednnU-Net and everything it needs; `./install.sh --help` explains the options.
set -euo pipefail

readonly NNUNET_COMMIT=468cf803df9b267150ae2b6c0c59b8ac84f16227
readonly CLONE_LIMIT_S=300 PROBE_LIMIT_S=20

usage() {
    cat <<'USAGE'
Usage: ./install.sh [--dev] [--nnunet source|package]

Installs FednnU-Net (editable) with pinned versions of PyTorch, nnU-Net and Flower.
It uses the active virtual or conda environment; without one it makes .venv here,
with the Python named by $PYTHON, else python3, else python (3.11 or newer).
It is safe to run again: existing installations are only checked.

Options:
  --dev              also install the tools for tests, linting and type checks
  --nnunet source    install nnU-Net from the git submodule nnUNet/, or fail
  --nnunet package   install nnU-Net from the package index
                     (default: from the submodule if available, else the package)
  --hashes           install only package archives whose SHA-256 is in
                     requirements.lock (default for a release: a commit with a tag v*)
  --no-hashes        accept other archives of the package server, such as a CPU build of PyTorch
  --print-python     print the path of the Python interpreter, and do nothing else
  -h, --help         show this help
USAGE
}

say() { printf '%s\n' "$*"; }

fail() {
    printf 'install.sh: %s\n' "$*" >&2
    exit 1
}

bad_usage() {
    printf 'install.sh: %s (see ./install.sh --help)\n' "$*" >&2
    exit 2
}

# Options -------------------------------------------------------------------------------------------------------------

DEV=0 NNUNET=auto PRINT_PYTHON=0 HASHES=auto
while [ $# -gt 0 ]; do
    case "$1" in
        --dev) DEV=1 ;;
        --nnunet)
            [ $# -ge 2 ] || bad_usage "--nnunet needs 'source' or 'package'"
            NNUNET="$2"
            shift
            ;;
        --nnunet=*) NNUNET="${1#--nnunet=}" ;;
        --hashes) HASHES=1 ;;
        --no-hashes) HASHES=0 ;;
        --print-python) PRINT_PYTHON=1 ;;
        -h | --help)
            usage
            exit 0
            ;;
        *) bad_usage "unknown option '$1'" ;;
    esac
    shift
done
case "$NNUNET" in
    auto | source | package) ;;
    *) bad_usage "--nnunet must be 'source' or 'package', not '$NNUNET'" ;;
esac

START_DIR="$PWD"
ROOT="$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)"

# Environment ---------------------------------------------------------------------------------------------------------

if [ -n "${VIRTUAL_ENV:-}" ]; then
    ENV_DIR="$VIRTUAL_ENV" ENV_NAME="the active virtual environment"
elif [ -n "${CONDA_PREFIX:-}" ]; then
    ENV_DIR="$CONDA_PREFIX" ENV_NAME="the active conda environment"
else
    ENV_DIR="$ROOT/.venv" ENV_NAME=".venv"
fi
case "$ENV_DIR" in
    /*) ;;
    *) ENV_DIR="$START_DIR/$ENV_DIR" ;;
esac
PY="$ENV_DIR/bin/python"
readonly START_DIR ROOT ENV_DIR ENV_NAME PY DEV NNUNET
readonly STAMP="$ENV_DIR/.fednnunet-install"

if [ "$PRINT_PYTHON" = 1 ]; then
    [ -x "$PY" ] || fail "$ENV_NAME has no Python yet: run ./install.sh first."
    say "$PY"
    exit 0
fi

cd -- "$ROOT"
LOG="$(mktemp "${TMPDIR:-/tmp}/fednnunet-install.XXXXXX")"
trap 'rm -f -- "$LOG"' EXIT

# pip must neither ask, nor look for a newer pip, nor install outside the environment. The relative paths (pip splits
# these variables at spaces) pin setuptools wherever pip builds a package by itself.
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore PIP_USER=0 PIP_REQUIRE_VIRTUALENV=0
export PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt

# Shows the end of the log of the failed command, without addresses of package servers.
show_log() {
    sed -E -e "s#[a-z+]+://[^[:space:]'\")>,]+#<address>#g" -e "s#host='[^']*'#host=<address>#g" "$LOG" |
        tail -n 20 >&2
}

# quietly MESSAGE COMMAND...: runs the command; if it fails, shows its output and exits with the message.
quietly() {
    local message="$1"
    shift
    if ! "$@" >"$LOG" 2>&1 </dev/null; then
        show_log
        fail "$message"
    fi
}

pip_install() {
    local message="$1"
    shift
    quietly "$message" "$PY" -m pip install -qq -c constraints.txt "$@"
}

# Prints the version of a Python as "3.11"; nothing if it does not run.
version_of() {
    { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' </dev/null 2>/dev/null || true; } |
        sed -n -E 's/^[^0-9]*([0-9]+\.[0-9]+).*/\1/p' | head -n 1
}

recent_enough() {
    local major="${1%%.*}" minor="${1#*.}"
    [ "$major" -gt 3 ] || { [ "$major" -eq 3 ] && [ "$minor" -ge 11 ]; }
}

make_venv() {
    local base="${PYTHON:-}" version
    if [ -z "$base" ]; then
        if command -v python3 >/dev/null; then
            base=python3
        elif command -v python >/dev/null; then
            base=python
        else
            fail "no Python found: install Python 3.11 or newer, or set PYTHON to its path."
        fi
    fi
    version="$(version_of "$base")"
    [ -n "$version" ] || fail "'$base' does not run: install Python 3.11 or newer, or set PYTHON to its path."
    recent_enough "$version" ||
        fail "'$base' is Python $version, but 3.11 or newer is required: install one, or set PYTHON to its path."
    "$base" -c 'import venv, ensurepip' >/dev/null 2>&1 </dev/null ||
        fail "'$base' lacks the module venv: install it (on Debian and Ubuntu the package python3-venv)."
    say "Creating the environment .venv with Python $version ..."
    quietly "the environment .venv could not be created." "$base" -m venv "$ENV_DIR"
}

if [ "$ENV_NAME" = .venv ]; then
    [ -n "$(version_of "$PY")" ] || make_venv
fi
VERSION="$(version_of "$PY")"
[ -n "$VERSION" ] || fail "$ENV_NAME has no working Python: deactivate it, or activate another, and try again."
recent_enough "$VERSION" ||
    fail "$ENV_NAME has Python $VERSION, but 3.11 or newer is required: use another, or deactivate or delete this one."
say "Using $ENV_NAME (Python $VERSION)."

# nnU-Net: from the submodule or from the package index ---------------------------------------------------------------

# limited SECONDS COMMAND...: runs the command with a time limit, if this system supports it.
limited() {
    local seconds="$1"
    shift
    if command -v timeout >/dev/null; then
        timeout "$seconds" "$@"
    else
        "$@"
    fi
}

# Runs git without prompts or long waits for a silent server.
quiet_git() {
    local seconds="$1"
    shift
    GIT_TERMINAL_PROMPT=0 GIT_ASKPASS=true GCM_INTERACTIVE=never \
        GIT_SSH_COMMAND="ssh -oBatchMode=yes -oConnectTimeout=10" \
        limited "$seconds" git -c http.lowSpeedLimit=1000 -c http.lowSpeedTime=15 "$@" >/dev/null 2>&1 </dev/null
}

# Prints the commit of nnUNet/; nothing if it is not a clone (git in an empty folder would report ours).
nnunet_commit() {
    if [ -e nnUNet/.git ] && [ -f nnUNet/pyproject.toml ]; then
        git -C nnUNet rev-parse HEAD 2>/dev/null || true
    fi
}

# Checks out the pinned commit in nnUNet/; sets WHY on failure.
fetch_nnunet() {
    local url force=""
    WHY=""
    [ "$(nnunet_commit)" != "$NNUNET_COMMIT" ] || return 0
    if ! command -v git >/dev/null; then
        WHY="git is not installed"
    elif [ ! -e .git ]; then
        WHY="this folder is not a git clone"
    else
        [ -f nnUNet/pyproject.toml ] || force=--force # an interrupted clone has a commit, but no files
        url="$(git config submodule.nnUNet.url || git config -f .gitmodules submodule.nnUNet.url || true)"
        if ! quiet_git "$PROBE_LIMIT_S" ls-remote "$url" HEAD; then
            WHY="its git repository cannot be reached"
        elif ! quiet_git "$CLONE_LIMIT_S" submodule update --init --depth 1 ${force:+"$force"} nnUNet; then
            WHY="git could not fetch the submodule nnUNet/"
        fi
    fi
    [ -z "$WHY" ]
}

# Prints how nnU-Net is installed: source (from nnUNet/), package, other or none.
installed_nnunet() {
    "$PY" - "$ROOT/nnUNet" <<'PYTHON' 2>/dev/null || say none
import json
import os
import sys
from importlib.metadata import distribution
from urllib.parse import unquote, urlparse

origin = distribution("nnunetv2").read_text("direct_url.json")
if origin is None:
    print("package")
else:
    origin = json.loads(origin)
    path = unquote(urlparse(origin["url"]).path)
    editable = origin.get("dir_info", {}).get("editable", False)
    print("source" if editable and os.path.realpath(path) == os.path.realpath(sys.argv[1]) else "other")
PYTHON
}

# The stamp file records the installation, so that the next run need not call pip. `stamp write` writes it; `stamp
# check` succeeds if it matches these files, this folder, the requested extra and the installed versions.
stamp() {
    "$PY" - "$1" "$ROOT" "$STAMP" "$DEV" "$HASHES" <<'PYTHON' 2>/dev/null
import hashlib
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

action, root, stamp, dev = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
constraints = (root / "constraints.txt").read_bytes()
files = [constraints, *((root / name).read_bytes() for name in ("pyproject.toml", "requirements.lock"))]
digest = hashlib.sha256(b"\0".join([*files, bytes(root), sys.argv[5].encode()])).hexdigest()
if action == "write":
    stamp.write_text(f"{digest} {dev}\n", encoding="utf-8")
    sys.exit()

stamped_digest, stamped_dev = stamp.read_text(encoding="utf-8").split()
if stamped_digest != digest or int(stamped_dev) < dev:
    sys.exit(1)
needed = {"fednnunet", "torch", "torchvision", "nnunetv2", "flwr", "monai", "bokeh"}
if dev:
    needed |= {"pytest", "pytest-xdist", "ruff", "mypy", "hypothesis", "sphinx", "playwright", "wandb"}
pins = dict(line.split("==") for line in constraints.decode().split() if "==" in line)
for name in needed | set(pins):
    try:
        found = version(name)
    except PackageNotFoundError:
        if name in needed:
            sys.exit(1)
    else:
        if found.split("+")[0] != pins.get(name, found).split("+")[0]:
            sys.exit(1)
PYTHON
}

# Succeeds for a release: the checked-out commit has a tag v*.
is_release() { git describe --tags --exact-match --match 'v*' HEAD >/dev/null 2>&1; }

if [ "$HASHES" = auto ]; then
    HASHES=0
    if [ "$DEV" = 0 ] && is_release; then HASHES=1; fi
elif [ "$HASHES" = 1 ] && [ "$DEV" = 1 ]; then
    bad_usage "requirements.lock has no development tools: --hashes and --dev exclude each other"
fi

pinned() { sed -n "s/^$1==//p" constraints.txt; }

# Installs packages with hashes; the submodule of nnU-Net is identified by its commit.
install_locked() {
    say "Installing PyTorch $(pinned torch), nnU-Net $(pinned nnunetv2) and the rest, with hashes ..."
    quietly "the package server does not offer the archives of requirements.lock (--no-hashes accepts others)." \
        "$PY" -m pip install -qq --require-hashes -r requirements.lock
    if [ "$1" = 1 ]; then
        quietly "nnU-Net could not be installed from nnUNet/." \
            "$PY" -m pip install -qq --no-deps --no-build-isolation -e ./nnUNet
    fi
    say "Installing FednnU-Net ..."
    quietly "FednnU-Net could not be installed." "$PY" -m pip install -qq --no-deps --no-build-isolation -e .
    stamp write || true
}

install_all() {
    local from_source=0
    "$PY" -m pip --version >/dev/null 2>&1 ||
        quietly "$ENV_NAME has no pip, and it could not be added." "$PY" -m ensurepip --upgrade

    WHY="--nnunet package asks for it"
    if [ "$NNUNET" != package ] && fetch_nnunet; then
        from_source=1
        [ "$(nnunet_commit)" = "$NNUNET_COMMIT" ] ||
            fail "the submodule nnUNet/ is not at commit $NNUNET_COMMIT, the only supported one."
    elif [ "$NNUNET" = source ]; then
        fail "nnU-Net cannot be installed from source: $WHY."
    fi

    rm -f -- "$STAMP"
    if [ "$HASHES" = 1 ]; then
        install_locked "$from_source"
        return
    fi
    say "Installing PyTorch $(pinned torch) ..."
    pip_install "PyTorch could not be installed." "torch==$(pinned torch)"

    if [ "$from_source" = 1 ]; then
        say "Installing nnU-Net from source: the submodule nnUNet/ is at commit ${NNUNET_COMMIT:0:7} ..."
        pip_install "nnU-Net could not be installed from nnUNet/." -e ./nnUNet
    else
        say "Installing nnU-Net $(pinned nnunetv2) from the package index, because $WHY ..."
        case "$(installed_nnunet)" in
            source | other)
                quietly "the installed nnU-Net could not be removed." "$PY" -m pip uninstall -q -y nnunetv2
                ;;
        esac
        pip_install "nnU-Net could not be installed." "nnunetv2==$(pinned nnunetv2)"
    fi

    if [ "$DEV" = 1 ]; then
        say "Installing FednnU-Net and its development tools ..."
        pip_install "FednnU-Net could not be installed." -e ".[dev]"
    else
        say "Installing FednnU-Net ..."
        pip_install "FednnU-Net could not be installed." -e .
    fi
    stamp write || true # without it the next run only takes longer
}

imports_torchvision() { "$PY" -c 'import torchvision' >"$LOG" 2>&1 </dev/null; }

# nnU-Net looks up trainers by importing all of its own, and with them torchvision, which works only with the build of
# torch (CPU, or a CUDA version) that it was compiled for. Package servers may offer both, or one of them.
fit_torchvision() {
    local build site
    ! imports_torchvision || return 0
    build="$("$PY" -c 'import torch; print(torch.__version__.partition("+")[2])' 2>/dev/null || true)"
    say "Looking for a torchvision that matches this PyTorch${build:+ ($build)} ..."
    if "$PY" -m pip install -qq --no-deps "torchvision==$(pinned torchvision)${build:++$build}" >"$LOG" 2>&1 </dev/null &&
        imports_torchvision; then
        return 0
    fi
    say "None found: disabling the compiled operators of torchvision, which nnU-Net does not use."
    site="$("$PY" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
    cp -- fednnunet/torchvision_without_operators.py "$site/fednnunet_torchvision.py"
    printf 'import fednnunet_torchvision\n' >"$site/fednnunet_torchvision.pth"
}

HAVE="$(installed_nnunet)"
WANT="$NNUNET"
if [ "$WANT" = auto ]; then
    WANT=package
    [ "$(nnunet_commit)" != "$NNUNET_COMMIT" ] || WANT=source
fi
if [ "$HAVE" = "$WANT" ] && { [ "$WANT" != source ] || [ "$(nnunet_commit)" = "$NNUNET_COMMIT" ]; } && stamp check; then
    [ "$HAVE" = source ] && origin="the submodule nnUNet/" || origin="the package index"
    say "Everything is already installed (nnU-Net $(pinned nnunetv2) from $origin)."
else
    install_all
fi

fit_torchvision

# Final checks --------------------------------------------------------------------------------------------------------

# check NAME COMMAND...: runs a check; a failure exits, and makes the next run install again.
check() {
    local name="$1"
    shift
    if ! "$@" >"$LOG" 2>&1 </dev/null; then
        rm -f -- "$STAMP"
        show_log
        fail "the check '$name' failed."
    fi
}

say "Checking the installation ..."
check "import nnunetv2" "$PY" -c 'import nnunetv2; assert nnunetv2.__file__, "nnunetv2 is an empty folder"'
check "nnU-Net finds its trainers" "$PY" -c '
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find
find("nnUNetTrainer_5epochs")'
for script in server client run; do
    check "python fednnunet/$script.py --help" "$PY" "fednnunet/$script.py" --help
done

if [ "$ENV_NAME" = .venv ]; then
    if [ "$START_DIR" = "$ROOT" ]; then
        say "Before you use it, activate its environment: source .venv/bin/activate"
    else
        say "Before you use it, activate its environment: source \"$ENV_DIR/bin/activate\""
    fi
fi
say "Installation complete. You can now use fednnUNet."
