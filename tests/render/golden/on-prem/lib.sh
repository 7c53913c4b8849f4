# What install.sh, upgrade.sh, rollback.sh and uninstall.sh share. Sourced after settings.sh.
# shellcheck shell=sh disable=SC2034,SC2154,SC1090,SC1091
umask 022
root=${SEXTANT_ROOT:-}
base=$root/opt/sextant
etc=$root/etc/sextant
state=$root/var/lib/sextant
unit_dir=$root/etc/systemd/system
systemctl=${SEXTANT_SYSTEMCTL:-systemctl}
keep_releases=3

say() { printf '%s\n' "$*"; }
die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

check_root() {
    case $root in
        '') [ "$(id -u)" -eq 0 ] || die "this needs root; run: sudo $0" ;;
        *[!A-Za-z0-9._/-]*) die "SEXTANT_ROOT=$root has other characters than letters, digits and . _ / -" ;;
        /*) mkdir -p "$root" ;;
        *) die "SEXTANT_ROOT=$root is not an absolute path" ;;
    esac
}

# One of these scripts at a time.
take_lock() {
    mkdir -p "$base"
    if ! mkdir "$base/lock" 2>/dev/null; then
        holder=$(cat "$base/lock/pid" 2>/dev/null || echo 0)
        if [ "$holder" -gt 0 ] && kill -0 "$holder" 2>/dev/null; then
            die "process $holder is installing or upgrading; wait for its end"
        fi
        rm -rf "$base/lock"
        mkdir "$base/lock" || die "cannot take $base/lock"
    fi
    echo $$ >"$base/lock/pid"
    trap 'rm -rf "$base/lock" "$base/incoming"' EXIT
}

# with_secrets COMMAND…: with the variables that the service has. Lines are read and never run: a password may hold
# what a shell would act on.
with_secrets() {
    (
        if [ -r "$etc/secrets.env" ]; then # systemd has given them to units already
            while IFS= read -r line || [ -n "$line" ]; do
                variable=${line%%=*} held=${line#*=}
                case $variable in
                    "$line" | '' | [0-9]* | *[!A-Za-z0-9_]*) continue ;;
                esac
                case $held in
                    \"*\") held=${held#\"} held=${held%\"} ;;
                    \'*\') held=${held#\'} held=${held%\'} ;;
                esac
                export "$variable=$held"
            done <"$etc/secrets.env"
        fi
        "$@"
    )
}

# as_service PROGRAM…: as the service's user, who may use the HSM, or in a container of its own where the release is
# an image. `db` has the sealed secrets open that the document in use names; `up` opens them by itself.
as_service() {
    told=$base/current/bundle/sextant.yaml
    if [ "${2:-}" = db ] && grep -q 'sealed:/' "$told" 2>/dev/null; then set -- "$1" hsm exec "$told" -- "$@"; fi
    if [ -z "$root" ] && [ "$(id -u)" -eq 0 ] && [ ! -e "${1%/bin/*}/image" ]; then
        if [ -n "${hsm_group:-}" ]; then set -- -G "$hsm_group" -- "$@"; else set -- -- "$@"; fi
        set -- runuser -u sextant -g sextant "$@"
    fi
    with_secrets "$@"
}

own() { # own USER FILE…: gives files to a user; not in a scratch installation
    owner=$1
    shift
    if [ -z "$root" ]; then chown -R "$owner:$owner" "$@"; fi
}

# Paths of units and configuration, moved below SEXTANT_ROOT where there is one.
relocated() {
    if [ -z "$root" ]; then
        cat "$1"
    else
        sed -e "s|/opt/sextant|$base|g" -e "s|/etc/sextant|$etc|g" -e "s|/var/lib/sextant|$state|g" \
            -e "s|/run/sextant|$root/run/sextant|g" -e "s|/run/credentials|$root/run/credentials|g" "$1"
    fi
}

find_python() {
    for candidate in "${SEXTANT_PYTHON:-python3}" python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    die "no Python 3.11 or newer with its venv module; install it (Debian: apt-get install python3-venv)"
}

# What is large and shared by releases: it is brought to its own place, not into a release.
apart='weights|cache|images'

# verify_kit DIR KEY NAME: every file is as SHA256SUMS says, no other file is there, and the list is signed. Files of
# $apart are left to `bring`.
verify_kit() {
    if [ ! -e "$1/SHA256SUMS" ]; then
        [ "$signed" = no ] || die "$3 has no SHA256SUMS: it was not signed; run ./sign.sh where it was made"
        return 0
    fi
    if [ "$signed" = yes ]; then
        [ -e "$1/SHA256SUMS.sig" ] || die "$3 has no SHA256SUMS.sig: it was not signed; nothing was changed"
        openssl pkeyutl -verify -pubin -inkey "$2" -rawin -in "$1/SHA256SUMS" -sigfile "$1/SHA256SUMS.sig" \
            >/dev/null 2>&1 || die "the signature of $3 does not fit the key $2; nothing was changed"
    fi
    kept=$(grep -vE "^[0-9a-f]* [ *]($apart)/" "$1/SHA256SUMS")
    odd=$(printf '%s\n' "$kept" | odd_in "$1" "$apart")
    [ -z "$odd" ] || die "$3 does not hold exactly the files of its SHA256SUMS ($odd); nothing was changed"
    damaged=$(printf '%s\n' "$kept" | damaged_in "$1")
    [ -z "$damaged" ] || die "$3 is damaged or was changed ($damaged); copy it again; nothing was changed"
}

# odd_in DIR [LEFT OUT]: names of files below it that are not among the checksums on standard input, or only there.
odd_in() {
    {
        sed 's/^[0-9a-f]* [ *]//'
        (cd "$1" && find . ! -type d ! -path ./SHA256SUMS ! -path ./SHA256SUMS.sig) | sed 's|^\./||' | grep -vE "^(${2:-/})/"
    } | LC_ALL=C sort | uniq -u | head -n 3 | tr '\n' ' ' | sed 's/ $//'
}

# damaged_in DIR: names of files below it that are not as the checksums on standard input say.
damaged_in() {
    said=$(cd "$1" && sha256sum --check --quiet --strict 2>&1) && return 0
    names=$(printf '%s\n' "$said" | sed -n 's/: FAILED.*//p' | head -n 3 | tr '\n' ' ')
    printf '%s\n' "${names:-SHA256SUMS itself }" | sed 's/ $//'
}

# bring KIT PART PLACE OWNER: copies weights/ or cache/ of a verified kit beside their place, looks whether they
# arrived whole, and only then moves them in; what was there stays as NAME.before.
bring() {
    [ -d "$1/$2" ] || return 0
    sums=$(sed -n "s|^\([0-9a-f]* [ *]\)$2/|\1|p" "$base/releases/$staged/bundle/SHA256SUMS")
    [ -n "$sums" ] || die "$1/$2 is not in SHA256SUMS; nothing was installed"
    if [ -d "$3" ] && [ -z "$(printf '%s\n' "$sums" | damaged_in "$3")" ]; then return 0; fi
    say "Bringing $2 to $3 …"
    mkdir -p "$3"
    arrived=$3/.arriving
    rm -rf "$arrived"
    cp -R "$1/$2" "$arrived"
    damaged=$(printf '%s\n' "$sums" | damaged_in "$arrived")
    [ -n "$damaged" ] || damaged=$(printf '%s\n' "$sums" | odd_in "$arrived")
    damaged=$(printf '%s' "$damaged" | sed "s|[^ ][^ ]*|$2/&|g")
    if [ -n "$damaged" ]; then
        rm -rf "$arrived"
        die "$1 is damaged or was changed ($damaged); copy it again; nothing was installed"
    fi
    chmod -R u+rwX,go+rX "$arrived"
    for one in "$arrived"/*; do
        there=$3/${one##*/}
        rm -rf "$there.before"
        [ ! -e "$there" ] || mv "$there" "$there.before"
        mv "$one" "$there"
    done
    rm -rf "$arrived"
    own "$4" "$3"
}

# bring_all KIT: after `stage`.
bring_all() {
    [ -z "$weights_folder" ] || bring "$1" weights "$root$weights_folder" root
    bring "$1" cache "$state/models" sextant
    [ -d "$1/images" ] || return 0
    damaged=$(grep -E " [ *]images/" "$base/releases/$staged/bundle/SHA256SUMS" | damaged_in "$1")
    [ -z "$damaged" ] || die "$1 is damaged or was changed ($damaged); copy it again; nothing was installed"
    for image in "$1"/images/*.tar; do docker load --quiet --input "$image"; done
}

# setting NAME KIT: read, not run, since the kit may not have been verified yet.
setting() {
    sed -n "s/^$1='\{0,1\}\([A-Za-z0-9._ :/-]*\)'\{0,1\}\$/\1/p" "$2/settings.sh" 2>/dev/null
}

release_id() { # of the kit in $1: the bundle's, and its wheels' and models'
    if [ -e "$1/SHA256SUMS" ]; then
        echo "$release-$(sha256sum "$1/SHA256SUMS" | cut -c1-8)"
    else
        echo "$release"
    fi
}

# make_runtime WHEELS: sets `runtime`, a folder below runtimes/ with Python and the programs. Releases with the
# same wheels share one, so that a change of the document alone takes seconds.
make_runtime() {
    if [ "$(setting contained "$incoming")" = yes ]; then
        make_image "$1"
        return 0
    fi
    if [ -d "$1" ]; then
        runtime=$(cd "$1" && sha256sum -- *.whl | sha256sum | cut -c1-16)
    else
        runtime=$version-index
        [ "${hsm:-no}" != yes ] || runtime=$runtime-hsm
    fi
    venv=$base/runtimes/$runtime
    [ ! -e "$venv/complete" ] || return 0
    python=$(find_python)
    rm -rf "$venv"
    mkdir -p "$base/runtimes"
    say "Installing Sextant $version into $venv …"
    "$python" -m venv "$venv"
    if [ -d "$1" ]; then
        "$venv/bin/python" -m pip --disable-pip-version-check install --quiet --no-index --no-deps "$1"/*.whl ||
            die "the wheels in $1 do not fit $("$python" --version) on this $(uname -m) machine; they were collected by $(cat "$here/kit/collected-by" 2>/dev/null || echo another one)"
        "$venv/bin/python" -m pip --disable-pip-version-check check >/dev/null ||
            die "the wheels in $1 do not go together; collect them again with collect.sh"
    else
        extras=
        [ "${hsm:-no}" != yes ] || extras='[hsm]'
        "$venv/bin/python" -m pip --disable-pip-version-check install --quiet "sextant-llm$extras==$version"
    fi
    : >"$venv/complete"
}

# make_image WHEELS: the same as an image, and programs in `runtime` that run it over this server's state.
make_image() {
    if [ ! -d "$1" ]; then mkdir -p "$incoming/wheels" && set -- "$incoming/wheels"; fi
    runtime=image-$(find "$1" -name '*.whl' -exec sha256sum {} + | sed 's|  .*/||' | LC_ALL=C sort |
        cat - "$incoming/image/Dockerfile" | sha256sum | cut -c1-16)
    venv=$base/runtimes/$runtime
    [ ! -e "$venv/complete" ] || return 0
    image=sextant-$name:$runtime
    rm -rf "$venv"
    mkdir -p "$venv/bin"
    if ! docker image inspect "$image" >/dev/null 2>&1; then
        say "Building the image $image …"
        ours=$(find "$1" -name 'sextant_llm-*.whl' | head -n 1)
        if [ -n "$ours" ]; then
            docker build --quiet --build-arg PIP_NO_INDEX=1 --build-arg "WHAT=/wheels/${ours##*/}" --tag "$image" \
                --file "$incoming/image/Dockerfile" "$1"
        else
            docker build --quiet --tag "$image" --file "$incoming/image/Dockerfile" "$1"
        fi
    fi
    printf '%s\n' "$image" >"$venv/image"
    for program in sextant python first-start; do
        # shellcheck disable=SC2016
        case $program in
            first-start)
                network=bridge
                inside='sh -c '\''sextant up "$1" --state "$2" --insecure --detach && sextant down --state "$2"'\'' sh'
                ;;
            *) network=host inside=$program ;;
        esac
        printf '%s\n' '#!/bin/sh' '# Sextant of this release, in a container that has the state and nothing else of this server.' \
            "exec docker run --rm --interactive --init --network $network --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges --user $(number_of sextant) --env-file $etc/secrets.env --volume $base:$base:ro --volume $state:$state $image $inside \"\$@\"" >"$venv/bin/$program"
        chmod 755 "$venv/bin/$program"
    done
    : >"$venv/complete"
}

number_of() { # UID:GID of a user, made where it is not there
    if [ -n "$root" ]; then
        printf '%s:%s\n' "$(id -u)" "$(id -g)"
        return 0
    fi
    make_user "$1"
    printf '%s:%s\n' "$(id -u "$1")" "$(id -g "$1")"
}

make_user() {
    id "$1" >/dev/null 2>&1 ||
        useradd --system --user-group --home-dir /var/lib/sextant --no-create-home --shell /usr/sbin/nologin "$1"
}

# first_start PROGRAMS: makes databases, the first key and the admin credential, and shows them.
first_start() {
    if [ -e "$1/first-start" ]; then
        "$1/first-start" "$base/current/bundle/sextant.yaml" "$state"
        return 0
    fi
    as_service "$1/sextant" up "$base/current/bundle/sextant.yaml" --state "$state" --detach
    metrics_token "$1" "$base/current/bundle"
    as_service "$1/sextant" down --state "$state"
}

# metrics_token PROGRAMS KIT: what the metrics agent of that kit shows the admin API, which must be running; made
# once, kept ever after.
metrics_token() {
    if [ ! -e "$2/metrics" ] || [ -e "$etc/metrics-token" ]; then return 0; fi
    token=$(as_service "$1/sextant" token create metrics --role auditor --json --state "$state" |
        sed -n 's/.*"token": *"\([^"]*\)".*/\1/p')
    [ -n "$token" ] || die "no token for the metrics agent could be made; is sextant.service running? nothing was changed"
    (umask 077 && printf '%s\n' "$token" >"$etc/metrics-token")
}

# prepare_containers RELEASE: what its compose file is told.
prepare_containers() {
    [ -e "$base/releases/$1/venv/image" ] || return 0
    printf 'SEXTANT_IMAGE=%s\nSEXTANT_USER=%s\nFRONT_USER=%s\n' "$(cat "$base/releases/$1/venv/image")" \
        "$(number_of sextant)" "$(number_of sextant-front)" >"$etc/compose.env"
}

remove_images() { # of all runtimes, with the containers' network
    for image in "$base"/runtimes/*/image; do
        [ -e "$image" ] || continue
        docker compose --file "$base/current/bundle/compose.yaml" --env-file "$etc/compose.env" down 2>/dev/null || true
        docker image rm "$(cat "$image")" >/dev/null || true
    done
}

# stage KIT WHEELS KEY: puts the kit beside the other releases, verified; sets `staged`. Changes nothing in use.
stage() {
    staged=$(release_id "$1")
    new=$base/releases/$staged
    if [ -e "$new/complete" ]; then return 0; fi
    incoming=$base/incoming
    rm -rf "$incoming" "$new"
    mkdir -p "$base/releases"
    mkdir "$incoming"
    find "$1" -mindepth 1 -maxdepth 1 | grep -vE "/($apart)\$" | while read -r part; do cp -R "$part" "$incoming/"; done
    verify_kit "$incoming" "$3" "$1"
    if [ -d "$1/images" ]; then
        # Images that are loaded from files are known by their tags alone; their files were verified.
        for file in compose.yaml image/Dockerfile; do
            [ ! -e "$incoming/$file" ] || sed -i 's/@sha256:[0-9a-f]\{64\}//' "$incoming/$file"
        done
    fi
    for model in $models; do
        [ -e "$incoming/models/$model" ] || die "models/$model is missing in $1; put it there"
    done
    make_runtime "${2:-$incoming/wheels}"
    mkdir "$new"
    if [ -d "$incoming/models" ]; then mv "$incoming/models" "$new/models"; fi
    rm -rf "$incoming/wheels"
    mv "$incoming" "$new/bundle"
    for file in sextant.yaml compose.yaml; do
        [ -e "$new/bundle/$file" ] || continue
        relocated "$new/bundle/$file" >"$new/$file"
        mv "$new/$file" "$new/bundle/$file"
    done
    ln -s "../../runtimes/$runtime" "$new/venv"
    chmod -R a+rX "$new"
    : >"$new/complete"
}

# hsm_answers CERTIFICATE: the token is there, takes the PIN, and has the keys; the staged release asks it. Before
# anything in use is changed.
hsm_answers() {
    [ "${hsm:-no}" = yes ] || return 0
    set -- hsm check "$base/releases/$staged/bundle/sextant.yaml" "$1"
    if [ "${hsm_tls:-no}" = yes ]; then set -- "$1" "$2" "$3" --certificate "$4"; else set -- "$1" "$2" "$3"; fi
    with_secrets "$base/releases/$staged/venv/bin/sextant" "$@" >/dev/null ||
        die "the HSM is not as the document says; nothing was changed"
}

in_use() { # the release that `current` or another link names
    basename "$(readlink "$base/${1:-current}" 2>/dev/null)" 2>/dev/null || true
}

point() { # point LINK RELEASE, in one step
    ln -sfn "releases/$2" "$base/$1.new"
    mv -T "$base/$1.new" "$base/$1"
}

# put FILE PLACE: true where it changed what is there.
put() {
    relocated "$1" >"$2.new"
    if cmp -s "$2.new" "$2"; then
        rm "$2.new"
        return 1
    fi
    mv "$2.new" "$2"
}

# switch_to RELEASE: its units, its front, its processes. Engines whose unit is the same run on.
switch_to() {
    bundle=$base/releases/$1/bundle
    mkdir -p "$unit_dir" "$etc"
    changed=
    for file in "$bundle"/systemd/*; do
        if put "$file" "$unit_dir/${file##*/}"; then changed="$changed ${file##*/}"; fi
    done
    if [ -e "$etc/units" ]; then
        while read -r unit; do
            [ ! -e "$bundle/systemd/$unit" ] || continue
            "$systemctl" disable --now "$unit" || true
            rm -f "$unit_dir/$unit"
        done <"$etc/units"
    fi
    find "$bundle/systemd" -type f | sed 's|.*/||' | LC_ALL=C sort >"$etc/units"
    for file in "$bundle"/front/* "$bundle/hosts/$(role_here)"/*; do
        [ -e "$file" ] || continue
        if put "$file" "$etc/${file##*/}"; then
            case ${file##*/} in
                keepalived.conf) changed="$changed sextant-standby.service" ;;
                sextant.nft) changed="$changed sextant-firewall.service" ;;
                *) changed="$changed sextant-front.service" ;;
            esac
        fi
    done
    prepare_containers "$1"
    prepare_backups "$(setting backup_repository "$bundle")"
    "$systemctl" daemon-reload
    "$systemctl" stop sextant.service || true
    point current "$1"
    for unit in $(enabled_units "$bundle"); do
        case " $changed " in
            *" $unit "*) "$systemctl" restart "$unit" ;;
            *) "$systemctl" start "$unit" ;;
        esac
    done
}

# prepare_backups REPOSITORY: what the backup service reads; made once, kept ever after.
prepare_backups() {
    [ -n "$1" ] || return 0
    if [ ! -e "$etc/backup-password" ]; then
        (umask 077 && od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$etc/backup-password")
        say "Backups are encrypted with the new $etc/backup-password: keep a copy of it on another machine."
    fi
    if [ ! -e "$etc/backup.env" ]; then (umask 077 && : >"$etc/backup.env"); fi
    case $1 in /*) if [ ! -d "$root$1" ]; then mkdir -p "$root$1" && own sextant "$root$1"; fi ;; esac
}

# Units that this server runs: those of the bundle's units.list for its role.
enabled_units() {
    sed -n "s/^\(all\|$(role_here)\) //p" "$1/units.list"
}

role_here() { cat "$etc/role" 2>/dev/null || echo all; }

# Whether this server has the gateway: others of a pool have engines alone.
serves() {
    case " $(enabled_units "$base/releases/$1/bundle" | tr '\n' ' ') " in *" sextant.service "*) return 0 ;; esac
    return 1
}

# answers RELEASE: it is ready in time, and a question to a model is answered.
answers() {
    serves "$1" || return 0
    (
        . "$base/releases/$1/bundle/settings.sh"
        bin=$base/releases/$1/venv/bin
        waited_s=0
        while ! "$bin/python" -m sextant.app.host_check ready --url "$url" --within 5; do
            waited_s=$((waited_s + 5))
            restarts=$("$systemctl" show --property=NRestarts --value sextant.service)
            if [ "${restarts:-0}" -ge 3 ]; then
                echo "error: sextant.service of $1 ended $restarts times" >&2
                exit 1
            fi
            [ "$waited_s" -lt "$ready_s" ] || exit 1
            sleep 1
        done
        as_service "$bin/sextant" chat --state "$state" "$question" >/dev/null
    )
}

# schemas RELEASE: of the databases, as that release sees them; empty where it cannot read them.
schemas() {
    as_service "$base/releases/$1/venv/bin/sextant" db check --state "$state" 2>/dev/null || true
}

prune_releases() { # all but the newest few, the one in use and the one before it
    kept=$(in_use)\ $(in_use previous)
    number=0
    find "$base/releases" -mindepth 1 -maxdepth 1 -type d -printf '%T@ %f\n' | sort -rn | while read -r _ one; do
        number=$((number + 1))
        case " $kept " in *" $one "*) continue ;; esac
        [ "$number" -le "$keep_releases" ] || rm -rf "$base/releases/$one"
    done
    for venv in "$base"/runtimes/*; do
        used=no
        for link in "$base"/releases/*/venv; do
            if [ "$(basename "$(readlink "$link")")" = "${venv##*/}" ]; then used=yes; fi
        done
        [ "$used" = yes ] || {
            [ ! -e "$venv/image" ] || docker image rm "$(cat "$venv/image")" >/dev/null || true
            rm -rf "$venv"
        }
    done
}
