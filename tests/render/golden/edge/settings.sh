# What this bundle's scripts are about.
# shellcheck shell=sh disable=SC2034
name=bank
version=1.0.0
release=1.0.0-9ffb4d397e
url=http://127.0.0.1:8000
ready_s=120
contained=no
signed=yes
front=none
tls=no
measure=yes
engine_variables=''
models=''
weights_folder=''
backup_repository=''
users=sextant
programs='openssl sha256sum'
roles=''
secret_variables=''
secret_files=''
question='What is 58 + 67?'
