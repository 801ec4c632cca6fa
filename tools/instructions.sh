#!/bin/sh
# Counts the instructions of the host's hot paths under valgrind's callgrind and compares them with the committed bounds
# (benches/instructions.txt): a regression guard for machines whose seconds are noise. Needs valgrind; some ten seconds once built.
#
#   tools/instructions.sh            fails if a path takes more instructions than its bound
#   tools/instructions.sh --update   writes new bounds: what was counted, and 3 % more
#
# The counts belong to the bench profile, the compiler that wrote the bounds, and a processor without AVX-512, which valgrind plays; so this
# is no part of tools/test.sh. Where the compiler is pinned, a CI runs it behind `cargo bench --no-run --bench instructions`: seconds then.
set -eu
cd "$(dirname "$0")/.."
bounds=benches/instructions.txt
command -v valgrind >/dev/null || { echo "instructions.sh: no valgrind here (apt-get install valgrind)" >&2; exit 2; }
program=${INSTRUCTIONS:-$(cargo bench --locked --no-run --bench instructions --message-format=json |
    sed -n 's/.*"name":"instructions".*"executable":"\([^"]*\)".*/\1/p' | tail -1)}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0
: >"$work/new"
for path in tokenise sample pack mask; do
    valgrind --tool=callgrind --callgrind-out-file="$work/out" --toggle-collect="*measured_$path*" "$program" "$path" \
        >"$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }
    count=$(sed -n 's/.*Collected : \([0-9]*\).*/\1/p' "$work/log")
    [ "${count:-0}" -gt 0 ] || { echo "instructions.sh: nothing was counted for $path" >&2; cat "$work/log" >&2; exit 1; }
    echo "$path $((count + count * 3 / 100))" >>"$work/new"
    bound=$(sed -n "s/^$path //p" "$bounds" 2>/dev/null || true)
    verdict=ok
    if [ -z "$bound" ]; then verdict="no bound"; elif [ "$count" -gt "$bound" ]; then verdict="TOO MANY" failed=1; fi
    printf '%-10s %12d instructions, %6.2f a token, bound %s: %s\n' \
        "$path" "$count" "$(echo "$count" | awk '{print $1 / 65536}')" "${bound:-none}" "$verdict"
done
if [ "${1:-}" = --update ]; then cp "$work/new" "$bounds"; exit 0; fi
exit "$failed"
