#!/bin/sh
# Write .env: the lines of .env.example, with a new secret for each variable that has no value there. An .env that exists stays.
set -eu
cd "$(dirname "$0")/.."
if [ -e .env ]; then
    echo ".env is there already; nothing was changed" >&2
    exit 1
fi
umask 077
while IFS= read -r line; do
    case $line in
        *FERNET_KEY= | *ENCRYPTION_KEY=) echo "$line$(openssl rand -base64 32 | tr '+/' '-_')" ;;
        [A-Z]*=) echo "$line$(openssl rand -hex 32)" ;;
        *) echo "$line" ;;
    esac
done <.env.example >.env
echo "wrote .env" >&2
