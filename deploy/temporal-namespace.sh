#!/bin/sh
# Makes the namespace and the search attributes that runs are found by; safe to repeat.
set -eu

export TEMPORAL_ADDRESS="${TEMPORAL_ADDRESS:-temporal:7233}"
temporal operator namespace describe -n default > /dev/null 2>&1 ||
    temporal operator namespace create -n default --retention 7d
# What is there already is left as it is.
temporal operator search-attribute create -n default \
    --name HorariumAgent --type Keyword \
    --name HorariumStatus --type Keyword \
    --name HorariumThread --type Keyword \
    --name HorariumTenant --type Keyword \
    --name HorariumRoutine --type Keyword
