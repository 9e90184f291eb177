#!/bin/sh
# Installs and builds the Node and Python programs of the end-to-end tests: the apps, the peers, and
# the client of the browser. Skips what is up to date, and prints nothing unless it fails.
set -eu
cd "$(dirname "$0")/.."
export NEXT_TELEMETRY_DISABLED=1 CI=1

# A second build at the same time would overwrite the same files.
exec 9>apps/.build.lock
if command -v flock >/dev/null; then flock 9; fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT

# quietly LABEL COMMAND…: shows the output only if the command fails.
quietly() {
    label=$1
    shift
    if ! "$@" >"$log" 2>&1; then
        cat "$log" >&2
        echo "tests: $label failed" >&2
        exit 1
    fi
}

# stamp PATH…: prints a hash of the names and contents of these files and folders, and of the node
# version.
stamp() {
    { node --version; find "$@" -type f | LC_ALL=C sort | xargs sha256sum; } | sha256sum | cut -d' ' -f1
}

# is_fresh FILE STAMP: succeeds if the file contains the stamp.
is_fresh() {
    [ -f "$1" ] && [ "$(cat "$1")" = "$2" ]
}

# Older versions of Next.js, with only the pages that their tests need.
older=
if [ -n "${EDGEWAY_TEST_ALL:-}" ]; then older="apps/next15 apps/next14"; fi

for folder in apps/next $older apps/express apps/frameworks apps/peers browser ../packages/next; do
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

# The app that the newest generator makes, with the steps of docs/guides/nextjs.md.
quietly "tests/apps/newest/build.mjs" node apps/newest/build.mjs

# Nothing below needs a registry. Node reads these CAs at each start, which takes twice the CPU with them.
unset NODE_EXTRA_CA_CERTS

# build FOLDER SOURCE…: builds a Next.js app if its sources have changed.
build() {
    folder=$1
    shift
    cd "$folder"
    built=$(stamp package-lock.json next.config.js app "$@")
    if ! is_fresh .next/.stamp "$built"; then
        # A failed build must not leave the build of older sources.
        rm -rf .next
        quietly "next build in tests/$folder" node node_modules/next/dist/bin/next build
        echo "$built" >.next/.stamp
    fi
    cd ../..
}

build apps/next proxy.js lib public

# next_build OUT BASE: builds the app of this folder into OUT, which its configuration names. Builds of
# one app below the same path share Turbopack's cache: the second takes 4 s of CPU in place of 13. The
# cache of another path makes a build slower than none.
next_build() {
    kept=../node_modules/.cache/turbopack-${PWD##*/}-${2#/}
    rm -rf "$1"
    mkdir -p "$1/cache" ../node_modules/.cache
    [ ! -d "$kept" ] || mv "$kept" "$1/cache/turbopack"
    quietly "next build in tests/${PWD##*/tests/}" node ../node_modules/next/dist/bin/next build
    mv "$1/cache/turbopack" "$kept"
    rm -rf "$1/cache"
}

# release NAME DEPLOYMENT PICTURE [CONFIG [BASE [CODE]]]: builds a release of an app with actions, chunks
# and images of its own, as `edgeway deploy` gets it: releases/builds/NAME is the folder to deploy.
# CONFIG is JSON with further settings, BASE the path that is in it. With CODE it has the code of that
# release, and another prerendered page.
release() {
    cd apps/next/releases
    built=$(stamp ../package-lock.json next.config.js app/*.js app/news app/shop pages)
    if ! is_fresh "builds/$1/.stamp" "$built"; then
        rm -rf "builds/$1"
        mkdir -p "builds/$1"
        cp "../public/$3.png" app/picture.png
        export DEPLOYMENT="$2" NEXT_PUBLIC_TEXT="${6:-$1}" MORE_CONFIG="${4:-}" NEXT_PUBLIC_BASE="${5:-}" RELEASE="$1"
        echo "#lazy { outline: 1px solid; --build: \"$NEXT_PUBLIC_TEXT\" }" >app/lazy.css
        next_build .next "$NEXT_PUBLIC_BASE"
        unset DEPLOYMENT NEXT_PUBLIC_TEXT MORE_CONFIG NEXT_PUBLIC_BASE RELEASE
        if [ -d .next/standalone ]; then
            # As docs/releases.md has it: what the standalone app lacks is copied beside.
            mv .next/standalone/releases/.next .next/standalone/releases/server.js "builds/$1"
            mv .next/static .next/images-manifest.json .next/trace "builds/$1/.next"
            echo '{ "private": true }' >"builds/$1/package.json"
        else
            mv .next "builds/$1"
            cp ../package.json "builds/$1"
            # An app that is started without its `deploymentId` sends pages without it.
            echo "export default { deploymentId: '$2' || undefined, ...${4:-null} };" >"builds/$1/next.config.js"
        fi
        ln -s "$(cd .. && pwd)/node_modules" "builds/$1/node_modules"
        echo "$built" >"builds/$1/.stamp"
    fi
    cd ../../..
}

# Two with `deploymentId`, and two without; then the code of one with the same `deploymentId` and with
# another, and that of one without.
release named-one dpl-one picture
release named-two dpl-two other
release plain-one "" picture
release plain-two "" other
release named-again dpl-one picture "" "" named-one
release named-moved dpl-three picture "" "" named-one
release plain-again "" picture "" "" plain-one
# Two below a path, which need no sources, and two whose files have another path.
based='{ "basePath": "/site", "trailingSlash": true, "output": "standalone" }'
release based-one dpl-based-one picture "$based" /site
release based-two dpl-based-two other "$based" /site
release prefixed-one "" picture '{ "assetPrefix": "/cdn" }'
release prefixed-two "" other '{ "assetPrefix": "/cdn" }'

# languages NAME BASE: builds the app whose languages and rewrites depend on the visitor.
languages() {
    cd apps/next/languages
    built=$(stamp ../package-lock.json next.config.js proxy.js pages)
    if ! is_fresh ".next/$1/.stamp" "$built"; then
        export BASE="$2"
        next_build ".next/$1" "$BASE"
        unset BASE
        echo "$built" >".next/$1/.stamp"
    fi
    cd ../../..
}

languages plain ""
languages based /site
for folder in $older; do
    build "$folder" middleware.js $(cd "$folder" && ls -d pages 2>/dev/null)
done
