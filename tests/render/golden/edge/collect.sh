#!/bin/sh
set -eu
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=settings.sh
. "$here/settings.sh"
# shellcheck source=lib.sh
. "$here/lib.sh"
images_list=''
platforms=""
python_version=''

# collect.sh [--wheel FILE]: fills this folder on a connected machine. --wheel: Sextant from a file, not the index.
# Where packages and models come from is pip's own configuration, and HF_ENDPOINT or MODELSCOPE_ENDPOINT.
extras=
[ "${hsm:-no}" != yes ] || extras='[hsm]'
wheel=sextant-llm$extras==$version
case ${1:-} in
    '') ;;
    --wheel) wheel=$(cd "$(dirname "$2")" && pwd)/${2##*/}$extras ;;
    *) die "unknown argument $1; usage: collect.sh [--wheel FILE]" ;;
esac
cd "$here"
for model in $models; do
    [ -e "models/$model" ] || die "models/$model is missing; put it there first"
done
image_tool=none
if [ -n "$images_list" ]; then
    for candidate in skopeo docker; do
        if command -v "$candidate" >/dev/null; then image_tool=$candidate && break; fi
    done
    [ "$image_tool" != none ] ||
        die "this kit has container images, and neither skopeo nor docker is here to fetch them; install one (Debian: apt-get install skopeo)"
fi
python=$(find_python)
rm -rf wheels weights cache images
rm -f SHA256SUMS SHA256SUMS.sig
mkdir -p wheels
set --
for platform in $platforms; do set -- "$@" --platform "$platform"; done
[ -z "$python_version" ] || set -- "$@" --python-version "$python_version"
[ $# -eq 0 ] || set -- "$@" --only-binary=:all:
say "Fetching wheels …"
"$python" -m pip --disable-pip-version-check download --quiet --dest wheels "$@" "$wheel" ||
    die "pip could not fetch $wheel and what it needs; is the package index reachable (pip config list)? A Sextant that is not on it: collect.sh --wheel FILE"
"$python" -c 'import platform, sys; print("Python %d.%d on %s" % (*sys.version_info[:2], platform.machine()))' >kit/collected-by
pull() { # pull weights|cache NAME SOURCE: by the tool of Sextant itself, from an environment made for this
    if [ ! -x .collect/bin/sextant ]; then
        "$python" -m venv .collect
        set -- "$1" "$2" "$3" --no-index --no-deps wheels/*.whl
        [ -z "$python_version" ] || set -- "$1" "$2" "$3" "$wheel"
        (shift 3 && .collect/bin/python -m pip --disable-pip-version-check install --quiet "$@") ||
            die "the wheels of this kit do not fit this machine, which must fetch models with them; collect on one of the server's kind"
    fi
    say "Fetching $2 from $3 …"
    told=$(.collect/bin/sextant model pull "$3" --json --state .collect/state) || die "$3 could not be fetched"
    fetched=$(printf '%s' "$told" | .collect/bin/python -c 'import json, sys; print(json.load(sys.stdin)["path"])')
    mkdir -p "$1"
    if [ "$1" = cache ]; then
        cp -R .collect/state/models/. cache/
        find cache -name lock -type f -delete
    elif [ -d "$fetched" ]; then
        mkdir -p "weights/$2"
        cp -RL "$fetched/." "weights/$2/"
    else
        mkdir -p "weights/$2"
        cp -L "$fetched" "weights/$2/"
    fi
    rm -rf .collect/state
}
:
rm -rf .collect
for image in $images_list; do
    mkdir -p images
    say "Fetching $image …"
    # Both a tag and a digest: fetched by the digest, kept under the tag.
    tagged=${image%%@*} exact=$image
    case $image in *@*) exact=${tagged%:*}@${image#*@} ;; esac
    file=images/$(printf '%s' "$tagged" | tr '/:' '--').tar
    if [ "$image_tool" = skopeo ]; then
        skopeo copy --quiet "docker://$exact" "docker-archive:$file:$tagged" || die "skopeo could not fetch $image"
    else
        docker pull --quiet "$exact" || die "docker could not fetch $image"
        docker tag "$exact" "$tagged"
        docker save --output "$file" "$tagged"
    fi
done
sums=$(mktemp)
find . -type f | sed 's|^\./||' | LC_ALL=C sort | xargs -d '\n' sha256sum >"$sums"
mv "$sums" SHA256SUMS
chmod 644 SHA256SUMS
say "$(wc -l <SHA256SUMS) files are in SHA256SUMS, $(du -sh . | cut -f1) in all; carry this folder over, and: sudo ./install-offline.sh"
