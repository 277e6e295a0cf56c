#!/usr/bin/env bash
# Makes an environment with the PyTorch peers, apart from the one that jax runs in:
#
#     benchmarks/peers/install.sh FOLDER [PYTHON]
#     python benchmarks/run.py --peers FOLDER --sides ours peers ...
#
# TORCH_INDEX names the wheels: https://download.pytorch.org/whl/cpu is the smallest where there is no GPU.
# A peer that does not install is left out; the benchmark then says that it is missing.
set -euo pipefail

folder=${1:?"usage: $0 FOLDER [PYTHON]"}
"${2:-python3}" -m venv "$folder"
folder=$(cd "$folder" && pwd)
pip=("$folder/bin/pip" --disable-pip-version-check --quiet)
constraints="$folder/constraints.txt"

"${pip[@]}" install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch==2.13.0
# No peer may bring a torch of its own.
"$folder/bin/python" -c 'import torch; print("torch==" + torch.__version__)' > "$constraints"
"${pip[@]}" install -c "$constraints" numpy

peer() {
    if "$@"; then echo "installed: $1"; else echo "not installed: $1" >&2; fi
}

higher() { "${pip[@]}" install -c "$constraints" higher==0.2.1; }

torchopt() { "${pip[@]}" install -c "$constraints" torchopt==0.7.3; }

# The C that learn2learn 0.2.0 ships does not compile on Python 3.11 and later: made anew from its Cython sources.
learn2learn() {
    local sources="$folder/sources"
    mkdir -p "$sources" &&
        "${pip[@]}" install 'cython==3.1.*' setuptools wheel &&
        "${pip[@]}" download --no-deps --no-binary :all: --no-build-isolation learn2learn==0.2.0 -d "$sources" &&
        tar -xzf "$sources/learn2learn-0.2.0.tar.gz" -C "$sources" &&
        (cd "$sources/learn2learn-0.2.0" &&
            "$folder/bin/cython" -3 -f learn2learn/data/{meta_dataset,task_dataset,transforms}.pyx &&
            "${pip[@]}" install --no-deps --no-build-isolation .) &&
        "${pip[@]}" install -c "$constraints" ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} \
            requests tqdm gym scipy torchvision
}

peer higher
peer torchopt
peer learn2learn
