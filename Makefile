# build   bin/backstay and bin/sandbox, and in bin/machine what small machines start from (out of Debian's packages, cached)
# demo    bring a sandbox up and do the main job on a real VM (root; DEMO_EXIT=1 takes it down again)
# test    the fast tests, then the integration tests with real libvirt, QEMU and guests (root)
# bench   measure backstay and its peers on one image (root; BENCH_IMAGE=FILE for one of yours, BENCH="flags", see test/bench);
#         bench-sweep tries chunk sizes, framings and levels of compression
# bench-snapshot  measure what points, merges and transfers cost a guest (root; BENCH="flags", see test/benchsnap)
# bench-restore  measure the ways back beside what one would do by hand (root; BENCH="flags", see test/benchrestore)
# bench-replication  measure what is pushed to a paired region, over a link of a known speed (root; BENCH="flags", see test/benchreplication)
# bench-files  measure files out of points beside libguestfs (root; BENCH="flags", see test/benchfiles)
# soak    all cases of the kill matrices and other long tests with real guests, of which `make test` runs a sample (root, long;
#         BACKSTAY_SEED=N repeats a run)
# check   what a change must pass besides: format, vet, staticcheck, modules, generated files
.PHONY: build demo test soak bench bench-sweep bench-snapshot bench-restore bench-files bench-replication check deps root
.DEFAULT_GOAL := build

# A root who came by `su` has no sbin in the PATH.
export PATH := $(PATH):/usr/sbin:/sbin

# Version stamping runs git, which refuses a checkout that belongs to another user.
GOBUILD = CGO_ENABLED=0 go build -trimpath -buildvcs=false
STATICCHECK = go tool -modfile=tools/go.mod staticcheck
SOAK = $$(grep -rlE '^//go:build .*soak' --include='*_test.go' . | xargs -n1 dirname | sort -u)
INTEGRATION = $$(grep -rl '^//go:build integration' --include='*_test.go' . | xargs -n1 dirname | sort -u)

build:
	$(GOBUILD) -o bin/ ./cmd/...
	@bin/small-machine build bin/machine || echo "make: bin/machine was not built; without it no files can be taken out of points" >&2

deps:
	@scripts/install-deps

root:
	@[ "$$(id -u)" = 0 ] || { echo "make: this needs root, as it runs libvirtd in namespaces of its own: sudo make ..." >&2; exit 1; }

demo: deps root build
	@bin/sandbox demo

# The fast tests need neither root nor packages, so they come first for a user who
# has not; what is missing for the rest is said then.
test:
	@[ "$$(id -u)" != 0 ] || scripts/install-deps
	scripts/go-test ./...
	@$(MAKE) --no-print-directory deps root
	@scripts/test-servers >/dev/null
	@scripts/go-test -tags integration -p 1 -timeout 40m $(INTEGRATION)

soak: deps root
	@scripts/test-servers >/dev/null
	@scripts/go-test -tags 'integration soak' -p 1 -timeout 6h -v $(SOAK)

# Images, repositories and results stay in .work/bench, so that a run can be taken
# up again (BENCH="--only reads,index") and rendered (BENCH="--only none --write docs/benchmarks.md").
bench: root
	@scripts/install-peers
	@$(GOBUILD) -o bin/ ./test/bench
	@bin/bench --keep .work/bench $(BENCH)

bench-sweep: root
	@$(GOBUILD) -o bin/ ./test/bench
	@bin/bench --keep .work/bench --only sweep $(BENCH)

bench-snapshot: root
	@scripts/install-deps virtnbdbackup
	@$(GOBUILD) -o bin/ ./cmd/... ./test/benchsnap
	@bin/benchsnap $(BENCH)

bench-restore: deps root
	@$(GOBUILD) -o bin/ ./cmd/... ./test/benchrestore
	@bin/benchrestore $(BENCH)

bench-files: deps root build
	@scripts/install-peers files
	@$(GOBUILD) -o bin/ ./test/benchfiles
	@bin/benchfiles $(BENCH)

bench-replication: deps root build
	@$(GOBUILD) -o bin/ ./test/benchreplication
	@bin/benchreplication $(BENCH)

check:
	@unformatted=$$(gofmt -l .); [ -z "$$unformatted" ] || { echo "gofmt these:"; echo "$$unformatted"; exit 1; }
	go vet -tags integration ./...
	go mod tidy -diff
	$(STATICCHECK) -tags integration ./...
	@before=$$(git ls-files -m); go generate ./... && [ "$$before" = "$$(git ls-files -m)" ] || { echo "generated files were out of date:"; git ls-files -m; exit 1; }
