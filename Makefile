# netkit: needs a C compiler and make, nothing else. What each target promises: README.md.
#
#   make            all examples, into build/examples
#   make demo       a minute of real traffic, at once
#   make test       everything this machine can prove   T=word B=backend LONG=1 SEED=n V=1
#   make check      the wide matrix: compilers, sanitizers, linters
#   make bench      side by side with the peers installed here   ROW=word
#   make deps       install what test, check and bench can use
#   make amalgamate netkit.h out of src/;  make rows, lint, format, clean

CC ?= cc
CFLAGS ?= -O2 -g
T ?=
B ?=
LONG ?=
SEED ?=
V ?=
ROW ?=

WARNINGS = -Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Wundef
LIBS = -lpthread
HEADERS = $(wildcard netkit.h netkit_tls.h)
EXAMPLES = $(patsubst examples/%.c,build/examples/%,$(wildcard examples/*.c))
TESTS = $(sort $(wildcard tests/unit/*.c tests/loop/*.c tests/fault/*.c))
SOURCES = $(wildcard src/*.h src/*/*.h src/*/*.c)
OPTIONS = T='$(T)' B='$(B)' LONG='$(LONG)' SEED='$(SEED)' V='$(V)' ROW='$(ROW)' \
	CC='$(CC)' CFLAGS='$(CFLAGS)'

all: examples

examples: $(EXAMPLES)

build/examples/%: examples/%.c $(HEADERS) $(wildcard examples/*.h) build/flags
	@mkdir -p build/examples
	$(CC) $(CFLAGS) $(WARNINGS) -o $@ $< $(LIBS)

demo:
	@$(OPTIONS) tools/demo

# Built quietly; when it does not compile, tools/test says so in its closing line.
test:
	@-$(MAKE) -s --no-print-directory build/tests/all CC='$(CC)' CFLAGS='$(CFLAGS)'
	@$(OPTIONS) tools/test

build/tests/all: tests/main.c $(wildcard tests/*.h tests/loop/*.h) netkit.h $(TESTS) build/tests/list.h \
		build/tests/ids.h build/flags
	@rm -f $@
	$(CC) $(CFLAGS) $(WARNINGS) -o $@ tests/main.c $(LIBS)

# Rewritten only when their content changes, so that they can be prerequisites.
build/tests/list.h: FORCE
	@mkdir -p build/tests
	@for f in $(TESTS); do echo "#include \"../../$$f\""; done >$@.new
	@cmp -s $@ $@.new && rm -f $@.new || mv $@.new $@

build/tests/ids.h: FORCE
	@mkdir -p build/tests
	@tools/rows --table >$@.new
	@cmp -s $@ $@.new && rm -f $@.new || mv $@.new $@

build/flags: FORCE
	@mkdir -p build
	@echo '$(CC) $(CFLAGS)' >$@.new
	@cmp -s $@ $@.new && rm -f $@.new || mv $@.new $@

check: examples
	@$(OPTIONS) tools/check

bench:
	@$(OPTIONS) tools/bench/run

deps:
	@tools/deps

rows:
	@tools/rows

amalgamate:
	@tools/amalgamate

lint:
	@$(OPTIONS) tools/check lint

format:
	clang-format -i $(SOURCES) $(TESTS) tests/main.c $(wildcard tests/*.h tests/loop/*.h) $(wildcard examples/*.[ch])

clean:
	rm -rf build

FORCE:

.PHONY: all examples demo test check bench deps rows amalgamate lint format clean FORCE
