# What this bundle's scripts are about.
# shellcheck shell=sh disable=SC2034
name=bank
version=1.0.0
release=1.0.0-c1e5c80db9
url=http://127.0.0.1:8000
ready_s=120
contained=no
signed=no
front=nginx
tls=yes
measure=no
engine_variables=''
models=''
weights_folder=''
backup_repository=''
users='sextant sextant-front'
programs='nginx nft keepalived'
roles='server-0 server-1'
secret_variables=STORE_PASSWORD
secret_files=''
question='What is 58 + 67?'
