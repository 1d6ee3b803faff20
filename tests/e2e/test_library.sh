#!/bin/sh
# test_library.sh LIBRARY HEADER COMPILER: what a program that links the client library meets: nothing but e2eectl_* is exported, all of the
# header is, and the header stands alone in C99, C11 and C++.
set -eu
library=$1 header=$2 compiler=$3
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
status=0
complain() {
    echo "test_library: $*" >&2
    status=1
}

nm -D --defined-only "$library" | awk '{ print $3 }' | sed 's/@.*//' | grep -v '^E2EECTL_[0-9]*$' | sort > "$dir/exported"
if grep -v '^e2eectl_' "$dir/exported"; then
    complain "these symbols are exported and do not begin with e2eectl_"
fi
grep -E '^E2EECTL_(API|CHECK) ' "$header" | sed -E 's/^[^(]*[ *](e2eectl_[a-z0-9_]+)\(.*/\1/' | sort > "$dir/declared"
test -s "$dir/declared" || complain "found no declaration in $header"
if ! diff "$dir/declared" "$dir/exported" >&2; then
    complain "the header's functions (<) and the exported ones (>) differ"
fi
readelf -d "$library" | grep -q 'SONAME.*\[libe2eectl\.so\.0\]' || complain "the SONAME is not libe2eectl.so.0"

for language in "c -std=c99" "c -std=c11" "c++ -std=c++11" "c++ -std=c++20"; do
    # shellcheck disable=SC2086
    printf '#include "%s"\nstruct e2eectl_send_options o;\nint main(void) { return e2eectl_params_status(0); }\n' "$header" |
        "$compiler" -x $language -pedantic -Wall -Wextra -Wundef -Werror -fsyntax-only - ||
        complain "the header does not compile as $language"
done
exit $status
