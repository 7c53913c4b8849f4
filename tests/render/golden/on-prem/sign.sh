#!/bin/sh
set -eu
# sign.sh KEY: writes SHA256SUMS over this folder and signs it with the ed25519 private key in KEY: a PEM file, or in
# an HSM, 'pkcs11:token=…;object=…?module-path=/…&pin-source=file:/…', through the `sextant` on the PATH.
# Neither the key nor the PIN belongs into this folder.
cd "$(dirname "$0")"
key=${1:?usage: sign.sh KEY.pem, or sign.sh pkcs11:…}
rm -f SHA256SUMS SHA256SUMS.sig
sums=$(mktemp)
find . ! -type d | sed 's|^\./||' | LC_ALL=C sort | xargs -d '\n' sha256sum >"$sums"
mv "$sums" SHA256SUMS
chmod 644 SHA256SUMS
case $key in
    pkcs11:*) "${SEXTANT:-sextant}" hsm sign SHA256SUMS --key "$key" -o SHA256SUMS.sig ;;
    *) openssl pkeyutl -sign -rawin -inkey "$key" -in SHA256SUMS -out SHA256SUMS.sig ;;
esac
