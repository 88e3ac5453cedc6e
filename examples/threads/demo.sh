#!/usr/bin/env bash
# A conversation that is longer than its model's window, then an addition to it, a fork, and a deletion.
#
#   cd examples/threads && horarium up        # in another terminal
#   cd examples/threads && ./demo.sh
set -euo pipefail

field() { sed -n "s/^.*\"$1\": \"\([^\"]*\)\".*/\1/p" | head -n 1; }
me="${USER:-somebody}"

horarium run stocktaker "Read the shelves A1 to A24. What is short?" --wait --by "$me"
thread="$(horarium threads list --limit 1 --json | field thread)"

echo "--- the steps that summarised what was older; the thread still has every word:"
horarium runs show "$(horarium runs list --latest -q)" | grep summary
horarium threads list --limit 1
horarium threads show "$thread" --limit 3

echo "--- the next run reads what was appended:"
horarium threads append "$thread" "The shelves B are closed today, leave them out." --by "$me"
horarium run stocktaker "Then what is short?" --thread "$thread" --wait --by "$me"

echo "--- a fork keeps what it shows when the thread that it was made of is deleted:"
fork="$(horarium threads fork "$thread" --at 2 --json | field thread)"
horarium threads delete "$thread" --yes --by "$me"
horarium threads show "$fork"
