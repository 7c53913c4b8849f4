#!/bin/sh
set -eu
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=settings.sh
. "$here/settings.sh"
# shellcheck source=lib.sh
. "$here/lib.sh"

usage() {
    cat <<'END'
usage: install.sh [--cert FILE [--key FILE] [--client-ca FILE]] [--wheels DIR] [--trust KEY.pub] [--role ROLE]
  --cert, --key  TLS certificate chain and its private key, PEM; kept in /etc/sextant/tls; no --key where it is
                 in an HSM
  --client-ca    callers must show a certificate signed by one of these
  --wheels       folder of wheels instead of the one in this bundle, or the package index
  --trust        ed25519 public key, PEM, that signed this bundle; kept for upgrades
  --role         what this server is, where they differ
END
}
cert='' key='' client_ca='' wheels='' trust='' role=''
while [ $# -gt 0 ]; do
    case $1 in
        --cert) cert=$2 && shift 2 ;;
        --key) key=$2 && shift 2 ;;
        --client-ca) client_ca=$2 && shift 2 ;;
        --wheels) wheels=$2 && shift 2 ;;
        --trust) trust=$2 && shift 2 ;;
        --role) role=$2 && shift 2 ;;
        --help) usage && exit 0 ;;
        *) usage >&2 && die "unknown argument $1" ;;
    esac
done

check_root
[ ! -e "$etc/installed" ] || die "$name is installed; use ./upgrade.sh"
for program in $programs; do
    PATH=$PATH:/usr/sbin:/sbin command -v "$program" >/dev/null || die "$program is not on this machine; install it"
done
if [ -n "$roles" ]; then
    case " $roles " in *" $role "*) ;; *) die "say what this server is: --role, one of: $roles" ;; esac
fi
if [ "$signed" = yes ] && [ -z "$trust" ] && [ ! -e "$etc/trusted.pub" ]; then
    die "name the key that signed this bundle: --trust KEY.pub"
fi
if [ "$tls" = yes ] && [ -z "$cert" ] && [ ! -e "$etc/tls/server.pem" ]; then
    if [ "${hsm_tls:-no}" = yes ]; then die "a TLS certificate is needed, for the key in the HSM: --cert FILE"; fi
    die "a TLS certificate is needed: --cert FILE --key FILE"
fi
if [ "${hsm_tls:-no}" = yes ]; then
    [ -z "$key" ] || die "the front's key is in the HSM; leave --key away, and keep no copy of a key in files"
elif [ -n "$cert" ] && [ -z "$key" ]; then
    die "--cert needs --key FILE, its private key"
fi
for variable in $secret_variables; do
    grep -q "^$variable=." "$etc/secrets.env" 2>/dev/null ||
        die "$variable is not in $etc/secrets.env, and the document names it; write $variable=… there (mode 0600)"
done
for file in $secret_files; do
    [ -s "$root$file" ] || die "$root$file is not there or empty, and the document names it; write the secret into it (mode 0600)"
done
take_lock
stage "$here" "$wheels" "${trust:-$etc/trusted.pub}"
hsm_answers "${cert:-$etc/tls/server.pem}"

if [ -z "$root" ]; then
    for user in $users; do make_user "$user"; done
fi
mkdir -p "$etc/tls" "$state"
chmod 0700 "$state"
own sextant "$state"
bring_all "$here"
[ -z "$trust" ] || cp "$trust" "$etc/trusted.pub"
if [ -n "$cert" ]; then
    cp "$cert" "$etc/tls/server.pem"
    if [ -n "$key" ]; then
        (umask 077 && cp "$key" "$etc/tls/server.key")
        ln -sf server.key "$etc/tls/server.pem.key"
    fi
    [ -z "$client_ca" ] || cp "$client_ca" "$etc/tls/clients.pem"
    keeper=sextant
    [ "$front" = none ] || keeper=sextant-front
    own "$keeper" "$etc/tls"
fi
if [ ! -e "$etc/secrets.env" ]; then (umask 077 && : >"$etc/secrets.env"); fi
if [ -n "$engine_variables" ] && [ ! -e "$etc/engine-key" ]; then
    # The same on every server: copy both files from the first one before installing the others.
    engine_key=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
    (umask 077 && printf '%s\n' "$engine_key" >"$etc/engine-key")
    (umask 077 && for variable in $engine_variables; do printf '%s=%s\n' "$variable" "$engine_key"; done >"$etc/engine-key.env")
fi
if [ -e "$etc/engine-key" ]; then own sextant "$etc/engine-key"; fi
for file in $secret_files; do
    chmod 0600 "$root$file"
    own sextant "$root$file"
done
printf '%s\n' "${role:-all}" >"$etc/role"

programs_dir=$base/releases/$staged/venv/bin
point current "$staged"
if serves "$staged"; then
    # Here rather than in the unit, so that keys are shown to who installs and never reach the journal.
    say "First start, to make the databases, the first key and the admin credential:"
    first_start "$programs_dir"
fi

switch_to "$staged"
for unit in $(enabled_units "$base/current/bundle"); do "$systemctl" enable "$unit"; done
answers "$staged" || die "$name does not answer; look at: journalctl -u sextant.service, then run ./uninstall.sh"
if [ "$measure" = yes ]; then
    as_service "$programs_dir/python" -m sextant.app.host_check latency --url "$url" --state "$state" \
        --report "$state/latency.json"
fi
: >"$etc/installed"
say "$name $version answers at $url (release $staged)."
