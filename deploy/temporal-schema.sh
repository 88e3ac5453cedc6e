#!/bin/sh
# Makes Temporal's two databases, or brings them up to date; safe to repeat, and to run before a newer server starts.
set -eu

for pair in temporal:temporal temporal_visibility:visibility; do
    database=${pair%%:*}
    schema=${pair##*:}
    tool() { temporal-sql-tool --plugin postgres12 --ep temporal-db -p 5432 -u temporal --db "$database" "$@"; }
    tool create || true
    tool setup-schema -v 0.0 || true
    tool update-schema -d "/etc/temporal/schema/postgresql/v12/$schema/versioned"
done
