#!/usr/bin/env bash
# Starts a farm of one, reads the pages of examples/pages with a neural network, stops the farm. `make demo` builds the
# programs and calls this. Nothing stays behind but the annotated pictures in ./demo-out and the tools in .tools.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bin=${GRANGE_BIN:-$root/target/release}
out=demo-out
pages=("$root"/examples/pages/*.png)
patience_s=${GRANGE_DEMO_PATIENCE_S:-600}

if [[ -t 1 && -z ${NO_COLOR:-} && ${TERM:-dumb} != dumb ]]; then
  bold=$'\e[1m' dim=$'\e[2m' plain=$'\e[0m' line=$'\r\e[2K'
else
  bold='' dim='' plain='' line=''
fi

headline() { printf '\n%s▸ %s%s\n' "$bold" "$1" "$plain"; }
fail() { printf 'demo: %s\n' "$1" >&2; exit 1; }

up=''
state=$(mktemp -d "${TMPDIR:-/tmp}/grange-demo.XXXXXX")

# Whatever happens: end the farm, wait until it has ended, remove its state.
clean_up() {
  local status=$?
  trap - EXIT
  trap '' INT TERM HUP
  if [[ -n $up ]] && kill -TERM "$up" 2>/dev/null; then
    wait "$up" 2>/dev/null || true
  fi
  rm -rf "$state"
  exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# This farm and no other.
unset GRANGE_BROKER GRANGE_OBJECTS GRANGE_OWNER GRANGE_PLUGINS GRANGE_AGENT_CONFIG
export GRANGE_STATE=$state

grange() { "$bin/grange" "$@"; }

check_programs() {
  local program
  for program in grange grange-agent grange-tools; do
    [[ -x $bin/$program ]] || fail "$bin/$program is not there; \`make demo\` builds it first"
  done
}

get_tools() {
  local paths
  paths=$("$bin/grange-tools" --state "$root/.tools" nats-server uv)
  GRANGE_NATS_SERVER=$(sed -n 's/^nats-server=//p' <<<"$paths")
  GRANGE_UV=$(sed -n 's/^uv=//p' <<<"$paths")
  export GRANGE_NATS_SERVER GRANGE_UV
}

# What `grange up` said of something: said EVENT FIELD
said() {
  python3 - "$state/up.jsonl" "$@" <<'PY'
import json, sys
path, event, field = sys.argv[1:]
with open(path, encoding="utf-8") as lines:
    told = [json.loads(line) for line in lines if line.endswith("\n")]
found = [str(line.get(field, "")) for line in told if line["event"] == event]
print(found[-1] if found else "")
PY
}

start_farm() {
  "$bin/grange" up --plugins "$root/examples/plugins/ocr" --output json >"$state/up.jsonl" 2>"$state/up.err" &
  up=$!
  local started=$SECONDS
  until grep -q '"event":"agent"' "$state/up.jsonl"; do
    is_up "$started"
  done
  printf '  broker   nats-server %s with JetStream at %s\n' "$(said broker version)" "$(said broker url)"
  printf '  agent    %s, on this machine\n' "$(said agent name)"
}

is_up() {
  kill -0 "$up" 2>/dev/null || fail "the farm did not come up: $(cat "$state/up.err")"
  ((SECONDS - $1 < patience_s)) || fail "the farm was not ready within $patience_s s"
  sleep 0.1
}

prepare_plugin() {
  local started=$SECONDS from=$EPOCHREALTIME text='  plugin   ocr: its environment is being built'
  [[ -n $line ]] || printf '%s\n' "$text"
  until grep -q '"event":"ready"' "$state/up.jsonl"; do
    [[ -z $line ]] || printf '%s%s %s%d s%s' "$line" "$text" "$dim" "$((SECONDS - started))" "$plain"
    is_up "$started"
  done
  [[ $(said plugin state) == ready ]] || fail "the plugin cannot be prepared: $(said plugin reason)"
  local took
  took=$(awk -v a="$from" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }')
  printf '%s  plugin   ocr %s is ready, its environment built in %s s\n' "$line" "$(said plugin version)" "$took"
}

# One page: lines as they are read, then where the picture is. Its result is kept for the table at the end.
read_page() {
  local page=$1
  headline "grange submit ocr --file page=${page#"$root"/} --out $out"
  # Nobody to ask at a Ctrl-C: it ends the whole demo.
  grange submit ocr --file "page=$page" --out "$out" </dev/null
  grange result @last --out "$out" --output json >>"$state/results.jsonl"
}

show_table() {
  headline "What was read"
  python3 - "$state/results.jsonl" <<'PY'
import json, sys
from pathlib import Path
with open(sys.argv[1], encoding="utf-8") as lines:
    results = [json.loads(line)["result"] for line in lines]
print(f"  {'lines':>5}  {'confidence':>10}  {'seconds':>7}  annotated picture")
for result in results:
    confidence = result["mean_confidence"] or 0
    print(f"  {result['lines']:>5}  {confidence:>10.2f}  {result['seconds']:>7.1f}  {Path(result['annotated'])}")
PY
}

stop_farm() {
  kill -TERM "$up"
  wait "$up" || fail "the farm did not end well: $(cat "$state/up.err")"
  up=''
}

check_programs
mkdir -p "$out"
rm -f "$out"/*-annotated*.png
printf '%sA farm of one reads %d pages.%s\n' "$bold" "${#pages[@]}" "$plain"
get_tools

headline "grange up --plugins examples/plugins/ocr"
start_farm
prepare_plugin
for page in "${pages[@]}"; do
  read_page "$page"
done
show_table
stop_farm
printf '\nThe farm has ended; no process of it is left.\n'
