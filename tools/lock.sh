#!/bin/sh
# Resolves requirements/*.txt from pyproject.toml: names, versions and hashes, never an index address.
set -eu
cd "$(dirname "$0")/.."
lock() {
    uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-header -q \
        --no-emit-index-url --no-emit-find-links "$@"
}
lock -o requirements/base.txt
lock --extra kafka --extra nats --extra postgres --extra redis --group dev -o requirements/dev.txt
