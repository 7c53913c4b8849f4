#!/bin/sh
set -eu
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=settings.sh
. "$here/settings.sh"
# shellcheck source=lib.sh
. "$here/lib.sh"

# renew-certificate.sh --cert FILE [--key FILE]: a new certificate for the front, while it serves; no --key
# where the key is in an HSM and stays the same.
cert='' key=''
while [ $# -gt 0 ]; do
    case $1 in
        --cert) cert=$2 && shift 2 ;;
        --key) key=$2 && shift 2 ;;
        *) die "unknown argument $1; usage: renew-certificate.sh --cert FILE --key FILE" ;;
    esac
done
if [ "${hsm_tls:-no}" = yes ]; then
    if [ -z "$cert" ] || [ -n "$key" ]; then die "the key is in the HSM: renew-certificate.sh --cert FILE"; fi
elif [ -z "$cert" ] || [ -z "$key" ]; then
    die "usage: renew-certificate.sh --cert FILE --key FILE"
fi
check_root
[ -e "$etc/tls/server.pem" ] || die "there is no certificate in $etc/tls; use ./install.sh"
openssl x509 -in "$cert" -noout -checkend 86400 >/dev/null 2>&1 ||
    die "$cert is no certificate, or ends within a day; the one in use stays"
parts='pem key'
if [ "${hsm_tls:-no}" = yes ]; then
    parts=pem
    staged=$(in_use)
    hsm_answers "$cert"
else
    held=$(openssl pkey -in "$key" -pubout 2>/dev/null || true)
    [ "$(openssl x509 -in "$cert" -noout -pubkey 2>/dev/null)" = "$held" ] ||
        die "$key is not the key of $cert; the one in use stays"
fi
take_lock
for one in $parts; do cp -p "$etc/tls/server.$one" "$etc/tls/server.$one.before"; done
lay() { # lay FILE PLACE MODE
    install -m "$3" "$1" "$etc/tls/$2.new"
    if [ -z "$root" ]; then chown --reference="$etc/tls/$2" "$etc/tls/$2.new"; fi
    mv "$etc/tls/$2.new" "$etc/tls/$2"
}
verb=reload
[ "$contained" = no ] || verb=restart
[ -z "$key" ] || lay "$key" server.key 0600
lay "$cert" server.pem 0644
if ! "$systemctl" "$verb" sextant-front.service; then
    for one in $parts; do mv "$etc/tls/server.$one.before" "$etc/tls/server.$one"; done
    "$systemctl" "$verb" sextant-front.service || true
    die "the front did not take $cert; the one before is in use again"
fi
rm -f "$etc/tls/server.pem.before" "$etc/tls/server.key.before"
say "The front uses the certificate that ends on $(openssl x509 -in "$cert" -noout -enddate | cut -d= -f2)."
