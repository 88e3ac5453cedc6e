#!/usr/bin/env bash
# What a run teaches, what the next one is told, what is not believed, and how it is taken back.
#
#   cd examples/memory && horarium up        # in another terminal
#   cd examples/memory && ./demo.sh
set -euo pipefail

field() { sed -n "s/^.*\"$1\": \"\([^\"]*\)\".*/\1/p" | head -n 1; }

echo "--- a run that looked first teaches; one that guessed waits for somebody who says that it was right:"
horarium run buyer "Do we need paper?" --wait --by ana
horarium run guesser "Do we need paper?" --wait --by ana
horarium memory list
horarium memory review

echo "--- the next run is told, and its evidence says of what:"
horarium run buyer "And paper for the spring?" --wait --by ana
latest="$(horarium runs list --latest -q)"
fact="$(horarium memory list --kind user --user ana --json | field id)"
horarium memory show "$fact" | grep "$latest"

echo "--- somebody else's run is not told of Ana's wishes:"
horarium run guesser "Do we need paper?" --wait --by bob
horarium memory show "$fact" --json | grep -c "$(horarium runs list --latest -q)" || true

echo "--- corrected, and taken back, with the runs that had been told:"
horarium memory edit "$fact" "Wants white paper." --by ana
horarium memory undo "$fact" --by ana
horarium memory undo "$fact" --by ana
