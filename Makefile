# Works on a fresh Debian or Ubuntu with make and Python 3.11 or newer. Everything goes to .venv; system packages that
# only the tests need are installed by `make test` when it may (root or passwordless sudo), else named.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.SILENT:
.DEFAULT_GOAL := help

VENV := .venv
PY := $(VENV)/bin/python
WORKERS ?= 2
# Real SSH clients and servers, what the fault tests inject with, what checks the units; real databases; real desktops.
DEBS := openssh-server openssh-client putty-tools dropbear-bin rsync git strace tmux xauth systemd sshpass bash zsh fish sudo \
        postgresql postgresql-client mariadb-server mariadb-client \
        libpostgresql-jdbc-java libmariadb-java default-jdk-headless \
        xrdp xorgxrdp freerdp2-x11 freerdp2-shadow-x11 libfreerdp2-2 winpr-utils rdesktop fuse3 xvfb xdotool xclip x11-apps x11-xserver-utils xterm \
        vim mc htop tmux less procps \
        pulseaudio pulseaudio-utils fonts-dejavu-core nmap krb5-kdc krb5-admin-server krb5-user chromium

# They wait for desktops more than they compute, each file for servers of its own: two at a time.
DESKTOPS := $(wildcard tests/e2e/test_rdp*.py)

export UV_PROJECT_ENVIRONMENT := $(VENV)
export UV_PYTHON_DOWNLOADS := never
export DEBIAN_FRONTEND := noninteractive
# Pictures of the steps of the console's tests, to be looked at.
export CONSOLE_SHOTS ?= $(CURDIR)/build/pictures
# The machine's own trust store where there is one, as apt uses it (older uv knows the second name only).
ifneq ($(wildcard /etc/ssl/certs/ca-certificates.crt),)
export UV_SYSTEM_CERTS := 1
export UV_NATIVE_TLS := 1
endif

# Shell functions of the recipes below: eval "$$TOOLS".
define TOOLS
as_root() { if [ "$$(id -u)" = 0 ]; then "$$@"; else sudo -n "$$@"; fi; }
may_install() { command -v apt-get >/dev/null && { [ "$$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }; }
install() { as_root apt-get update -qq >/dev/null && as_root sh -c "$$install_idle" install "$$@"; }
# The tests start servers of their own: what is installed for them starts none (Debian Policy 9.3.3.1).
install_idle='policy=/usr/sbin/policy-rc.d
    if [ ! -e "$$policy" ]; then
        trap "rm -f $$policy" EXIT; trap "exit 1" HUP INT TERM
        printf "#!/bin/sh\nexit 101\n" >"$$policy"; chmod 755 "$$policy"
    fi
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$$@" >/dev/null'
installed() { dpkg-query -W -f '$${Status}' "$$1" 2>/dev/null | grep -q 'ok installed'; }

usable() { command -v "$$1" >/dev/null && "$$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
find_python() {
    local candidate
    for candidate in $${PYTHON:-} python3 python3.13 python3.12 python3.11 python3.14; do
        if usable "$$candidate"; then command -v "$$candidate"; return; fi
    done
    return 1
}

summary=() failed=0
stage() {  # stage NAME COMMAND...: run it, note how it went and how long it took
    local name=$$1 began=$$SECONDS result=ok; shift
    echo "== $$name"
    counts=""
    "$$@" || { result=FAILED; failed=1; }
    summary+=("$$(printf '%-26s %-6s %5d s   %s' "$$name" "$$result" $$((SECONDS - began)) "$$counts")")
    [ $$result = ok ] || echo "-- $$name FAILED"
}
quiet() {  # show what a command says only when it fails
    local said
    said=$$("$$@" 2>&1) || { echo "$$said"; return 1; }
}
tests() {  # a run of pytest; leaves its last line in $$counts
    local log status=0
    log=$$(mktemp)
    $(PY) -m pytest -q "$$@" 2>&1 | tee "$$log" || status=$$?
    counts=$$(grep -E '^(=+ )?[0-9]+ [a-z]+.* in [0-9.]+s' "$$log" | tail -1 | sed -E 's/^=+ //; s/ in [0-9.]+s.*//' || true)
    rm -f "$$log"
    [ $$status = 5 ] && return 0  # nothing there to run
    return $$status
}
finish() {  # the table of stages, and the sum of all runs of pytest as its last line
    echo
    printf '%s\n' "$${summary[@]}"
    printf '%s\n' "$${summary[@]}" | grep -oE '[0-9]+ (passed|failed|skipped|errors?|xfailed|xpassed|deselected|rerun)' |
        awk -v seconds=$$SECONDS '{ sub(/errors/, "error", $$2); sum[$$2] += $$1 }
            END { n = split("failed passed skipped deselected xfailed xpassed error rerun", order, " "); line = ""
                  for (i = 1; i <= n; i++) if (sum[order[i]]) line = line (line == "" ? "" : ", ") sum[order[i]] " " order[i]
                  if (line != "") print "=== " line " in " seconds "s ===" }' || true
    return $$failed
}
endef
export TOOLS

.PHONY: help demo test mission screenshots bench exam lint lock clean packages

help:
	cat <<-'END'
	make demo      set up .venv, drive a real SSH session, show its recording, stay up (ONCE=1: end instead)
	make test      install what the tests need; lint, types, all tests
	make exam      the long counts of every promise, which make test samples
	make mission   which test proves which item of the mission
	make bench     measure the promises of the README
	make screenshots  take the README's pictures anew, of real sessions in a real browser
	make lint      ruff, mypy, import-linter, the lock
	make lock      write uv.lock again from pyproject.toml
	make clean     remove .venv, caches and build results
	END

# ------------------------------------------------------------------------------------------------ environment

$(VENV)/bin/uv:
	eval "$$TOOLS"
	began=$$SECONDS
	if ! python=$$(find_python) && may_install; then
	    install python3 python3-venv
	    python=$$(find_python) || true
	fi
	[ -n "$${python:-}" ] || { echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11" >&2; exit 1; }
	if ! "$$python" -c 'import ensurepip' 2>/dev/null; then  # Debian keeps it in a package of its own
	    version=$$("$$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
	    may_install || { echo "$$python can't make environments: apt-get install python$$version-venv" >&2; exit 1; }
	    install "python$$version-venv" || install python3-venv
	fi
	"$$python" -m venv --clear $(VENV)
	$(PY) -m pip install -q --disable-pip-version-check 'uv>=0.9,<1'
	echo "== $$("$$python" --version) and uv in $(VENV) ($$((SECONDS - began)) s)"

# What runs proxyd; the development groups come with `make test`. --inexact: uv and pip stay.
$(VENV)/.run: $(VENV)/bin/uv pyproject.toml uv.lock
	began=$$SECONDS
	$(VENV)/bin/uv sync -q --locked --inexact --no-dev
	touch $@
	echo "== proxyd in $(VENV) ($$((SECONDS - began)) s)"

$(VENV)/.dev: $(VENV)/bin/uv pyproject.toml uv.lock
	began=$$SECONDS
	$(VENV)/bin/uv sync -q --locked --inexact --group dev
	touch $@
	echo "== proxyd and what develops it in $(VENV) ($$((SECONDS - began)) s)"

packages:
	eval "$$TOOLS"
	wanted=()
	for package in $(DEBS); do installed $$package || wanted+=("$$package"); done
	installed ansible-core || installed ansible || wanted+=(ansible-core)
	[ $${#wanted[@]} = 0 ] && exit 0
	began=$$SECONDS
	if may_install; then
	    install "$${wanted[@]}" || for package in "$${wanted[@]}"; do
	        install $$package || { [ $$package = ansible-core ] && install ansible; } || true
	    done
	fi
	missing=()
	for package in "$${wanted[@]}"; do
	    installed $$package || { [ $$package = ansible-core ] && installed ansible; } || missing+=("$$package")
	done
	if [ $${#missing[@]} = 0 ]; then
	    echo "== installed: $${wanted[*]} ($$((SECONDS - began)) s)"
	else
	    echo "!! MISSING, and tests that need it are skipped: $${missing[*]}" >&2
	fi

# ------------------------------------------------------------------------------------------------ what to do

demo: $(if $(wildcard $(VENV)/.dev),$(VENV)/.dev,$(VENV)/.run)
	exec $(VENV)/bin/proxyd demo $(if $(filter-out 0,$(ONCE)),--once)

define LINT
stage "ruff check" quiet $(PY) -m ruff check --output-format concise
stage "ruff format" quiet $(PY) -m ruff format --check
stage "mypy" quiet $(PY) -m mypy
stage "import-linter" quiet $(VENV)/bin/lint-imports
endef
export LINT

test: $(VENV)/.dev packages
	exec </dev/null
	eval "$$TOOLS"
	eval "$$LINT"
	stage "unit and contract tests" tests -n $(WORKERS) --reruns 1 -m "not slow" tests/unit tests/contract
	stage "end-to-end tests" tests -n $(WORKERS) --dist loadfile --reruns 1 -m "not slow" $(filter-out $(DESKTOPS),$(wildcard tests/e2e/test_*.py)) $(wildcard tests/conformance)
	stage "desktops end to end" tests -n $(WORKERS) --dist loadfile --reruns 1 -m "not slow" $(DESKTOPS)
	stage "fuzz and fault tests" tests -n $(WORKERS) --dist loadfile --reruns 1 -m "not slow" $(wildcard tests/fuzz tests/fault)
	finish

exam: $(VENV)/.dev packages
	exec </dev/null
	eval "$$TOOLS"
	stage "the long counts" tests -m slow tests
	PROPERTIES=random stage "other examples" tests -n $(WORKERS) -m "not slow" tests/unit tests/contract
	stage "atheris" $(VENV)/bin/uv sync -q --locked --inexact --group dev --group fuzz
	for protocol in postgres mysql rdp_wire rdp_channels rdp_decode rdp_graphics terminal console; do
	    stage "fuzz $$protocol" $(PY) -m tests.fuzz.campaign $$protocol --seconds 600
	done
	finish

lint: $(VENV)/.dev
	eval "$$TOOLS"
	eval "$$LINT"
	stage "uv lock" quiet $(VENV)/bin/uv lock --check
	finish

mission: $(VENV)/.dev
	$(PY) -m tests.mission

screenshots: $(VENV)/.dev packages
	$(PY) -m tests.screenshots docs

bench: $(VENV)/.dev
	$(PY) -m bench

lock: $(VENV)/bin/uv
	$(VENV)/bin/uv lock

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache demo-state
	find . -name __pycache__ -prune -exec rm -rf {} +
