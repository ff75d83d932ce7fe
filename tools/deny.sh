#!/usr/bin/env bash
# Runs cargo-deny over the whole tree. Known vulnerabilities are looked up in a copy of the advisory database that
# lies beside the checkout, if there is one; nothing is fetched but crates.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly VERSION=0.20.2
readonly HOME_FOLDER="$PWD/.tools/cargo-deny-$VERSION"
readonly DATABASE=../shared/advisory-db
# What cargo-deny calls its clone of the default database.
readonly CLONE="$PWD/.tools/advisory-dbs/advisory-db-3157b0e258782691"

if [ ! -x "$HOME_FOLDER/bin/cargo-deny" ]; then
  echo "deny: building cargo-deny $VERSION (some minutes, once)"
  cargo install --locked --quiet --root "$HOME_FOLDER" --target-dir .tools/cargo-deny-build "cargo-deny@$VERSION"
  rm -rf .tools/cargo-deny-build
fi
cargo fetch --locked --quiet

if [ ! -d "$DATABASE" ]; then
  echo "deny: no known vulnerabilities are looked up: there is no advisory database at $DATABASE"
  exec "$HOME_FOLDER/bin/cargo-deny" --locked --offline --log-level error check bans licenses sources
fi

rm -rf "$CLONE"
mkdir -p "$(dirname "$CLONE")"
cp -r "$DATABASE" "$CLONE"
chmod -R u+w "$CLONE"
git -C "$CLONE" init --quiet
git -C "$CLONE" add --all
git -C "$CLONE" -c user.name=ci -c user.email=ci@localhost commit --quiet --no-verify -m "the advisory database"

# The copy is as old as whoever put it there made it, which is not for this check to judge.
config=$(mktemp)
trap 'rm -f "$config"' EXIT
sed "s|^\[advisories\]|&\ndb-path = \"$(dirname "$CLONE")\"\nmaximum-db-staleness = \"P10Y\"|" deny.toml > "$config"
"$HOME_FOLDER/bin/cargo-deny" --config "$config" --locked --offline --log-level error check
