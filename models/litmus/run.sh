#!/bin/bash
# Runs every litmus test beside this script, and every mutant named in its comment, with $HERD7 (default: herd7 from PATH).
# In a test:   expect: VERDICT               the verdict of the file as it stands
#              mutant: SED-SCRIPT => VERDICT  the verdict after the sed script; lines are named by their // @x tags
# VERDICT: Never (forbidden), Sometimes (allowed), Race (a data race: undefined behaviour).  C tests run under rc11.cat and under
# weak.cat; "A/B" gives one verdict for each.  -v prints every verdict.  Arguments: tests to run instead of all.  Without herd7: nothing is run.
here=$(cd "$(dirname "$0")" && pwd); herd=${HERD7:-herd7}
command -v "$herd" >/dev/null || { echo "herd7 not found: litmus tests skipped"; exit 0; }
[ "$1" = -v ] && { verbose=1; shift; }
[ $# -eq 0 ] && set -- "$here"/*.litmus
tmp=$(mktemp -d) || exit 2; trap 'rm -rf "$tmp"' EXIT
passed=0; failed=0

verdict() { # file, options of herd7
    local out; out=$($herd "${@:2}" "$1" 2>&1) || true
    case $out in
    *undef*) echo Race ;;
    *Observation*) sed -n 's/^Observation [^ ]* \([A-Z][a-z]*\) .*/\1/p' <<<"$out" ;;
    *) echo "herd7: ${out:-no output}" >&2; echo Error ;;
    esac
}
both() { # file: one verdict, or A/B where the two models differ
    local a b
    case $(head -c 2 "$1") in
    "C ") a=$(verdict "$1" -model rc11.cat); b=$(verdict "$1" -model "$here/weak.cat") ;;
    *) a=$(verdict "$1"); b=$a ;;
    esac
    if [ "$a" = "$b" ]; then echo "$a"; else echo "$a/$b"; fi
}
judge() { # label, file, expected
    local got; got=$(both "$2")
    if [ "$got" = "$3" ]; then passed=$((passed + 1)); [ -n "$verbose" ] && echo "ok      $1: $got"
    else failed=$((failed + 1)); echo "FAILED  $1: $got, expected $3"; fi
}
for file in "$@"; do
    name=$(basename "$file" .litmus)
    expected=$(sed -n 's/^ *expect: *\([A-Za-z/]*\).*/\1/p' "$file")
    judge "$name" "$file" "${expected:-nothing stated}"
    while IFS= read -r line; do
        script=${line%% => *}; want=${line##* => }; want=${want%% *}
        sed "$script" "$file" >"$tmp/mutant.litmus"
        if cmp -s "$file" "$tmp/mutant.litmus"; then failed=$((failed + 1)); echo "FAILED  $name $script: changes nothing"
        else judge "$name $script" "$tmp/mutant.litmus" "$want"; fi
    done < <(sed -n 's/^ *mutant: *//p' "$file")
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
