#!/usr/bin/env bash
# Drives one run with nothing but Temporal's own CLI: start it, ask how it is, approve what it asks, get its result.
#
#   cd examples/log-triage && horarium up        # in another terminal
#   examples/temporal-cli/approve.sh
set -euo pipefail

export TEMPORAL_ADDRESS="${TEMPORAL_ADDRESS:-127.0.0.1:7233}"
agent="${AGENT:-log-triage-scripted}"
run="run_cli-$(date +%s)-$$"
me="${USER:-somebody}"

# Start: the workflow id is the run's id, so starting the same id twice is one run.
temporal workflow start --type AgentRun --task-queue horarium --workflow-id "$run" --task-timeout 2s \
    --input "{\"agent\": \"$agent\", \"input\": \"Read build.log and open a ticket for what broke.\", \"requested_by\": \"$me\"}"

# Query: where is it, and what does it ask?
for _ in $(seq 120); do
    status="$(temporal workflow query --workflow-id "$run" --type status --output json || true)"
    [[ "$status" == *requires_action* ]] && break
    sleep 0.5
done
echo "$status"
approvals="$(temporal workflow query --workflow-id "$run" --type approvals --output json)"
echo "$approvals"
field() { sed -n "s/^ *\"$1\": *\"\([^\"]*\)\".*/\1/p" <<< "$approvals" | head -n 1; }

# Approve: the digest says what exactly is approved; if the call changed meanwhile, it does not count.
temporal workflow signal --workflow-id "$run" --name approve \
    --input "{\"approval\": \"$(field id)\", \"digest\": \"$(field digest)\", \"by\": \"$me\"}"

# The result, as soon as there is one.
temporal workflow result --workflow-id "$run"
