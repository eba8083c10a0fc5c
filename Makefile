# Front door of the project: `make help`.
SHELL := /bin/bash
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
export PATH := $(HOME)/.cargo/bin:$(PATH)

CARGO ?= cargo
TARGET := $(abspath $(or $(CARGO_TARGET_DIR),target))
KBM := $(TARGET)/debug/kube-baremetal
AGENT := $(TARGET)/agent/x86_64-unknown-linux-gnu/agent/kube-baremetal-agent
AGENT_ARM64 := $(TARGET)/agent/aarch64-unknown-linux-gnu/agent/kube-baremetal-agent
# A folder for each architecture.
MEDIA := $(TARGET)/bootmedia
IMAGE := $(TARGET)/images/debian.raw.zst
CONTROL_PLANE := $(TARGET)/kubernetes/control-plane
# kubectl 1.36, for hosts without one; the tests use it too.
KUBECTL := $(TARGET)/kubernetes/kubectl

.PHONY: help
help: ## Show the targets
	@echo "Kube BareMetal: bare machines as a cloud"; echo
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## Install what is missing: Debian packages, Rust
	@scripts/setup

.PHONY: build
build: setup ## Build the kube-baremetal command
	@# With --workspace the dependencies get the same features as in the tests and are compiled once for both.
	$(CARGO) build --workspace --bin kube-baremetal

.PHONY: agent
agent: setup ## Build the static agent that runs on the machines
	@# Static linking is a flag for every crate, so the agent has a target folder of its own.
	RUSTFLAGS="-C target-feature=+crt-static" $(CARGO) build -p agent --bin kube-baremetal-agent --target x86_64-unknown-linux-gnu --profile agent --target-dir $(TARGET)/agent

.PHONY: agent-arm64
agent-arm64: setup ## Cross-build the static agent for arm64
	@scripts/setup --arm64
	CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc RUSTFLAGS="-C target-feature=+crt-static" \
	  $(CARGO) build -p agent --bin kube-baremetal-agent --target aarch64-unknown-linux-gnu --profile agent --target-dir $(TARGET)/agent

# Packages of both architectures are kept here.
PACKAGES := $(HOME)/.cache/kube-baremetal/packages

.PHONY: bootmedia bootmedia-arm64 linuxkit
bootmedia: build agent ## Build kernel and initramfs for network boot
	$(KBM) bootmedia build --architecture amd64 --agent $(AGENT) --output $(MEDIA) --cache $(PACKAGES)
linuxkit: bootmedia

bootmedia-arm64: build agent-arm64 ## The same for arm64 machines (Debian's kernel for arm64; apt's own lists stay as they are)
	$(KBM) bootmedia build --architecture arm64 --agent $(AGENT_ARM64) --output $(MEDIA) --cache $(PACKAGES)

.PHONY: bootmedia-iso
bootmedia-iso: bootmedia loaders ## Build the boot medium (an ISO image) that BMCs attach to machines which no network boots
	$(KBM) bootmedia iso --architecture amd64 --media $(MEDIA) --loaders $(LOADERS)/usr/lib

.PHONY: image
image: setup ## Build the Debian disk image (kept by content)
	@scripts/cached debian $(IMAGE) images/debian/build -- images/debian/build OUT

.PHONY: control-plane
control-plane: ## Build a real Kubernetes control plane and kubectl from their Go modules, for the tests (kept by content)
	@scripts/setup --go
	@PATH=$(HOME)/.cache/kube-baremetal/go/bin:$$PATH scripts/cached control-plane $(CONTROL_PLANE) $(wildcard tests/kubernetes/control-plane/*) -- tests/kubernetes/control-plane/build OUT
	@ln -sf control-plane $(KUBECTL)

.PHONY: demo
demo: build bootmedia image loaders ## Show the whole life of two machines in QEMU, on a LAN with our own DHCP where namespaces can be made
	@# Not by sudo: the demo's folder would be root's.
	@demo="$(KBM) --log warn lab demo --media $(MEDIA) --image $(IMAGE) --state $(TARGET)/demo"; \
	if why=$$(scripts/namespaces --no-sudo --check); then scripts/namespaces --no-sudo $$demo --lan --loaders $(LOADER_FOLDERS); \
	else printf 'demo: without our own DHCP and without Secure Boot, because %s\n' "$$why"; $$demo; fi

.PHONY: test-all
test-all: test bootmedia-arm64 test-firmware test-power-life test-doctor test-dhcp test-vlan test-outage test-power-cuts swarm replicas durability bench-api test-libvirt test-deploy oci-image test-oci conformance-defects conformance-long test-oldest bench-api-cost fuzz fuzz-image fuzz-tftp fuzz-dhcp fuzz-boot-script fuzz-power ## All of that, and the suites that take longer

.PHONY: test
test: setup control-plane helm kubectl-oldest ## Everything set up, all tests that fit into an hour
	@scripts/setup --power
	$(CARGO) metadata --locked --manifest-path fuzz/Cargo.toml --format-version 1 > /dev/null
	@# The set-up in a fresh Debian waits for the network most of the time: beside the compiler.
	@mkdir -p $(TARGET); log=$(TARGET)/test-setup.log; \
	echo "scripts/test-setup, beside what follows (log: $$log)"; scripts/test-setup > $$log 2>&1 & fresh=$$!; \
	$(CARGO) build --workspace --bin kube-baremetal && $(CARGO) test --workspace --no-run; built=$$?; \
	wait $$fresh; set_up=$$?; cat $(TARGET)/test-setup.log; exit $$((built | set_up))
	$(CARGO) test --workspace
	$(MAKE) --no-print-directory bootmedia test-boot test-faults test-lab-bmc test-firmware-short
	CI=true $(MAKE) --no-print-directory demo

.PHONY: model
model: ## Exhaust the model of the decisions within its larger bounds (its smaller ones are part of `make test`)
	KBM_MODEL=large $(CARGO) test --workspace --test model -- --nocapture --test-threads=1

.PHONY: test-boot
test-boot: ## Boot the media in QEMU against a small server, with a BMC of QEMU's and one of ipmi_sim's (needs `make bootmedia`)
	@scripts/setup --power
	KBM_BOOTMEDIA=$(MEDIA) $(CARGO) test --workspace --features bootmedia/qemu-tests --test qemu_boot -- --nocapture

.PHONY: test-faults
test-faults: ## Pull plugs, kill the server, break downloads and swap disks of QEMU machines (needs `make bootmedia`)
	$(CARGO) build --workspace --bin kube-baremetal
	KBM_PROGRAM=$(KBM) KBM_BOOTMEDIA=$(MEDIA) $(CARGO) test --workspace --features lab/qemu-tests --test qemu_faults -- --nocapture --test-threads=1 --skip write_back

.PHONY: test-lab-bmc
test-lab-bmc: setup ## Let a simulated BMC switch a QEMU machine: power, boot once, virtual media (firmware only)
	$(CARGO) test --workspace --features lab/qemu-tests --test qemu_bmc -- --nocapture

# iPXE, shim and GRUB of the Debian whose GRUB knows ProxyDHCP, whatever the host's release is.
LOADERS := $(TARGET)/loaders
LOADERS_SUITE := trixie
comma := ,
LOADER_FOLDERS := $(LOADERS)/usr/lib/ipxe$(comma)$(LOADERS)/usr/lib/shim$(comma)$(LOADERS)/usr/lib/grub

.PHONY: loaders
loaders: setup ## Fetch boot loaders for `kube-baremetal up --loaders`, among them those for Secure Boot (Debian packages, not installed)
	@[ -e $(LOADERS)/usr/lib/shim/shimaa64.efi.signed ] || \
	  scripts/debian-packages $(LOADERS_SUITE) $(LOADERS) ipxe shim-signed grub-efi-amd64-signed ovmf shim-signed:arm64 grub-efi-arm64-signed:arm64

# Namespaces are made as root, by sudo or in a user namespace; where none of them works it fails, unless KBM_SKIP_NAMESPACES=1 says that it may be left out.
FIRMWARE := scripts/namespaces python3 tests/firmware --program $(KBM) --media $(MEDIA) --image $(IMAGE) --loaders $(LOADERS)/usr/lib --peers $(TARGET)/firmware

.PHONY: test-firmware
test-firmware: loaders image ## Boot real firmware in QEMU on a LAN with a house router and our ProxyDHCP beside it, in network namespaces (an hour; needs `make bootmedia bootmedia-arm64`)
	@scripts/setup --firmware
	@python3 tests/kea.py $(TARGET)/firmware > /dev/null
	$(CARGO) build --workspace --bin kube-baremetal
	$(FIRMWARE)
	@echo "firmware: once more with OVMF of Debian $(LOADERS_SUITE)"
	$(FIRMWARE) --ovmf $(LOADERS)/usr/share/OVMF --short

.PHONY: test-firmware-short
test-firmware-short: loaders image ## Seven of its cells: one of each way to boot, one with our DHCP alone, and one of that over IPv6 (needs `make bootmedia`)
	@scripts/setup --firmware
	$(CARGO) build --workspace --bin kube-baremetal
	$(FIRMWARE) --short

.PHONY: test-reboots
test-reboots: loaders image ## Of its cells the one that provisions a machine with Secure Boot on and resets it 20 times (needs `make bootmedia`)
	$(CARGO) build --workspace --bin kube-baremetal
	$(FIRMWARE) --only secure-reboots

.PHONY: test-doctor
test-doctor: setup ## Let the doctor find what is wrong with networks in namespaces (ip and dnsmasq)
	$(CARGO) build --workspace --bin kube-baremetal
	scripts/namespaces python3 tests/doctor --program $(KBM)

.PHONY: test-dhcp
test-dhcp: ## Give real DHCP clients their addresses, with a relay, a rogue server and restarts, in namespaces
	scripts/setup --dhcp
	$(CARGO) build --workspace --bin kube-baremetal
	scripts/namespaces python3 tests/dhcp --program $(KBM)

.PHONY: test-power
test-power: ## Try the power drivers against ipmi_sim, ipmitool, wakeonlan, sushy-tools, snmpsim and libvirtd (part of `make test`)
	@scripts/setup --power
	$(CARGO) test --workspace --test ipmi --test redfish --test wake --test webhook --test plug --test pdu --test amt --test domains --test proxmox --test simulated --test calls --test table -- --nocapture

.PHONY: test-power-life
test-power-life: loaders image bootmedia-iso ## Let ipmi_sim, sushy-tools over libvirt, and Wake-on-LAN frames switch QEMU machines through their whole life, in namespaces (20 minutes)
	@scripts/setup --power
	$(CARGO) build --workspace --bin kube-baremetal
	scripts/namespaces python3 tests/power --program $(KBM) --media $(MEDIA) --image $(IMAGE) --loaders $(LOADERS)/usr/lib

.PHONY: test-vlan
test-vlan: setup ## Let agents go on over VLANs, bonds and jumbo frames, on a switch in user space, in namespaces (ten minutes; needs `make bootmedia`)
	$(CARGO) build --workspace --bin kube-baremetal
	scripts/namespaces python3 tests/vlan --program $(KBM) --media $(MEDIA)

# POWER_CUTS: of each way of writing; IMAGE_KILLS: of each way and target, which are two each.
.PHONY: test-power-cuts
test-power-cuts: ## Cut the power of image writes 2000 times, kill the writer 100 times, and cut QEMU machines ten times (root; needs `make bootmedia`)
	POWER_CUTS=1000 $(CARGO) test --workspace --test power_cut random_cuts -- --nocapture
	IMAGE_KILLS=25 $(CARGO) test --workspace --features cli/long-tests --test image_kills -- --nocapture --test-threads=1
	$(CARGO) build --workspace --bin kube-baremetal
	KBM_PROGRAM=$(KBM) KBM_BOOTMEDIA=$(MEDIA) $(CARGO) test --workspace --features lab/qemu-tests --test qemu_faults write_back -- --nocapture

.PHONY: test-outage
test-outage: control-plane helm ## Restart fifty machines in use while the API server is away for five minutes (a short version is part of `make test`)
	KBM_OUTAGE_SECONDS=300 KBM_OUTAGE_MACHINES=50 $(CARGO) test --workspace --test product outage -- --nocapture

.PHONY: bench-boot
bench-boot: bootmedia ## Size of the boot media, and time from kernel start to the agent's session (TCG, 512 MiB)
	@ls -l $(MEDIA)/amd64/vmlinuz $(MEDIA)/amd64/initramfs.zst
	@$(MAKE) --no-print-directory test-boot | grep -E 'after (QEMU|kernel)|test result'

.PHONY: swarm
swarm: ## Run 1000 simulated machines to Running and back against a server, judged from the API's watch streams
	$(CARGO) build --workspace --bin kube-baremetal
	$(KBM) --log error lab swarm --machines 1000 --state $(TARGET)/swarm

.PHONY: kills
kills: ## Kill the server before and after every API write and every answer of a simulated machine's life
	$(CARGO) build --workspace --bin kube-baremetal
	$(KBM) --log off lab kills --state $(TARGET)/kills

.PHONY: check
check: setup ## Formatting and lints
	$(CARGO) fmt --all --check
	@# A workspace of its own, so nothing else notices when its lock file falls behind.
	$(CARGO) metadata --locked --manifest-path fuzz/Cargo.toml --format-version 1 > /dev/null
	$(CARGO) clippy --workspace --all-targets --all-features -- -D warnings

.PHONY: generate
generate: build ## Write the generated files again
	$(KBM) crds > deploy/crds/kube-baremetal.yaml

.PHONY: deny
deny: ## Check licences, advisories and duplicate crates (needs cargo-deny)
	$(CARGO) deny check

HELM := $(TARGET)/kubernetes/helm

.PHONY: helm
helm: ## Build the real helm from its Go module, for the tests (kept by content)
	@scripts/setup --go
	@PATH=$(HOME)/.cache/kube-baremetal/go/bin:$$PATH scripts/cached helm $(HELM) $(wildcard tests/kubernetes/helm/*) -- tests/kubernetes/helm/build OUT

.PHONY: chart
chart: helm ## Write the kustomize files again, which are the chart's
	@$(HELM) template kube-baremetal deploy/helm/kube-baremetal --namespace kube-baremetal-system --set 'servers={https://192.0.2.10:8443}' \
	  --no-hooks --set crds.install=false --set rbac.create=false --set netboot.createNamespace=false > deploy/kustomize/workloads.yaml

.PHONY: bench-api-cost
bench-api-cost: control-plane helm ## Requests to a real API server per machine, counted from its audit log with 800 simulated machines
	$(CARGO) test --workspace --features cli/long-tests --test api_cost -- --nocapture

.PHONY: replicas
replicas: control-plane helm ## Kill operators and netboot replicas at random under 1000 simulated machines on a real API server
	$(CARGO) test --workspace --features cli/long-tests --test replicas -- --nocapture

# The container image. Its program is linked statically: a flag for every crate, so it has a target folder of its own. `STATIC_PROFILE=dev` builds faster and bigger.
STATIC_PROFILE ?= release
STATIC := $(TARGET)/static
OCI_NAME ?= ghcr.io/kube-baremetal/kube-baremetal:$(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
OCI_ARCHIVE ?= $(TARGET)/oci/kube-baremetal.tar
# `OCI_ARM64=PATH` adds an image for arm64 with that program.
OCI_ARM64 ?=
# The boot media that become part of it; empty: none.
OCI_MEDIA ?= $(MEDIA)

.PHONY: static
static: setup ## Build the static kube-baremetal command for the container image
	RUSTFLAGS="-C target-feature=+crt-static" $(CARGO) build -p cli --bin kube-baremetal --target x86_64-unknown-linux-gnu --profile $(STATIC_PROFILE) --target-dir $(STATIC)
	@ln -sf x86_64-unknown-linux-gnu/$(if $(filter dev,$(STATIC_PROFILE)),debug,$(STATIC_PROFILE))/kube-baremetal $(STATIC)/kube-baremetal-amd64

.PHONY: oci-image
oci-image: static bootmedia-iso ## Write the container image as an OCI archive (needs no container engine)
	@$(MAKE) --no-print-directory oci-archive

.PHONY: oci-archive
oci-archive: ## Only pack it, from the static command and boot media that are there
	$(CARGO) build --workspace --bin oci-image
	@# Debian's own list of authorities, not the host's: the host may trust more than others should.
	$(TARGET)/debug/oci-image --name $(OCI_NAME) --program amd64=$(STATIC)/kube-baremetal-amd64 $(if $(OCI_ARM64),--program arm64=$(OCI_ARM64)) \
	  --certificates /usr/share/ca-certificates/mozilla $(if $(OCI_MEDIA),--media $(OCI_MEDIA)) --created $$(git log -1 --format=%ct 2>/dev/null || echo 0) \
	  --label org.opencontainers.image.title=kube-baremetal --label org.opencontainers.image.licenses=Apache-2.0 \
	  --label org.opencontainers.image.version=$(lastword $(subst :, ,$(OCI_NAME))) --label org.opencontainers.image.revision=$$(git rev-parse HEAD 2>/dev/null || echo unknown) \
	  --output $(OCI_ARCHIVE)

.PHONY: test-oci
test-oci: ## Let skopeo and umoci judge the container image, and run its program in its root (needs `make oci-image`; root, for the chroot)
	scripts/test-oci $(OCI_ARCHIVE)

.PHONY: ansible
ansible: ## Create a lab of libvirt machines kube-baremetal-0, ... (qemu:///session; ANSIBLE_ARGS='-e lab_state=absent' removes it)
	@scripts/setup --libvirt
	ansible-playbook -i localhost, deploy/ansible/lab.yml $(ANSIBLE_ARGS)

.PHONY: test-libvirt
test-libvirt: ## Create that lab under a libvirtd of the test's own, and see its machines register (needs `make bootmedia`)
	@scripts/setup --libvirt
	$(CARGO) build --workspace --bin kube-baremetal
	KBM_PROGRAM=$(KBM) KBM_BOOTMEDIA=$(MEDIA) $(CARGO) test --workspace --features lab/libvirt-tests --test libvirt -- --nocapture

.PHONY: kind
kind: oci-image helm ## Create a kind cluster with the netboot ports mapped, and install the chart (needs a container engine)
	scripts/kind $(OCI_ARCHIVE)

.PHONY: tilt
tilt: ## Develop in that cluster: every change is built, loaded and rolled out (needs `make kind` and tilt)
	PATH=$$PATH:$(TARGET)/tools:$(TARGET)/kubernetes tilt up --file deploy/tilt/Tiltfile

.PHONY: test-deploy
test-deploy: helm ## Check playbook, Tiltfile, kind's configuration and the chart's values for kind with their own tools (from PyPI and Go modules)
	scripts/test-deploy

.PHONY: bench-api
bench-api: ## Speed and memory of the embedded API beside a real kube-apiserver and etcd (needs `make control-plane`)
	$(CARGO) bench --workspace --bench api

.PHONY: durability
durability: ## Kill the embedded API 500 times under load and cut its power 500 times (a shorter version is part of `make test`)
	KBM_DURABILITY=500 $(CARGO) test --workspace --test durability -- --nocapture --test-threads=1

.PHONY: fuzz
fuzz: ## Give a million hostile inputs each to eight parts of the embedded API, guided by coverage (a seeded short version is part of `make test`)
	scripts/fuzz fuzz

.PHONY: conformance
conformance: control-plane ## Run the suite of API behaviours against the embedded and the real API
	$(CARGO) test --workspace --test conformance -- --nocapture --test-threads=1

.PHONY: conformance-differential
conformance-differential: control-plane ## Send 1500 random requests to both APIs and compare every answer (part of `make test`)
	$(CARGO) test --workspace --test differential -- --nocapture

.PHONY: conformance-long
conformance-long: control-plane ## Send 20000 random requests to both APIs and compare every answer
	KBM_REQUESTS=20000 $(CARGO) test --workspace --test differential -- --nocapture

.PHONY: conformance-defects
conformance-defects: ## Plant defects in a copy of the embedded API, one at a time, and see that the suite finds each
	$(CARGO) test --workspace --features conformance/defects --test defects -- --nocapture

# The oldest Kubernetes that the chart names, from the modules of tests/kubernetes/oldest; its sources are the control plane's.
OLDEST := tests/kubernetes/oldest
KUBECTL_OLDEST := $(TARGET)/kubernetes/kubectl-oldest
CONTROL_PLANE_OLDEST := $(TARGET)/kubernetes/control-plane-oldest

.PHONY: kubectl-oldest
kubectl-oldest: ## Build the kubectl of the oldest Kubernetes that is supported, for the tests (kept by content)
	@scripts/setup --go
	@PATH=$(HOME)/.cache/kube-baremetal/go/bin:$$PATH scripts/cached kubectl-oldest $(KUBECTL_OLDEST) $(addprefix $(OLDEST)/,go.mod go.sum build-kubectl) -- $(OLDEST)/build-kubectl OUT

.PHONY: control-plane-oldest
control-plane-oldest: ## Build the control plane of the oldest Kubernetes that is supported (kept by content)
	@scripts/setup --go
	@PATH=$(HOME)/.cache/kube-baremetal/go/bin:$$PATH scripts/cached control-plane-oldest $(CONTROL_PLANE_OLDEST) $(wildcard $(OLDEST)/*) -- $(OLDEST)/build OUT

.PHONY: test-oldest
test-oldest: control-plane-oldest helm ## Run the chart's tests and the worked extension on the oldest Kubernetes that is supported
	KBM_CONTROL_PLANE=$(CONTROL_PLANE_OLDEST) $(CARGO) test --workspace --test chart --test extension -- --nocapture

.PHONY: kubectl-session
kubectl-session: control-plane kubectl-oldest ## Run the scripted kubectl session against both APIs with the current and the oldest kubectl (part of `make test`)
	$(CARGO) test --workspace --test kubectl -- --nocapture --test-threads=1

# The command under test; the figures of docs/benchmarks.md are the release profile's. `BENCH_ARGS='--only raw.zst --runs 1'` measures a part.
BENCH_PROGRAM ?= $(TARGET)/release/kube-baremetal

.PHONY: bench-image
bench-image: setup image ## Image writing beside its limits and its peers, held against the bars of docs/benchmarks.md (root; an hour, 20 GiB)
	@scripts/setup --bench
	$(CARGO) build --release --bin kube-baremetal
	$(CARGO) build -p image --example bad_server
	$(CARGO) build --release -p image --example decode_speed
	python3 benches/image --program $(BENCH_PROGRAM) $(BENCH_ARGS)

.PHONY: bench-installer
bench-installer: setup bootmedia image ## Power-on to SSH with our image beside an unattended Debian installation, and two disks of each (two hours without KVM)
	$(CARGO) build --release --bin kube-baremetal
	python3 benches/installer --program $(BENCH_PROGRAM) --media $(MEDIA) --image $(IMAGE) --out $(TARGET)/bench-installer $(BENCH_ARGS)

.PHONY: bench-sharing
bench-sharing: setup ## Sixteen machines share one image over links of 100 Mbit/s in network namespaces, held against the bars of docs/sharing.md (root; ten minutes)
	@scripts/setup --bench
	$(CARGO) test --release --workspace --test bench_sharing --no-run
	$(CARGO) test --release --workspace --test bench_sharing

.PHONY: bench-tftp
bench-tftp: setup ## TFTP throughput with windows and without, beside tftpd-hpa, dnsmasq and atftpd (root; five minutes)
	@scripts/setup --bench
	$(CARGO) build --release -p tftp --example tftp_bench
	python3 benches/tftp --program $(TARGET)/release/examples/tftp_bench $(BENCH_ARGS)

.PHONY: bench-http
bench-http: setup bootmedia ## Boot media over HTTP to 200 clients beside nginx with sendfile (root; three minutes)
	@scripts/setup --bench
	$(CARGO) build --release --workspace --bin kube-baremetal
	python3 benches/http --program $(BENCH_PROGRAM) --media $(MEDIA) $(BENCH_ARGS)

.PHONY: bench-dhcp
bench-dhcp: setup ## DHCP exchanges per second and their cost, beside Kea and dnsmasq (root; ten minutes on a quiet machine)
	$(CARGO) build --release --workspace --bin kube-baremetal
	python3 benches/dhcp --program $(TARGET)/release/kube-baremetal --peers $(TARGET)/bench-dhcp $(BENCH_ARGS)

.PHONY: bench-pack
bench-pack: image ## Stored size and processor time of packed images by chunk size and level, with the Debian image
	$(CARGO) run --package image --example pack_settings -- $(IMAGE)

.PHONY: sharing-sim
sharing-sim: ## Compare policies of sharing an image between 4 to 1,000 simulated machines: the tables of docs/sharing.md
	$(CARGO) run --package sharing --example sharing_sim

.PHONY: test-qcow2
test-qcow2: ## Compare the reading of 500 random qcow2 images with QEMU's (60 of them are part of `make test`)
	QCOW2_IMAGES=500 $(CARGO) test --workspace --test decode qcow2 -- --nocapture

.PHONY: test-image-memory
test-image-memory: ## Hold the image writer to 128 MiB of resident memory for a sparse image of 64 GiB in every format (a small one is part of `make test`)
	SPARSE_GIB=64 $(CARGO) test --workspace --test resident -- --nocapture

.PHONY: fuzz-image
fuzz-image: ## Give 50 million hostile inputs to the parsers of disk images, guided by coverage (a second each is part of `make test`)
	scripts/fuzz crates/image/fuzz

.PHONY: fuzz-tftp
fuzz-tftp: ## Give 16 million hostile inputs to the TFTP server, guided by coverage (a second each is part of `make test`)
	scripts/fuzz crates/tftp/fuzz

.PHONY: fuzz-dhcp
fuzz-dhcp: ## Give 38 million hostile inputs to DHCPv4, DHCPv6 and what is around them, guided by coverage (a second each is part of `make test`)
	scripts/fuzz crates/dhcp/fuzz

.PHONY: fuzz-boot-script
fuzz-boot-script: ## Give 16 million hostile inputs to what writes boot scripts, guided by coverage (a second each is part of `make test`)
	scripts/fuzz crates/boot-script/fuzz

.PHONY: fuzz-power
fuzz-power: ## Give 26 million hostile inputs to what reads the answers of BMCs, guided by coverage (a second each is part of `make test`)
	scripts/fuzz crates/power/fuzz

.PHONY: clean
clean: ## Remove everything that was built (kept downloads stay in ~/.cache/kube-baremetal)
	$(CARGO) clean
