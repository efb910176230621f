#!/usr/bin/env bash
# The goldens of every architecture against the real program, on one worker and on sharded clusters.
set -euo pipefail
exec python3 tests/golden/check_goldens.py tools/cli/conclave tests/golden \
  --parallel 'tp=1,ep=1,dp=1,pp=1;tp=2,ep=2,dp=1,pp=1;tp=2,ep=4,dp=2,pp=1'
