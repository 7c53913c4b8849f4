#!/bin/sh
set -eu
# Writes the digest into the images lock, renders again, and commits both: the commit is the release.
: "${DIGEST:?}" "${PUSH_URL:?}" "${GIT_PUSH_USER:?}" "${GIT_PUSH_TOKEN:?}"
case "$DIGEST" in
  sha256:*) ;;
  *) echo "DIGEST is $DIGEST; expected sha256:…" >&2; exit 1 ;;
esac
touch images.lock
grep -v '^sextant:0.1.0@' images.lock > images.lock.new || true
echo "sextant:0.1.0@$DIGEST" >> images.lock.new
mv images.lock.new images.lock
sextant render sextant.yaml -o bundle
git add images.lock bundle
if git diff --cached --quiet; then echo "nothing changed"; exit 0; fi
git -c user.name=pipeline -c user.email=pipeline@localhost commit -m "Deploy sextant:0.1.0 at $DIGEST"
# shellcheck disable=SC2016 # the helper's own shell reads them
git -c credential.helper= \
  -c credential.helper='!f() { echo "username=$GIT_PUSH_USER"; echo "password=$GIT_PUSH_TOKEN"; }; f' \
  push "$PUSH_URL" HEAD:main
