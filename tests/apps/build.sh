#!/bin/sh
# Installs and builds what the end-to-end tests run in node and Python: the apps, peers, and what drives the browser.
# Does nothing for what is fresh, says nothing unless it fails.
set -eu
cd "$(dirname "$0")/.."
export NEXT_TELEMETRY_DISABLED=1 CI=1

# Two at once would tread on one another's files.
exec 9>apps/.build.lock
if command -v flock >/dev/null; then flock 9; fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT

# quietly WHAT COMMAND…: the output is shown only if the command fails.
quietly() {
    what=$1
    shift
    if ! "$@" >"$log" 2>&1; then
        cat "$log" >&2
        echo "tests: $what failed" >&2
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

for folder in apps/next apps/next15 apps/next14 apps/express apps/frameworks apps/peers browser; do
    installed=$(stamp $folder/package.json $folder/package-lock.json $folder/.npmrc)
    if ! is_fresh $folder/node_modules/.stamp "$installed"; then
        quietly "npm ci in tests/$folder" npm ci --prefix $folder
        echo "$installed" >$folder/node_modules/.stamp
    fi
done

installed=$(stamp apps/peers/requirements.txt)
if ! is_fresh apps/peers/.venv/.stamp "$installed"; then
    quietly "python3 -m venv in tests/apps/peers" python3 -m venv --clear apps/peers/.venv
    quietly "pip install in tests/apps/peers" apps/peers/.venv/bin/pip install --disable-pip-version-check -r apps/peers/requirements.txt
    echo "$installed" >apps/peers/.venv/.stamp
fi

# build FOLDER SOURCE…
build() {
    folder=$1
    shift
    cd "$folder"
    built=$(stamp package-lock.json next.config.js app "$@")
    if ! is_fresh .next/.stamp "$built"; then
        # The build of an older source must not answer for this one.
        rm -rf .next
        quietly "next build in tests/$folder" node node_modules/next/dist/bin/next build
        echo "$built" >.next/.stamp
    fi
    cd ../..
}

build apps/next proxy.js lib public

# deploys NAME DEPLOYMENT TEXT: a build of the smallest app, kept under its name.
deploys() {
    cd apps/next/deploys
    built=$(stamp ../package-lock.json next.config.js app)
    if ! is_fresh "builds/$1/.stamp" "$built"; then
        rm -rf .next "builds/$1"
        mkdir -p builds
        export DEPLOYMENT="$2" TEXT="$3"
        quietly "next build in tests/apps/next/deploys" node ../node_modules/next/dist/bin/next build
        unset DEPLOYMENT TEXT
        rm -rf .next/cache
        echo "$built" >.next/.stamp
        mv .next "builds/$1"
    fi
    cd ../../..
}

# With a `deploymentId` that a team leaves as it is, with another one, and without.
deploys fixed-one d1 one
deploys fixed-two d1 two
deploys moved d2 two
deploys plain-one "" one
deploys plain-two "" one
# Older ones, as small as their cases need.
build apps/next15 middleware.js
build apps/next14 middleware.js
