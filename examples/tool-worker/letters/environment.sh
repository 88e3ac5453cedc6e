#!/bin/sh
# Make the environment of the letters' tool worker: environment.sh [DIRECTORY OF THE ENVIRONMENT]
# HORARIUM says what to install as horarium: the checkout around this example, or any pip requirement.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
environment=${1:-$here/.venv}
python=${PYTHON:-python3}

[ -d "$environment" ] || "$python" -m venv "$environment"
"$environment/bin/pip" install --quiet --requirement "$here/requirements.txt"
# Without its dependencies: they are the engine's, and one of them clashes with the letters'.
"$environment/bin/pip" install --quiet --no-deps "${HORARIUM:-$here/../../..}"
echo "Now start it: $environment/bin/python $here/serve.py"
