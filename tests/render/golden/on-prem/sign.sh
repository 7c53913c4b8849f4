#!/bin/sh
set -eu
# sign.sh KEY: writes SHA256SUMS over this folder and signs it with the ed25519 private key in KEY (PEM).
# The key never belongs into this folder.
cd "$(dirname "$0")"
key=${1:?usage: sign.sh KEY.pem}
rm -f SHA256SUMS SHA256SUMS.sig
sums=$(mktemp)
find . ! -type d | sed 's|^\./||' | LC_ALL=C sort | xargs -d '\n' sha256sum >"$sums"
mv "$sums" SHA256SUMS
chmod 644 SHA256SUMS
openssl pkeyutl -sign -rawin -inkey "$key" -in SHA256SUMS -out SHA256SUMS.sig
