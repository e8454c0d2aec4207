#!/bin/sh
# Announces the virtual addresses in bird while pointsman is ready, and withdraws them while it is not.
# BIRDC may have another command than `birdc`, such as `birdc -s /run/other.ctl`.
#
# The state is set in each round, because `birdc configure` resets it.
birdc=${BIRDC:-birdc}
withdraw() { $birdc disable '"pointsman_vip*"' >/dev/null; }
trap 'withdraw; exit 0' TERM INT
while :; do
    # Exit code 0: pointsman is ready. 1: it is not, or does not answer.
    if pointsman health --ready >/dev/null 2>&1; then
        $birdc enable '"pointsman_vip*"' >/dev/null
    else
        withdraw
    fi
    sleep 0.3
done
