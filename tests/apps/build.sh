#!/bin/sh
# Installs and builds the apps that the end-to-end tests run. Does nothing for what is fresh, says nothing unless it fails.
set -eu
cd "$(dirname "$0")"
export NEXT_TELEMETRY_DISABLED=1 CI=1

# Two at once would tread on one another's files.
exec 9>.build.lock
if command -v flock >/dev/null; then flock 9; fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT

# quietly WHAT COMMAND…: the output is shown only if the command fails.
quietly() {
    what=$1
    shift
    if ! "$@" >"$log" 2>&1; then
        cat "$log" >&2
        echo "tests/apps: $what failed" >&2
        exit 1
    fi
}

# stamp PATH…: one line that changes with the content and the names of these files and folders, and with node itself.
stamp() {
    { node --version; find "$@" -type f | LC_ALL=C sort | xargs sha256sum; } | sha256sum | cut -d' ' -f1
}

# is_fresh FILE STAMP
is_fresh() {
    [ -f "$1" ] && [ "$(cat "$1")" = "$2" ]
}

for app in next express; do
    installed=$(stamp $app/package.json $app/package-lock.json $app/.npmrc)
    if ! is_fresh $app/node_modules/.stamp "$installed"; then
        quietly "npm ci in tests/apps/$app" npm ci --prefix $app
        echo "$installed" >$app/node_modules/.stamp
    fi
done

built=$(stamp next/package-lock.json next/next.config.js next/proxy.js next/app next/lib next/public)
if ! is_fresh next/.next/.stamp "$built"; then
    # The build of an older source must not answer for this one.
    rm -rf next/.next
    (cd next && quietly "next build in tests/apps/next" node node_modules/next/dist/bin/next build)
    echo "$built" >next/.next/.stamp
fi
