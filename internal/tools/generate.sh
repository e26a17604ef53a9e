#!/usr/bin/env bash
# Makes the Go code of proto/*.proto. With --check it changes nothing, and fails where what is there is not
# what would be made; where no protoc can be had, the check is skipped and says so.
#
# The plugins' versions are in go.mod here. protoc is the machine's, or Debian's protobuf-compiler, which is
# installed where that is possible; its version shows in a comment only, which the check does not look at.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD

check=false
case "${1-}" in
'') ;;
--check) check=true ;;
*) echo "generate.sh: unknown argument $1; there is --check" >&2; exit 2 ;;
esac

if ! command -v protoc >/dev/null; then
	if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
		echo "protoc is missing: installing Debian's protobuf-compiler"
		{ apt-get update -qq && apt-get install -y -qq --no-install-recommends protobuf-compiler; } >/dev/null 2>&1 || true
	elif command -v apt-get >/dev/null; then
		echo "protoc is missing, and only root can install it: sudo apt-get install protobuf-compiler"
	else
		echo "protoc is missing: install the protobuf compiler with your system's packages"
	fi
fi
if ! command -v protoc >/dev/null; then
	if $check; then
		echo "check-generated: SKIPPED: there is no protoc on this machine"
		exit 0
	fi
	echo "generate: there is no protoc on this machine" >&2
	exit 1
fi

tools=$root/bin/tools
mkdir -p "$tools"
(cd internal/tools && GOBIN=$tools "${GO:-go}" install \
	google.golang.org/protobuf/cmd/protoc-gen-go github.com/planetscale/vtprotobuf/cmd/protoc-gen-go-vtproto)

out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
(cd proto && protoc \
	--plugin=protoc-gen-go="$tools/protoc-gen-go" --plugin=protoc-gen-go-vtproto="$tools/protoc-gen-go-vtproto" \
	--go_out="$out" --go_opt=paths=source_relative \
	--go-vtproto_out="$out" --go-vtproto_opt=features=marshal+unmarshal+unmarshal_unsafe+size,paths=source_relative \
	./*.proto)

if ! $check; then
	cp "$out"/*.pb.go proto/
	exit 0
fi

without_protoc() { grep -vE '^//[[:space:]]+protoc[[:space:]]+v' "$1"; }
status=0
for made in "$out"/*.pb.go; do
	name=proto/$(basename "$made")
	if [ ! -f "$name" ]; then
		echo "check-generated: $name is missing: run make generate"
		status=1
	elif ! diff -u --label "$name" --label "made anew" <(without_protoc "$name") <(without_protoc "$made"); then
		echo "check-generated: $name is not what proto/*.proto says: run make generate"
		status=1
	fi
done
for there in proto/*.pb.go; do
	if [ ! -f "$out/$(basename "$there")" ]; then
		echo "check-generated: no proto file makes $there: remove it"
		status=1
	fi
done
[ $status = 0 ] && echo "check-generated: the code of proto/ is what its source says"
exit $status
